//! Sigstore bundles, held against attestors. The one place that calls `sigstore-verify`; what it
//! does not check itself (that a log entry is there when one is asked for, the predicate's type, a
//! sha256 subject) is checked here. Never authorises by anything that the bundle says of itself.

mod authority;

use jiff::Timestamp;
use sigstore_verify::crypto::{KeyAlgorithm, SubjectAltName, verify_signature, verify_signature_prehashed};
use sigstore_verify::types::bundle::VerificationMaterialContent;
use sigstore_verify::types::{Bundle, Sha256Hash, SignatureContent};
use sigstore_verify::{Error, PublicKeyVerificationPolicy, VerificationPolicy, VerificationResult};

use super::statement::{Statement, StatementError};
use super::{Content, Evidence, Kind, Provenance, Rejected, Sbom, Signer, Verified};
use crate::digest::Digest;
use crate::json;
pub use authority::{Authorities, AuthorityError};
use authority::{Authority, Key, Who};

const MAX_LOG_ENTRIES: usize = 32;
const MAX_TIMESTAMPS: usize = 32;
/// Only SBOMs are larger than this.
const MAX_ATTESTATION: usize = 8 << 20;
const COSIGN_SIGNATURE: &str = "https://sigstore.dev/cosign/sign/v1";

impl Authorities {
    /// Holds one bundle, found with this image, against every attestor.
    pub fn examine_bundle(&self, image: &Digest, source: &Digest, bytes: &[u8], evidence: &mut Evidence) {
        let reject =
            |kind, reason: String, forged| Rejected { source: source.clone(), attestor: None, kind, reason, forged };
        let bundle = match read_bundle(bytes) {
            Ok(bundle) => bundle,
            Err(reason) => return evidence.rejected.push(reject(None, reason, true)),
        };
        let claim = match claim(&bundle, image, bytes.len()) {
            Ok(claim) => claim,
            Err((kind, reason)) => return evidence.rejected.push(reject(kind, reason, true)),
        };
        let mut content = None;
        for (name, authority) in &self.usable {
            match authority.verify(&bundle, image) {
                Ok((id, times)) => {
                    let content = content.get_or_insert_with(|| claim.content(&bundle)).clone();
                    evidence.verified.push(Verified {
                        signer: Signer { attestor: name.clone(), id },
                        content,
                        source: source.clone(),
                        log_indices: if authority.skip_log { vec![] } else { log_indices(&bundle) },
                        times,
                    });
                }
                Err(failure) => evidence.rejected.push(Rejected {
                    attestor: Some(name.clone()),
                    ..reject(Some(claim.kind()), failure.reason, failure.forged)
                }),
            }
        }
    }

    /// Holds one Binary Authorization attestation against every attestor with keys.
    pub fn examine_attestation(
        &self,
        image: &Digest,
        repository_path: &str,
        source: &Digest,
        bytes: &[u8],
        evidence: &mut Evidence,
    ) {
        for (name, authority) in &self.usable {
            let Who::Keys(keys) = &authority.who else { continue };
            let keys = keys.iter().filter_map(|k| k.simple_signing.as_ref());
            match super::simple_signing::verify(bytes, image, repository_path, keys) {
                Ok(id) => evidence.verified.push(Verified {
                    signer: Signer { attestor: name.clone(), id },
                    content: Content::SimpleSigning,
                    source: source.clone(),
                    log_indices: vec![],
                    times: vec![],
                }),
                Err(error) => evidence.rejected.push(Rejected {
                    source: source.clone(),
                    attestor: Some(name.clone()),
                    kind: Some(Kind::SimpleSigning),
                    forged: error.is_forged(),
                    reason: error.to_string(),
                }),
            }
        }
    }
}

struct Failure {
    reason: String,
    forged: bool,
}

