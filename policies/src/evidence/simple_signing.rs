//! Binary Authorization attestations with PKIX keys: a payload in the simple signing format, and
//! signatures over it. A key's id is a hint only; what counts is which key the signature holds for.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use sigstore::crypto::{CosignVerificationKey, Signature, SigningScheme};

use crate::digest::Digest;
use crate::image::ImageRef;
use crate::json::{self, JsonError};
use crate::model::{PublicKey, SignatureAlgorithm};

/// Media type under which an attestation is attached to its image as a referrer.
pub const ATTESTATION_MEDIA_TYPE: &str = "application/vnd.tidegate.binaryauthorization.attestation.v1+json";

const MAX_SIGNATURES: usize = 64;

/// `grafeas.v1.AttestationOccurrence` as JSON.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attestation {
    /// Base64.
    pub serialized_payload: String,
    #[serde(default)]
    pub signatures: Vec<AttestationSignature>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttestationSignature {
    #[serde(default)]
    pub public_key_id: String,
    /// Base64.
    pub signature: String,
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    identity: Identity,
    image: Image,
    #[serde(rename = "type")]
    type_: String,
}

#[derive(Deserialize)]
struct Identity {
    #[serde(rename = "docker-reference")]
    docker_reference: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    docker_manifest_digest: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AttestationError {
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error("{0} is not base64")]
    Base64(&'static str),
    #[error("it has more than {MAX_SIGNATURES} signatures")]
    TooManySignatures,
    #[error("none of its signatures is by a key of the attestor")]
    NoKey,
    #[error("it attests {0}, not this image")]
    OtherImage(String),
    #[error("its type is `{0}`")]
    Type(String),
}

impl AttestationError {
    pub fn is_forged(&self) -> bool {
        !matches!(self, Self::NoKey)
    }
}

/// A key with the algorithm that its signatures must use.
pub(super) struct PkixKey {
    /// What thresholds count: the key's own digest.
    id: String,
    /// What attestations call it.
    hint: String,
    key: CosignVerificationKey,
}

impl PkixKey {
    pub fn read(key: &PublicKey, id: String) -> Result<Self, String> {
        let algorithm = key.signature_algorithm.ok_or("it has no signatureAlgorithm")?;
        let scheme = scheme(algorithm)?;
        let hint = match &key.id {
            Some(id) => id.clone(),
            None => public_key_id(&key.pem)?,
        };
        let key = CosignVerificationKey::from_pem(key.pem.as_bytes(), &scheme).map_err(|e| e.to_string())?;
        Ok(Self { id, hint, key })
    }
}

fn scheme(algorithm: SignatureAlgorithm) -> Result<SigningScheme, String> {
    use SignatureAlgorithm as A;
    Ok(match algorithm {
        A::RsaPss2048Sha256 => SigningScheme::RSA_PSS_SHA256(2048),
        A::RsaPss3072Sha256 => SigningScheme::RSA_PSS_SHA256(3072),
        A::RsaPss4096Sha256 => SigningScheme::RSA_PSS_SHA256(4096),
        A::RsaSignPkcs1_2048Sha256 => SigningScheme::RSA_PKCS1_SHA256(2048),
        A::RsaSignPkcs1_3072Sha256 => SigningScheme::RSA_PKCS1_SHA256(3072),
        A::RsaSignPkcs1_4096Sha256 => SigningScheme::RSA_PKCS1_SHA256(4096),
        A::EcdsaP256Sha256 => SigningScheme::ECDSA_P256_SHA256_ASN1,
        A::EcdsaP384Sha384 => SigningScheme::ECDSA_P384_SHA384_ASN1,
        A::EcdsaP521Sha512 => SigningScheme::ECDSA_P521_SHA512_ASN1,
        A::RsaPss4096Sha512 | A::RsaSignPkcs1_4096Sha512 => {
            return Err(format!("signatureAlgorithm {algorithm:?} is not verified yet: use one with SHA256"));
        }
    })
}

/// Google's default id of a PKIX key: RFC 6920 over its DER.
pub fn public_key_id(pem: &str) -> Result<String, String> {
    let der = sigstore_verify::types::DerPublicKey::from_pem(pem).map_err(|e| e.to_string())?;
    Ok(format!("ni:///sha-256;{}", URL_SAFE_NO_PAD.encode(Sha256::digest(der.as_bytes()))))
}

/// The id of the key whose signature holds over a payload that attests exactly this image.
pub(super) fn verify<'k>(
    bytes: &[u8],
    image: &Digest,
    repository_path: &str,
    keys: impl Iterator<Item = &'k PkixKey> + Clone,
) -> Result<String, AttestationError> {
    let attestation: Attestation = json::parse(bytes, "the attestation")?;
    if attestation.signatures.len() > MAX_SIGNATURES {
        return Err(AttestationError::TooManySignatures);
    }
    let payload = decode(&attestation.serialized_payload, "the payload")?;
    let mut signer = None;
    for signature in &attestation.signatures {
        let raw = decode(&signature.signature, "a signature")?;
        signer = keys
            .clone()
            .filter(|key| signature.public_key_id == key.hint)
            .find(|key| key.key.verify_signature(Signature::Raw(&raw), &payload).is_ok());
        if signer.is_some() {
            break;
        }
    }
    let signer = signer.ok_or(AttestationError::NoKey)?;
    let Critical { identity, image: attested, type_ } = json::parse::<Payload>(&payload, "the payload")?.critical;
    // Google's own spelling, and the one of the simple signing format.
    if !matches!(type_.as_str(), "Google cloud binauthz container signature" | "atomic container signature") {
        return Err(AttestationError::Type(type_.chars().take(80).collect()));
    }
    let other = || {
        let of = format!("{}@{}", identity.docker_reference, attested.docker_manifest_digest);
        AttestationError::OtherImage(of.chars().take(300).collect())
    };
    let reference: ImageRef = identity.docker_reference.parse().map_err(|_| other())?;
    if attested.docker_manifest_digest != image.as_str() || reference.repository_path() != repository_path {
        return Err(other());
    }
    Ok(signer.id.clone())
}

fn decode(text: &str, what: &'static str) -> Result<Vec<u8>, AttestationError> {
    STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).map_err(|_| AttestationError::Base64(what))
}
