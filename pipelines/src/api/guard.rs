//! What the guard of a cluster keeps and obeys: `Verdict`, `BreakGlass`, `Quarantine`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Name of the [`Verdict`] on an image (`repository@sha256:...`) under this policy and trust root in this namespace.
///
/// `sha256-<first 40 hex of the digest>-<first 12 hex of sha256(repository, policy digest, trust-root digest, namespace)>`.
/// A name is a way to find it, never proof: whoever reads a Verdict compares these fields in its spec.
pub fn verdict_name(image: &str, policy_digest: &str, trust_root_digest: &str, namespace: &str) -> String {
    let (repository, digest) = image.split_once('@').unwrap_or(("", image));
    let hex: String = digest.strip_prefix("sha256:").unwrap_or(digest).chars().take(40).collect();
    // Length-prefixed, so that no two lists of parts join to the same bytes.
    let parts: String = [repository, policy_digest, trust_root_digest, namespace]
        .iter()
        .map(|part| format!("{}:{part}", part.len()))
        .collect();
    let under: String = hex::encode(Sha256::digest(parts.as_bytes())).chars().take(12).collect();
    format!("sha256-{hex}-{under}")
}

/// (digest, policy digest, trust-root digest) -> what the guard of this cluster found. Only the guard writes it.
/// Named by [`verdict_name`].
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
    /// The policy's check set that was evaluated; empty when an allowlist exempted the image or none applies.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub check_set: String,
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
    /// Until when it was `Allow` under this very policy and trust root, if it is so no more: what is
    /// stable there may still restart for a bounded grace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_allowed: Option<Time>,
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
    #[schemars(length(min = 1, max = 300), inner(length(max = 71), regex(pattern = "^sha256:[0-9a-f]{64}$")))]
    pub digests: Vec<String>,
    /// Source revision, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub revision: Option<String>,
    /// Image repositories (`registry/path`) for which no build of `revision` ships, whatever its digest. Empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 3, max = 255)))]
    pub repositories: Vec<String>,
    /// Environments it holds in. Empty: all.
    #[serde(default)]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63)))]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_named_by_all_that_its_answer_depends_on() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let image = format!("r/portal@{digest}");
        let name = verdict_name(&image, "sha256:p", "sha256:t", "portal");
        assert!(name.starts_with(&format!("sha256-{}-", "ab".repeat(20))) && name.len() == 60, "{name}");
        for other in [
            verdict_name(&format!("evil/portal@{digest}"), "sha256:p", "sha256:t", "portal"),
            verdict_name(&image, "sha256:q", "sha256:t", "portal"),
            verdict_name(&image, "sha256:p", "sha256:u", "portal"),
            verdict_name(&image, "sha256:p", "sha256:t", "other"),
        ] {
            assert_ne!(name, other);
        }
    }
}
