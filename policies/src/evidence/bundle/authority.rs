//! Attestors and trust roots, made ready to hold bundles against. What cannot be used is told, and
//! never stands for an attestor that asks for less.

use std::collections::BTreeMap;
use std::sync::Arc;

use sigstore_verify::Verifier;
use sigstore_verify::trust_root::TrustedRoot;
use sigstore_verify::types::DerPublicKey;

use crate::digest::Digest;
use crate::evidence::Evidence;
use crate::evidence::simple_signing::PkixKey;
use crate::json;
use crate::model::{Attestor, Keyless, PolicyError, PublicKey, TrustRoot};

/// The attestors that a check set names, ready to hold bundles against.
#[derive(Clone, Default)]
pub struct Authorities {
    pub(super) usable: BTreeMap<String, Arc<Authority>>,
    unusable: BTreeMap<String, String>,
}

pub(super) struct Authority {
    pub verifier: Verifier,
    pub who: Who,
    pub skip_log: bool,
    pub skip_sct: bool,
}

pub(super) enum Who {
    Keyless(Keyless),
    Keys(Vec<Key>),
}

pub(super) struct Key {
    pub id: String,
    pub der: DerPublicKey,
    pub simple_signing: Option<PkixKey>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    #[error("attestor `{0}` does not exist here: create it")]
    MissingAttestor(String),
    #[error(
        "trust root `{root}` of attestor `{attestor}` does not exist here: create it, or name another in `trustRoot`"
    )]
    MissingTrustRoot { attestor: String, root: String },
    #[error("trust root `{root}` cannot be used: {reason}")]
    TrustRoot { root: String, reason: String },
    #[error("attestor `{attestor}` cannot be used: {reason}")]
    Attestor { attestor: String, reason: String },
}

impl Authorities {
    /// Those that cannot be used are kept as such: a check that needs one errs.
    pub fn prepare<'a>(
        names: impl IntoIterator<Item = &'a str>,
        attestors: &BTreeMap<String, Attestor>,
        roots: &BTreeMap<String, TrustRoot>,
    ) -> Self {
        let mut all = Self::default();
        for name in names {
            match authority(name, attestors, roots) {
                Ok(authority) => {
                    all.usable.insert(name.to_owned(), Arc::new(authority));
                }
                Err(error) => {
                    all.unusable.insert(name.to_owned(), error.to_string());
                }
            }
        }
        all
    }

    /// Evidence with nothing found yet.
    pub fn evidence(&self) -> Evidence {
        Evidence { unusable_attestors: self.unusable.clone(), ..Evidence::default() }
    }
}

fn authority(
    name: &str,
    attestors: &BTreeMap<String, Attestor>,
    roots: &BTreeMap<String, TrustRoot>,
) -> Result<Authority, AuthorityError> {
    let attestor = attestors.get(name).ok_or_else(|| AuthorityError::MissingAttestor(name.to_owned()))?;
    let unusable = |reason: String| AuthorityError::Attestor { attestor: name.to_owned(), reason };
    if let Err(errors) = attestor.validate() {
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        return Err(unusable(all.join("; ")));
    }
    let root_name = attestor.trust_root_name();
    let keyed = attestor.keyless.is_none();
    let root = match roots.get(root_name) {
        Some(root) => read_root(root_name, root)?,
        // A key alone, with no log to look into, rests on nothing else.
        None if keyed && attestor.unsafe_skip_transparency_log => empty_root()?,
        None => {
            return Err(AuthorityError::MissingTrustRoot { attestor: name.to_owned(), root: root_name.to_owned() });
        }
    };
    let verifier = Verifier::new(&root)
        .map_err(|e| AuthorityError::TrustRoot { root: root_name.to_owned(), reason: e.to_string() })?;
    let who = match &attestor.keyless {
        Some(keyless) => Who::Keyless(keyless.clone()),
        None => Who::Keys(attestor.keys.iter().map(|key| read_key(key).map_err(unusable)).collect::<Result<_, _>>()?),
    };
    Ok(Authority { verifier, who, skip_log: attestor.unsafe_skip_transparency_log, skip_sct: attestor.unsafe_skip_sct })
}

fn read_root(name: &str, root: &TrustRoot) -> Result<TrustedRoot, AuthorityError> {
    let error = |reason: String| AuthorityError::TrustRoot { root: name.to_owned(), reason };
    json::check(root.trusted_root.as_bytes(), "trusted_root.json").map_err(|e| error(e.to_string()))?;
    TrustedRoot::from_json(&root.trusted_root).map_err(|e| error(e.to_string()))
}

impl TrustRoot {
    /// Whether signatures can be held against it at all.
    pub fn validate(&self) -> Result<(), Vec<PolicyError>> {
        let told = |message: String| vec![PolicyError { path: "trustedRoot".into(), message }];
        let root = read_root("this", self).map_err(|error| match error {
            AuthorityError::TrustRoot { reason, .. } => told(format!("is no trusted_root.json: {reason}")),
            other => told(other.to_string()),
        })?;
        Verifier::new(&root).map(drop).map_err(|error| told(format!("cannot be used: {error}")))
    }
}

fn empty_root() -> Result<TrustedRoot, AuthorityError> {
    TrustedRoot::from_json(r#"{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}"#)
        .map_err(|e| AuthorityError::TrustRoot { root: "(none)".to_owned(), reason: e.to_string() })
}

fn read_key(key: &PublicKey) -> Result<Key, String> {
    let der = DerPublicKey::from_pem(&key.pem).map_err(|e| e.to_string())?;
    // The key's own digest, never the id that the policy or the bundle gives it: one key under two
    // names is one signer.
    let id = format!("key {}", Digest::of(der.as_bytes()));
    let simple_signing = key.signature_algorithm.map(|_| PkixKey::read(key, id.clone())).transpose()?;
    Ok(Key { id, der, simple_signing })
}
