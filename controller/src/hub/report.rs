//! Step 6: what was decided, told: DecisionRecord, Event, metric, GitHub. Never waits for any of
//! those who are told.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Resource, ResourceExt};
use serde_json::json;
use tidegate_pipelines::api::{
    BuildEvent, EnvironmentProgress, EventSourceSpec, Pipeline, Release, ReleaseStatus, RolloutPhase, names,
};
use tidegate_pipelines::release::{Note, Outcome, Plan};
use tokio::sync::mpsc;

use super::Hub;
use super::observe::ObservedRelease;
use crate::connect::bounded;
use crate::github::{GIVE_UP, Report, State};
use crate::ledger::DecisionRecord;

/// Kubernetes Events, published in the background.
#[derive(Clone)]
pub struct Events {
    line: mpsc::Sender<(Event, ObjectReference)>,
}

impl Events {
    /// The line, and the work that empties it, to be run by the caller.
    pub fn open(client: Client) -> (Events, impl Future<Output = ()> + Send) {
        let (line, mut waiting) = mpsc::channel::<(Event, ObjectReference)>(256);
        let recorder = Recorder::new(client, Reporter { controller: "tidegate-hub".into(), instance: None });
        let publish = async move {
            while let Some((event, about)) = waiting.recv().await {
                if let Err(error) = bounded(recorder.publish(&event, &about)).await {
                    tracing::debug!(%error, reason = %event.reason, "an Event was not published");
                }
            }
        };
        (Events { line }, publish)
    }

    /// Dropped when the line is full: the record and the status hold it as well.
    fn tell(&self, about: ObjectReference, reason: &str, note: &str, warning: bool) {
        let event = Event {
            type_: if warning { EventType::Warning } else { EventType::Normal },
            reason: reason.to_owned(),
            note: Some(note.chars().take(1000).collect()),
            action: reason.to_owned(),
            secondary: None,
        };
        if self.line.try_send((event, about)).is_err() {
            tracing::debug!(reason, "an Event was dropped, the line is full");
        }
    }
}

pub fn event(hub: &Hub, event: &BuildEvent, outcome: &Outcome) {
    hub.metrics.event(outcome.reason);
    hub.ledger.record(&DecisionRecord {
        at: hub.clock.now(),
        actor: "hub".into(),
        subject: format!("BuildEvent {}/{}", names::SYSTEM_NAMESPACE, event.name_any()),
        reason: outcome.reason.into(),
        message: outcome.message.clone(),
        inputs: json!({
            "source": event.spec.source,
            "type": event.spec.type_,
            "revision": event.spec.revision,
            "resolved": outcome.resolved,
        }),
    });
}

pub fn release(hub: &Hub, observed: &ObservedRelease, plan: &Plan) {
    let release = &observed.release;
    let subject = format!("Release {}/{}", release.namespace().unwrap_or_default(), release.name_any());
    let digests: Vec<String> = release.spec.images.iter().map(|i| i.reference()).collect();
    for note in &plan.notes {
        hub.metrics.decision(note.reason);
        hub.ledger.record(&DecisionRecord {
            at: observed.now,
            actor: "hub".into(),
            subject: subject.clone(),
            reason: note.reason.into(),
            message: note.message.clone(),
            inputs: json!({
                "attempt": release.spec.attempt,
                "images": digests,
                "revision": release.spec.revision,
                "environment": note.environment,
                "verdicts": plan.status.environments.iter().map(|e| (e.environment.clone(), e.verdict.clone())).collect::<Vec<_>>(),
            }),
        });
        hub.events.tell(release.object_ref(&()), note.reason, &note.message, is_warning(note));
    }
    to_github(hub, release, plan, false);
}

/// What the process before this one decided and may not have come to tell GitHub: it keeps that in memory only.
pub fn again(hub: &Hub, observed: &ObservedRelease, plan: &Plan) {
    let created = observed.release.metadata.creation_timestamp.as_ref();
    if is_news(created, observed.release.status.as_ref(), observed.now) {
        to_github(hub, &observed.release, plan, true);
    }
}

/// Under way, or with a time in it that is not history yet.
fn is_news(created: Option<&Time>, status: Option<&ReleaseStatus>, now: Timestamp) -> bool {
    let Some(status) = status else { return true };
    let times = [created, status.verifying_since.as_ref(), status.admitted_at.as_ref()];
    let times = times.into_iter().chain(status.environments.iter().map(|leg| leg.promoted_at.as_ref())).flatten();
    let recent = |time: &Time| now.duration_since(time.0).as_secs() < GIVE_UP.as_secs().cast_signed();
    !status.phase.is_some_and(|phase| phase.is_terminal()) || times.into_iter().any(recent)
}

/// A deleted pipeline goes, and what it leaves behind.
pub fn retired(hub: &Hub, pipeline: &Pipeline, left: &[String]) {
    let (reason, message) = match left {
        [] => ("Retired", "everything of it came back and was taken away".to_owned()),
        left => ("RetiredIncomplete", left.join("; ")),
    };
    hub.metrics.decision(reason);
    hub.ledger.record(&DecisionRecord {
        at: hub.clock.now(),
        actor: "hub".into(),
        subject: format!("Pipeline {}/{}", pipeline.namespace().unwrap_or_default(), pipeline.name_any()),
        reason: reason.into(),
        message: message.clone(),
        inputs: json!({ "uid": pipeline.uid() }),
    });
    hub.events.tell(pipeline.object_ref(&()), reason, &message, !left.is_empty());
}

