//! The ways back: a breach, a person's abort or undo, a newer release. Traffic is the spokes'
//! business; here it is said which environments go back and to what.

use kube::ResourceExt;

use super::draft::{Draft, Leg, breach_of, is_over, phase_of};
use super::plan::Write;
use super::retire::retirable;
use super::rollback_name;
use crate::api::{ReleasePhase, Rollout, RolloutPhase, RolloutReason};

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
        if self.everywhere() {
            for leg in self.legs.clone() {
                if leg.ship.is_some_and(breach_of) {
                    continue;
                }
                self.abort(&leg);
                if leg.promoted() {
                    blocked.extend(self.take_back(&leg));
                }
            }
        }
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
        }
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

    /// Starts the Rollback path in an environment that had passed; what holds it up otherwise.
    fn take_back(&mut self, leg: &Leg<'a>) -> Option<String> {
        let ship = leg.ship?;
        let environment = leg.environment.as_str();
        if let Some(newer) = self.overtaken(environment) {
            return Some(format!("{environment} stays: {newer} has taken over there"));
        }
        let target = ship.status.as_ref().map(|s| s.target.clone()).unwrap_or_default();
        if target.is_empty() {
            let line = format!("{environment}: NoRollbackTarget, nothing ran there before");
            if let Some(progress) = self.progress(environment) {
                progress.message = Some(line.clone());
            }
            return Some(line);
        }
        let name = rollback_name(self.name(), self.world.release.spec.attempt);
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
