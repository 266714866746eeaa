//! Ended rollouts are kept for a while, then removed: a bounded number per pipeline. Never touches one that has not
//! ended, or whose end the hub has not heard, and keeps the releases that a rollback may need.

use std::collections::HashMap;
use std::sync::Arc;

use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt};
use tidegate_pipelines::api::{Rollout, RolloutPhase};

use super::world::World;
use crate::connect::bounded;
use crate::lease::Permit;
use crate::mirror::up::Intents;

/// Ended rollouts kept per pipeline, promoted and others apart; more than the longest `rollbackWindow` (20).
const KEPT: usize = 24;

/// The oldest beyond the kept ones. `reported`: whether the hub has a rollout's end; what it has not heard stays.
fn surplus(rollouts: &[Arc<Rollout>], reported: impl Fn(&Rollout) -> bool) -> Vec<Arc<Rollout>> {
    let mut groups: HashMap<(String, String, bool), Vec<Arc<Rollout>>> = HashMap::new();
    for rollout in rollouts {
        let phase = rollout.status.as_ref().and_then(|s| s.phase);
        if phase.is_some_and(RolloutPhase::is_terminal) && rollout.metadata.deletion_timestamp.is_none() {
            let promoted = phase == Some(RolloutPhase::Promoted);
            let key = (rollout.namespace().unwrap_or_default(), rollout.spec.pipeline.clone(), promoted);
            groups.entry(key).or_default().push(rollout.clone());
        }
    }
    let mut surplus = Vec::new();
    for mut ended in groups.into_values() {
        ended.sort_by_key(|r| (r.metadata.creation_timestamp.as_ref().map(|t| t.0), r.name_any()));
        let too_many = ended.len().saturating_sub(KEPT);
        surplus.extend(ended.into_iter().take(too_many).filter(|rollout| reported(rollout)));
    }
    surplus
}

/// `intents` are the hub's; none: there is no hub to tell.
pub async fn sweep(world: &World, permit: &Permit, intents: Option<&Intents>, rollouts: &[Arc<Rollout>]) {
    let reported = |rollout: &Rollout| intents.is_none_or(|known| known.heard_the_end_of(&rollout.name_any()));
    for rollout in surplus(rollouts, reported).into_iter().take(4) {
        if !permit.held() {
            return;
        }
        let api: Api<Rollout> = Api::namespaced(world.client.clone(), &rollout.namespace().unwrap_or_default());
        let preconditions = Preconditions { uid: rollout.uid(), resource_version: rollout.resource_version() };
        let params = DeleteParams::default().preconditions(preconditions);
        if let Err(error) = bounded(api.delete(&rollout.name_any(), &params)).await {
            tracing::debug!(rollout = %rollout.name_any(), %error, "an old rollout was not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rollout(n: usize, phase: &str) -> Arc<Rollout> {
        let text = json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": "Rollout",
            "metadata": {"name": format!("portal-{n:03}"), "namespace": "acme", "uid": format!("u{n}")},
            "spec": {
                "environment": "staging", "pipelineNamespace": "acme", "pipeline": "portal", "release": "r", "attempt": 1,
                "namespace": "acme", "images": [], "workload": {"name": "portal"}, "service": "portal",
                "route": {"httpRoute": "portal"}, "strategy": {}, "objectives": []
            },
            "status": {"phase": phase}
        });
        Arc::new(serde_json::from_value(text).unwrap())
    }

    fn names(rollouts: &[Arc<Rollout>]) -> Vec<String> {
        rollouts.iter().map(|r| r.name_any()).collect()
    }

    #[test]
    fn the_oldest_ended_rollouts_go_and_running_ones_never() {
        let mut all: Vec<_> = (0..40).map(|n| rollout(n, "Failed")).collect();
        all.push(rollout(99, "Canary"));
        let gone = names(&surplus(&all, |_| true));
        assert_eq!(gone.len(), 40 - KEPT);
        assert_eq!(gone[0], "portal-000");
        assert!(!gone.contains(&"portal-099".to_owned()));
    }

    #[test]
    fn what_just_ended_stays_however_many_were_promoted_and_the_other_way_round() {
        let mut all: Vec<_> = (0..40).map(|n| rollout(n, "Promoted")).collect();
        all.push(rollout(50, "RolledBack"));
        let gone = names(&surplus(&all, |_| true));
        assert!(!gone.contains(&"portal-050".to_owned()) && gone.len() == 40 - KEPT, "{gone:?}");
    }

    #[test]
    fn what_the_hub_has_not_heard_of_stays() {
        let all: Vec<_> = (0..40).map(|n| rollout(n, "RolledBack")).collect();
        assert!(surplus(&all, |_| false).is_empty());
        let one = names(&surplus(&all, |r| r.name_any() == "portal-003"));
        assert_eq!(one, ["portal-003"]);
    }

    #[tokio::test]
    async fn a_sweep_removes_what_the_hub_shows_as_ended_and_nothing_that_it_never_heard_of() {
        let all: Vec<_> = (0..=KEPT).map(|n| rollout(n, "RolledBack")).collect();
        let (client, mut written) = crate::memory::server(crate::memory::Objects::new());
        let (world, _keepers) = World::open(client, crate::reach::Reach::of("memory"));
        let intents = Intents::default();
        sweep(&world, &Permit::unconditional(), Some(&intents), &all).await;
        assert!(written.try_recv().is_err(), "a hub that was never reached has heard nothing");
        intents.complete();
        sweep(&world, &Permit::unconditional(), Some(&intents), &all).await;
        assert_eq!(written.try_recv().as_deref(), Ok("DELETE rollouts/portal-000"));
        assert!(written.try_recv().is_err(), "one too many, one less");
    }
}
