//! The plan in the making: a status that grows from the one before, and the writes for it.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::plan::{Note, Plan, Write};
use super::quarantine::adopt;
use super::world::World;
use super::{rollback_name, rollout_name};
use crate::api::{
    EnvironmentProgress, ReleasePhase, ReleaseStatus, RollbackScope, Rollout, RolloutPhase, RolloutReason,
    RolloutStatus, names,
};

/// One environment on this attempt's way.
#[derive(Clone, Debug)]
pub(super) struct Leg<'a> {
    pub environment: String,
    pub stage: usize,
    pub ship: Option<&'a Rollout>,
    pub back: Option<&'a Rollout>,
}

pub(super) fn phase_of(rollout: &Rollout) -> Option<RolloutPhase> {
    rollout.status.as_ref().and_then(|s| s.phase)
}

pub(super) fn is_over(rollout: &Rollout) -> bool {
    phase_of(rollout).is_some_and(RolloutPhase::is_terminal)
}

/// A first release has nothing to compare with: what it reports of itself is a failure, not a breach.
pub(super) fn breach_of(rollout: &Rollout) -> bool {
    let told = |s: &RolloutStatus| s.breach.is_some() || s.phase == Some(RolloutPhase::RolledBack);
    rollout.status.as_ref().is_some_and(|s| !s.first_release && told(s)) && rollout.spec.reason == RolloutReason::Ship
}

impl Leg<'_> {
    pub fn in_flight(&self) -> bool {
        [self.ship, self.back].into_iter().flatten().any(|rollout| !is_over(rollout))
    }

    pub fn promoted(&self) -> bool {
        self.back.is_none() && self.ship.is_some_and(|ship| phase_of(ship) == Some(RolloutPhase::Promoted))
    }
}

pub(super) struct Draft<'w, 'a> {
    pub world: &'w World<'a>,
    /// The attempt that is planned: the one asked for, or an earlier one that has not come to its end.
    pub attempt: u32,
    pub legs: Vec<Leg<'a>>,
    pub status: ReleaseStatus,
    pub writes: Vec<Write>,
    pub notes: Vec<Note>,
    wake: Option<Timestamp>,
    before: ReleaseStatus,
}

