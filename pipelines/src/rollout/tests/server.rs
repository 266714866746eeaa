//! The model cluster's API server: applies actions with the guards of the real one, and dies where a test says.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::world::*;
use crate::api::RolloutPhase;
use crate::rollout::*;

impl Route {
    /// Two weights in each rule named; false: a rule is gone, or lacks our ref for a weight above 0.
    fn weigh(&mut self, rules: &[RuleWeights]) -> bool {
        for weights in rules {
            let (stable, canary) = match (weights.rule, &mut self.late) {
                (0, _) => (&mut self.stable, &mut self.canary),
                (_, Some((stable, canary))) => (stable, canary),
                _ => return false,
            };
            match canary {
                // Our ref becomes stable's: nothing else in the rule would take its requests.
                Some(_) if weights.rule == 0 && self.stable_gone && weights.canary == 0 => {
                    (*stable, *canary) = (weights.stable, None);
                    self.stable_gone = false;
                    self.twice = None;
                }
                Some(canary) => (*stable, *canary) = (weights.stable, weights.canary),
                None if weights.canary == 0 => {}
                None => return false,
            }
        }
        true
    }
}

impl World {
    /// Counts the write; false: the process died (`crash_at`).
    fn reaches(&mut self, wrote: Wrote) -> (bool, bool) {
        let (reaches, lives) = match self.crash_at {
            Some((at, reaches)) if at == self.log.len() => {
                self.crash_at = None;
                self.epoch += 1;
                (reaches, false)
            }
            _ => (true, true),
        };
        if reaches {
            assert!(
                !self.status_over() || wrote == Wrote::Did(Action::ReleaseFinalizer),
                "written after the end: {wrote:?}"
            );
            self.log.push(wrote);
        }
        (reaches, lives)
    }

    fn status_over(&self) -> bool {
        self.status.phase.is_some_and(RolloutPhase::is_terminal)
    }

    pub fn execute(&mut self, plan: &Plan) {
        let mut zero_at = None;
        for order in [Order::BeforeStatus, Order::AfterStatus] {
            for ordered in plan.actions.iter().filter(|one| one.order == order) {
                let (reaches, lives) = self.reaches(Wrote::Did(ordered.action.clone()));
                let done = !reaches || self.apply(&ordered.action);
                if !lives || !done {
                    return;
                }
                if matches!(ordered.action, Action::LowerToZero { .. } | Action::SetWeights { percent: 0, .. }) {
                    zero_at = Some(MicroTime(self.now));
                }
            }
            if order == Order::BeforeStatus && plan.next_status != self.status {
                let (reaches, lives) = self.reaches(Wrote::Status(plan.next_status.phase));
                if reaches {
                    let found = invariants::check_transition(&self.status, &plan.next_status);
                    assert!(found.is_empty(), "{found:?}");
                    self.status = plan.next_status.clone();
                    // As the spoke does: what only the executor knows.
                    if let Some(breach) = &mut self.status.breach {
                        breach.written_at = breach.written_at.take().or(zero_at.clone());
                    }
                }
                if !lives {
                    return;
                }
            }
        }
    }

