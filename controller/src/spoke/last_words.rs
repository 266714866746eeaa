//! The last status of each Rollout that left this cluster: what the hub must hear of an execution that is no longer
//! here to be read. Bounded; the oldest is forgotten first.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use kube::ResourceExt;
use tidegate_pipelines::api::{Rollout, RolloutStatus};

const KEPT: usize = 256;

/// By namespace and name, oldest first.
type Said = VecDeque<((String, String), RolloutStatus)>;

#[derive(Clone, Default)]
pub struct LastWords(Arc<RwLock<Said>>);

impl LastWords {
    pub fn record(&self, rollout: &Rollout) {
        let Some(status) = rollout.status.clone() else { return };
        let key = (rollout.namespace().unwrap_or_default(), rollout.name_any());
        let mut said = self.0.write().unwrap_or_else(PoisonError::into_inner);
        said.retain(|(known, _)| *known != key);
        said.push_back((key, status));
        if said.len() > KEPT {
            said.pop_front();
        }
    }

    pub fn of(&self, namespace: &str, name: &str) -> Option<RolloutStatus> {
        let said = self.0.read().unwrap_or_else(PoisonError::into_inner);
        said.iter().find(|((ns, n), _)| ns == namespace && n == name).map(|(_, status)| status.clone())
    }
}
