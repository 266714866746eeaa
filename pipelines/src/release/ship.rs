//! Stage by stage: which environment starts now, and what every other one waits for.

use jiff::Timestamp;
use kube::ResourceExt;

use super::back::target_of;
use super::draft::{Draft, Leg, breach_of, is_over, phase_of};
use super::order::admitted_at;
use super::plan::Write;
use super::world::PipelineState;
use super::{Version, quarantined, rollout_name, target_namespace};
use crate::api::{
    Release, ReleaseImage, ReleasePhase, RollbackScope, Rollout, RolloutPhase, RolloutReason, RolloutSpec, Stage,
    VerdictDecision,
};

impl<'a> Draft<'_, 'a> {
    pub fn ship(&mut self) {
        self.follow_verdicts();
        let stages = self.world.release.spec.snapshot.stages.clone();
        let mut waits: Vec<String> = Vec::new();
        let mut started = self.legs.iter().any(Leg::in_flight);
        let mut done = 0;
        for (index, stage) in stages.iter().enumerate() {
            self.status.stage = Some(stage.name.clone());
            let legs: Vec<Leg<'a>> = self.legs.iter().filter(|leg| leg.stage == index).cloned().collect();
            let untouched = legs.iter().all(|leg| leg.ship.is_none());
            if untouched && stage.require_approval && !self.approved(&stage.name) {
                let attempt = self.world.release.spec.attempt;
                waits.push(format!("stage '{}' waits for an Approval that names it and attempt {attempt}", stage.name));
                break;
            }
            // What it shows of them is as old as their spoke's silence.
            for leg in legs.iter().filter(|leg| leg.in_flight()) {
                if let Some(Err(why)) = self.world.environments.get(&leg.environment).map(|place| &place.spoke) {
                    waits.push(format!("{}: {why}", leg.environment));
                }
            }
            let mut under_way = legs.iter().filter(|leg| leg.in_flight()).count();
            for leg in legs.iter().filter(|leg| leg.ship.is_none()) {
                match self.may_start(leg).and_then(|()| room(stage, under_way)) {
                    Ok(()) => {
                        self.start(leg);
                        started = true;
                        under_way += 1;
                    }
                    Err((reason, why)) => {
                        let line = format!("{}: {why}", leg.environment);
                        self.hold(leg, reason, &why);
                        waits.push(line);
                    }
                }
            }
            if !legs.iter().all(Leg::promoted) {
                break;
            }
            done += 1;
            if done < stages.len() && !self.soaked(&legs, index, &mut waits) {
                break;
            }
        }
        let stage = self.status.stage.clone().unwrap_or_default();
        if done == stages.len() {
            self.status.stage = None;
            self.set(ReleasePhase::Promoted, "promoted in every environment");
        } else if let Some(denied) = self.turned() {
            // Its own verdict ended it; what is in flight finishes first.
            let phase = if started { ReleasePhase::Shipping } else { ReleasePhase::Stopped };
            self.set(phase, format!("{denied}: later stages do not start"));
        } else if started {
            let tail = if waits.is_empty() { String::new() } else { format!("; {}", waits.join("; ")) };
            self.set(ReleasePhase::Shipping, format!("stage '{stage}' is under way{tail}"));
        } else {
            self.set(ReleasePhase::Waiting, waits.join("; "));
        }
    }

    fn soaked(&mut self, legs: &[Leg<'_>], stage: usize, waits: &mut Vec<String>) -> bool {
        let Some(stage) = self.world.release.spec.snapshot.stages.get(stage) else { return true };
        let last = legs
            .iter()
            .filter_map(|leg| self.status.environments.iter().find(|e| e.environment == leg.environment))
            .filter_map(|e| e.promoted_at.as_ref().map(|t| t.0))
            .max();
        let until = last.and_then(|at| at.checked_add(stage.soak.signed()).ok());
        match until {
            Some(until) if until > self.world.now => {
                waits.push(format!("stage '{}' soaks for {} (until {until:.0})", stage.name, stage.soak));
                self.wake_at(until);
                false
            }
            _ => true,
        }
    }

    /// The environment whose verdict turned to a final Deny before anything started there.
    fn turned(&self) -> Option<String> {
        self.legs.iter().filter(|leg| leg.ship.is_none()).find_map(|leg| {
            let finding = self.world.verdicts.get(&leg.environment)?;
            let ended = finding.decision == VerdictDecision::Deny && !finding.retryable;
            ended.then(|| format!("{} denies it now: {}", leg.environment, finding.reasons.join("; ")))
        })
    }

    fn hold(&mut self, leg: &Leg<'_>, reason: &'static str, why: &str) {
        let message = format!("{reason}: {why}");
        let known = self.progress(&leg.environment).is_some_and(|p| p.message.as_deref() == Some(message.as_str()));
        if !known {
            self.note(reason, Some(&leg.environment), why);
        }
        if let Some(progress) = self.progress(&leg.environment) {
            progress.message = Some(message);
        }
    }

    fn may_start(&self, leg: &Leg<'_>) -> Result<(), (&'static str, String)> {
        let world = self.world;
        let spec = &world.release.spec;
        let environment = leg.environment.as_str();
        if spec.paused {
            return Err(("Paused", "the release is paused by a person".into()));
        }
        if let PipelineState::Refused(why) = &world.pipeline {
            return Err(("PipelineRefused", why.clone()));
        }
        let Some(place) = world.environments.get(environment) else {
            return Err(("EnvironmentMissing", format!("there is no Environment '{environment}'")));
        };
        if place.deleting {
            return Err(("EnvironmentDeleting", "the Environment is being deleted".into()));
        }
        if let Err(why) = &place.allowed {
            return Err(("NamespaceNotAllowed", why.clone()));
        }
        match world.verdicts.get(environment) {
            Some(finding) if finding.decision == VerdictDecision::Allow => {}
            Some(finding) => {
                return Err(("NotAllowed", format!("{:?}: {}", finding.decision, finding.reasons.join("; "))));
            }
            None => return Err(("NotVerified", "not verified yet under its policy".into())),
        }
        if let Some(found) = quarantined(world.quarantines.iter().copied(), &Version::from(spec), &[environment]) {
            return Err(("Quarantined", format!("{}: {}", found.name, found.why)));
        }
        if let Some(other) = self.occupant(leg) {
            return Err(("WorkloadBusy", format!("{other} is not finished there yet")));
        }
        if let Some(other) = self.rollback_awaited(environment) {
            return Err(("RollbackAwaited", format!("{other} is going back there first")));
        }
        if let Err(why) = &place.spoke {
            return Err(("SpokeNotReady", why.clone()));
        }
        Ok(())
    }

    /// Another Rollout that still acts on the workload there.
    fn occupant(&self, leg: &Leg<'_>) -> Option<String> {
        let mine = rollout_name(self.name(), self.attempt);
        self.world
            .rollouts
            .iter()
            .filter(|r| r.spec.environment == leg.environment && !is_over(r))
            .map(|r| r.name_any())
            .find(|name| *name != mine)
    }

    /// Another release that is about to be taken back in this environment: its rollback is awaited first. Once it is
    /// there it is an occupant; what it does elsewhere holds nobody up here.
    fn rollback_awaited(&self, environment: &str) -> Option<String> {
        let going_back = |release: &&&Release| {
            let name = release.name_any();
            let Some(status) = release.status.as_ref() else { return false };
            let of_attempt = |r: &Rollout| r.spec.release == name && r.spec.attempt == status.attempt;
            let everywhere = release.spec.snapshot.rollback == RollbackScope::Release || release.spec.undo;
            // Reported by a spoke, and perhaps not yet answered by a plan of that release.
            let breached = || self.world.rollouts.iter().any(|r| of_attempt(r) && breach_of(r));
            let due = match status.phase {
                Some(ReleasePhase::RollingBack) => everywhere,
                Some(phase) if phase.is_shipping() => everywhere && breached(),
                _ => false,
            };
            let here = |r: &&&Rollout| r.spec.environment == environment && of_attempt(r);
            let mut of_place = self.world.rollouts.iter().filter(here);
            let back = of_place.clone().any(|r| r.spec.reason == RolloutReason::Rollback);
            let passed = of_place.find(|r| phase_of(r) == Some(RolloutPhase::Promoted));
            due && !back
                && passed.is_some_and(|ship| target_of(&self.world.rollouts, ship).is_some())
                && self.overtaken_after(status.admitted_at.as_ref().map(|t| t.0), environment).is_none()
        };
        self.world.others.iter().find(going_back).map(|r| r.name_any())
    }

    fn start(&mut self, leg: &Leg<'_>) {
        let name = rollout_name(self.name(), self.attempt);
        let spec = self.intent(&leg.environment, RolloutReason::Ship, None);
        self.note("RolloutStarted", Some(&leg.environment), format!("{name} starts in {}", leg.environment));
        if let Some(progress) = self.progress(&leg.environment) {
            progress.rollout = Some(name.clone());
            progress.phase = None;
            progress.weight = None;
            progress.message = Some("the environment has not answered yet".into());
        }
        self.writes.push(Write::Create { name, spec: Box::new(spec) });
    }

    /// The intent for an environment: this release's images, or for a rollback the target's.
    pub fn intent(&self, environment: &str, reason: RolloutReason, target: Option<Vec<ReleaseImage>>) -> RolloutSpec {
        let release = self.world.release;
        let spec = &release.spec;
        let snapshot = &spec.snapshot;
        let namespace = release.namespace().unwrap_or_default();
        let revision = match &target {
            None => spec.revision.clone(),
            // What provenance must name is the revision of the version it goes back to.
            Some(images) => {
                self.world.others.iter().find(|o| o.spec.images == *images).and_then(|o| o.spec.revision.clone())
            }
        };
        let alpha_share = match (reason, snapshot.rollback) {
            (RolloutReason::Ship, RollbackScope::Release) => 1.0 / self.legs.len().max(1) as f64,
            _ => 1.0,
        };
        RolloutSpec {
            environment: environment.to_owned(),
            pipeline_namespace: namespace.clone(),
            pipeline: spec.pipeline.clone(),
            release: release.name_any(),
            attempt: self.attempt,
            reason,
            namespace: target_namespace(snapshot, &namespace).to_owned(),
            images: target.unwrap_or_else(|| spec.images.clone()),
            revision,
            workload: snapshot.workload.clone(),
            service: snapshot.service.clone(),
            route: snapshot.route.clone(),
            strategy: snapshot.strategy.clone(),
            objectives: snapshot.objectives.clone(),
            alpha_share,
            max_weight: 100,
            superseded_by: None,
            paused: false,
            abort: false,
            promote_through: None,
        }
    }

    /// A release admitted later that has come to this environment: it, not we, says what runs there.
    pub fn overtaken(&self, environment: &str) -> Option<String> {
        self.overtaken_after(self.status.admitted_at.as_ref().map(|t| t.0), environment)
    }

    fn overtaken_after(&self, admitted: Option<Timestamp>, environment: &str) -> Option<String> {
        let later = self.world.others.iter().filter(|o| admitted_at(o) > admitted);
        later.copied().find(|o| has_come(&self.world.rollouts, o, environment)).map(|o| o.name_any())
    }
}

