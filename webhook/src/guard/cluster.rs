//! What the guard asks its cluster, as a trait that it owns: caches for what is looked at in every
//! request, live reads for owners, one write. Tests answer it from memory.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::Value;
use tidegate_pipelines::api::{BreakGlassSpec, Quarantine, Rollout, VerdictSpec};

use super::facts::{InForce, Quarantined};

/// Why no policy can be applied. Then nothing new starts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotInForce {
    #[error("the guard has not read its policies yet")]
    NotSynced,
    #[error("this cluster has no Environment `{0}` yet, so no policy is in force")]
    NoEnvironment(String),
    #[error("the policy `{0}` that the Environment names is not in this cluster")]
    NoPolicy(String),
    #[error("the policy `{name}` cannot be applied: {reason}")]
    Invalid { name: String, reason: String },
}

/// An owner as the API server has it now.
#[derive(Clone, Debug)]
pub struct Owner {
    pub uid: String,
    pub deleting: bool,
    /// Its pod template as it is.
    pub template: Value,
    /// Volumes that it makes from claim templates (StatefulSet).
    pub claims: Vec<String>,
    pub controller: Option<OwnerReference>,
}

#[async_trait]
pub trait Cluster: Send + Sync {
    fn in_force(&self) -> Result<Arc<InForce>, NotInForce>;

    fn verdict(&self, name: &str) -> Option<Arc<VerdictSpec>>;

    /// All that are kept, with their names.
    fn verdicts(&self) -> Vec<(String, Arc<VerdictSpec>)>;

    fn quarantines(&self) -> Vec<Arc<Quarantine>>;

    fn break_glass(&self, namespace: &str) -> Vec<BreakGlassSpec>;

    /// Of one namespace, or of all.
    fn rollouts(&self, namespace: Option<&str>) -> Vec<Arc<Rollout>>;

    /// A workload, or a revision of one, read live; `None` if there is none of that name. Takes as long as the API server
    /// does: whoever asks gives up.
    async fn owner(&self, namespace: &str, kind: &str, name: &str) -> Result<Option<Owner>, String>;

    /// Creates or replaces the Verdict of this name.
    async fn keep(&self, name: &str, verdict: VerdictSpec) -> Result<(), String>;

    /// Deletes the Verdict of this name.
    async fn forget(&self, name: &str) -> Result<(), String>;
}

/// The quarantine of this digest in this environment: of several the one that began first.
pub fn quarantined(quarantines: &[Arc<Quarantine>], environment: &str, digest: &str) -> Option<Quarantined> {
    let holds = |quarantine: &&Arc<Quarantine>| {
        let spec = &quarantine.spec;
        spec.lifted.is_none()
            && spec.digests.iter().any(|d| d == digest)
            && (spec.environments.is_empty() || spec.environments.iter().any(|e| e == environment))
    };
    let began = |quarantine: &Quarantine| quarantine.metadata.creation_timestamp.as_ref().map(|time| time.0);
    // One whose beginning is not known comes first: it grants nothing.
    let first = quarantines.iter().filter(holds).min_by_key(|quarantine| began(quarantine))?;
    Some(Quarantined { why: first.spec.reason.clone(), since: began(first), stable_in: vec![] })
}
