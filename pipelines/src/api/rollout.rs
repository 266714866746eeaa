//! `Rollout`: one attempt of one release in one environment. The intent lives
//! at the hub in `env-<name>`, the execution in the environment.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pipeline::{Objective, RouteRef, Strategy, WorkloadRef};
use super::release::ReleaseImage;
use crate::judge::state::JudgeState;

/// One attempt of one release in one environment, with the whole resolved strategy.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "tidegate.io",
    version = "v1alpha1",
    kind = "Rollout",
    namespaced,
    status = "RolloutStatus",
    shortname = "tro",
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".spec.reason"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Step","type":"string","jsonPath":".status.stepText"}"#,
    printcolumn = r#"{"name":"Weight","type":"integer","jsonPath":".status.weight"}"#,
    printcolumn = r#"{"name":"Verdict","type":"string","jsonPath":".status.verdict"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.images == oldSelf.images && self.release == oldSelf.release && self.reason == oldSelf.reason && self.__namespace__ == oldSelf.__namespace__", "message": "a Rollout ships what it was made for: only paused, abort, promoteThrough, maxWeight and superseded may change"},
    {"rule": "!oldSelf.abort || self.abort", "message": "abort cannot be taken back: retry the release instead"},
    {"rule": "self.images.all(a, self.images.exists_one(b, b.container == a.container))", "message": "images name a container twice: one container runs one image"},
    {"rule": "self.environment == oldSelf.environment && self.attempt == oldSelf.attempt && self.workload == oldSelf.workload && self.service == oldSelf.service && self.route == oldSelf.route", "message": "a Rollout acts on what it was made for: environment, attempt, workload, service and route stay"},
    {"rule": "self.pipeline == oldSelf.pipeline && self.pipelineNamespace == oldSelf.pipelineNamespace && self.strategy == oldSelf.strategy && self.objectives == oldSelf.objectives && has(self.revision) == has(oldSelf.revision) && (!has(self.revision) || self.revision == oldSelf.revision) && self.alphaShare == oldSelf.alphaShare", "message": "a Rollout is judged as it was made: pipeline, pipelineNamespace, strategy, objectives, revision and alphaShare stay"}
]))]
pub struct RolloutSpec {
    /// Name of the environment.
    #[schemars(length(min = 1, max = 63))]
    pub environment: String,
    /// Namespace of the pipeline and the release at the hub.
    #[schemars(length(min = 1, max = 63))]
    pub pipeline_namespace: String,
    #[schemars(length(min = 1, max = 63))]
    pub pipeline: String,
    #[schemars(length(min = 1, max = 253))]
    pub release: String,
    #[schemars(range(min = 1, max = 1000))]
    pub attempt: u32,
    #[serde(default)]
    #[schemars(extend("maxLength" = 8))]
    pub reason: RolloutReason,
    /// Namespace in the environment on which it acts.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    #[schemars(length(min = 1, max = 16))]
    pub images: Vec<ReleaseImage>,
    /// Commit that provenance must name, where the policy asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub revision: Option<String>,
    pub workload: WorkloadRef,
    #[schemars(length(min = 1, max = 63))]
    pub service: String,
    pub route: RouteRef,
    pub strategy: Strategy,
    #[schemars(length(min = 1, max = 8))]
    pub objectives: Vec<Objective>,
    /// Share w_i of the release's alpha that is spent here, in (0, 1]; the threshold is 1/(w_i alpha).
    #[serde(default = "whole")]
    #[schemars(range(min = 0.000_001, max = 1.0))]
    pub alpha_share: f64,
    /// Ceiling that the hub sets: no weight above it.
    #[serde(default = "hundred")]
    #[schemars(range(min = 0, max = 100))]
    pub max_weight: u8,
    /// Set by the hub when a newer release takes over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub superseded_by: Option<String>,
    /// Hold at the present weight; a breach still rolls back.
    #[serde(default)]
    pub paused: bool,
    /// Take it back and do not ship it again. Latches.
    #[serde(default)]
    pub abort: bool,
    /// Steps (by index, from 0) that a person lets pass without evidence; a breach still rolls back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 20))]
    pub promote_through: Option<u8>,
}

fn whole() -> f64 {
    1.0
}

