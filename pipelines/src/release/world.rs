//! What the planner sees: a Release, what surrounds it at the hub, and the time. Gathered by the
//! caller, never fetched here.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::api::{Approval, PipelineSpec, Quarantine, Release, Rollout, VerdictDecision};

pub struct World<'a> {
    pub now: Timestamp,
    pub release: &'a Release,
    /// The other releases of the same pipeline (by uid).
    pub others: Vec<&'a Release>,
    /// All intents of the pipeline, of every release, in all `env-*` namespaces.
    pub rollouts: Vec<&'a Rollout>,
    /// Environments that exist, by name.
    pub environments: BTreeMap<String, Place>,
    /// The hub's own findings about this attempt, by environment. Absent: not verified yet.
    pub verdicts: BTreeMap<String, Finding>,
    /// Approvals in the release's namespace.
    pub approvals: Vec<&'a Approval>,
    pub quarantines: Vec<&'a Quarantine>,
    pub pipeline: PipelineState,
    /// The pipeline as it is now, where it is still this release's.
    pub current: Option<&'a PipelineSpec>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PipelineState {
    Present,
    /// Deleted, or being deleted: what is under way goes back.
    Going,
    /// It ships nothing new at present; says why.
    Refused(String),
}

/// An environment, as far as starting there is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub deleting: bool,
    /// Whether its spoke reports; what is known of it if not.
    pub spoke: Result<(), String>,
    /// Whether its `allowedPipelines` let this pipeline act on its namespace; the reason if not.
    pub allowed: Result<(), String>,
}

/// What the hub found out about a release's images under one environment's policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub decision: VerdictDecision,
    /// One line per check that did not pass.
    pub reasons: Vec<String>,
    /// Evidence that arrives later may change it.
    pub retryable: bool,
}
