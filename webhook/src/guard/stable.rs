//! Which digests a namespace runs or goes back to, read from its Rollouts. Never from pods: what
//! merely runs is no statement of anybody's.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::ResourceExt;
use tidegate_pipelines::api::release::ReleaseImage;
use tidegate_pipelines::api::{Rollout, RolloutPhase};

/// The Rollouts that say what matters now: those under way, and the latest that ended per workload.
pub fn current(rollouts: &[Arc<Rollout>]) -> Vec<Arc<Rollout>> {
    let mut latest: BTreeMap<(String, String), Arc<Rollout>> = BTreeMap::new();
    let mut current = Vec::new();
    for rollout in rollouts {
        if !ended(rollout) {
            current.push(rollout.clone());
            continue;
        }
        let key = (rollout.spec.namespace.clone(), rollout.spec.workload.name.clone());
        let newer = latest.get(&key).is_none_or(|other| made(other) < made(rollout));
        if newer {
            latest.insert(key, rollout.clone());
        }
    }
    current.extend(latest.into_values());
    current
}

/// What stable is made of according to this Rollout.
pub fn images(rollout: &Rollout) -> &[ReleaseImage] {
    match phase(rollout) {
        Some(RolloutPhase::Promoted) => &rollout.spec.images,
        _ => rollout.status.as_ref().map(|status| status.target.as_slice()).unwrap_or_default(),
    }
}

/// Whether this digest is stable there according to any of these Rollouts.
pub fn runs(rollouts: &[Arc<Rollout>], digest: &str) -> bool {
    current(rollouts).iter().any(|rollout| images(rollout).iter().any(|image| image.digest == digest))
}

pub fn ended(rollout: &Rollout) -> bool {
    phase(rollout).is_some_and(RolloutPhase::is_terminal)
}

fn phase(rollout: &Rollout) -> Option<RolloutPhase> {
    rollout.status.as_ref().and_then(|status| status.phase)
}

fn made(rollout: &Rollout) -> Option<(jiff::Timestamp, String)> {
    rollout.metadata.creation_timestamp.as_ref().map(|time| (time.0, rollout.name_any()))
}