    /// As the API server answers: false is a 409 or 422.
    fn apply(&mut self, action: &Action) -> bool {
        let now = self.now;
        match action {
            Action::EnsureFinalizer => self.finalizer = true,
            Action::ReleaseFinalizer => {
                self.finalizer = false;
                self.gone = self.deleting;
            }
            Action::EnsureCanaryService => self.canary_service = true,
            Action::EnsureCanary { images, replicas, stamp } => {
                let canary = self.canary.get_or_insert_with(|| Deployment { wanted: 0, ..deployment(now, NEW, 0) });
                canary.images = images.clone();
                canary.stamp = Some(stamp.clone());
                canary.wanted = *replicas;
                canary.updated_ready = 0;
                canary.rv += 1;
                canary.generation += 1;
                canary.changed = now;
            }
            Action::ScaleCanary { replicas } => {
                // Whatever the view was: with caches that are not stale, no request is left without a pod.
                let served = self.canary.as_ref().is_some_and(|canary| canary.wanted > 0) && self.weight() > 0;
                assert!(*replicas > 0 || !served || self.stale > 0, "the route still names a canary without pods");
                if let Some(canary) = &mut self.canary {
                    canary.scale(*replicas, now);
                }
            }
            Action::RemoveCanary => {
                let served = self.canary.as_ref().is_some_and(|canary| canary.wanted > 0) && self.weight() > 0;
                assert!(!served || self.stale > 0, "the route still names a canary that is removed");
                self.canary = None;
                self.canary_service = false;
            }
            Action::RaiseHpaMin { .. } if self.hpa_refused => return false,
            Action::RaiseHpaMin { min } => {
                if let Some(hpa) = &mut self.hpa {
                    hpa.min = *min;
                    hpa.ours = Some(*min);
                }
            }
            Action::RestoreHpaMin { min } => {
                if let Some(hpa) = &mut self.hpa {
                    hpa.min = *min;
                    hpa.ours = None;
                }
            }
            Action::SetStableTemplate { images, resource_version, stamp, .. } => {
                let Some(stable) = self.stable.as_mut().filter(|one| one.rv.to_string() == *resource_version) else {
                    return false;
                };
                stable.images = images.clone();
                stable.stamp = Some(stamp.clone());
                stable.updated_ready = 0;
                stable.rv += 1;
                stable.generation += 1;
                stable.changed = now;
            }
            Action::Quarantine { digests, .. } => self.quarantined.extend(digests.iter().cloned()),
            _ => return self.apply_route(action),
        }
        true
    }

    fn apply_route(&mut self, action: &Action) -> bool {
        let now = self.now;
        let (before, brought) = (self.weight(), self.brought);
        let Some(route) = &mut self.route else { return false };
        let fresh = |version: &str| route.rv.to_string() == version;
        let epoch = route.decision.as_ref().map_or(0, |old| old.epoch);
        match action {
            Action::LowerToZero { rollout, reason, rules } => {
                if route.rollout.as_ref() != Some(rollout) || route.promoting {
                    return false;
                }
                let (rollout, reason) = (rollout.clone(), reason.clone());
                let mark = LoweredMark { rollout, reason, at: Some(now) };
                route.lowered = LoweredMark::read(&mark.to_string(), mark.timed().as_deref());
                if !route.weigh(rules) {
                    return false;
                }
                route.changed = now;
                route.generation += 1;
            }
            Action::AdoptRoute { resource_version, decision, add_canary_ref } if fresh(resource_version) => {
                assert!(decision.epoch >= epoch, "an old epoch writes the route");
                route.remember();
                route.rollout = Some(decision.rollout.clone());
                route.decision = Some(decision.clone());
                route.lowered.take_if(|mark| mark.rollout != decision.rollout);
                if add_canary_ref.contains(&0) {
                    route.canary.get_or_insert(0);
                }
                if let Some((_, canary)) = route.late.as_mut().filter(|_| add_canary_ref.contains(&1)) {
                    canary.get_or_insert(0);
                }
                self.brought = brought.max(decision.n);
            }
            Action::SetWeights { resource_version, rules, decision, percent } if fresh(resource_version) => {
                assert!(decision.epoch >= epoch, "an old epoch writes the route");
                let raise = u32::from(*percent) > before;
                assert!(!raise || decision.n > brought, "raised again without a new decision: {action:?}");
                route.remember();
                route.rollout = Some(decision.rollout.clone());
                route.decision = Some(decision.clone());
                route.lowered = None;
                if !route.weigh(rules) {
                    return false;
                }
                self.brought = brought.max(decision.n);
                route.changed = now;
                route.generation += 1;
            }
            Action::MarkPromoting { resource_version, .. } if fresh(resource_version) => route.promoting = true,
            Action::ClearRoute { resource_version, remove_canary_ref } if fresh(resource_version) => {
                (route.rollout, route.decision, route.promoting, route.lowered) = (None, None, false, None);
                route.give_back();
                if *remove_canary_ref {
                    route.canary = None;
                    if let Some((_, canary)) = &mut route.late {
                        *canary = None;
                    }
                }
            }
            _ => return false,
        }
        route.rv += 1;
        true
    }
}
