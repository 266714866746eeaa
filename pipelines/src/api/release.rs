//! `Release` (exact digests, immutable) and `Approval`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pipeline::PipelineSpec;
use super::rollout::RolloutPhase;

/// Exact digests of one version of one pipeline. Named `<pipeline>-<hash(pipeline uid, digests)>`.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "tidegate.io",
    version = "v1alpha1",
    kind = "Release",
    namespaced,
    status = "ReleaseStatus",
    shortname = "trel",
    printcolumn = r#"{"name":"Pipeline","type":"string","jsonPath":".spec.pipeline"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Verdict","type":"string","jsonPath":".status.verdict"}"#,
    printcolumn = r#"{"name":"Stage","type":"string","jsonPath":".status.stage"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.images == oldSelf.images && self.pipeline == oldSelf.pipeline && self.pipelineUid == oldSelf.pipelineUid", "message": "a Release is immutable: ship other digests as another Release"},
    {"rule": "has(self.revision) == has(oldSelf.revision) && (!has(self.revision) || self.revision == oldSelf.revision) && has(self.repository) == has(oldSelf.repository) && (!has(self.repository) || self.repository == oldSelf.repository) && has(self.builtAt) == has(oldSelf.builtAt) && (!has(self.builtAt) || self.builtAt == oldSelf.builtAt) && has(self.eventSource) == has(oldSelf.eventSource) && (!has(self.eventSource) || self.eventSource == oldSelf.eventSource)", "message": "a Release keeps what its event said: revision, repository, builtAt and eventSource stay"},
    {"rule": "!has(self.attempt) || !has(oldSelf.attempt) || self.attempt >= oldSelf.attempt", "message": "attempt only rises: its Rollouts are named by it"},
    {"rule": "self.images.all(a, self.images.exists_one(b, b.container == a.container))", "message": "images name a container twice: one container runs one image"}
]))]
pub struct ReleaseSpec {
    #[schemars(length(min = 1, max = 63))]
    pub pipeline: String,
    #[schemars(length(min = 1, max = 64))]
    pub pipeline_uid: String,
    #[schemars(length(min = 1, max = 16))]
    pub images: Vec<ReleaseImage>,
    /// Commit that was built, as the event said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub revision: Option<String>,
    /// Repository of that commit, `owner/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub repository: Option<String>,
    /// When it was built, as the event said; orders releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built_at: Option<Time>,
    /// EventSource to report back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub event_source: Option<String>,
    /// The images inside those of `images` that are an index, as the registry listed them when it was resolved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub indexes: Vec<ImageIndex>,
    /// The pipeline as it was when the release was made; a further attempt takes it anew until it is admitted.
    pub snapshot: PipelineSpec,
    /// Raised by another event or `retry`: each makes one new Rollout per environment.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub attempt: u32,
    /// Stop it, everywhere; set by a person (`abort`).
    #[serde(default)]
    pub abort: bool,
    /// Hold it, everywhere; set by a person (`pause`).
    #[serde(default)]
    pub paused: bool,
    /// Take it back where it passed (`undo`).
    #[serde(default)]
    pub undo: bool,
}

fn one() -> u32 {
    1
}

/// One container's exact image.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReleaseImage {
    #[schemars(length(min = 1, max = 63))]
    pub container: String,
    #[schemars(length(min = 3, max = 255), extend("x-kubernetes-validations" = [{
        "rule": "!self.contains('@') && !self.matches(':[^/]*$')",
        "message": "repository is written without tag and digest: digest says which image"
    }]))]
    pub repository: String,
    #[schemars(length(max = 71), regex(pattern = "^sha256:[0-9a-f]{64}$"))]
    pub digest: String,
}

impl ReleaseImage {
    /// `repository@digest`, as it is written into a pod template.
    pub fn reference(&self) -> String {
        format!("{}@{}", self.repository, self.digest)
    }
}

/// An image index and what it lists: the pods of one platform may run under the digest of either.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageIndex {
    #[schemars(length(max = 71), regex(pattern = "^sha256:[0-9a-f]{64}$"))]
    pub digest: String,
    #[schemars(length(max = 256), inner(length(max = 71), regex(pattern = "^sha256:[0-9a-f]{64}$")))]
    pub children: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<ReleasePhase>,
    /// `Allow`, `Deny` or `Error`, over all environments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// The stage in progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub message: Option<String>,
    /// The attempt that this status tells of.
    #[serde(default)]
    pub attempt: u32,
    /// When this attempt was verified everywhere and began to ship: of two, the later one takes over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admitted_at: Option<Time>,
    /// First verification, from which `evidenceDeadline` counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verifying_since: Option<Time>,
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub environments: Vec<EnvironmentProgress>,
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReleasePhase {
    Verifying,
    Denied,
    /// Older than what is stable or in flight: waits for an Approval that names it.
    Downgrade,
    Shipping,
    /// Between stages: soak, approval.
    Waiting,
    Promoted,
    RollingBack,
    RolledBack,
    Superseded,
    Withdrawn,
    /// Stopped without a breach: inconclusive, blind or failed in an environment.
    Stopped,
}

impl ReleasePhase {
    /// Nothing more happens by itself.
    pub fn is_terminal(self) -> bool {
        use ReleasePhase::*;
        match self {
            Verifying | Downgrade | Shipping | Waiting | RollingBack => false,
            Denied | Promoted | RolledBack | Superseded | Withdrawn | Stopped => true,
        }
    }

    /// Its digests run somewhere, or are on their way, by the hub's own wish.
    pub fn is_shipping(self) -> bool {
        matches!(self, ReleasePhase::Shipping | ReleasePhase::Waiting)
    }
}

/// One environment's verdict and progress, as told by its spoke.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvironmentProgress {
    pub environment: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// Reasons, one line per failing check.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub reasons: Vec<String>,
    /// Name of the Rollout in `env-<environment>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<RolloutPhase>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When the Rollout reached `Promoted`: soak counts from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted_at: Option<Time>,
}

/// Who let which stage of which release pass.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "tidegate.io",
    version = "v1alpha1",
    kind = "Approval",
    namespaced,
    shortname = "tap",
    printcolumn = r#"{"name":"Release","type":"string","jsonPath":".spec.release"}"#,
    printcolumn = r#"{"name":"Stage","type":"string","jsonPath":".spec.stage"}"#,
    printcolumn = r#"{"name":"Attempt","type":"integer","jsonPath":".spec.attempt"}"#,
    printcolumn = r#"{"name":"User","type":"string","jsonPath":".spec.user"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "an Approval is a record: its spec is immutable"}]))]
pub struct ApprovalSpec {
    #[schemars(length(min = 1, max = 253))]
    pub release: String,
    /// The stage it lets start; `downgrade` lets an older release ship.
    #[schemars(length(min = 1, max = 63))]
    pub stage: String,
    /// The attempt that it lets pass: what a person let pass once is asked for again by a `retry`. Default 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub attempt: u32,
    /// Must be the requesting user; an admission policy holds it to that.
    #[schemars(length(min = 1, max = 320))]
    pub user: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub comment: Option<String>,
}