fn is_warning(note: &Note) -> bool {
    matches!(
        note.reason,
        "Denied"
            | "RollingBack"
            | "RolledBack"
            | "Quarantined"
            | "Stopped"
            | "NamespaceNotAllowed"
            | "EnvironmentMissing"
    )
}

/// The source's token writes only where the source itself is bound to.
fn speaks_for(source: &EventSourceSpec, repository: &str) -> bool {
    source.repositories.iter().any(|bound| bound.eq_ignore_ascii_case(repository))
}

/// One commit status and deployment status per environment: where it changed, or for `all`.
fn to_github(hub: &Hub, release: &Release, plan: &Plan, all: bool) {
    let spec = &release.spec;
    let (Some(source), Some(repository), Some(revision)) = (&spec.event_source, &spec.repository, &spec.revision)
    else {
        return;
    };
    let source = hub.index.sources.get(&ObjectRef::new(source).within(names::SYSTEM_NAMESPACE));
    let Some(source) = source.filter(|s| speaks_for(&s.spec, repository)) else { return };
    let Some(report) = source.spec.report.clone() else { return };
    let before = release.status.as_ref().filter(|s| s.attempt == spec.attempt);
    for progress in &plan.status.environments {
        let known = before.and_then(|s| s.environments.iter().find(|e| e.environment == progress.environment));
        let now = state_of(progress, plan);
        if !all && known.is_some() && before.is_some_and(|s| known.map(|k| state_in(k, s)) == Some(now.clone())) {
            continue;
        }
        let (state, description) = now;
        hub.github.tell(Report {
            api: report.api.clone(),
            token: report.token.clone(),
            repository: repository.clone(),
            sha: revision.clone(),
            namespace: release.namespace().unwrap_or_default(),
            pipeline: spec.pipeline.clone(),
            environment: progress.environment.clone(),
            state,
            description,
            attempt: spec.attempt,
            release: release.name_any(),
        });
    }
}

fn state_of(progress: &EnvironmentProgress, plan: &Plan) -> (State, String) {
    state_in(progress, &plan.status)
}

/// Phases, not weights: GitHub keeps at most 1000 statuses per commit and context.
fn state_in(progress: &EnvironmentProgress, status: &ReleaseStatus) -> (State, String) {
    use tidegate_pipelines::api::ReleasePhase;
    let reasons = || progress.reasons.first().cloned().unwrap_or_default();
    match (progress.phase, status.phase) {
        (Some(RolloutPhase::Promoted), _) => (State::Success, "promoted".into()),
        (Some(phase), _) if phase.is_terminal() => {
            (State::Failure, format!("{phase:?}: {}", progress.message.clone().unwrap_or_default()))
        }
        (Some(phase), _) => (State::InProgress, format!("{phase:?}")),
        (None, Some(ReleasePhase::Denied)) if progress.verdict.as_deref() == Some("Allow") => {
            (State::Failure, "denied in another environment".into())
        }
        (None, Some(ReleasePhase::Denied)) => (State::Failure, format!("denied: {}", reasons())),
        (None, Some(phase)) if phase.is_terminal() => (State::Failure, format!("{phase:?} before it started here")),
        (None, Some(ReleasePhase::Verifying) | None) => (State::Pending, "being verified".into()),
        (None, _) if progress.rollout.is_some() => (State::InProgress, "starting".into()),
        (None, _) => (State::Pending, "waits for its stage".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_process_tells_what_is_under_way_or_of_the_last_hour_and_no_history() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let created = Time("2026-01-01T00:00:00Z".parse().unwrap());
        let status = |phase: &str, promoted_ago: i64| -> ReleaseStatus {
            let promoted = Timestamp::from_second(1_800_000_000 - promoted_ago).unwrap().to_string();
            let leg = json!({"environment": "e", "promotedAt": promoted});
            serde_json::from_value(json!({"phase": phase, "environments": [leg]})).unwrap()
        };
        for (phase, ago, news) in [
            ("Shipping", 9_999, true),
            ("Waiting", 9_999, true),
            ("Promoted", 60, true),
            ("RolledBack", 3_599, true),
            ("Promoted", 3_600, false),
            ("Denied", 9_999, false),
        ] {
            assert_eq!(is_news(Some(&created), Some(&status(phase, ago)), now), news, "{phase} {ago}");
        }
    }

    #[test]
    fn nothing_is_reported_to_a_repository_that_the_source_is_not_bound_to() {
        let source: EventSourceSpec =
            serde_json::from_value(json!({"kind": "github", "repositories": ["acme/portal"]})).unwrap();
        assert!(speaks_for(&source, "Acme/Portal"));
        assert!(!speaks_for(&source, "victim/portal") && !speaks_for(&source, "acme"));
    }
}