impl<'w, 'a> Draft<'w, 'a> {
    pub fn new(world: &'w World<'a>) -> Self {
        let spec = &world.release.spec;
        let name = world.release.metadata.name.as_deref().unwrap_or_default();
        let find = |environment: &str, name: &str| {
            let there = |r: &&&Rollout| r.spec.environment == environment && r.metadata.name.as_deref() == Some(name);
            world.rollouts.iter().find(there).copied()
        };
        let stages = || spec.snapshot.stages.iter().enumerate();
        let places = || stages().flat_map(|(stage, of)| of.environments.iter().map(move |e| (stage, e)));
        let legs_of = |attempt: u32| -> Vec<Leg<'a>> {
            let leg = |(stage, environment): (usize, &String)| Leg {
                environment: environment.clone(),
                stage,
                ship: find(environment, &rollout_name(name, attempt)),
                back: find(environment, &rollback_name(name, attempt)),
            };
            places().map(leg).collect()
        };
        let before = world.release.status.clone().unwrap_or_default();
        // Asked for in mid-flight: nobody would answer a breach of what is under way any more.
        let open =
            before.attempt != 0 && before.attempt < spec.attempt && before.phase.is_some_and(|p| !p.is_terminal());
        let unsettled = |leg: &Leg<'_>| leg.in_flight() || leg.ship.is_some_and(breach_of);
        let earlier = open.then(|| legs_of(before.attempt)).filter(|legs| legs.iter().any(unsettled));
        let attempt = if earlier.is_some() { before.attempt } else { spec.attempt };
        let legs = earlier.unwrap_or_else(|| legs_of(attempt));
        let mut status = before.clone();
        if status.attempt != attempt {
            status = ReleaseStatus { attempt, conditions: status.conditions, ..ReleaseStatus::default() };
        }
        status.phase.get_or_insert(ReleasePhase::Verifying);
        status.verifying_since.get_or_insert(Time(world.now));
        let earlier = std::mem::take(&mut status.environments);
        status.environments = legs
            .iter()
            .map(|leg| {
                let known = earlier.iter().find(|e| e.environment == leg.environment);
                known.cloned().unwrap_or_else(|| unseen(&leg.environment))
            })
            .collect();
        Draft { world, attempt, legs, status, writes: vec![], notes: vec![], wake: None, before }
    }

    pub fn phase(&self) -> ReleasePhase {
        self.status.phase.unwrap_or(ReleasePhase::Verifying)
    }

    pub fn name(&self) -> &str {
        self.world.release.metadata.name.as_deref().unwrap_or_default()
    }

    /// Another attempt was asked for while this one is under way.
    pub fn overdue(&self) -> bool {
        self.attempt != self.world.release.spec.attempt
    }

    pub fn everywhere(&self) -> bool {
        self.world.release.spec.snapshot.rollback == RollbackScope::Release
    }

    pub fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |known| known.min(at)));
    }

    pub fn set(&mut self, phase: ReleasePhase, message: impl Into<String>) {
        self.status.phase = Some(phase);
        self.status.message = Some(message.into().chars().take(2048).collect());
    }

    pub fn note(&mut self, reason: &'static str, environment: Option<&str>, message: impl Into<String>) {
        self.notes.push(Note { reason, environment: environment.map(str::to_owned), message: message.into() });
    }

    pub fn progress(&mut self, environment: &str) -> Option<&mut EnvironmentProgress> {
        self.status.environments.iter_mut().find(|e| e.environment == environment)
    }

    /// Copies what the spokes told into the progress per environment.
    pub fn follow_rollouts(&mut self) {
        for leg in self.legs.clone() {
            let Some(rollout) = leg.back.or(leg.ship) else { continue };
            let now = self.world.now;
            let Some(progress) = self.progress(&leg.environment) else { continue };
            let told = rollout.status.as_ref();
            progress.rollout = rollout.metadata.name.clone();
            progress.phase = told.and_then(|s| s.phase);
            progress.weight = told.map(|s| s.weight);
            progress.message = match told {
                Some(status) => status.message.clone(),
                None => Some("the environment has not answered yet".into()),
            };
            // Our own clock at the first sight of it, kept from then on: soak does not depend on theirs.
            if leg.promoted() {
                progress.promoted_at.get_or_insert(Time(now));
            }
        }
    }

    pub fn quarantine_breaches(&mut self) {
        let breached = self.legs.iter().filter_map(|leg| leg.ship).filter(|ship| breach_of(ship));
        let mut writes: Vec<Write> = Vec::new();
        for ship in breached {
            for (name, spec) in adopt(ship, self.world, self.everywhere()) {
                let twice = |w: &Write| matches!(w, Write::Quarantine { name: other, .. } if *other == name);
                match writes.iter_mut().find(|w| twice(w)) {
                    // Two environments breached at once: one object that names both.
                    Some(Write::Quarantine { spec: first, .. }) if !first.environments.is_empty() => {
                        first.environments.extend(spec.environments);
                    }
                    Some(_) => {}
                    None => writes.push(Write::Quarantine { name, spec: Box::new(spec) }),
                }
            }
        }
        for write in &writes {
            if let Write::Quarantine { name, spec } = write {
                self.note(
                    "Quarantined",
                    spec.environments.first().map(String::as_str),
                    format!("{name}: {}", spec.reason),
                );
            }
        }
        self.writes.extend(writes);
    }

    /// A release that is held holds its intents, and lets go only of those that it held itself.
    pub fn follow_pause(&mut self) {
        let paused = self.world.release.spec.paused;
        for leg in self.legs.clone() {
            for rollout in [leg.ship, leg.back].into_iter().flatten().filter(|r| !is_over(r)) {
                let ours =
                    rollout.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(names::PAUSED_BY_RELEASE));
                let (environment, name) = (leg.environment.clone(), rollout.metadata.name.clone().unwrap_or_default());
                if paused && !rollout.spec.paused {
                    self.writes.push(Write::Pause { environment, name });
                } else if !paused && ours {
                    self.writes.push(Write::Resume { environment, name });
                }
            }
        }
    }

    /// Intents that came into sight after their attempt had ended, or that an earlier attempt left: what was written
    /// from a view that was behind must not ship. A way back is never called off.
    pub fn call_off_late(&mut self) {
        let phase = self.before.phase.filter(|_| self.before.attempt == self.attempt);
        let ended = phase.is_some_and(|p| p.is_terminal() && p != ReleasePhase::Promoted);
        let of_release = |r: &&&Rollout| r.spec.release == self.name() && r.spec.reason == RolloutReason::Ship;
        let late = |r: &&&Rollout| r.spec.attempt < self.attempt || (ended && r.spec.attempt == self.attempt);
        let told = |r: &Rollout| r.spec.abort || r.spec.superseded_by.is_some();
        let open = self.world.rollouts.iter().filter(of_release).filter(late);
        let open: Vec<&Rollout> = open.copied().filter(|r| !is_over(r) && !told(r)).collect();
        for rollout in open {
            let (environment, name) =
                (rollout.spec.environment.clone(), rollout.metadata.name.clone().unwrap_or_default());
            self.note("RolloutAborted", Some(&environment), format!("{name} goes back: its attempt has ended"));
            self.writes.push(Write::Abort { environment, name });
        }
    }

    /// Nothing more is decided; the status stays as it is.
    pub fn rest(mut self) -> Plan {
        self.status = self.before.clone();
        self.status.observed_generation = self.world.release.metadata.generation;
        Plan { status: self.status, writes: self.writes, notes: self.notes, wake_after: None }
    }

    pub fn finish(mut self) -> Plan {
        self.status.observed_generation = self.world.release.metadata.generation;
        let phase = self.phase();
        if self.before.phase != Some(phase) || self.before.attempt != self.status.attempt {
            let message = self.status.message.clone().unwrap_or_default();
            self.note(phase_reason(phase), None, message);
        }
        let verified = match self.status.verdict.as_deref() {
            Some("Allow") => ("True", "Allow"),
            Some("Deny") => ("False", "Deny"),
            Some("Error") => ("Unknown", "Error"),
            _ => ("Unknown", "Pending"),
        };
        let settled = if phase.is_terminal() { "False" } else { "True" };
        self.condition("Verified", verified.0, verified.1);
        self.condition("Progressing", settled, phase_reason(phase));
        let now = self.world.now;
        let wake_after = self.wake.map(|at| at.duration_since(now).max(SignedDuration::from_millis(50)));
        Plan { status: self.status, writes: self.writes, notes: self.notes, wake_after }
    }

    fn condition(&mut self, type_: &str, status: &str, reason: &str) {
        let generation = self.world.release.metadata.generation;
        let now = Time(self.world.now);
        match self.status.conditions.iter_mut().find(|c| c.type_ == type_) {
            Some(known) => {
                if known.status != status {
                    known.last_transition_time = now;
                }
                status.clone_into(&mut known.status);
                reason.clone_into(&mut known.reason);
                known.observed_generation = generation;
            }
            None => self.status.conditions.push(Condition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: reason.to_owned(),
                message: String::new(),
                last_transition_time: now,
                observed_generation: generation,
            }),
        }
    }
}

fn unseen(environment: &str) -> EnvironmentProgress {
    EnvironmentProgress {
        environment: environment.to_owned(),
        verdict: None,
        reasons: vec![],
        rollout: None,
        phase: None,
        weight: None,
        message: None,
        promoted_at: None,
    }
}

pub(super) fn phase_reason(phase: ReleasePhase) -> &'static str {
    match phase {
        ReleasePhase::Verifying => "Verifying",
        ReleasePhase::Denied => "Denied",
        ReleasePhase::Downgrade => "Downgrade",
        ReleasePhase::Shipping => "Shipping",
        ReleasePhase::Waiting => "Waiting",
        ReleasePhase::Promoted => "Promoted",
        ReleasePhase::RollingBack => "RollingBack",
        ReleasePhase::RolledBack => "RolledBack",
        ReleasePhase::Superseded => "Superseded",
        ReleasePhase::Withdrawn => "Withdrawn",
        ReleasePhase::Stopped => "Stopped",
    }
}
