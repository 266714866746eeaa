//! What no plan may do, whatever it was made from: the architecture's invariants, as far as one plan or one
//! transition shows them. Used after every step of every simulated run. Changes nothing.

use std::fmt;

use crate::api::{RolloutPhase, RolloutReason, RolloutStatus};

use super::action::{Action, Order, Plan, RuleWeights};
use super::observed::{JudgeSays, Observed, RouteView};
use super::rollback::MOST_RAISES;

/// One broken promise. `invariant` is the number in architecture.md.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub invariant: u8,
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invariant {}: {}", self.invariant, self.message)
    }
}

struct Check<'a> {
    seen: &'a Observed<'a>,
    plan: &'a Plan,
    found: Vec<Violation>,
}

/// All that this plan breaks.
pub fn check(seen: &Observed<'_>, plan: &Plan) -> Vec<Violation> {
    let mut check = Check { seen, plan, found: Vec::new() };
    check.ended();
    check.retires();
    check.one_at_a_time();
    check.breach_first();
    check.blind();
    check.frozen();
    check.held();
    check.record();
    for ordered in &plan.actions {
        check.action(ordered.order, &ordered.action);
    }
    check.found
}

/// What no two statuses of one Rollout, one after the other, may show.
pub fn check_transition(before: &RolloutStatus, after: &RolloutStatus) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut demand = |invariant, good: bool, message: &str| {
        if !good {
            found.push(Violation { invariant, message: message.into() });
        }
    };
    let terminal = before.phase.is_some_and(RolloutPhase::is_terminal);
    demand(7, !terminal || before == after, "a status was written after its end");
    demand(6, after.decision >= before.decision, "the number of the decision went back");
    demand(6, after.epoch >= before.epoch, "the epoch went back");
    demand(6, after.weight <= before.weight || after.decision > before.decision, "a weight rose without a decision");
    let back = |status: &RolloutStatus| status.going_back.is_some() || status.ending.is_some();
    let over = after.phase.is_some_and(RolloutPhase::is_terminal);
    demand(4, !back(before) || back(after) || over, "a decided end was forgotten");
    demand(4, before.breach.is_none() || after.breach.is_some(), "a breach was forgotten");
    if let (Some(old), Some(new)) = (&before.going_back, &after.going_back) {
        let counted = new.raised_again.saturating_sub(old.raised_again);
        let anew = after.weight > 0 && after.weight == before.weight && after.decision > before.decision;
        demand(6, !anew || counted == 1, "a weight was decided anew and not counted");
        demand(6, new.raised_again >= old.raised_again, "the count of raises went back");
    }
    let fights = after.going_back.as_ref().is_some_and(|back| back.raised_again > MOST_RAISES);
    demand(7, !fights, "a weight is raised against someone else without end");
    demand(7, after.history.len() <= 30, "the history is unbounded");
    demand(7, after.message.as_ref().is_none_or(|text| text.chars().count() <= 1024), "a message is too long");
    found
}