fn hundred() -> u8 {
    100
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RolloutReason {
    #[default]
    Ship,
    Rollback,
    /// The pipeline is gone: our backendRef, canary Deployment and Service are taken away. Ships nothing.
    Retire,
}

/// What the spoke has done and why; also its memory across restarts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<RolloutPhase>,
    /// Sub-step of `Promoting` and of the Rollback path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoting: Option<PromotingStep>,
    /// Why the Rollback path runs, when a Ship rollout had to take it; the end that it leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub going_back: Option<GoingBack>,
    /// Index into `spec.strategy.steps`.
    #[serde(default)]
    pub step: u8,
    /// `2/4 setWeight 25`, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_text: Option<String>,
    /// Recorded canary weight in percent: the last decision.
    #[serde(default)]
    pub weight: u8,
    /// Number n of that decision; written to the route as `<uid>/<epoch>/<n>`.
    #[serde(default)]
    pub decision: u64,
    /// Fencing epoch of the leader that drives this.
    #[serde(default)]
    pub epoch: u64,
    /// Weight of the last step that was certified by evidence.
    #[serde(default)]
    pub certified_weight: u8,
    /// Images of stable at the start: the rollback target.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub target: Vec<ReleaseImage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase_since: Option<Time>,
    /// When the present step's weight was seen in the data plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_since: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blind_since: Option<Time>,
    /// When the weight went back because of blindness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blind_retreat_at: Option<Time>,
    /// How often it has started again from step 1 after blindness.
    #[serde(default)]
    pub blind_restarts: u8,
    /// Since when samples are back after a retreat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sight_since: Option<Time>,
    /// When the recorded weight was decided; the data plane must follow from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_since: Option<Time>,
    /// Since when pods or the route are awaited, for `capacityDeadline`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_since: Option<Time>,
    /// `progressDeadlineSeconds` counts from here; pauses move it on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_from: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_since: Option<Time>,
    /// Stable had no ready pods at the start: no canary, nothing to go back to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub first_release: bool,
    /// The target had this environment's `Allow` when promotion began: it keeps its grace until the end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub target_allowed: bool,
    /// `minReplicas` of the HPA before it was raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hpa_min: Option<u32>,
    /// Ready pods that stable had to serve everything at the start.
    #[serde(default)]
    pub stable_replicas: u32,
    /// How it will end: weight 0 is decided, the canary is being taken down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// `Allow`, `Deny`, `Error` or `Pending`: this environment's own verdict of the new images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breach: Option<Breach>,
    /// One line: what it does or waits for, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// The judge's memory: evidence vectors and the watermark they reach to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeState>,
    /// Latest decisions, newest last.
    #[serde(default)]
    #[schemars(length(max = 30))]
    pub history: Vec<DecisionEntry>,
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RolloutPhase {
    Waiting,
    Preparing,
    Canary,
    Promoting,
    Baking,
    /// The Rollback path is under way.
    RollingBack,
    /// The Rollback path cannot go on; a person is paged. Not an end.
    RollbackBlocked,
    Promoted,
    RolledBack,
    Superseded,
    Withdrawn,
    Inconclusive,
    Blind,
    Failed,
    Denied,
}

impl RolloutPhase {
    pub fn is_terminal(self) -> bool {
        use RolloutPhase::*;
        match self {
            Waiting | Preparing | Canary | Promoting | Baking | RollingBack | RollbackBlocked => false,
            Promoted | RolledBack | Superseded | Withdrawn | Inconclusive | Blind | Failed | Denied => true,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PromotingStep {
    /// Rollback path only: the canary arm gets the target's images and its pods.
    PreparingCanary,
    /// The route sends everything to the canary arm.
    AtCanary,
    /// Stable's template carries the images; its pods roll with no traffic.
    TemplateWritten,
    /// The route goes back to stable.
    Returning,
}

/// Why a Ship rollout is going back after `Promoting` began, and how it will end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GoingBack {
    pub end: RolloutPhase,
    pub why: String,
    /// Whether the digest is quarantined.
    pub quarantine: bool,
    /// The images it goes back to.
    #[schemars(length(max = 16))]
    pub to: Vec<ReleaseImage>,
    /// How often its weight, lowered by someone else, was decided anew. After three times a person is asked.
    #[serde(default)]
    pub raised_again: u8,
}

/// A decided end whose cleaning up is not finished.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ending {
    pub end: RolloutPhase,
    /// PascalCase.
    #[schemars(length(max = 64))]
    pub reason: String,
    #[schemars(length(max = 1024))]
    pub message: String,
    /// Whether the digest is quarantined.
    #[serde(default)]
    pub quarantine: bool,
}

/// The evaluation that decided a rollback. Its times have microseconds: they are the measure of the product.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Breach {
    /// `Judge`, `Health`, `HardStop` or `BurnGuard`.
    pub kind: BreachKind,
    pub message: String,
    /// Time of the newest sample used in the deciding evaluation.
    pub sample_at: MicroTime,
    pub decided_at: MicroTime,
    /// When the first write that answers the breach was there: acknowledged weight 0, or, from `Promoting` on, seen done
    /// of the Rollback path (pods for the target, or weight 0 where stable still serves).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_at: Option<MicroTime>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum BreachKind {
    Judge,
    Health,
    HardStop,
    BurnGuard,
}

/// One decision with its reasons, as kept in status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DecisionEntry {
    pub at: Time,
    /// PascalCase: also the Event's reason and the metric's label.
    pub reason: String,
    pub message: String,
    pub weight: u8,
}
