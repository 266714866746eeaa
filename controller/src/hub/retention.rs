//! What may go: settled events, old rollouts, releases that nothing needs. Removes nothing that
//! runs, is a rollback target, is quarantined, or is still on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};
use tidegate_pipelines::api::{
    BuildEvent, BuildEventPhase, Quarantine, Release, Rollout, RolloutPhase, RolloutReason, names,
};
use tidegate_pipelines::release::{Version, current, quarantined};

use super::Hub;
use crate::connect::bounded;

const EVENT_AGE: SignedDuration = SignedDuration::from_hours(7 * 24);
const EVENTS: usize = 1000;
const ROLLOUTS: usize = 20;
const RELEASES: usize = 50;
pub const INTERVAL: Duration = Duration::from_secs(60);
/// Removals per pass: a storm is worked off over some passes, not in one burst.
const PER_PASS: usize = 100;

fn made(metadata: &kube::api::ObjectMeta) -> Timestamp {
    metadata.creation_timestamp.as_ref().map_or(Timestamp::MAX, |t| t.0)
}

/// Settled events beyond the newest thousand or older than a week.
pub fn events(all: &[Arc<BuildEvent>], now: Timestamp) -> Vec<String> {
    let mut settled: Vec<&Arc<BuildEvent>> = all
        .iter()
        .filter(|e| e.status.as_ref().and_then(|s| s.phase).is_some_and(|p| p != BuildEventPhase::Waiting))
        .collect();
    settled.sort_by_key(|e| std::cmp::Reverse(made(&e.metadata)));
    let over = |(place, event): &(usize, &Arc<BuildEvent>)| {
        *place >= EVENTS || now.duration_since(made(&event.metadata)) > EVENT_AGE
    };
    settled.into_iter().enumerate().filter(over).map(|(_, e)| e.name_any()).collect()
}

/// Finished rollouts beyond the newest of each pipeline in each environment; those of releases that are still on their
/// way stay, and those by which what runs there came: without them it could not be taken back.
pub fn rollouts(all: &[Arc<Rollout>], releases: &[Arc<Release>]) -> Vec<(String, String)> {
    let open: BTreeSet<(String, String)> =
        releases.iter().filter(|r| !settled(r)).map(|r| (r.namespace().unwrap_or_default(), r.name_any())).collect();
    let mut of_pipeline: BTreeMap<(String, &str), Vec<&Release>> = BTreeMap::new();
    for release in releases {
        let key = (release.namespace().unwrap_or_default(), release.spec.pipeline.as_str());
        of_pipeline.entry(key).or_default().push(release);
    }
    let runs: BTreeSet<(String, String)> = of_pipeline
        .into_iter()
        .filter_map(|((namespace, _), all)| Some((namespace, current(all)?.name_any())))
        .collect();
    let mut by_place: BTreeMap<(String, String, String), Vec<&Arc<Rollout>>> = BTreeMap::new();
    for rollout in all {
        let spec = &rollout.spec;
        let over = rollout.status.as_ref().and_then(|s| s.phase).is_some_and(|p| p.is_terminal());
        if over && !open.contains(&(spec.pipeline_namespace.clone(), spec.release.clone())) {
            let place = (spec.environment.clone(), spec.pipeline_namespace.clone(), spec.pipeline.clone());
            by_place.entry(place).or_default().push(rollout);
        }
    }
    let mut gone = Vec::new();
    for of_place in by_place.values_mut() {
        of_place.sort_by_key(|r| std::cmp::Reverse(made(&r.metadata)));
        // Of whatever came there last as well, though it went no further.
        let last = of_place.iter().find(|r| passed(r)).map(|r| r.spec.release.clone());
        let needed = |r: &Rollout| {
            let release = (r.spec.pipeline_namespace.clone(), r.spec.release.clone());
            passed(r) && (runs.contains(&release) || last.as_ref() == Some(&release.1))
        };
        let surplus = of_place.iter().skip(ROLLOUTS).filter(|r| !needed(r));
        gone.extend(surplus.map(|r| (r.namespace().unwrap_or_default(), r.name_any())));
    }
    gone
}

fn passed(rollout: &Rollout) -> bool {
    let phase = rollout.status.as_ref().and_then(|s| s.phase);
    rollout.spec.reason == RolloutReason::Ship && phase == Some(RolloutPhase::Promoted)
}

fn settled(release: &Release) -> bool {
    let status = release.status.as_ref();
    status.is_some_and(|s| s.attempt == release.spec.attempt && s.phase.is_some_and(|p| p.is_terminal()))
}

