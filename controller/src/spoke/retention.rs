//! Ended rollouts are kept for a while, then removed: a bounded number per pipeline. Never touches one that
//! has not ended, and keeps the releases that a rollback may need.

use std::collections::HashMap;
use std::sync::Arc;

use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt};
use tidegate_pipelines::api::{Rollout, RolloutPhase};

use super::world::World;
use crate::connect::bounded;
use crate::lease::Permit;

/// Ended rollouts kept per pipeline; more than the longest `rollbackWindow` (20).
const KEPT: usize = 24;

/// Those beyond the kept ones, oldest first. Promoted ones are kept longest: they are rollback targets.
fn surplus(rollouts: &[Arc<Rollout>]) -> Vec<Arc<Rollout>> {
    let mut by_pipeline: HashMap<(String, String), Vec<Arc<Rollout>>> = HashMap::new();
    for rollout in rollouts {
        let phase = rollout.status.as_ref().and_then(|s| s.phase);
        if phase.is_some_and(RolloutPhase::is_terminal) && rollout.metadata.deletion_timestamp.is_none() {
            let key = (rollout.namespace().unwrap_or_default(), rollout.spec.pipeline.clone());
            by_pipeline.entry(key).or_default().push(rollout.clone());
        }
    }
    let mut surplus = Vec::new();
    for mut ended in by_pipeline.into_values() {
        ended.sort_by_key(|r| {
            let promoted = r.status.as_ref().and_then(|s| s.phase) == Some(RolloutPhase::Promoted);
            (promoted, r.metadata.creation_timestamp.as_ref().map(|t| t.0), r.name_any())
        });
        let too_many = ended.len().saturating_sub(KEPT);
        surplus.extend(ended.into_iter().take(too_many));
    }
    surplus
}

pub async fn sweep(world: &World, permit: &Permit, rollouts: &[Arc<Rollout>]) {
    for rollout in surplus(rollouts).into_iter().take(4) {
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

    #[test]
    fn the_oldest_ended_rollouts_go_and_running_ones_never() {
        let mut all: Vec<_> = (0..40).map(|n| rollout(n, "Failed")).collect();
        all.push(rollout(99, "Canary"));
        all.push(rollout(0, "Promoted"));
        let gone: Vec<String> = surplus(&all).iter().map(|r| r.name_any()).collect();
        assert_eq!(gone.len(), 41 - KEPT);
        assert_eq!(gone[0], "portal-000");
        assert!(!gone.contains(&"portal-099".to_owned()));
        let promoted = surplus(&all).iter().any(|r| r.status.as_ref().unwrap().phase == Some(RolloutPhase::Promoted));
        assert!(!promoted, "a rollback target is kept before the others");
    }
}