/// Whether the release's attempt came to the environment and did not go back from there: that it left the digests
/// before it to run, or gave them back. An attempt of its own that was there long before does not count.
fn has_come(rollouts: &[&Rollout], release: &Release, environment: &str) -> bool {
    let name = release.name_any();
    let of = |r: &&&Rollout| {
        let spec = &r.spec;
        (spec.release.as_str(), spec.attempt, spec.environment.as_str()) == (&*name, release.spec.attempt, environment)
    };
    let stays = |r: &Rollout| phase_of(r).is_none_or(|p| p == RolloutPhase::Promoted || !p.is_terminal());
    let back = |r: &Rollout| (r.spec.reason, phase_of(r)) == (RolloutReason::Rollback, Some(RolloutPhase::RolledBack));
    let mut there = rollouts.iter().filter(of);
    there.clone().any(|r| stays(r)) && !there.any(|r| back(r))
}

/// Whether one more environment of the stage may begin beside those under way.
fn room(stage: &Stage, under_way: usize) -> Result<(), (&'static str, String)> {
    let Some(most) = stage.max_concurrent else { return Ok(()) };
    if under_way < usize::try_from(most).unwrap_or(usize::MAX) {
        return Ok(());
    }
    Err(("ConcurrencyReached", format!("stage '{}' has {most} under way at once (maxConcurrent)", stage.name)))
}
