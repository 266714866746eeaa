//! Step 3: what is to be done. Releases and events are planned by `tidegate_pipelines::release`;
//! here stand the small plans for Pipeline and Environment, pure as well.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use tidegate_pipelines::api::{
    Environment, EnvironmentStatus, Pipeline, PipelineStatus, Quarantine, Release, Rollout, names,
};
use tidegate_pipelines::release::{self, Lookup, Outcome, Plan, ResolveInput, World, current};

use super::heartbeat::{Pulse, SILENCE};
use super::observe::{ObservedEvent, ObservedRelease};
use super::validate::{Standing, Surroundings};

/// Condition of an Environment: its spoke reports.
pub const SPOKE_READY: &str = "SpokeReady";

pub fn event(
    observed: &ObservedEvent,
    views: &[release::PipelineView<'_>],
    lookups: &BTreeMap<String, Lookup>,
) -> Outcome {
    let releases: Vec<&Release> = observed.releases.iter().map(Arc::as_ref).collect();
    let quarantines: Vec<&Quarantine> = observed.quarantines.iter().map(Arc::as_ref).collect();
    release::resolve(&ResolveInput {
        name: &observed.event.name_any(),
        event: &observed.event.spec,
        status: observed.event.status.as_ref(),
        source: observed.source.as_ref().map(|s| &s.spec),
        pipelines: views,
        lookups,
        releases: &releases,
        quarantines: &quarantines,
        now: observed.now,
    })
}

pub fn release(observed: &ObservedRelease, surroundings: &Surroundings) -> Plan {
    release::plan(&World {
        now: observed.now,
        release: &observed.release,
        others: observed.others.iter().map(Arc::as_ref).collect(),
        rollouts: observed.rollouts.iter().map(Arc::as_ref).collect(),
        environments: surroundings.environments.clone(),
        verdicts: observed.findings.by_environment.clone(),
        approvals: observed.approvals.iter().map(Arc::as_ref).collect(),
        quarantines: observed.quarantines.iter().map(Arc::as_ref).collect(),
        pipeline: surroundings.pipeline.clone(),
    })
}

/// What the finalizer of an object calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finalizer {
    Keep,
    Add,
    Remove,
}

#[derive(Debug)]
pub struct PipelinePlan {
    pub status: PipelineStatus,
    pub finalizer: Finalizer,
}

/// A pipeline that is deleted stays until everything of it came back: its releases see the deletion
/// and abort what is under way.
pub fn pipeline(
    pipeline: &Pipeline,
    standing: &Standing,
    releases: &[Arc<Release>],
    rollouts: &[Arc<Rollout>],
    now: Timestamp,
) -> PipelinePlan {
    let deleting = pipeline.metadata.deletion_timestamp.is_some();
    let kept = pipeline.finalizers().iter().any(|f| f == names::FINALIZER);
    let moving = rollouts.iter().filter(|r| !is_over(r)).count();
    let finalizer = match (deleting, kept) {
        (false, false) => Finalizer::Add,
        (true, true) if moving == 0 => Finalizer::Remove,
        _ => Finalizer::Keep,
    };
    let running = current(releases.iter().map(Arc::as_ref)).map(|r| r.name_any());
    let shipping = releases.iter().find(|r| r.status.as_ref().and_then(|s| s.phase).is_some_and(|p| p.is_shipping()));
    let (phase, message) = match (standing.refused(), shipping) {
        _ if deleting => ("Deleting", Some(format!("{moving} rollouts return their traffic first"))),
        (Some(why), _) => ("Refused", Some(why)),
        (None, Some(release)) => ("Shipping", Some(release.name_any())),
        (None, None) => ("Ready", None),
    };
    let before = pipeline.status.clone().unwrap_or_default();
    let (state, reason) = match standing.refusals.first() {
        Some(refusal) => ("False", refusal.reason()),
        None => ("True", "Sound"),
    };
    let detail = standing.refused().unwrap_or_default();
    let conditions =
        conditions(before.conditions, "Ready", (state, reason, &detail), pipeline.metadata.generation, now);
    let status = PipelineStatus {
        observed_generation: pipeline.metadata.generation,
        phase: Some(phase.to_owned()),
        current_release: running,
        message: message.map(|m| m.chars().take(2048).collect()),
        conditions,
    };
    PipelinePlan { status, finalizer }
}

