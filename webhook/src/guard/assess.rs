//! How a digest stands: from the Verdicts this cluster keeps, else by verifying it now, within a
//! budget. Only an `Allow` is ever kept as an answer. Single flight is the verifier's business.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tidegate_pipelines::api::{VerdictCheck, VerdictDecision, VerdictSpec, verdict_name};
use tidegate_policies::digest::Digest;
use tidegate_policies::image::ImageRef;
use tidegate_policies::model::Scope;
use tidegate_policies::verdict::{Decision, Outcome, Verdict};
use tidegate_policies::verifier::{Verifier, VerifyRequest, verdict_key};

use super::backlog::{Offered, PER_NAMESPACE, Resting};
use super::cluster::Cluster;
use super::facts::{InForce, Judged};
use super::finish::Unfinished;
use super::metrics::{Metrics, UnfinishedLabels};
use super::places::Places;
use crate::Now;

/// An image to verify for a namespace (and, where a check set is a service account's, for that).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Want {
    /// By digest.
    pub image: ImageRef,
    pub scope: Scope,
    pub revision: Option<String>,
}

/// What a request waits with the API server's usual deadline, about.
const PATIENCE: Duration = Duration::from_secs(4);

/// What one look found.
#[derive(Clone, Debug)]
pub struct Assessment {
    pub judged: Judged,
    /// When an `Allow` under the same policy ran out.
    pub expired: Option<Timestamp>,
}

pub struct Assessor {
    cluster: Arc<dyn Cluster>,
    verifier: Arc<Verifier>,
    now: Now,
    /// What did not finish in a request's time is finished from there.
    unfinished: Unfinished,
    places: Places,
    metrics: Metrics,
    patience: Duration,
}

impl Assessor {
    pub fn new(cluster: Arc<dyn Cluster>, verifier: Arc<Verifier>, now: Now, metrics: Metrics) -> Self {
        let (unfinished, places) = (Unfinished::default(), Places::default());
        Self { cluster, verifier, now, unfinished, places, metrics, patience: PATIENCE }
    }

