//! What the suites of this crate share: a registry in memory, policies, attestors.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use tidegate_policies::digest::Digest;
use tidegate_policies::image::ImageRef;
use tidegate_policies::model::{Attestor, Check, CheckSet, Keyless, Policy, PublicKey, Scope, TrustRoot};
use tidegate_policies::registry::MemoryFetch;
use tidegate_policies::verdict::Verdict;
use tidegate_policies::verifier::{Verifier, VerifyRequest};

/// Data that stands in the repository.
pub fn vectors(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors").join(name)
}

/// Data that is too much for the repository: `TIDEGATE_VECTORS`, else beside the project. None is
/// told, so that a run without it does not look like a run with it.
pub fn outside_vectors(name: &str) -> Option<PathBuf> {
    #[allow(clippy::disallowed_methods, reason = "a test's own setting")]
    let folder = std::env::var("TIDEGATE_VECTORS")
        .map_or_else(|_| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors"), PathBuf::from);
    let path = folder.join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is not there; TIDEGATE_VECTORS names another folder", path.display());
    None
}

/// One image at a registry in memory, the policy it is held against, and who may attest.
pub struct World {
    pub fetch: Arc<MemoryFetch>,
    pub verifier: Verifier,
    pub image: ImageRef,
    pub policy: Policy,
    pub attestors: BTreeMap<String, Attestor>,
    pub trust_roots: BTreeMap<String, TrustRoot>,
    pub expected_revision: Option<String>,
}

impl World {
    pub fn new(image: &str, checks: Vec<Check>) -> Self {
        let fetch = Arc::new(MemoryFetch::new());
        let set = CheckSet { display_name: "all".into(), checks, ..CheckSet::default() };
        Self {
            verifier: Verifier::new(fetch.clone()),
            fetch,
            image: image.parse().unwrap(),
            policy: Policy { check_sets: vec![set], ..Policy::default() },
            attestors: BTreeMap::new(),
            trust_roots: BTreeMap::new(),
            expected_revision: None,
        }
    }

    pub fn attestor(mut self, name: &str, attestor: Attestor) -> Self {
        self.attestors.insert(name.into(), attestor);
        self
    }

    pub fn trust_root(mut self, json: String) -> Self {
        self.trust_roots.insert("default".into(), TrustRoot { trusted_root: json });
        self
    }

    pub fn digest(&self) -> Digest {
        self.image.digest.clone().unwrap()
    }

    pub async fn verdict(&self) -> Verdict {
        self.verdict_at(Timestamp::UNIX_EPOCH).await
    }

    pub async fn verdict_at(&self, now: Timestamp) -> Verdict {
        self.verifier.verify(self.request(now)).await
    }

    pub fn request(&self, now: Timestamp) -> VerifyRequest<'_> {
        VerifyRequest {
            image: self.image.clone(),
            policy: &self.policy,
            attestors: &self.attestors,
            trust_roots: &self.trust_roots,
            scope: Scope { namespace: "shop".into(), service_account: Some("portal".into()) },
            expected_revision: self.expected_revision.clone(),
            now,
        }
    }
}

pub fn keyless(identity: &str, issuer: &str) -> Attestor {
    Attestor {
        keyless: Some(Keyless { identity: identity.into(), issuer: issuer.into() }),
        unsafe_skip_sct: true,
        ..Attestor::default()
    }
}

/// Keys without a log.
pub fn keyed(pems: &[&str]) -> Attestor {
    Attestor {
        keys: pems.iter().map(|pem| PublicKey { pem: (*pem).to_owned(), ..PublicKey::default() }).collect(),
        unsafe_skip_transparency_log: true,
        ..Attestor::default()
    }
}

/// A key pair that signs what a test needs signed, without a log.
pub struct Signer {
    pair: sigstore_verify::crypto::KeyPair,
}

impl Signer {
    pub fn new() -> Self {
        Self { pair: sigstore_verify::crypto::KeyPair::generate_ecdsa_p256().unwrap() }
    }

    pub fn pem(&self) -> String {
        self.pair.public_key_der().unwrap().to_pem()
    }

    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.pair.sign(bytes).unwrap().as_bytes().to_vec()
    }

    /// A bundle with this statement, as `cosign attest --key` makes it without a log.
    pub fn bundle(&self, payload_type: &str, payload: &str) -> String {
        let pae = sigstore_verify::types::pae(payload_type, payload.as_bytes());
        format!(
            r#"{{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{{"publicKey":{{"hint":"x"}}}},"dsseEnvelope":{{"payloadType":"{payload_type}","payload":"{}","signatures":[{{"sig":"{}"}}]}}}}"#,
            base64(payload.as_bytes()),
            base64(&self.sign(&pae)),
        )
    }

    pub fn statement(&self, subject: &Digest, predicate_type: &str, predicate: &str) -> String {
        self.bundle("application/vnd.in-toto+json", &statement(subject, predicate_type, predicate))
    }
}

pub fn statement(subject: &Digest, predicate_type: &str, predicate: &str) -> String {
    format!(
        r#"{{"_type":"https://in-toto.io/Statement/v1","subject":[{{"digest":{{"sha256":"{}"}}}}],"predicateType":"{predicate_type}","predicate":{predicate}}}"#,
        subject.hex()
    )
}

pub fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