#[derive(Debug)]
pub struct EnvironmentPlan {
    pub status: EnvironmentStatus,
    pub finalizer: Finalizer,
    /// Intents to abort, since the environment is deleted at the hub.
    pub abort: Vec<String>,
    pub wake_after: Option<Duration>,
}

/// `lease_notes`: the annotations of the spoke's heartbeat.
pub fn environment(
    environment: &Environment,
    pulse: Pulse,
    lease_notes: &BTreeMap<String, String>,
    rollouts: &[Arc<Rollout>],
    now: Timestamp,
) -> EnvironmentPlan {
    let deleting = environment.metadata.deletion_timestamp.is_some();
    let kept = environment.finalizers().iter().any(|f| f == names::FINALIZER);
    let moving: Vec<&Arc<Rollout>> = rollouts.iter().filter(|r| !is_over(r)).collect();
    let gone = environment.spec.decommissioned;
    let finalizer = match (deleting, kept) {
        (false, false) => Finalizer::Add,
        (true, true) if moving.is_empty() || gone => Finalizer::Remove,
        _ => Finalizer::Keep,
    };
    let abort = match deleting && !gone {
        true => moving.iter().filter(|r| !r.spec.abort).map(|r| r.name_any()).collect(),
        false => vec![],
    };
    let before = environment.status.clone().unwrap_or_default();
    let known = before.conditions.iter().find(|c| c.type_ == SPOKE_READY);
    let told = match (pulse, known) {
        (Pulse::Alive, _) => ("True", "Reporting", "the spoke renews its Lease"),
        (Pulse::Silent, _) => ("False", "Silent", "the spoke has not renewed its Lease for 20 s"),
        // Just started: what was known holds until we have seen a renewal, or none.
        (Pulse::Unknown, Some(_)) => ("", "", ""),
        (Pulse::Unknown, None) => ("Unknown", "Unconfirmed", "one heartbeat seen, waiting for the next"),
    };
    let conditions = match told {
        ("", ..) => before.conditions.clone(),
        told => conditions(before.conditions.clone(), SPOKE_READY, told, environment.metadata.generation, now),
    };
    let note = |key: &str, old: Option<String>| lease_notes.get(key).cloned().or(old);
    let status = EnvironmentStatus {
        observed_generation: environment.metadata.generation,
        policy_mode: note("tidegate.io/policy-mode", before.policy_mode),
        policy_digest: note("tidegate.io/policy-digest", before.policy_digest),
        conditions,
    };
    let wake_after = (pulse != Pulse::Silent).then_some(SILENCE + Duration::from_secs(1));
    EnvironmentPlan { status, finalizer, abort, wake_after }
}

fn is_over(rollout: &Rollout) -> bool {
    rollout.status.as_ref().and_then(|s| s.phase).is_some_and(|p| p.is_terminal())
}

/// One condition set; the time changes only with its status.
fn conditions(
    mut all: Vec<Condition>,
    type_: &str,
    (status, reason, message): (&str, &str, &str),
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let since = match all.iter().find(|c| c.type_ == type_) {
        Some(known) if known.status == status => known.last_transition_time.clone(),
        _ => Time(now),
    };
    all.retain(|c| c.type_ != type_);
    all.push(Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.chars().take(1024).collect(),
        last_transition_time: since,
        observed_generation: generation,
    });
    all.sort_by(|a, b| a.type_.cmp(&b.type_));
    all
}
