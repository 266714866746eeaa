//! What a policy author writes: policies, attestors, trust roots. Never fetches or verifies;
//! [`Policy::validate`] says what is wrong with a document before anything relies on it.
//!
//! The shape is that of Google's platform policy with what it lacks. All alternatives are optional
//! fields of which exactly one is set: a CRD's schema must be structural.

mod attestor;
mod checks;
mod digests;
pub mod google;
mod pattern;
mod validate;

pub use attestor::{Attestor, Keyless, PublicKey, SignatureAlgorithm, TrustRoot};
pub use checks::{
    BannedPackage, Check, SbomCheck, SbomFormat, SigstoreSignatureCheck, SimpleSigningAttestationCheck, SlsaCheck,
    TrustedDirectoryCheck,
};
pub use digests::trust_root_digest;
pub use pattern::ImagePattern;
pub use validate::PolicyError;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::image::ImageRef;
use crate::registry::Location;

/// What an image needs to run in the places this policy holds for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    /// `Audit` loosens admission only: Tidegate itself never ships without an Allow.
    #[serde(default)]
    pub mode: Mode,
    /// Images that need no check at all.
    #[serde(default, skip_serializing_if = "ImageAllowlist::is_empty")]
    pub image_allowlist: ImageAllowlist,
    /// Exactly one is evaluated for a pod: the first whose scope matches. Listed from the most
    /// specific to the least; only the last may be without scope.
    #[serde(default)]
    #[schemars(length(max = 64), extend("x-kubernetes-validations" = [{
        "rule": "self.size() == 0 || self.filter(s, !has(s.scope)).size() == (has(self[self.size() - 1].scope) ? 0 : 1)",
        "message": "only the last check set may be without scope: those after it would never be used"
    }]))]
    pub check_sets: Vec<CheckSet>,
    /// What is known about registries, above all which may be spoken to without TLS.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub registries: Vec<Registry>,
    /// Who may set an image; empty restricts nobody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub deployers: Vec<Deployer>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// Violations are told; pods are admitted.
    #[default]
    Audit,
    Enforce,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageAllowlist {
    /// `registry/path`, at its end optionally `*` (within one level) or `**` (across levels).
    #[serde(default)]
    #[schemars(length(max = 256), inner(length(min = 1, max = 512), regex(pattern = r"^[^*/]+/[^*]*\*{0,2}$")))]
    pub allow_pattern: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CheckSet {
    #[schemars(length(min = 1, max = 256))]
    pub display_name: String,
    /// None: for every pod that no set before it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<CheckSetScope>,
    #[serde(default, skip_serializing_if = "ImageAllowlist::is_empty")]
    pub image_allowlist: ImageAllowlist,
    /// All must pass. A set without checks allows every image, and only says so if it is empty on
    /// purpose.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub checks: Vec<Check>,
}

/// Exactly one is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.kubernetesNamespace) != has(self.kubernetesServiceAccount)",
    "message": "a scope has exactly one of kubernetesNamespace and kubernetesServiceAccount"
}]))]
pub struct CheckSetScope {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub kubernetes_namespace: Option<String>,
    /// `namespace:serviceAccount`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 317))]
    pub kubernetes_service_account: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Registry {
    /// As images name it: host, or host:port.
    #[schemars(length(min = 1, max = 255), extend("x-kubernetes-validations" = [{
        "rule": "!self.contains('/')",
        "message": "host is a host, or host:port, without scheme and path"
    }]))]
    pub host: String,
    /// Plain HTTP and private or loopback addresses are allowed for this registry. For rigs and air
    /// gaps; what is fetched is held against its digest all the same.
    #[serde(default)]
    pub insecure: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.kind != 'ServiceAccount' || self.name.matches('^[^:]+:[^:]+$')",
    "message": "a ServiceAccount is named namespace:name"
}]))]
pub struct Deployer {
    pub kind: DeployerKind,
    /// A user or group as the API server names it; a service account as `namespace:name`.
    #[schemars(length(min = 1, max = 317))]
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeployerKind {
    User,
    Group,
    ServiceAccount,
}

/// The pod an image is meant for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scope {
    pub namespace: String,
    /// None when it is not known yet: sets for service accounts then do not match.
    pub service_account: Option<String>,
}

impl ImageAllowlist {
    pub fn is_empty(&self) -> bool {
        self.allow_pattern.is_empty()
    }

    /// The pattern that exempts this image.
    pub fn matching(&self, image: &ImageRef) -> Option<&str> {
        self.allow_pattern
            .iter()
            .find(|pattern| pattern.parse::<ImagePattern>().is_ok_and(|p| p.matches(image)))
            .map(String::as_str)
    }
}

impl Policy {
    /// The one check set for such a pod.
    pub fn check_set(&self, scope: &Scope) -> Option<&CheckSet> {
        self.check_sets.iter().find(|set| set.scope.as_ref().is_none_or(|s| s.matches(scope)))
    }

    /// Where this image's registry is, under what this policy says of it.
    pub fn locate(&self, image: &ImageRef) -> Location {
        Location::of(image, &self.registries)
    }
}

impl CheckSetScope {
    fn matches(&self, scope: &Scope) -> bool {
        match (&self.kubernetes_namespace, &self.kubernetes_service_account) {
            (Some(namespace), None) => *namespace == scope.namespace,
            (None, Some(account)) => {
                scope.service_account.as_ref().is_some_and(|name| *account == format!("{}:{name}", scope.namespace))
            }
            // Neither or both: `validate` refuses it, and it must not match anything by accident.
            _ => false,
        }
    }
}