impl Authority {
    /// The signer's id, and what was verified.
    fn verify(&self, bundle: &Bundle, image: &Digest) -> Result<(String, Vec<Timestamp>), Failure> {
        let not_asked = |reason: &str| Failure { reason: reason.to_owned(), forged: false };
        let keyed = matches!(bundle.verification_material.content, VerificationMaterialContent::PublicKey(_));
        if !self.skip_log && bundle.verification_material.tlog_entries.is_empty() {
            return Err(Failure { reason: "it is in no transparency log".to_owned(), forged: true });
        }
        let artifact =
            Sha256Hash::from_hex(image.hex()).map_err(|e| Failure { reason: e.to_string(), forged: false })?;
        match &self.who {
            Who::Keyless(_) if keyed => Err(not_asked("it is made with a key, not with an identity")),
            Who::Keys(_) if !keyed => Err(not_asked("it is made with an identity, not with a key")),
            Who::Keyless(keyless) => {
                let mut policy = VerificationPolicy::new(keyless.identity.as_str(), keyless.issuer.as_str());
                if self.skip_log {
                    policy = policy.skip_tlog_unsafe();
                }
                if self.skip_sct {
                    policy = policy.skip_sct();
                }
                let result = self.verifier.verify(artifact, bundle, &policy).map_err(|e| failure(&e))?;
                let id = keyless_id(&result).ok_or_else(|| not_asked("its certificate names nobody"))?;
                Ok((id, result.verified_timestamps().to_vec()))
            }
            Who::Keys(keys) => {
                let mut last = not_asked("it is made with none of the attestor's keys");
                for key in keys {
                    match self.verify_key(bundle, artifact, key) {
                        Ok(times) => return Ok((key.id.clone(), times)),
                        // Not this key's; it may be another's.
                        Err(Error::SignatureInvalid(_)) => {}
                        Err(error) => last = failure(&error),
                    }
                }
                Err(last)
            }
        }
    }

    fn verify_key(&self, bundle: &Bundle, artifact: Sha256Hash, key: &Key) -> Result<Vec<Timestamp>, Error> {
        let material = &bundle.verification_material;
        let bare =
            material.tlog_entries.is_empty() && material.timestamp_verification_data.rfc3161_timestamps.is_empty();
        // `sigstore-verify` wants a log entry or a timestamp whatever the policy says.
        if bare && self.skip_log {
            return verify_bare(bundle, artifact, key).map(|()| Vec::new());
        }
        let mut policy = PublicKeyVerificationPolicy::new(key.der.clone());
        if self.skip_log {
            policy = policy.skip_tlog_unsafe();
        }
        Ok(self.verifier.verify(artifact, bundle, &policy)?.verified_timestamps().to_vec())
    }
}

/// A signature by a key and nothing else. That a statement speaks of the image was checked before.
fn verify_bare(bundle: &Bundle, artifact: Sha256Hash, key: &Key) -> Result<(), Error> {
    let scheme = KeyAlgorithm::from_spki(&key.der)?.default_signing_scheme();
    match &bundle.content {
        SignatureContent::DsseEnvelope(envelope) => {
            verify_signature(&key.der, &envelope.pae(), &envelope.signature.sig, scheme)
        }
        SignatureContent::MessageSignature(message) => {
            verify_signature_prehashed(&key.der, artifact.as_bytes(), &message.signature, scheme)
        }
        _ => return Err(Error::UnsupportedBundle("it holds neither a signature nor an attestation".to_owned())),
    }
    .map_err(|e| Error::SignatureInvalid(e.to_string()))
}

fn failure(error: &Error) -> Failure {
    let describe = |actual: Option<&str>| actual.unwrap_or("nobody").to_owned();
    match error {
        Error::IdentityMismatch { actual, .. } => Failure {
            reason: format!("its certificate is for {}", describe(actual.as_ref().map(SubjectAltName::as_str))),
            forged: false,
        },
        Error::IssuerMismatch { actual, .. } => Failure {
            reason: format!("its identity was vouched for by {}", describe(actual.as_deref())),
            forged: false,
        },
        error => Failure { reason: error.to_string(), forged: true },
    }
}