    /// What took longer for nothing rests before it is tried again: no request would have seen its end.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    pub fn now(&self) -> Timestamp {
        (self.now)()
    }

    pub(super) fn unfinished(&self) -> &Unfinished {
        &self.unfinished
    }

    /// What is kept about this image, without asking anybody: `None` if nothing is.
    pub fn kept(&self, in_force: &InForce, want: &Want) -> Option<Arc<tidegate_pipelines::api::VerdictSpec>> {
        let digest = want.image.digest.as_ref()?.as_str();
        let (policy, roots) = (in_force.policy_digest.as_str(), in_force.trust_root_digest.as_str());
        let namespace = want.scope.namespace.as_str();
        let image = named(want)?;
        let kept = self.cluster.verdict(&verdict_name(&image, policy, roots, namespace))?;
        let same = kept.digest == digest
            && kept.policy_digest == policy
            && kept.trust_root_digest == roots
            && kept.namespace == namespace
            && kept.image == image
            && speaks_for(in_force, &kept, want);
        same.then_some(kept)
    }

    /// How the image stands, within `budget`. `keep` is false for a dry run.
    pub async fn assess(&self, in_force: &Arc<InForce>, want: &Want, budget: Duration, keep: bool) -> Assessment {
        let now = (self.now)();
        let expired = match self.kept(in_force, want) {
            None => None,
            Some(kept) if allows(&kept, now) => return Assessment { judged: Judged::Allow, expired: None },
            Some(kept) => last_allowed(&kept).map(|time| time.0),
        };
        let key = key(in_force, want);
        if let Some(resting) = self.unfinished.rests(&key, want, now).await {
            let told = self.goes_on(Offered::Rests(resting));
            return Assessment { judged: Judged::Error(format!("{} {told}", want.image)), expired };
        }
        let verified = async {
            let _place = self.places.enter(&want.scope.namespace).await;
            self.verify(in_force, want).await
        };
        let Ok(verdict) = tokio::time::timeout(budget, verified).await else {
            // A dry run leaves nothing behind.
            let goes_on = match keep {
                true => format!("; it {}", self.later(in_force, want).await),
                false => ": try again".to_owned(),
            };
            let text = format!("{} could not be verified within {} ms{goes_on}", want.image, budget.as_millis());
            return Assessment { judged: Judged::Error(text), expired };
        };
        if verdict.decision != Decision::Error {
            self.unfinished.answered(key, want).await;
        }
        if verdict.allows() && keep {
            self.keep(in_force, want, &verdict).await;
        }
        Assessment { judged: judged(&verdict), expired }
    }

    /// Verifies now.
    pub async fn verify(&self, in_force: &InForce, want: &Want) -> Verdict {
        let request = VerifyRequest {
            image: want.image.clone(),
            policy: &in_force.policy,
            attestors: &in_force.attestors,
            trust_roots: &in_force.trust_roots,
            scope: want.scope.clone(),
            expected_revision: want.revision.clone(),
            now: (self.now)(),
        };
        self.verifier.verify(request).await
    }

    async fn keep(&self, in_force: &InForce, want: &Want, verdict: &Verdict) {
        let Some((name, spec)) = verdict_object(in_force, want, verdict, (self.now)()) else { return };
        // Another image or check set under this name, or a Deny (a rollout asks more than a pod: its
        // event's revision): the object is theirs, ours stays in memory.
        let theirs = self.cluster.verdict(&name).is_some_and(|kept| {
            kept.decision == VerdictDecision::Deny || kept.image != spec.image || kept.check_set != spec.check_set
        });
        if theirs {
            return;
        }
        if let Err(error) = self.cluster.keep(&name, spec).await {
            tracing::warn!(%error, name, "a verdict could not be kept; it is remembered until a restart");
        }
    }

    /// Leaves it to be finished when it has its turn; what becomes of it, for people.
    pub async fn later(&self, in_force: &InForce, want: &Want) -> String {
        let offered = self.unfinished.offer(key(in_force, want), want, (self.now)()).await;
        self.goes_on(offered)
    }

    fn goes_on(&self, offered: Offered) -> String {
        let (outcome, told) = match offered {
            Offered::Waits => ("waits", "is verified further in its turn: try again".to_owned()),
            Offered::NamespaceFull => {
                let why = format!("{PER_NAMESPACE} images of this namespace wait for that already");
                ("dropped", format!("is verified no further now, since {why}: try again in a minute"))
            }
            Offered::Full => {
                let why = "too many images of all namespaces wait for that already";
                ("dropped", format!("is verified no further now, since {why}: try again in a minute"))
            }
            Offered::Rests(Resting { left, why }) => {
                let seconds = left.as_secs() + 1;
                ("rests", format!("is verified no further now: try again in {seconds} s; lately it {why}"))
            }
        };
        self.metrics.unfinished.get_or_create(&UnfinishedLabels { outcome }).inc();
        told
    }

    /// Verifies what a request could not wait for, and keeps it if it allows; `None` if that is done already.
    pub async fn finish(&self, in_force: &InForce, want: &Want) -> Option<Verdict> {
        if self.kept_allow(in_force, want) {
            return None;
        }
        let verdict = self.verify(in_force, want).await;
        if verdict.allows() {
            self.keep(in_force, want, &verdict).await;
        }
        Some(verdict)
    }

    /// Whether it is let in without asking any registry.
    pub fn kept_allow(&self, in_force: &InForce, want: &Want) -> bool {
        self.kept(in_force, want).is_some_and(|kept| allows(&kept, (self.now)()))
    }

    /// What a tag names now, for a pod of this namespace.
    pub async fn resolve(
        &self,
        in_force: &InForce,
        namespace: &str,
        image: &ImageRef,
        budget: Duration,
    ) -> Result<Digest, String> {
        let at = in_force.policy.locate(image);
        let resolved = async {
            let _place = self.places.enter(namespace).await;
            self.verifier.fetch().resolve(&at, image).await
        };
        match tokio::time::timeout(budget, resolved).await {
            Ok(Ok(digest)) => Ok(digest),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} ms", budget.as_millis())),
        }
    }
}

