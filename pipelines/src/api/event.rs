//! `EventSource` (who may tell us of builds) and `BuildEvent` (an authenticated fact).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::span::Span;

/// Who may tell us of builds, how it authenticates, and for what it may speak.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "tidegate.io",
    version = "v1alpha1",
    kind = "EventSource",
    namespaced,
    status = "EventSourceStatus",
    shortname = "tes",
    printcolumn = r#"{"name":"Kind","type":"string","jsonPath":".spec.kind"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.kind == 'github' ? has(self.hmacSecret) : true", "message": "a github source needs hmacSecret: the Secret and key that hold its webhook secret"},
    {"rule": "self.kind == 'github' ? !has(self.oidc) : !has(self.hmacSecret)", "message": "a source authenticates in one way: github by hmacSecret, the others by oidc"},
    {"rule": "self.kind != 'github' ? has(self.oidc) : true", "message": "a cloudbuild or artifactregistry source needs oidc: issuer, audience and e-mail of its push subscription"}
]))]
pub struct EventSourceSpec {
    pub kind: EventSourceKind,
    /// GitHub: the webhook's secret, of a Secret in `tidegate-doors`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hmac_secret: Option<SecretKeyRef>,
    /// Pub/Sub push: the OIDC token it must carry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oidc: Option<OidcPolicy>,
    /// GitHub repositories `owner/name`, or Google project ids, that this source may speak for. Empty: none.
    #[serde(default)]
    #[schemars(length(max = 256), inner(length(min = 1, max = 255)))]
    pub repositories: Vec<String>,
    /// Image repositories `registry/path` that this source may name; a trailing `/**` covers what lies below. Empty: none.
    #[serde(default)]
    #[schemars(length(max = 256), inner(length(min = 3, max = 255)))]
    pub images: Vec<String>,
    /// How long an image that is named by tag or commit is waited for. Default `15m`.
    #[serde(default = "wait_default")]
    pub wait: Span,
    /// GitHub: where and with which token statuses are written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<GithubReport>,
}

fn wait_default() -> Span {
    Span::from_secs(900)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EventSourceKind {
    Github,
    Cloudbuild,
    Artifactregistry,
}

/// A key of a Secret in the namespace of the role that reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretKeyRef {
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OidcPolicy {
    /// Expected `iss`; its `/.well-known/openid-configuration` names the keys. Google: `https://accounts.google.com`.
    #[schemars(length(min = 8, max = 512), regex(pattern = "^https?://"))]
    pub issuer: String,
    #[schemars(length(min = 1, max = 512))]
    pub audience: String,
    /// Expected verified `email` claim: the push subscription's service account.
    #[schemars(length(min = 3, max = 320))]
    pub email: String,
    /// The one subscription that pushes here, `projects/P/subscriptions/S`, where several push as one account. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub subscription: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GithubReport {
    /// Base URL of GitHub's API. Default `https://api.github.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512), regex(pattern = "^https?://"))]
    pub api: Option<String>,
    /// Of a Secret in `tidegate-hub`.
    pub token: SecretKeyRef,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventSourceStatus {
    #[serde(default)]
    #[schemars(length(max = 8))]
    pub conditions: Vec<Condition>,
}

/// An authenticated fact. Immutable; named by `sha256(source, key)` so that a repeat meets `AlreadyExists`.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "tidegate.io",
    version = "v1alpha1",
    kind = "BuildEvent",
    namespaced,
    status = "BuildEventStatus",
    shortname = "tbe",
    printcolumn = r#"{"name":"Source","type":"string","jsonPath":".spec.source"}"#,
    printcolumn = r#"{"name":"Type","type":"string","jsonPath":".spec.type"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "a BuildEvent is a fact: its spec is immutable"}]))]
pub struct BuildEventSpec {
    /// Name of the EventSource.
    #[schemars(length(min = 1, max = 253))]
    pub source: String,
    /// Event type as its sender calls it: `push`, `package`, `registry_package`, `cloudbuild`, `gcr`.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 63))]
    pub type_: String,
    /// Content key of the delivery, for people; the name is derived from it.
    #[schemars(length(min = 1, max = 200))]
    pub key: String,
    /// When the sender says it happened; a hint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurred_at: Option<Time>,
    pub received_at: Time,
    /// Source repository, `owner/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub repository: Option<String>,
    /// Branch or tag that was built, without `refs/heads/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub git_ref: Option<String>,
    /// Commit, 40 or 64 hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = "^([0-9a-f]{40}|[0-9a-f]{64})$"))]
    pub revision: Option<String>,
    /// Images the event names. Empty for a push: `{repository}:{revision}` is then waited for.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub images: Vec<EventImage>,
    /// The one namespace whose pipelines it concerns, where a person says so. Default: all that ship what it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub pipeline_namespace: Option<String>,
    /// Why there is nothing to ship in it (a DELETE, a ping, a failed build), as the door saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub nothing_to_ship: Option<String>,
}

/// An image that an event names: a repository with a tag, a digest, or both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EventImage {
    #[schemars(length(min = 3, max = 255))]
    pub repository: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub tag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71), regex(pattern = "^sha256:[0-9a-f]{64}$"))]
    pub digest: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildEventStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<BuildEventPhase>,
    /// One line: what became of it and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// `namespace/name` of the Releases it made or repeated.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub releases: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_until: Option<Time>,
    /// What was resolved so far: a tag is asked for once, and its digest is used from then on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub resolved: Vec<EventImage>,
    #[serde(default)]
    #[schemars(length(max = 8))]
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BuildEventPhase {
    Waiting,
    Released,
    Ignored,
    Expired,
}
