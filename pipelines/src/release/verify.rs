//! From the first look to "may ship": every environment's policy must allow every image.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::draft::Draft;
use super::order::downgrade_of;
use super::world::PipelineState;
use super::{DOWNGRADE_STAGE, Version, quarantined};
use crate::api::{ReleasePhase, VerdictDecision};

impl Draft<'_, '_> {
    /// Copies the findings into the progress per environment and sums them up.
    pub fn follow_verdicts(&mut self) {
        for (environment, finding) in &self.world.verdicts {
            let (verdict, reasons) = (format!("{:?}", finding.decision), finding.reasons.clone());
            if let Some(progress) = self.progress(environment) {
                progress.verdict = Some(verdict);
                progress.reasons = reasons.into_iter().take(32).collect();
            }
        }
        let told = |verdict: &str| self.status.environments.iter().any(|e| e.verdict.as_deref() == Some(verdict));
        let all = self.status.environments.iter().all(|e| e.verdict.as_deref() == Some("Allow"));
        let sum = match () {
            () if told("Deny") => Some("Deny"),
            () if told("Error") => Some("Error"),
            () if all => Some("Allow"),
            () => None,
        };
        self.status.verdict = sum.map(str::to_owned);
    }

    pub fn verify(&mut self) {
        self.follow_verdicts();
        let world = self.world;
        let spec = &world.release.spec;
        let environments: Vec<&str> =
            spec.snapshot.stages.iter().flat_map(|s| &s.environments).map(String::as_str).collect();
        if let Some(found) = quarantined(world.quarantines.iter().copied(), &Version::from(spec), &environments) {
            let message = format!("quarantined ({}): {}", found.name, found.why);
            return self.set(ReleasePhase::Denied, message);
        }
        let of = |decision: VerdictDecision, retryable: Option<bool>| {
            world
                .verdicts
                .iter()
                .find(|(_, f)| f.decision == decision && retryable.is_none_or(|r| f.retryable == r))
                .map(|(environment, finding)| format!("{environment}: {}", finding.reasons.join("; ")))
        };
        if let Some(why) = of(VerdictDecision::Deny, Some(false)) {
            return self.set(ReleasePhase::Denied, why);
        }
        // An environment that does not exist has no policy; it is told when its stage comes.
        let existing: Vec<&str> =
            environments.iter().copied().filter(|e| world.environments.contains_key(*e)).collect();
        let unseen = existing.iter().any(|e| !world.verdicts.contains_key(*e));
        if unseen || existing.is_empty() {
            return self.set(ReleasePhase::Verifying, "the images are being verified");
        }
        if let Some(why) = of(VerdictDecision::Deny, None).or_else(|| of(VerdictDecision::Error, None)) {
            return self.wait_for_evidence(&why);
        }
        if let PipelineState::Refused(why) = &world.pipeline {
            return self.set(ReleasePhase::Verifying, format!("verified; its pipeline is refused: {why}"));
        }
        self.admit();
    }

    fn wait_for_evidence(&mut self, why: &str) {
        let patience = self.world.release.spec.snapshot.evidence_deadline;
        let since = self.status.verifying_since.as_ref().map_or(self.world.now, |t| t.0);
        let until = since.checked_add(patience.signed()).unwrap_or(self.world.now);
        if self.world.now >= until {
            self.set(ReleasePhase::Denied, format!("no evidence came within {patience}: {why}"));
        } else {
            self.set(ReleasePhase::Verifying, format!("waiting for evidence until {until:.0}: {why}"));
            self.wake_at(until);
        }
    }

    fn admit(&mut self) {
        if let Some(newer) = downgrade_of(self.world.release, &self.world.others, &self.world.rollouts)
            && !self.approved(DOWNGRADE_STAGE)
        {
            let newer = newer.name_any();
            return self.set(
                ReleasePhase::Downgrade,
                format!(
                    "older than {newer}: it ships once an Approval of stage '{DOWNGRADE_STAGE}' names {} and attempt {}",
                    self.name(),
                    self.world.release.spec.attempt
                ),
            );
        }
        self.status.admitted_at = Some(Time(self.world.now));
    }

    /// Whether a person let this attempt of the release pass `stage`: a yes to an earlier one was said before
    /// anybody knew how that would end.
    pub fn approved(&self, stage: &str) -> bool {
        let attempt = self.world.release.spec.attempt;
        self.world
            .approvals
            .iter()
            .any(|a| a.spec.release == self.name() && a.spec.stage == stage && a.spec.attempt == attempt)
    }
}
