//! `VerificationPolicy`, `Attestor` and `TrustRoot` as Kubernetes kinds: the
//! model of `tidegate-policies` under a name. They add nothing to its meaning.

use std::collections::BTreeMap;

use kube::{CustomResource, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_policies::model;

/// What an image needs to run in the environments that name this policy.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "tidegate.io",
    version = "v1alpha1",
    kind = "VerificationPolicy",
    plural = "verificationpolicies",
    shortname = "tvp",
    printcolumn = r#"{"name":"Mode","type":"string","jsonPath":".spec.mode"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
pub struct VerificationPolicySpec {
    #[serde(flatten)]
    pub policy: model::Policy,
    /// The tombstone by which the mirror takes this policy away from environments.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdrawn: bool,
}

/// Who may vouch for an image: a keyless identity, or keys.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "tidegate.io",
    version = "v1alpha1",
    kind = "Attestor",
    shortname = "tat",
    printcolumn = r#"{"name":"Identity","type":"string","jsonPath":".spec.keyless.identity"}"#,
    printcolumn = r#"{"name":"Issuer","type":"string","jsonPath":".spec.keyless.issuer"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.keyless) != (has(self.keys) && size(self.keys) > 0)",
    "message": "an Attestor has exactly one of keyless and keys"
}]))]
pub struct AttestorSpec {
    #[serde(flatten)]
    pub attestor: model::Attestor,
    /// The tombstone by which the mirror takes this attestor away from environments.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdrawn: bool,
}

/// Whose certificates, logs and timestamps are trusted.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "tidegate.io",
    version = "v1alpha1",
    kind = "TrustRoot",
    shortname = "ttr",
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
pub struct TrustRootSpec {
    #[serde(flatten)]
    pub trust_root: model::TrustRoot,
    /// The tombstone by which the mirror takes this trust root away from environments.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdrawn: bool,
}

/// The attestors in force, by name, as the verifier takes them.
pub fn attestors<'a>(objects: impl IntoIterator<Item = &'a Attestor>) -> BTreeMap<String, model::Attestor> {
    let in_force = objects.into_iter().filter(|object| !object.spec.withdrawn);
    in_force.map(|object| (object.name_any(), object.spec.attestor.clone())).collect()
}

/// The trust roots in force, by name, as the verifier takes them.
pub fn trust_roots<'a>(objects: impl IntoIterator<Item = &'a TrustRoot>) -> BTreeMap<String, model::TrustRoot> {
    let in_force = objects.into_iter().filter(|object| !object.spec.withdrawn);
    in_force.map(|object| (object.name_any(), object.spec.trust_root.clone())).collect()
}