fn keyless_id(result: &VerificationResult) -> Option<String> {
    Some(format!("{} at {}", result.identity()?.as_str(), result.issuer()?))
}

fn read_bundle(bytes: &[u8]) -> Result<Bundle, String> {
    json::check(bytes, "the bundle").map_err(|e| e.to_string())?;
    let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
    let bundle = Bundle::from_json(text).map_err(|e| format!("it is no Sigstore bundle: {e}"))?;
    let material = &bundle.verification_material;
    if material.tlog_entries.len() > MAX_LOG_ENTRIES {
        return Err(format!("it has more than {MAX_LOG_ENTRIES} log entries"));
    }
    if material.timestamp_verification_data.rfc3161_timestamps.len() > MAX_TIMESTAMPS {
        return Err(format!("it has more than {MAX_TIMESTAMPS} timestamps"));
    }
    Ok(bundle)
}

fn log_indices(bundle: &Bundle) -> Vec<String> {
    bundle.verification_material.tlog_entries.iter().map(|entry| entry.log_index.to_string()).collect()
}

/// What a bundle would be evidence of, if its signature holds.
enum Claim {
    Message,
    Statement(Statement),
}

fn claim(bundle: &Bundle, image: &Digest, size: usize) -> Result<Claim, (Option<Kind>, String)> {
    match &bundle.content {
        SignatureContent::MessageSignature(_) => Ok(Claim::Message),
        SignatureContent::DsseEnvelope(envelope) => {
            if envelope.payload_type != "application/vnd.in-toto+json" {
                let type_: String = envelope.payload_type.chars().take(80).collect();
                return Err((None, format!("its payload is of type `{type_}`, not an in-toto statement")));
            }
            let statement =
                Statement::parse(envelope.payload.as_bytes()).map_err(|e: StatementError| (None, e.to_string()))?;
            let claim = Claim::Statement(statement);
            let kind = claim.kind();
            if size > MAX_ATTESTATION && kind != Kind::Sbom {
                return Err((Some(kind), format!("it is larger than {MAX_ATTESTATION} bytes and no SBOM")));
            }
            let Claim::Statement(statement) = &claim else { return Ok(claim) };
            statement.must_speak_of(image).map_err(|e| (Some(kind), e.to_string()))?;
            Ok(claim)
        }
        _ => Err((None, "it holds neither a signature nor an attestation".to_owned())),
    }
}

impl Claim {
    fn kind(&self) -> Kind {
        let Self::Statement(statement) = self else { return Kind::Signature };
        let ty = statement.predicate_type.as_str();
        if ty == COSIGN_SIGNATURE {
            Kind::Signature
        } else if Provenance::is_v1(ty) || Provenance::is_v02(ty) {
            Kind::Provenance
        } else if Sbom::format_of(ty).is_some() {
            Kind::Sbom
        } else {
            Kind::Other
        }
    }

    /// What it says, once the signature is known to hold.
    fn content(&self, bundle: &Bundle) -> Content {
        let (Self::Statement(statement), SignatureContent::DsseEnvelope(envelope)) = (self, &bundle.content) else {
            return Content::Signature;
        };
        let (ty, payload) = (statement.predicate_type.as_str(), envelope.payload.as_bytes());
        let unreadable = |kind, reason: String| Content::Unreadable { kind, reason };
        if ty == COSIGN_SIGNATURE {
            Content::Signature
        } else if Provenance::is_v1(ty) {
            Provenance::parse_v1(payload)
                .map_or_else(|e| unreadable(Kind::Provenance, e.to_string()), Content::Provenance)
        } else if Provenance::is_v02(ty) {
            Provenance::parse_v02(payload)
                .map_or_else(|e| unreadable(Kind::Provenance, e.to_string()), Content::Provenance)
        } else if let Some(format) = Sbom::format_of(ty) {
            Sbom::parse(format, payload).map_or_else(|e| unreadable(Kind::Sbom, e.to_string()), Content::Sbom)
        } else {
            Content::Other(ty.chars().take(200).collect())
        }
    }
}
