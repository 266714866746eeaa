//! Who may vouch for an image, and whose word roots the trust in them. There are no defaults that
//! weaken: what is unsafe has a field of its own that says so.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Exactly one of `keyless` and `keys` is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Attestor {
    /// Whoever holds this identity at this issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyless: Option<Keyless>,
    /// Whoever holds one of these keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub keys: Vec<PublicKey>,
    /// Name of the `TrustRoot` (Fulcio, Rekor, timestamp authority) that signatures are held
    /// against. Without it: the one named `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub trust_root: Option<String>,
    /// Signatures need not be in a transparency log. An attacker with the key can then sign unseen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unsafe_skip_transparency_log: bool,
    /// Certificates need not be in a certificate transparency log. For private Sigstore instances
    /// that run none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unsafe_skip_sct: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!self.identity.contains('*') && !self.issuer.contains('*')",
    "message": "identity and issuer are compared exactly: patterns are not read"
}]))]
pub struct Keyless {
    /// The e-mail address or URI in the certificate, compared exactly.
    #[schemars(length(min = 1, max = 512))]
    pub identity: String,
    /// The OIDC issuer that vouched for it, compared exactly.
    #[schemars(length(min = 1, max = 512), regex(pattern = "^https?://"))]
    pub issuer: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PublicKey {
    /// A hint for people and for attestations that name their key; by default the key's digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub id: Option<String>,
    /// PEM `PUBLIC KEY` (SubjectPublicKeyInfo).
    #[schemars(length(min = 1, max = 8192), extend("x-kubernetes-validations" = [{
        "rule": "self.contains('-----BEGIN PUBLIC KEY-----')",
        "message": "pem is a PEM PUBLIC KEY, as `cosign public-key` prints it"
    }]))]
    pub pem: String,
    /// Needed for Binary Authorization's attestations only; a Sigstore bundle's algorithm follows
    /// from the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature_algorithm: Option<SignatureAlgorithm>,
}

/// Google's names of `PkixPublicKey.SignatureAlgorithm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SignatureAlgorithm {
    #[serde(rename = "RSA_PSS_2048_SHA256")]
    RsaPss2048Sha256,
    #[serde(rename = "RSA_PSS_3072_SHA256")]
    RsaPss3072Sha256,
    #[serde(rename = "RSA_PSS_4096_SHA256")]
    RsaPss4096Sha256,
    #[serde(rename = "RSA_PSS_4096_SHA512")]
    RsaPss4096Sha512,
    #[serde(rename = "RSA_SIGN_PKCS1_2048_SHA256")]
    RsaSignPkcs1_2048Sha256,
    #[serde(rename = "RSA_SIGN_PKCS1_3072_SHA256")]
    RsaSignPkcs1_3072Sha256,
    #[serde(rename = "RSA_SIGN_PKCS1_4096_SHA256")]
    RsaSignPkcs1_4096Sha256,
    #[serde(rename = "RSA_SIGN_PKCS1_4096_SHA512")]
    RsaSignPkcs1_4096Sha512,
    #[serde(rename = "ECDSA_P256_SHA256", alias = "EC_SIGN_P256_SHA256")]
    EcdsaP256Sha256,
    #[serde(rename = "ECDSA_P384_SHA384", alias = "EC_SIGN_P384_SHA384")]
    EcdsaP384Sha384,
    #[serde(rename = "ECDSA_P521_SHA512", alias = "EC_SIGN_P521_SHA512")]
    EcdsaP521Sha512,
}

/// The roots that signatures are held against.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrustRoot {
    /// Sigstore's `trusted_root.json`, as text.
    #[schemars(length(min = 2, max = 524_288), regex(pattern = r"^\s*\{"))]
    pub trusted_root: String,
}

impl Attestor {
    /// The name of the trust root it asks for.
    pub fn trust_root_name(&self) -> &str {
        self.trust_root.as_deref().unwrap_or("default")
    }
}
