//! The ways back: a breach, a person's abort or undo, a newer release. Traffic is the spokes'
//! business; here it is said which environments go back and to what.

use kube::ResourceExt;

use super::draft::{Draft, Leg, breach_of, is_over, phase_of};
use super::plan::{Write, superseding};
use super::retire::retirable;
use super::rollback_name;
use crate::api::{Release, ReleaseImage, ReleasePhase, Rollout, RolloutPhase, RolloutReason};

/// What ran in `ship`'s environment before its release came. An attempt that found its digests running there names
/// none: the newest earlier one that was promoted does.
pub(super) fn target_of(rollouts: &[&Rollout], ship: &Rollout) -> Option<Vec<ReleaseImage>> {
    if ship.status.as_ref().is_some_and(|s| s.first_release) {
        return None;
    }
    let (spec, promoted) = (&ship.spec, Some(RolloutPhase::Promoted));
    let before = |r: &&&Rollout| {
        let of = &r.spec;
        (&of.environment, &of.release, of.reason) == (&spec.environment, &spec.release, RolloutReason::Ship)
            && of.attempt <= spec.attempt
            && phase_of(r) == promoted
    };
    let known = rollouts.iter().filter(before).filter_map(|r| Some((r.spec.attempt, &r.status.as_ref()?.target)));
    known.filter(|(_, target)| !target.is_empty()).max_by_key(|(attempt, _)| *attempt).map(|(_, target)| target.clone())
}

