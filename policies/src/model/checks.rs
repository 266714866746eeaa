//! The checks of a check set: what each asks for. How they are judged stands in [`crate::decide`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ImageAllowlist;

/// Exactly one of the `...Check` fields (or `alwaysDeny`) is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "[has(self.sigstoreSignatureCheck), has(self.slsaCheck), has(self.sbomCheck), has(self.simpleSigningAttestationCheck), has(self.trustedDirectoryCheck), has(self.alwaysDeny) && self.alwaysDeny].filter(set, set).size() == 1",
    "message": "a check sets exactly one of the ...Check fields and alwaysDeny: make each a check of its own"
}]))]
pub struct Check {
    #[schemars(length(min = 1, max = 256))]
    pub display_name: String,
    /// Told, but not enforced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    #[serde(default, skip_serializing_if = "ImageAllowlist::is_empty")]
    pub image_allowlist: ImageAllowlist,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sigstore_signature_check: Option<SigstoreSignatureCheck>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slsa_check: Option<SlsaCheck>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sbom_check: Option<SbomCheck>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simple_signing_attestation_check: Option<SimpleSigningAttestationCheck>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trusted_directory_check: Option<TrustedDirectoryCheck>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub always_deny: bool,
}

/// The image is signed by the named attestors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SigstoreSignatureCheck {
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 253)))]
    pub attestors: Vec<String>,
    /// How many *distinct* keys or identities must have signed. Without it every attestor named
    /// must have, each by a signer of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub threshold: Option<u32>,
}

/// Provenance (SLSA v0.2 or v1) signed by one of the attestors names builder, source and revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SlsaCheck {
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 253)))]
    pub attestors: Vec<String>,
    /// Builder ids, compared exactly; one of them must be the provenance's.
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 512)))]
    pub builders: Vec<String>,
    /// Source repositories (`https://github.com/acme/portal`), compared exactly apart from `git+`,
    /// `.git` and `@ref`. Empty: any source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 512)))]
    pub sources: Vec<String>,
    /// The provenance must name a source revision, and the build event's where there is one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub require_revision: bool,
}

/// An SBOM signed by one of the attestors names the image and contains no banned package.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SbomCheck {
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 253)))]
    pub attestors: Vec<String>,
    /// Accepted formats; empty: all that are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub formats: Vec<SbomFormat>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub banned_packages: Vec<BannedPackage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SbomFormat {
    CycloneDX,
    SPDX,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BannedPackage {
    /// Package URL without version: `pkg:maven/org.apache.logging.log4j/log4j-core`.
    #[schemars(length(min = 6, max = 512), regex(pattern = "^pkg:[a-z]+/"))]
    pub purl: String,
    /// `<2.17.1`, or several that must all hold: `>=2.0,<2.17.1`. Empty: every version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub versions: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub reason: String,
}

/// Attestations in Binary Authorization's form, by every attestor named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SimpleSigningAttestationCheck {
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 253)))]
    pub attestors: Vec<String>,
}

/// The image lies below one of these repositories.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrustedDirectoryCheck {
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 512)))]
    pub trusted_dir_patterns: Vec<String>,
}

impl Check {
    /// The attestors it asks for.
    pub fn attestors(&self) -> &[String] {
        if let Some(check) = &self.sigstore_signature_check {
            &check.attestors
        } else if let Some(check) = &self.slsa_check {
            &check.attestors
        } else if let Some(check) = &self.sbom_check {
            &check.attestors
        } else if let Some(check) = &self.simple_signing_attestation_check {
            &check.attestors
        } else {
            &[]
        }
    }

    /// How many of the alternatives are set.
    pub(crate) fn kinds(&self) -> usize {
        [
            self.sigstore_signature_check.is_some(),
            self.slsa_check.is_some(),
            self.sbom_check.is_some(),
            self.simple_signing_attestation_check.is_some(),
            self.trusted_directory_check.is_some(),
            self.always_deny,
        ]
        .into_iter()
        .filter(|set| *set)
        .count()
    }
}
