//! Step 3: what is to be done. Releases and events are planned by `tidegate_pipelines::release`;
//! here stand the small plans for Pipeline and Environment, pure as well.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use tidegate_pipelines::api::{
    Environment, EnvironmentStatus, Pipeline, PipelineStatus, Quarantine, Release, Rollout, RolloutReason, names,
};
use tidegate_pipelines::release::{self, Lookup, Outcome, Plan, ResolveInput, Retirement, Spot, World, Write, current};

use super::heartbeat::{Pulse, SILENCE};
use super::observe::{ObservedEvent, ObservedRelease};
use super::standing::Standing;
use super::validate::Surroundings;

/// Condition of an Environment: its spoke reports.
pub const SPOKE_READY: &str = "SpokeReady";

pub fn event(
    observed: &ObservedEvent,
    views: &[release::PipelineView<'_>],
    lookups: &BTreeMap<String, Lookup>,
    indexes: &BTreeMap<String, Vec<String>>,
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
        indexes,
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
        current: observed
            .pipeline
            .as_deref()
            .filter(|p| p.uid().as_deref() == Some(observed.release.spec.pipeline_uid.as_str()))
            .map(|p| &p.spec),
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
    /// Intents that clear up after a deleted pipeline.
    pub writes: Vec<Write>,
    /// What a deleted pipeline leaves behind, and why; told when it goes.
    pub left: Vec<String>,
    pub wake_after: Option<Duration>,
}

/// A pipeline that is deleted stays until everything of it came back and was taken away, where anybody is there
/// to do it.
pub fn pipeline(
    pipeline: &Pipeline,
    standing: &Standing,
    releases: &[Arc<Release>],
    rollouts: &[Arc<Rollout>],
    places: &BTreeMap<String, Spot>,
    now: Timestamp,
) -> PipelinePlan {
    let deleting = pipeline.metadata.deletion_timestamp.is_some();
    let kept = pipeline.finalizers().iter().any(|f| f == names::FINALIZER);
    let rollouts: Vec<&Rollout> = rollouts.iter().map(Arc::as_ref).collect();
    let retirement = match deleting && kept {
        true => release::retire(pipeline, &rollouts, places, now),
        false => Retirement::default(),
    };
    let finalizer = match (deleting, kept) {
        (false, false) => Finalizer::Add,
        (true, true) if retirement.done() => Finalizer::Remove,
        _ => Finalizer::Keep,
    };
    let running = current(releases.iter().map(Arc::as_ref)).map(|r| r.name_any());
    let shipping = releases.iter().find(|r| r.status.as_ref().and_then(|s| s.phase).is_some_and(|p| p.is_shipping()));
    let (phase, message) = match (standing.refused(), shipping) {
        _ if deleting => ("Deleting", Some(deletion(&retirement))),
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
    let wake = retirement.wake_at.map(|at| at.duration_since(now).unsigned_abs().max(Duration::from_secs(1)));
    PipelinePlan { status, finalizer, writes: retirement.writes, left: retirement.left, wake_after: wake }
}

fn deletion(retirement: &Retirement) -> String {
    let waits = match retirement.waits.as_slice() {
        [] => "everything came back".to_owned(),
        waits => format!("these return their traffic and go first: {}", waits.join("; ")),
    };
    retirement.left.iter().fold(waits, |text, line| format!("{text}; {line}"))
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
        // What clears up after a pipeline is no traffic to return, and the last that this place needs.
        true => moving
            .iter()
            .filter(|r| !r.spec.abort && r.spec.reason != RolloutReason::Retire)
            .map(|r| r.name_any())
            .collect(),
        false => vec![],
    };
    let before = environment.status.clone().unwrap_or_default();
    let known = before.conditions.iter().find(|c| c.type_ == SPOKE_READY);
    let away = lease_notes.get(names::API_SERVER_AWAY).filter(|note| !note.is_empty());
    let away = away.map(|note| format!("the spoke lives, but {note}"));
    let told = match (pulse, known) {
        (Pulse::Alive | Pulse::Unknown, _) if away.is_some() => {
            ("False", "ApiServerAway", away.as_deref().unwrap_or_default())
        }
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:10:00Z".parse().unwrap()
    }

    fn rollout(name: &str, reason: &str, phase: &str) -> Arc<Rollout> {
        Arc::new(
            serde_json::from_value(json!({
                "apiVersion": "tidegate.io/v1alpha1", "kind": "Rollout", "metadata": {"name": name},
                "spec": {
                    "environment": "east", "pipelineNamespace": "shop", "pipeline": "portal", "release": "portal-1",
                    "attempt": 1, "reason": reason, "namespace": "shop", "images": [], "workload": {"name": "portal"},
                    "service": "portal", "route": {"httpRoute": "portal"}, "strategy": {}, "objectives": []
                },
                "status": {"phase": phase}
            }))
            .unwrap(),
        )
    }

    fn deleted(kind: &str, spec: Value) -> Value {
        json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": kind,
            "metadata": {
                "name": "portal", "namespace": "shop", "uid": "u-1", "finalizers": [names::FINALIZER],
                "deletionTimestamp": "2026-01-01T00:00:00Z"
            },
            "spec": spec
        })
    }

    fn of_pipeline(rollouts: &[Arc<Rollout>], answers: bool) -> PipelinePlan {
        let spec = json!({
            "images": [], "workload": {"name": "portal"}, "service": "portal", "route": {"httpRoute": "portal"},
            "stages": [], "objectives": []
        });
        let object: Pipeline = serde_json::from_value(deleted("Pipeline", spec)).unwrap();
        let places = [("east".to_owned(), Spot { answers, decommissioned: false })].into();
        pipeline(&object, &Standing::default(), &[], rollouts, &places, now())
    }

    #[test]
    fn a_deleted_pipeline_stays_until_all_that_is_ours_is_taken_away() {
        let promoted = rollout("portal-1-1", "Ship", "Promoted");
        let first = of_pipeline(std::slice::from_ref(&promoted), true);
        let [Write::Create { name, spec }] = first.writes.as_slice() else { panic!("{:?}", first.writes) };
        assert_eq!((first.finalizer, spec.reason), (Finalizer::Keep, RolloutReason::Retire));
        let waiting = of_pipeline(&[promoted.clone(), rollout(name, "Retire", "Waiting")], true);
        assert_eq!((waiting.finalizer, waiting.writes.len()), (Finalizer::Keep, 0));
        assert!(waiting.status.message.as_ref().unwrap().contains(name), "{:?}", waiting.status.message);
        let done = of_pipeline(&[promoted.clone(), rollout(name, "Retire", "Withdrawn")], true);
        assert_eq!((done.finalizer, done.left.len()), (Finalizer::Remove, 0));
        // Ten minutes without a word from there: it goes, and what is left is told.
        let away = of_pipeline(&[promoted, rollout(name, "Retire", "Waiting")], false);
        assert_eq!((away.finalizer, away.left.len()), (Finalizer::Remove, 1));
    }

    #[test]
    fn a_deleted_environment_aborts_what_ships_and_lets_what_clears_up_finish() {
        let spec = json!({"policy": "p", "metrics": {"prometheus": "http://prometheus"}});
        let object: Environment = serde_json::from_value(deleted("Environment", spec)).unwrap();
        let rollouts = [rollout("portal-1-1", "Ship", "Canary"), rollout("portal-retire-1", "Retire", "Waiting")];
        let plan = environment(&object, Pulse::Alive, &BTreeMap::new(), &rollouts, now());
        assert_eq!((plan.abort, plan.finalizer), (vec!["portal-1-1".to_owned()], Finalizer::Keep));
    }

    #[test]
    fn a_spoke_whose_api_server_is_away_lives_and_is_not_ready() {
        let environment = serde_json::from_value(json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": "Environment", "metadata": {"name": "staging"},
            "spec": {"policy": "shop", "metrics": {"prometheus": "http://prometheus"}}
        }))
        .unwrap();
        let told = |pulse, note: &str| {
            let notes = BTreeMap::from([(names::API_SERVER_AWAY.to_owned(), note.to_owned())]);
            let plan = super::environment(&environment, pulse, &notes, &[], Timestamp::UNIX_EPOCH);
            let ready = plan.status.conditions.into_iter().find(|c| c.type_ == SPOKE_READY).unwrap();
            (ready.status, ready.reason, ready.message)
        };
        let (status, reason, message) = told(Pulse::Alive, "its API server has not answered since 10:00:00Z");
        assert_eq!((status.as_str(), reason.as_str()), ("False", "ApiServerAway"));
        assert_eq!(message, "the spoke lives, but its API server has not answered since 10:00:00Z");
        assert_eq!(told(Pulse::Alive, "").1, "Reporting", "the note is taken back when it answers");
        assert_eq!(told(Pulse::Silent, "its API server has not answered").1, "Silent", "a note as old as its writer");
    }
}
