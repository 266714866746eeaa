//! Fetch, evidence, decide: the whole verification of one image. Never trusts annotations, labels
//! or anything else that the request carries; only what it fetched and verified itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::digest::Digest;
use crate::image::ImageRef;
use crate::model::{Attestor, Policy, Scope, TrustRoot, trust_root_digest};
use crate::registry::Fetch;
use crate::verdict::{CheckResult, Decision, Outcome, Verdict};

/// What is to be verified, under what.
#[derive(Clone, Debug)]
pub struct VerifyRequest<'a> {
    /// By digest; without one the verdict is an `Error`.
    pub image: ImageRef,
    pub policy: &'a Policy,
    pub attestors: &'a BTreeMap<String, Attestor>,
    pub trust_roots: &'a BTreeMap<String, TrustRoot>,
    pub scope: Scope,
    /// The source revision that the build event names, for provenance checks.
    pub expected_revision: Option<String>,
    pub now: Timestamp,
}

pub struct Verifier {
    fetch: Arc<dyn Fetch>,
}

impl Verifier {
    pub fn new(fetch: Arc<dyn Fetch>) -> Self {
        Self { fetch }
    }

    /// The registry access that this verifier uses, to resolve tags with.
    pub fn fetch(&self) -> &Arc<dyn Fetch> {
        &self.fetch
    }

    pub async fn verify(&self, request: VerifyRequest<'_>) -> Verdict {
        Verdict {
            decision: Decision::Error,
            check_set: String::new(),
            checks: vec![CheckResult {
                name: "verification".into(),
                outcome: Outcome::Error,
                message: "not yet".into(),
                evidence: vec![],
                retryable: true,
            }],
            policy_digest: request.policy.digest(request.attestors),
            trust_root_digest: trust_root_digest(request.policy, request.attestors, request.trust_roots),
            revision: None,
            expires: None,
            image: request.image,
        }
    }
}

/// What a verdict is kept under, in memory and as an object's name: everything the answer depends
/// on. The scope enters through the check set it selects.
pub fn verdict_key(
    image: &ImageRef,
    policy_digest: &Digest,
    trust_root_digest: &Digest,
    check_set: &str,
    expected_revision: Option<&str>,
) -> Digest {
    let digest = image.digest.as_ref().map(Digest::as_str).unwrap_or_default();
    let parts = [
        image.repository_path(),
        digest.to_owned(),
        policy_digest.to_string(),
        trust_root_digest.to_string(),
        check_set.to_owned(),
        expected_revision.unwrap_or_default().to_owned(),
    ];
    // Length-prefixed, so that no two lists of parts join to the same bytes.
    let joined: String = parts.iter().map(|part| format!("{}:{part}", part.len())).collect();
    Digest::of(joined.as_bytes())
}
