//! Fetch, evidence, decide: the whole verification of one image. Never trusts annotations, labels
//! or anything else that the request carries; only what it fetched and verified itself.

mod collect;
mod kept;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;

use crate::decide::{self, Digests, Subject};
use crate::digest::Digest;
use crate::evidence::{Authorities, Evidence};
use crate::image::ImageRef;
use crate::model::{Attestor, Policy, Scope, TrustRoot, trust_root_digest};
use crate::registry::Fetch;
use crate::verdict::{Decision, Verdict};

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

/// Verifies images. Concurrent requests for the same question are one verification; what was
/// allowed is kept, errors and denials are asked anew.
pub struct Verifier {
    fetch: Arc<dyn Fetch>,
    deadline: Duration,
    room: collect::Room,
    kept: kept::Kept,
}

impl Verifier {
    /// Longer than a registry at its worst, shorter than the patience of a reconcile.
    const DEADLINE: Duration = Duration::from_secs(20);

    pub fn new(fetch: Arc<dyn Fetch>) -> Self {
        Self { fetch, deadline: Self::DEADLINE, room: collect::Room::default(), kept: kept::Kept::default() }
    }

    /// The whole of one verification; an API server waits at most 30 s for an admission webhook,
    /// and less by default.
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// What all verifications together may hold of large attachments that are not read yet; 512 MiB at most.
    pub fn with_room(self, mib: u32) -> Self {
        Self { room: collect::Room::new(mib), ..self }
    }

    /// The registry access that this verifier uses, to resolve tags with.
    pub fn fetch(&self) -> &Arc<dyn Fetch> {
        &self.fetch
    }

    pub async fn verify(&self, request: VerifyRequest<'_>) -> Verdict {
        let digests = Digests {
            policy: request.policy.digest(request.attestors),
            trust_root: trust_root_digest(request.policy, request.attestors, request.trust_roots),
        };
        let Some(digest) = request.image.digest.clone() else {
            // Its own digest stands in: a verdict always names one, and this one exists nowhere.
            let digest = Digest::of(request.image.to_string().as_bytes());
            let subject =
                Subject { image: &request.image, digest: &digest, scope: &request.scope, expected_revision: None };
            return Verdict {
                image: request.image.clone(),
                ..decide::error(subject, &digests, "digest", "the image has no digest: resolve its tag first")
            };
        };
        let subject = Subject {
            image: &request.image,
            digest: &digest,
            scope: &request.scope,
            expected_revision: request.expected_revision.as_deref(),
        };
        if let Err(errors) = request.policy.validate() {
            let all: Vec<String> = errors.iter().take(5).map(ToString::to_string).collect();
            return decide::error(subject, &digests, "policy", format!("the policy is invalid: {}", all.join("; ")));
        }
        if let Some(verdict) = decide::decide_without_evidence(request.policy, subject, &digests) {
            return verdict;
        }
        let check_set = request.policy.check_set(&request.scope).map(|s| s.display_name.as_str()).unwrap_or_default();
        let key = verdict_key(
            &request.image,
            &digests.policy,
            &digests.trust_root,
            check_set,
            request.expected_revision.as_deref(),
        );
        self.kept.get_or(key, request.now, || self.examine(&request, subject, &digests)).await
    }

    async fn examine(&self, request: &VerifyRequest<'_>, subject: Subject<'_>, digests: &Digests) -> Verdict {
        let names: BTreeSet<&str> = request
            .policy
            .check_set(&request.scope)
            .into_iter()
            .flat_map(|set| &set.checks)
            .flat_map(|check| check.attestors())
            .map(String::as_str)
            .collect();
        let authorities = Authorities::prepare(names, request.attestors, request.trust_roots);
        let location = request.policy.locate(&request.image);
        let collected = collect::collect(&*self.fetch, &location, subject.digest, authorities, &self.room);
        // Whoever names an image chooses these bytes: what they break here must not take the caller's task along.
        let collected = AssertUnwindSafe(collected).catch_unwind();
        let evidence = match tokio::time::timeout(self.deadline, collected).await {
            Ok(Ok(evidence)) => evidence,
            Ok(Err(_)) => {
                let message = format!("what {location} answered broke the verification: a fault of Tidegate's own");
                return decide::error(subject, digests, "registry", message);
            }
            Err(_) => {
                let message = format!(
                    "fetching evidence from {location} took longer than {} s: see whether the registry answers",
                    self.deadline.as_secs()
                );
                return decide::error(subject, digests, "registry", message);
            }
        };
        match judge(request, subject.digest, evidence, digests).await {
            Ok(verdict) => verdict,
            // What could not be judged to its end is not known.
            Err(error) => decide::error(subject, digests, "policy", format!("it could not be judged: {error}")),
        }
    }
}

/// Off the async threads: a long SBOM against many bans takes its time.
async fn judge(
    request: &VerifyRequest<'_>,
    digest: &Digest,
    evidence: Evidence,
    digests: &Digests,
) -> Result<Verdict, tokio::task::JoinError> {
    let (policy, image, scope) = (request.policy.clone(), request.image.clone(), request.scope.clone());
    let (digest, digests, revision) = (digest.clone(), digests.clone(), request.expected_revision.clone());
    tokio::task::spawn_blocking(move || {
        let subject = Subject { image: &image, digest: &digest, scope: &scope, expected_revision: revision.as_deref() };
        let verdict = decide::decide(&policy, subject, &evidence, &digests);
        tracing::debug!(%image, decision = %verdict.decision, "verified");
        verdict
    })
    .await
}

impl Verdict {
    /// Only a yes is kept: a no may turn into a yes with the next signature, and an error says
    /// nothing.
    fn is_keepable(&self, now: Timestamp) -> bool {
        self.decision == Decision::Allow && self.expires.is_none_or(|at| now < at)
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