/// Settled releases beyond the newest of each pipeline that nothing needs any more.
pub fn releases(
    all: &[Arc<Release>],
    rollouts: &[Arc<Rollout>],
    quarantines: &[Arc<Quarantine>],
) -> Vec<(String, String)> {
    let mut by_pipeline: BTreeMap<&str, Vec<&Arc<Release>>> = BTreeMap::new();
    for release in all {
        by_pipeline.entry(release.spec.pipeline_uid.as_str()).or_default().push(release);
    }
    // Whatever a kept rollout shipped or goes back to can still be what runs.
    let needed: BTreeSet<&str> = rollouts
        .iter()
        .flat_map(|r| r.spec.images.iter().chain(r.status.iter().flat_map(|s| &s.target)))
        .map(|image| image.digest.as_str())
        .collect();
    let mut gone = Vec::new();
    for of_pipeline in by_pipeline.values_mut() {
        let runs = current(of_pipeline.iter().map(|r| r.as_ref())).map(|r| r.name_any());
        let environments: Vec<&str> = vec![];
        of_pipeline.sort_by_key(|r| std::cmp::Reverse(made(&r.metadata)));
        for release in of_pipeline.iter().skip(RELEASES) {
            let of_snapshot: Vec<&str> =
                release.spec.snapshot.stages.iter().flat_map(|s| &s.environments).map(String::as_str).collect();
            // What only shares its revision with a quarantined digest is not needed to remember that one.
            let version = Version { revision: None, ..Version::from(&release.spec) };
            let holds = |places: &[&str]| quarantined(quarantines.iter().map(Arc::as_ref), &version, places).is_some();
            let held = holds(&of_snapshot) || holds(&environments);
            let wanted = release.spec.images.iter().any(|i| needed.contains(i.digest.as_str()));
            if settled(release) && !held && !wanted && runs.as_deref() != Some(release.name_any().as_str()) {
                gone.push((release.namespace().unwrap_or_default(), release.name_any()));
            }
        }
    }
    gone
}

/// One pass; what fails is taken up by the next.
pub async fn sweep(hub: &Hub) {
    if !hub.permit.held() {
        return;
    }
    let (all_rollouts, all_releases) = (hub.index.rollouts.state(), hub.index.releases.state());
    let api: Api<BuildEvent> = Api::namespaced(hub.client.clone(), names::SYSTEM_NAMESPACE);
    for name in events(&hub.index.events.state(), hub.clock.now()).into_iter().take(PER_PASS) {
        told(bounded(api.delete(&name, &DeleteParams::default())).await.map(|_| ()), &name);
    }
    for (namespace, name) in rollouts(&all_rollouts, &all_releases).into_iter().take(PER_PASS) {
        let api: Api<Rollout> = Api::namespaced(hub.client.clone(), &namespace);
        told(bounded(api.delete(&name, &DeleteParams::default())).await.map(|_| ()), &name);
    }
    let old = releases(&all_releases, &all_rollouts, &hub.index.quarantines.state());
    for (namespace, name) in old.into_iter().take(PER_PASS) {
        let api: Api<Release> = Api::namespaced(hub.client.clone(), &namespace);
        told(bounded(api.delete(&name, &DeleteParams::default())).await.map(|_| ()), &name);
    }
}

fn told(outcome: Result<(), crate::connect::CallError>, name: &str) {
    match outcome {
        Err(error) if !error.is_not_found() => tracing::warn!(%name, %error, "could not be removed; at the next pass"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rollout(n: usize, release: &str, phase: &str) -> Arc<Rollout> {
        let object = json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": "Rollout",
            "metadata": {"name": format!("{release}-{n}"), "namespace": "env-staging",
                         "creationTimestamp": format!("2026-01-01T00:{n:02}:00Z")},
            "spec": {
                "environment": "staging", "pipelineNamespace": "shop", "pipeline": "portal", "release": release,
                "attempt": 1, "namespace": "shop", "images": [], "workload": {"name": "portal"}, "service": "portal",
                "route": {"httpRoute": "portal"}, "strategy": {}, "objectives": []
            },
            "status": {"phase": phase}
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn release(name: &str, phase: &str) -> Arc<Release> {
        let snapshot = json!({
            "images": [], "workload": {"name": "portal"}, "service": "portal", "route": {"httpRoute": "portal"},
            "stages": [], "objectives": []
        });
        let object = json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": "Release", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"pipeline": "portal", "pipelineUid": "uid", "images": [], "snapshot": snapshot},
            "status": {"attempt": 1, "phase": phase, "admittedAt": "2026-01-01T00:00:00Z"}
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn what_runs_can_be_taken_back_however_many_have_failed_since() {
        for end in ["Promoted", "RolledBack"] {
            // Promoted everywhere, or here alone and not at the next stage: it runs here either way.
            let releases = [release("good", end), release("bad", "Stopped")];
            let mut all = vec![rollout(0, "bad", "Failed"), rollout(1, "good", "Promoted")];
            all.extend((2..30).map(|n| rollout(n, "bad", "Failed")));
            let gone = rollouts(&all, &releases);
            assert_eq!(gone.len(), all.len() - ROLLOUTS - 1, "{end}");
            assert!(!gone.contains(&("env-staging".into(), "good-1".into())), "{end}");
            assert!(gone.contains(&("env-staging".into(), "bad-0".into())), "{end}");
        }
    }
}
