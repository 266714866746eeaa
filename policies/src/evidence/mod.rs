//! What was verified about an image. Constructors are private to this module: a value of these
//! types exists only because its bytes were fetched by digest and its signature held. Never decides
//! whether it suffices.

mod bundle;
pub mod package;
pub mod provenance;
pub mod sbom;
mod simple_signing;
mod statement;

pub use bundle::{Authorities, AuthorityError};
pub use provenance::Provenance;
pub use sbom::Sbom;
pub use simple_signing::{ATTESTATION_MEDIA_TYPE, Attestation, AttestationSignature, public_key_id};

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::digest::Digest;

/// Whoever made a signature, authorised by an attestor.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signer {
    attestor: String,
    /// Equal for equal keys or identities, whatever attestor named them: what thresholds count.
    id: String,
}

impl Signer {
    pub fn attestor(&self) -> &str {
        &self.attestor
    }

    pub fn id(&self) -> &str {
        &self.id
    }
}

/// What a signature says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// "This image": cosign's signature, or one over the manifest's bytes.
    Signature,
    Provenance(Provenance),
    Sbom(Sbom),
    /// Binary Authorization's attestation.
    SimpleSigning,
    /// An attestation of a type that no check asks for.
    Other(String),
    /// Signed and bound to the image, but not readable as what its type says.
    Unreadable {
        kind: Kind,
        reason: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Signature,
    Provenance,
    Sbom,
    SimpleSigning,
    Other,
}

/// A signature that held, over this image's digest, by someone an attestor authorises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    signer: Signer,
    content: Content,
    /// Digest of the bundle or attestation that it was read from.
    source: Digest,
    /// Indices in the transparency log; empty if the attestor does not ask for one.
    log_indices: Vec<String>,
    /// Times vouched for by a log or timestamp authority.
    times: Vec<Timestamp>,
}

/// Something found with the image that is no evidence for an attestor, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    pub source: Digest,
    /// None: for every attestor.
    pub attestor: Option<String>,
    /// None when it is not known what it would have been.
    pub kind: Option<Kind>,
    pub reason: String,
    /// Forged or about something else, as opposed to made by someone who is not asked for.
    pub forged: bool,
}

/// All that is known about one image when it is judged.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    pub(crate) verified: Vec<Verified>,
    pub(crate) rejected: Vec<Rejected>,
    /// What could not be fetched: not knowing, never the same as not being there.
    pub(crate) unavailable: Vec<String>,
    /// Attestors that cannot be used, and why.
    pub(crate) unusable_attestors: BTreeMap<String, String>,
}

impl Content {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Signature => Kind::Signature,
            Self::Provenance(_) => Kind::Provenance,
            Self::Sbom(_) => Kind::Sbom,
            Self::SimpleSigning => Kind::SimpleSigning,
            Self::Other(_) => Kind::Other,
            Self::Unreadable { kind, .. } => *kind,
        }
    }
}

impl Verified {
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    pub fn content(&self) -> &Content {
        &self.content
    }

    pub fn source(&self) -> &Digest {
        &self.source
    }

    /// For the verdict: who, what, where, when.
    pub fn describe(&self) -> String {
        let mut text = format!("{} by {} ({})", self.source, self.signer.id, self.signer.attestor);
        if !self.log_indices.is_empty() {
            text.push_str(&format!(", log index {}", self.log_indices.join(", ")));
        }
        if let Some(time) = self.times.iter().min() {
            text.push_str(&format!(", at {time}"));
        }
        text
    }
}

impl Evidence {
    pub fn verified(&self) -> &[Verified] {
        &self.verified
    }

    pub fn rejected(&self) -> &[Rejected] {
        &self.rejected
    }

    pub(crate) fn merge(&mut self, found: Self) {
        self.verified.extend(found.verified);
        self.rejected.extend(found.rejected);
        self.unavailable.extend(found.unavailable);
        self.unusable_attestors.extend(found.unusable_attestors);
    }

    /// Nothing can be known since this could not be fetched.
    pub fn unavailable(&mut self, why: impl Into<String>) {
        self.unavailable.push(why.into());
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Evidence made up for tests of the decision alone.
    use super::*;

    pub(crate) fn provenance(v02: &str) -> Provenance {
        Provenance::parse_v02(v02.as_bytes()).unwrap()
    }

    pub(crate) fn verified(attestor: &str, id: &str, content: Content) -> Verified {
        Verified {
            signer: Signer { attestor: attestor.into(), id: id.into() },
            source: Digest::of(format!("{attestor}{id}{content:?}").as_bytes()),
            content,
            log_indices: vec![],
            times: vec![],
        }
    }
}