impl<'a> Draft<'_, 'a> {
    /// The first environment that reported a breach of this attempt.
    pub fn breached(&self) -> Option<String> {
        self.legs.iter().find(|leg| leg.ship.is_some_and(breach_of)).map(|leg| leg.environment.clone())
    }

    /// The first environment whose rollout ended neither well nor by a breach.
    pub fn ended_badly(&self) -> Option<(String, RolloutPhase)> {
        use RolloutPhase::*;
        self.legs.iter().find_map(|leg| {
            let phase = leg.ship.and_then(phase_of)?;
            let bad = matches!(phase, Inconclusive | Blind | Failed | Denied | Withdrawn | Superseded);
            bad.then(|| (leg.environment.clone(), phase))
        })
    }

    /// After a breach: the others go back too (`rollback: release`), or only stop.
    pub fn go_back(&mut self) {
        let Some(where_) = self.breached() else { return };
        let mut blocked = Vec::new();
        let unwanted = self.everywhere() || self.world.release.spec.abort || self.overdue();
        for leg in self.legs.clone().iter().filter(|leg| !leg.ship.is_some_and(breach_of)) {
            if unwanted {
                self.abort(leg);
            }
            if self.everywhere() && leg.promoted() {
                blocked.extend(self.take_back(leg));
            }
        }
        self.resolve_blocked();
        let told = self.legs.iter().find_map(|leg| leg.ship.filter(|s| breach_of(s)));
        let why = told
            .and_then(|ship| ship.status.as_ref()?.breach.as_ref())
            .map_or_else(|| "rolled back".to_owned(), |breach| breach.message.clone());
        let what = if self.everywhere() { "the release goes back everywhere" } else { "later stages do not start" };
        let mut message = format!("breach in {where_}: {why}; {what}");
        for line in &blocked {
            message.push_str("; ");
            message.push_str(line);
        }
        self.set(if self.moving() { ReleasePhase::RollingBack } else { ReleasePhase::RolledBack }, message);
    }

    /// The pipeline is deleted: what is under way goes back, or finishes where promotion has begun, and takes our
    /// objects along. What is left elsewhere is the pipeline's own business ([`super::retire`]).
    pub fn retire(&mut self) {
        for leg in self.legs.clone() {
            for rollout in [leg.ship, leg.back].into_iter().flatten().filter(|r| retirable(r)) {
                let (environment, name) = (leg.environment.clone(), rollout.name_any());
                self.note("RolloutRetired", Some(&environment), format!("{name} goes back with its pipeline"));
                self.writes.push(Write::Retire { environment, name });
            }
        }
        let phase = if self.moving() { ReleasePhase::RollingBack } else { ReleasePhase::Withdrawn };
        self.set(phase, "its pipeline is deleted");
    }

    /// A person's `abort`: what is under way goes back; no quarantine.
    pub fn withdraw(&mut self, why: &str) {
        for leg in self.legs.clone() {
            self.abort(&leg);
        }
        self.resolve_blocked();
        self.set(if self.moving() { ReleasePhase::RollingBack } else { ReleasePhase::Withdrawn }, why);
    }

    /// A person's `undo`: back to what ran before, where it had passed.
    pub fn undo(&mut self) {
        let mut message = String::from("undone by a person");
        for leg in self.legs.clone() {
            self.abort(&leg);
            if leg.promoted()
                && let Some(line) = self.take_back(&leg)
            {
                message.push_str("; ");
                message.push_str(&line);
            }
            if leg.ship.is_none() && self.progress(&leg.environment).is_some_and(|p| p.promoted_at.is_some()) {
                message.push_str(&format!("; {} stays: its rollout is not kept any more", leg.environment));
            }
        }
        self.resolve_blocked();
        self.set(if self.moving() { ReleasePhase::RollingBack } else { ReleasePhase::Withdrawn }, message);
    }

    /// A newer release takes over. What was never begun is not begun; what was is told who comes.
    ///
    /// An intent that was written is not deleted even if nobody answered it yet: its spoke may just
    /// have copied it, and a copy whose source is gone goes on. The mark reaches it either way.
    pub fn give_way(&mut self, newer: &str) {
        for leg in self.legs.clone() {
            let Some(ship) = leg.ship.filter(|ship| !is_over(ship)) else { continue };
            let (environment, name) = (leg.environment.clone(), ship.name_any());
            if !self.world.environments.contains_key(&environment) {
                self.writes.push(Write::Remove { environment, name });
            } else if ship.spec.superseded_by.is_none() {
                self.note("Superseded", Some(&environment), format!("{name} gives way to {newer}"));
                self.writes.push(Write::Supersede { environment, name, by: newer.to_owned() });
            }
        }
        let waiting =
            self.legs.iter().any(|leg| leg.in_flight() && self.world.environments.contains_key(&leg.environment));
        let phase = if waiting { ReleasePhase::Shipping } else { ReleasePhase::Superseded };
        self.set(phase, format!("superseded by {newer}"));
    }

    /// Ended without a breach somewhere: nothing new starts; the rest finishes.
    pub fn stop(&mut self) {
        let Some((environment, ended)) = self.ended_badly() else { return };
        let why = self
            .legs
            .iter()
            .filter(|leg| leg.environment == environment)
            .find_map(|leg| leg.ship?.status.as_ref()?.message.clone())
            .unwrap_or_default();
        let phase = match ended {
            _ if self.moving() => ReleasePhase::Shipping,
            RolloutPhase::Denied => ReleasePhase::Denied,
            RolloutPhase::Withdrawn => ReleasePhase::Withdrawn,
            RolloutPhase::Superseded => ReleasePhase::Superseded,
            _ => ReleasePhase::Stopped,
        };
        self.set(phase, format!("{ended:?} in {environment}: {why}; later stages do not start"));
    }

    /// Whether anything of this attempt is, or is now being, set in motion.
    fn moving(&self) -> bool {
        let created = self.writes.iter().any(|w| matches!(w, Write::Create { .. }));
        let answers = |leg: &Leg<'_>| self.world.environments.contains_key(&leg.environment);
        created || self.legs.iter().any(|leg| leg.in_flight() && answers(leg))
    }

    fn abort(&mut self, leg: &Leg<'a>) {
        let ship: Option<&Rollout> = leg.ship.filter(|ship| !is_over(ship) && !ship.spec.abort);
        let Some(ship) = ship else { return };
        let (environment, name) = (leg.environment.clone(), ship.name_any());
        self.note("RolloutAborted", Some(&environment), format!("{name} goes back"));
        self.writes.push(Write::Abort { environment, name });
    }

    /// A rollback that is blocked goes on by itself or is resolved by a person: by something newer that takes over
    /// there, or by an abort of the way back. Nothing but its own environment waits for it.
    fn resolve_blocked(&mut self) {
        let newer = superseding(self.world);
        let ships_to = |release: &Release, environment: &str| {
            release.spec.snapshot.stages.iter().flat_map(|s| &s.environments).any(|e| e == environment)
        };
        for leg in self.legs.clone() {
            let of_leg = [leg.ship, leg.back].into_iter().flatten();
            for rollout in of_leg.filter(|r| phase_of(r) == Some(RolloutPhase::RollbackBlocked)) {
                let (environment, name) = (leg.environment.clone(), rollout.name_any());
                let newer = newer.filter(|n| ships_to(n, &environment)).map(|n| n.name_any());
                if let Some(by) = newer.filter(|_| rollout.spec.superseded_by.is_none()) {
                    self.note("Superseded", Some(&environment), format!("{name} is blocked and gives way to {by}"));
                    self.writes.push(Write::Supersede { environment, name, by });
                } else if (self.world.release.spec.abort || self.overdue())
                    && rollout.spec.reason == RolloutReason::Rollback
                    && !rollout.spec.abort
                {
                    self.note("RolloutAborted", Some(&environment), format!("{name} is blocked and called off"));
                    self.writes.push(Write::Abort { environment, name });
                }
            }
        }
    }

    /// Starts the Rollback path in an environment that had passed; what holds it up otherwise.
    fn take_back(&mut self, leg: &Leg<'a>) -> Option<String> {
        let environment = leg.environment.as_str();
        if let Some(newer) = self.overtaken(environment) {
            return Some(format!("{environment} stays: {newer} has taken over there"));
        }
        let Some(target) = target_of(&self.world.rollouts, leg.ship?) else {
            let line = format!("{environment}: NoRollbackTarget, nothing ran there before");
            if let Some(progress) = self.progress(environment) {
                progress.message = Some(line.clone());
            }
            return Some(line);
        };
        let name = rollback_name(self.name(), self.attempt);
        let spec = self.intent(environment, RolloutReason::Rollback, Some(target));
        self.note("RollbackStarted", Some(environment), format!("{name} takes {environment} back"));
        if let Some(progress) = self.progress(environment) {
            progress.rollout = Some(name.clone());
            progress.phase = None;
            progress.weight = None;
            progress.message = Some("the environment has not answered yet".into());
        }
        self.writes.push(Write::Create { name, spec: Box::new(spec) });
        None
    }
}
