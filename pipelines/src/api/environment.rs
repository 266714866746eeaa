//! `Environment`: one place that runs workloads, as the hub and its spoke see it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::span::Span;

/// One cluster (or a part of one) into which pipelines ship.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "tidegate.io",
    version = "v1alpha1",
    kind = "Environment",
    status = "EnvironmentStatus",
    shortname = "tenv",
    printcolumn = r#"{"name":"Policy","type":"string","jsonPath":".spec.policy"}"#,
    printcolumn = r#"{"name":"Mode","type":"string","jsonPath":".status.policyMode"}"#,
    printcolumn = r#"{"name":"Spoke","type":"string","jsonPath":".status.conditions[?(@.type==\"SpokeReady\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvironmentSpec {
    /// Name of the VerificationPolicy that holds here.
    #[schemars(length(min = 1, max = 253))]
    pub policy: String,
    /// Where this environment's metrics are read by its spoke.
    pub metrics: MetricsSource,
    /// Which pipelines may act here, and on which namespaces. Empty: none.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub allowed_pipelines: Vec<AllowedPipelines>,
    /// Set by a person when the environment is gone for good, so that deleting it does not wait for its spoke.
    #[serde(default)]
    pub decommissioned: bool,
    /// How long a loosened policy waits before it takes effect here, and so do a shorter delay, other metrics and further
    /// pipelines. Default `5m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loosen_delay: Option<Span>,
}

/// A Prometheus-compatible server and the label names of its series.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.podLabel) || !has(self.namespaceLabel) || self.podLabel != self.namespaceLabel",
    "message": "podLabel and namespaceLabel are two labels"
}]))]
pub struct MetricsSource {
    /// Base URL of the Prometheus HTTP API, as the spoke reaches it.
    #[schemars(length(min = 8, max = 512), regex(pattern = "^https?://"))]
    pub prometheus: String,
    /// Label that names the pod. Default `pod`.
    #[serde(default = "pod_label")]
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[a-zA-Z_][a-zA-Z0-9_]*$"))]
    pub pod_label: String,
    /// Label that names the namespace. Default `namespace`.
    #[serde(default = "namespace_label")]
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[a-zA-Z_][a-zA-Z0-9_]*$"))]
    pub namespace_label: String,
    /// Scrape interval of this server. Default `15s`.
    #[serde(default = "scrape_interval")]
    pub scrape_interval: Span,
    /// The data plane's own per-backend request counter, where its lag allows it as a witness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewayMetrics>,
}

/// The per-backend counter of a gateway: the second witness, and where the observed share is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayMetrics {
    /// Counter with one series per backend and code, e.g. `traefik_service_requests_total`.
    #[schemars(length(min = 1, max = 200), regex(pattern = "^[a-zA-Z_:][a-zA-Z0-9_:]*$"))]
    pub requests: String,
    /// Label that names the backend.
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[a-zA-Z_][a-zA-Z0-9_]*$"))]
    pub service_label: String,
    /// Anchored RE2 pattern of that label's value, with `{namespace}`, `{service}` and `{port}` filled in.
    #[schemars(length(min = 1, max = 300), extend("x-kubernetes-validations" = [{
        "rule": "self.contains('{service}') && self.contains('{namespace}')",
        "message": "servicePattern must contain {namespace} and {service}: without them one backend's requests are another's evidence"
    }]))]
    pub service_pattern: String,
    /// Further labels of the gateway's own series, such as `job: traefik`. Without any, whatever pod is scraped with this
    /// metric's name and such a backend's label is taken for the gateway.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8))]
    pub match_labels: BTreeMap<String, String>,
    /// Label that carries the HTTP status code.
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[a-zA-Z_][a-zA-Z0-9_]*$"))]
    pub code_label: String,
    /// How far behind the traffic these counters are.
    #[serde(default)]
    pub lag: Span,
}

fn pod_label() -> String {
    "pod".into()
}

fn namespace_label() -> String {
    "namespace".into()
}

fn scrape_interval() -> Span {
    Span::from_secs(15)
}

/// A set of pipelines, by the labels of their namespace at the hub, and the namespaces they may act on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AllowedPipelines {
    /// Selects the pipelines' namespaces at the hub. An empty selector selects all of them.
    pub namespace_selector: LabelSelector,
    /// Namespaces in the environment, and no others. Empty: only the namespace of the pipeline's own namespace name.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    pub target_namespaces: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvironmentStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Audit` or `Enforce`, of the policy in force at the spoke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_mode: Option<String>,
    /// Digest of the policy in force at the spoke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_digest: Option<String>,
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
}
