//! Which digests a namespace runs or goes back to, read from its Rollouts. Never from pods: what
//! merely runs is no statement of anybody's.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;
use tidegate_pipelines::api::release::ReleaseImage;
use tidegate_pipelines::api::{PromotingStep, Rollout, RolloutPhase};

/// A container of a workload's pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub workload: String,
    pub container: String,
}

/// The Rollouts that say what matters now: those under way, and the latest that ended per workload.
pub fn current(rollouts: &[Arc<Rollout>]) -> Vec<Arc<Rollout>> {
    let mut latest: BTreeMap<(String, String), Arc<Rollout>> = BTreeMap::new();
    let mut current = Vec::new();
    for rollout in rollouts.iter().filter(|rollout| is_at_home(rollout)) {
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

/// The mirror puts a Rollout into the namespace on which it acts: one that lies elsewhere speaks for nobody.
fn is_at_home(rollout: &Rollout) -> bool {
    rollout.metadata.namespace.as_deref() == Some(rollout.spec.namespace.as_str())
}

/// What stable is made of, may be made of by now, or is going back to, according to this Rollout.
pub fn images(rollout: &Rollout) -> Vec<&ReleaseImage> {
    use RolloutPhase::*;
    let Some(status) = &rollout.status else { return vec![] };
    let shipped = || rollout.spec.images.iter();
    let back = || status.going_back.iter().flat_map(|back| &back.to);
    match status.phase {
        Some(Promoted) => shipped().collect(),
        // It went the whole way back; otherwise stable kept what it ran.
        Some(end) if end.is_terminal() => match &status.going_back {
            Some(back) if back.end == end && !back.to.is_empty() => back.to.iter().collect(),
            _ => status.target.iter().collect(),
        },
        Some(Baking | RollingBack | RollbackBlocked) => status.target.iter().chain(shipped()).chain(back()).collect(),
        Some(Promoting) if status.promoting != Some(PromotingStep::AtCanary) => {
            status.target.iter().chain(shipped()).collect()
        }
        _ => status.target.iter().collect(),
    }
}

/// Whether this digest is stable there according to any of these Rollouts.
pub fn runs(rollouts: &[Arc<Rollout>], digest: &str) -> bool {
    current(rollouts).iter().any(|rollout| images(rollout).iter().any(|image| image.digest == digest))
}

/// Where this image is stable now and was so before `since`: nothing becomes stable by what is made later.
pub fn since_before(rollouts: &[Arc<Rollout>], repository: &str, digest: &str, since: Timestamp) -> Vec<Place> {
    let places = |rollout: &Rollout| -> Vec<Place> {
        let same = |image: &&ReleaseImage| image.repository == repository && image.digest == digest;
        let workload = &rollout.spec.workload.name;
        let place = |image: &ReleaseImage| Place { workload: workload.clone(), container: image.container.clone() };
        images(rollout).into_iter().filter(same).map(place).collect()
    };
    let earlier = rollouts.iter().filter(|rollout| {
        is_at_home(rollout) && rollout.metadata.creation_timestamp.as_ref().is_some_and(|made| made.0 < since)
    });
    let before: Vec<Place> = earlier.flat_map(|rollout| places(rollout)).collect();
    let mut now: Vec<Place> = current(rollouts).iter().flat_map(|rollout| places(rollout)).collect();
    now.retain(|place| before.contains(place));
    now
}

pub fn ended(rollout: &Rollout) -> bool {
    phase(rollout).is_some_and(RolloutPhase::is_terminal)
}

fn phase(rollout: &Rollout) -> Option<RolloutPhase> {
    rollout.status.as_ref().and_then(|status| status.phase)
}

fn made(rollout: &Rollout) -> Option<(Timestamp, String)> {
    rollout.metadata.creation_timestamp.as_ref().map(|time| (time.0, rollout.name_any()))
}