impl Check<'_> {
    fn demand(&mut self, invariant: u8, good: bool, message: impl Into<String>) {
        if !good {
            self.found.push(Violation { invariant, message: message.into() });
        }
    }

    fn phase(&self) -> RolloutPhase {
        self.seen.status.phase.unwrap_or(RolloutPhase::Waiting)
    }

    fn ended(&mut self) {
        if !self.phase().is_terminal() {
            return;
        }
        let only_finalizer = self.plan.actions.iter().all(|one| one.action == Action::ReleaseFinalizer);
        self.demand(7, only_finalizer, "an action after the end");
        self.demand(7, self.plan.next_status == *self.seen.status, "a status write after the end");
    }

    /// A pipeline that is gone moves no request and brings no pods.
    fn retires(&mut self) {
        if self.seen.spec.reason != RolloutReason::Retire {
            return;
        }
        let only = |action: &Action| {
            matches!(action, Action::ClearRoute { .. } | Action::RemoveCanary | Action::ReleaseFinalizer)
        };
        let clears = self.plan.actions.iter().all(|one| only(&one.action));
        self.demand(8, clears, "a retiring rollout does more than take away what is ours");
    }

    fn one_at_a_time(&mut self) {
        let starts = self.seen.status.started_at.is_none() && self.plan.next_status.started_at.is_some();
        let busy = self.seen.others.iter().any(|other| other.started);
        self.demand(3, !(starts && busy), "started beside another rollout of the workload");
        let touches = self
            .plan
            .actions
            .iter()
            .any(|one| !matches!(one.action, Action::EnsureFinalizer | Action::ReleaseFinalizer));
        let started = self.plan.next_status.started_at.is_some();
        self.demand(3, started || !touches, "acted before it had started");
        self.demand(10, !starts || self.seen.namespace_allowed, "started in a namespace that is not allowed");
    }

    /// Invariant 4: a breach makes weight 0 the next write, or starts the Rollback path.
    fn breach_first(&mut self) {
        let breach = matches!(&self.seen.judge, Some(judge) if matches!(judge.says, JudgeSays::RollBack { .. }));
        let status = self.seen.status;
        if !breach || status.first_release || self.seen.epoch < status.epoch {
            return;
        }
        let next = &self.plan.next_status;
        match self.phase() {
            RolloutPhase::Canary if status.ending.is_none() && status.decision > 0 => {
                self.demand(4, next.ending.is_some(), "a breach did not end the rollout");
                let weight = self.seen.route.as_ref().is_some_and(|route| route.most() > 0.0);
                let first = self.plan.actions.first().map(|one| (&one.order, &one.action));
                let lowers = matches!(
                    first,
                    Some((Order::BeforeStatus, Action::LowerToZero { .. } | Action::SetWeights { percent: 0, .. }))
                );
                self.demand(4, !weight || lowers, "a breach was not answered by weight 0 first");
            }
            RolloutPhase::Promoting | RolloutPhase::Baking => {
                self.demand(4, next.going_back.is_some(), "a breach did not start the Rollback path");
            }
            _ => {}
        }
    }

    fn is_blind(&self) -> bool {
        let limit = self.seen.spec.strategy.blind_limit.as_duration();
        match &self.seen.judge {
            Some(judge) => judge.blind_for >= limit,
            None => self.seen.status.blind_since.as_ref().is_some_and(|since| {
                self.seen.now.duration_since(since.0) >= jiff::SignedDuration::try_from(limit).unwrap_or_default()
            }),
        }
    }

    /// This process drives it, its view is not older than the status, and no end has begun.
    fn drives(&self, phase: RolloutPhase) -> bool {
        let status = self.seen.status;
        let stale = self.plan.report.iter().any(|reason| reason.code == "StaleView");
        self.phase() == phase && status.ending.is_none() && self.seen.epoch >= status.epoch && !stale
    }

    fn most(&self) -> f64 {
        self.seen.route.as_ref().map_or(0.0, RouteView::most)
    }

    /// Invariant 9: a blind rollout with weight retreats, and what it decides is lowered on the route.
    fn blind(&mut self) {
        if !self.is_blind() || !self.drives(RolloutPhase::Canary) || self.seen.status.weight == 0 {
            return;
        }
        let (status, next) = (self.seen.status, &self.plan.next_status);
        let answered = next.blind_retreat_at.is_some() || next.ending.is_some() || next.weight == 0;
        let fresh = next.weight < status.weight;
        let lowers = |action: &Action| match action {
            Action::LowerToZero { .. } => true,
            Action::SetWeights { percent, .. } => f64::from(*percent) <= f64::from(next.weight),
            _ => false,
        };
        let higher = self.most() > f64::from(next.weight) + 0.5;
        let lowered = !(fresh && higher) || self.plan.actions.iter().any(|one| lowers(&one.action));
        self.demand(9, answered, "blind, and the weight stays");
        self.demand(9, lowered, "blind, and the lowering that is recorded is not written");
    }

    /// Invariant 9 from `Promoting` on: the route is frozen, unless a breach or a denial turns it round.
    fn frozen(&mut self) {
        let next = &self.plan.next_status;
        if !self.is_blind() || !self.drives(RolloutPhase::Promoting) || next.going_back.is_some() || next.first_release
        {
            return;
        }
        let moves = self.plan.actions.iter().any(|one| {
            matches!(
                one.action,
                Action::SetWeights { .. } | Action::LowerToZero { .. } | Action::SetStableTemplate { .. }
            )
        });
        let ended = self.plan.next_status.phase.is_some_and(RolloutPhase::is_terminal);
        self.demand(9, !moves || ended, "blind while promoting, and something moves");
    }

    /// Pods that stable needs for everything: under an autoscaler the most that it had.
    fn whole(&self) -> u32 {
        let wanted = self.seen.stable.as_ref().map_or(1, |stable| stable.wanted);
        let floor = self.seen.hpa.as_ref().map_or(0, |hpa| self.plan.next_status.stable_replicas.min(hpa.max));
        wanted.max(floor).max(1)
    }

    /// Invariant 2 against an autoscaler: an arm that loses its requests keeps its pods.
    fn held(&mut self) {
        let next = &self.plan.next_status;
        let walking = [RolloutPhase::Canary, RolloutPhase::Promoting, RolloutPhase::RollingBack];
        let phase = self.phase();
        let stays = next.phase == Some(phase) && next.ending.is_none() && !next.first_release;
        let returning = next.promoting == Some(crate::api::PromotingStep::Returning);
        let turned = next.going_back.is_some() != self.seen.status.going_back.is_some();
        let (Some(hpa), Some(stable)) = (&self.seen.hpa, &self.seen.stable) else { return };
        if !walking.contains(&phase) || !self.drives(phase) || !stays || returning || turned {
            return;
        }
        let known = next.stable_replicas >= stable.wanted;
        let need = self.whole().min(hpa.max.max(1));
        let raises = self.plan.actions.iter().any(|one| one.action == Action::RaiseHpaMin { min: need });
        let asked = hpa.managed_by.is_some();
        let good = hpa.min >= need || raises || asked;
        self.demand(2, known, "stable has grown, and nobody remembers");
        self.demand(2, good, "stable's capacity is not held against its autoscaler");
    }

    /// Invariant 6: what is written to the route is what the status records.
    fn record(&mut self) {
        for found in check_transition(self.seen.status, &self.plan.next_status) {
            self.found.push(found);
        }
        let next = &self.plan.next_status;
        let rises = next.weight > self.seen.status.weight;
        self.demand(7, !rises || next.weight <= self.ceiling(), "a weight above the hub's ceiling");
        let judged =
            self.seen.judge.as_ref().is_some_and(|judge| judge.canary_scraped && judge.config_errors.is_empty());
        self.demand(9, !rises || next.going_back.is_some() || judged, "a weight rose without anything to judge it by");
    }

    fn ceiling(&self) -> u8 {
        if self.plan.next_status.going_back.is_some() { 100 } else { self.seen.spec.max_weight }
    }

    fn action(&mut self, order: Order, action: &Action) {
        match action {
            Action::SetWeights { percent, rules, decision, .. } => {
                self.weights(*percent, rules);
                let next = &self.plan.next_status;
                let recorded = *percent == 0 || (decision.n == next.decision && *percent == next.weight);
                self.demand(6, recorded, "a weight is written that the status does not record");
                self.demand(6, decision.epoch >= self.seen.epoch, "a write under an old epoch");
                let raise = self.raise(*percent);
                self.demand(6, !raise || order == Order::AfterStatus, "a raise before its record");
                if raise {
                    self.raised(*percent, decision.n);
                } else if *percent == 0 {
                    self.returned();
                }
            }
            Action::LowerToZero { rules, .. } => {
                self.weights(0, rules);
                let promoting = self.seen.route.as_ref().is_some_and(|route| route.promoting);
                self.demand(8, !promoting, "an unguarded lowering while promoting");
                self.demand(4, order == Order::BeforeStatus, "a lowering after the record");
            }
            Action::SetStableTemplate { .. } => self.template(),
            Action::RemoveCanary => {
                let gone = self.seen.retire || self.seen.spec.reason == RolloutReason::Retire;
                self.demand(8, gone, "the canary arm is removed although its pipeline is there");
                self.demand(2, self.most() == 0.0, "the canary arm is removed while requests go to it");
            }
            Action::EnsureCanary { images, replicas, .. } => {
                let new = *images == self.seen.spec.images && self.plan.next_status.going_back.is_none();
                self.demand(1, !new || !self.quarantined(images), "a quarantined digest gets pods");
                self.pods(*replicas);
            }
            Action::ScaleCanary { replicas } => self.pods(*replicas),
            _ => {}
        }
    }

    /// Invariant 2: pods that get requests are not taken away.
    fn pods(&mut self, replicas: u32) {
        let pods = self.seen.canary.as_ref().map_or(0, |canary| canary.wanted);
        let fewer = pods > replicas && self.most() > 0.0;
        self.demand(2, !fewer, format!("{pods} canary pods become {replicas} while the route names them"));
    }

    fn quarantined(&self, images: &[crate::api::ReleaseImage]) -> bool {
        images.iter().any(|image| self.seen.quarantined.contains(&image.digest))
    }

    fn raise(&self, percent: u8) -> bool {
        self.seen.route.as_ref().is_some_and(|route| f64::from(percent) > route.most() + 0.5)
    }

    /// Invariants 2 and 8: no rule sends more to the canary than was decided; two weights of the rules that are ours,
    /// with foreign sums kept.
    fn weights(&mut self, percent: u8, rules: &[RuleWeights]) {
        let Some(route) = &self.seen.route else { return };
        let same = rules.len() == route.rules.len()
            && rules.iter().zip(&route.rules).all(|(new, old)| {
                let kept =
                    !old.foreign || new.stable + new.canary == old.stable_weight + old.canary_weight.unwrap_or(0);
                let zero = percent > 0 || new.canary == 0;
                new.rule == old.rule && kept && zero
            });
        self.demand(8, same, "weights that are not ours would change");
        let within = |new: &RuleWeights| {
            let whole = u64::from(new.stable) + u64::from(new.canary);
            200 * u64::from(new.canary) <= whole * (2 * u64::from(percent) + 1)
        };
        self.demand(2, rules.iter().all(within), "a rule sends more to the canary than was decided");
    }

    /// Invariants 1, 2, 6, 7 for a raise.
    fn raised(&mut self, percent: u8, n: u64) {
        let seen = self.seen;
        let next = &self.plan.next_status;
        let back = next.going_back.is_some();
        let written = seen.route.as_ref().and_then(|route| route.decision.as_ref());
        let older = written.is_some_and(|old| old.rollout == seen.rollout.uid && old.n < n);
        let readable = seen.route.as_ref().is_some_and(|route| route.odd().is_none() && !route.lacks_ref());
        let blind = self.is_blind() && !back && !matches!(self.phase(), RolloutPhase::Preparing);
        let hpa = seen.hpa.as_ref().filter(|hpa| !back && hpa.managed_by.is_none());
        let held = hpa.is_none_or(|hpa| hpa.min >= self.whole().min(hpa.max.max(1)));
        let ceiling = self.ceiling();
        let images = next.going_back.as_ref().map_or(&seen.spec.images, |going| &going.to);
        let need = (u64::from(self.whole()) * u64::from(percent)).div_ceil(100).max(1);
        let ready =
            seen.canary.as_ref().filter(|canary| canary.carries(images)).map_or(0, |canary| canary.settled_ready());
        self.demand(6, older, "a weight below the recorded one is raised without a new decision");
        self.demand(8, readable, "a weight is raised in a rule that cannot be read");
        let knows = seen.data_plane.catching_up.is_zero();
        self.demand(2, knows, "requests move to pods that the gateway may not know");
        self.demand(9, !blind, "a weight rose while blind");
        self.demand(2, held, "a weight rose while stable's autoscaler may still shrink it");
        self.demand(7, percent <= ceiling, "a weight above the hub's ceiling");
        self.demand(2, u64::from(ready) >= need, format!("weight {percent} with {ready} of {need} pods ready"));
        self.demand(1, back || seen.verdict.allows(), "weight to a digest without an Allow");
        self.demand(1, !self.quarantined(images), "weight to a quarantined digest");
        let doomed = next.ending.is_some() && !back;
        self.demand(4, !doomed, "a raise after the end was decided");
    }

    /// Invariant 2 for the way back to a stable whose template was written.
    fn returned(&mut self) {
        let next = &self.plan.next_status;
        let walking = [RolloutPhase::Promoting, RolloutPhase::RollingBack, RolloutPhase::RollbackBlocked];
        let promoting = walking.contains(&self.phase());
        if !promoting || next.promoting != Some(crate::api::PromotingStep::Returning) {
            return;
        }
        let Some(stable) = &self.seen.stable else { return };
        // A decision already recorded may be written again although a pod blinks now.
        let fresh = self.seen.status.decision < next.decision;
        self.demand(
            2,
            !fresh || stable.settled_ready() >= self.whole(),
            "all requests go to a stable that is not ready",
        );
        // What was never written runs the pods that the gateway has known all the time.
        let rolled = stable.stamp.as_ref().is_some_and(|stamp| stamp.starts_with(&self.seen.rollout.uid));
        let moves = fresh && rolled && self.most() > 0.0;
        let knows = self.seen.data_plane.catching_up.is_zero();
        self.demand(2, !moves || knows, "requests return to pods that the gateway may not know");
    }

    fn template(&mut self) {
        let next = &self.plan.next_status;
        if next.first_release {
            return;
        }
        let route = self.seen.route.as_ref();
        let guarded =
            route.is_some_and(|route| route.promoting && route.rollout.as_deref() == Some(&self.seen.rollout.uid));
        let away = route.is_some_and(|route| route.stands_at(100));
        self.demand(4, guarded, "stable's template is written while lowering is still free");
        self.demand(2, away, "stable's pods roll under traffic");
        let back = next.going_back.is_some();
        self.demand(1, back || self.seen.verdict.allows(), "stable takes a digest without an Allow");
    }
}