pub fn key(in_force: &InForce, want: &Want) -> Digest {
    let set = check_set(in_force, &want.scope);
    let (policy, roots) = (&in_force.policy_digest, &in_force.trust_root_digest);
    verdict_key(&want.image, policy, roots, set, want.revision.as_deref())
}

fn check_set<'a>(in_force: &'a InForce, scope: &Scope) -> &'a str {
    in_force.policy.check_set(scope).map(|set| set.display_name.as_str()).unwrap_or_default()
}

/// Whether the check set of that verdict is the one that is evaluated for this pod. A verdict
/// without a check set rests on the policy's own allowlist, which holds for every pod.
fn speaks_for(in_force: &InForce, kept: &VerdictSpec, want: &Want) -> bool {
    kept.check_set.is_empty() || kept.check_set == check_set(in_force, &want.scope)
}

pub fn judged(verdict: &Verdict) -> Judged {
    match verdict.decision {
        Decision::Allow => Judged::Allow,
        Decision::Deny => Judged::Deny(verdict.summary()),
        Decision::Error => Judged::Error(verdict.summary()),
    }
}

/// Whether this verdict lets the image in now.
pub fn allows(kept: &VerdictSpec, now: Timestamp) -> bool {
    kept.decision == VerdictDecision::Allow && kept.expires_at.as_ref().is_none_or(|at| at.0 > now)
}

/// Until when a verdict that allows no more did allow.
pub fn last_allowed(kept: &VerdictSpec) -> Option<Time> {
    match kept.decision {
        VerdictDecision::Allow => kept.expires_at.clone(),
        _ => kept.last_allowed.clone(),
    }
}

/// `repository@digest`, as a Verdict names it.
pub fn named(want: &Want) -> Option<String> {
    let digest = want.image.digest.as_ref()?;
    Some(format!("{}@{digest}", want.image.repository_path()))
}

/// The object under which a verdict is kept, and its name.
pub fn verdict_object(
    in_force: &InForce,
    want: &Want,
    verdict: &Verdict,
    now: Timestamp,
) -> Option<(String, VerdictSpec)> {
    let digest = want.image.digest.as_ref()?.to_string();
    let (policy_digest, trust_root_digest) =
        (in_force.policy_digest.to_string(), in_force.trust_root_digest.to_string());
    let namespace = want.scope.namespace.clone();
    let image = named(want)?;
    let name = verdict_name(&image, &policy_digest, &trust_root_digest, &namespace);
    let checks = verdict.checks.iter().take(64).map(|check| VerdictCheck {
        name: cut(&check.name, 256),
        outcome: match check.outcome {
            Outcome::Passed | Outcome::DryRun => VerdictDecision::Allow,
            Outcome::Failed => VerdictDecision::Deny,
            Outcome::Error => VerdictDecision::Error,
        },
        message: cut(&check.message, 1024),
        evidence: check.evidence.iter().take(32).cloned().collect(),
    });
    let spec = VerdictSpec {
        image,
        checks: checks.collect(),
        digest,
        policy_digest,
        trust_root_digest,
        namespace,
        check_set: verdict.check_set.clone(),
        decision: match verdict.decision {
            Decision::Allow => VerdictDecision::Allow,
            Decision::Deny => VerdictDecision::Deny,
            Decision::Error => VerdictDecision::Error,
        },
        summary: cut(&verdict.summary(), 1024),
        revision: verdict.revision.clone(),
        verified_at: Time(now),
        expires_at: verdict.expires.map(Time),
        last_allowed: None,
    };
    Some((name, spec))
}

/// At most `limit` characters, as the API server counts them.
pub fn cut(text: &str, limit: usize) -> String {
    text.chars().take(limit).collect()
}
