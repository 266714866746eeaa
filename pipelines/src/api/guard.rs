//! What the guard of a cluster keeps and obeys: `Verdict`, `BreakGlass`, `Quarantine`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// (digest, policy digest, trust-root digest) -> what the guard of this cluster found. Only the guard writes it.
/// Named `sha256-<first 40 hex of the image digest>-<first 12 hex of sha256(policy digest, trust-root digest)>`.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "tidegate.io",
    version = "v1alpha1",
    kind = "Verdict",
    shortname = "tvd",
    printcolumn = r#"{"name":"Image","type":"string","jsonPath":".spec.image"}"#,
    printcolumn = r#"{"name":"Decision","type":"string","jsonPath":".spec.decision"}"#,
    printcolumn = r#"{"name":"Summary","type":"string","jsonPath":".spec.summary"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VerdictSpec {
    /// `repository@digest` that was verified.
    #[schemars(length(min = 1, max = 400))]
    pub image: String,
    #[schemars(length(max = 71), regex(pattern = "^sha256:[0-9a-f]{64}$"))]
    pub digest: String,
    #[schemars(length(max = 71))]
    pub policy_digest: String,
    #[schemars(length(max = 71))]
    pub trust_root_digest: String,
    /// Namespace whose check set was evaluated; the verdict holds there only.
    #[schemars(length(max = 63))]
    pub namespace: String,
    pub decision: VerdictDecision,
    /// One line.
    #[schemars(length(max = 1024))]
    pub summary: String,
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub checks: Vec<VerdictCheck>,
    /// Revision that provenance names, where it was verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub revision: Option<String>,
    pub verified_at: Time,
    /// Earliest expiry of what it rests on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VerdictDecision {
    Allow,
    Deny,
    Error,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerdictCheck {
    pub name: String,
    pub outcome: VerdictDecision,
    #[schemars(length(max = 1024))]
    pub message: String,
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub evidence: Vec<String>,
}

/// An exception: user, digest, expiry and reason. Audited; never lifts a quarantine.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "tidegate.io",
    version = "v1alpha1",
    kind = "BreakGlass",
    plural = "breakglasses",
    namespaced,
    shortname = "tbg",
    printcolumn = r#"{"name":"User","type":"string","jsonPath":".spec.user"}"#,
    printcolumn = r#"{"name":"Digest","type":"string","jsonPath":".spec.digest"}"#,
    printcolumn = r#"{"name":"Expires","type":"date","jsonPath":".spec.expiresAt"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "a BreakGlass is a record: its spec is immutable; make another"}]))]
pub struct BreakGlassSpec {
    /// Must be the requesting user; an admission policy holds it to that.
    #[schemars(length(min = 1, max = 320))]
    pub user: String,
    #[schemars(length(max = 71), regex(pattern = "^sha256:[0-9a-f]{64}$"))]
    pub digest: String,
    pub expires_at: Time,
    #[schemars(length(min = 10, max = 1024))]
    pub reason: String,
}

/// Digests that no automation ships again and admission refuses.
/// Named `sha256-<first 40 hex of the first digest>`.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "tidegate.io",
    version = "v1alpha1",
    kind = "Quarantine",
    shortname = "tqu",
    printcolumn = r#"{"name":"Digests","type":"string","jsonPath":".spec.digests"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".spec.reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QuarantineSpec {
    /// Image digests: the index and its children.
    #[schemars(length(min = 1, max = 300))]
    pub digests: Vec<String>,
    /// Source revision, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub revision: Option<String>,
    /// Environments it holds in. Empty: all.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub environments: Vec<String>,
    /// What happened.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// Where it was seen: `environment/namespace/rollout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 400))]
    pub origin: Option<String>,
    /// Lifted by a person with the verb `unquarantine`: the tombstone that the mirror carries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifted: Option<Lifted>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lifted {
    #[schemars(length(min = 1, max = 320))]
    pub by: String,
    #[schemars(length(min = 10, max = 1024))]
    pub reason: String,
}
