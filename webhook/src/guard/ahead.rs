//! Verifies ahead: every image that a Rollout of this cluster ships or goes back to has its Verdict
//! before the first pod asks, and keeps it while the registry is away. Writes only what changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use tidegate_pipelines::api::{Rollout, RolloutReason, VerdictDecision, VerdictSpec, verdict_name};
use tidegate_policies::digest::Digest;
use tidegate_policies::model::{Policy, Scope};
use tidegate_policies::verdict::Verdict;
use tokio::sync::watch;

use super::assess::{Assessor, Want, allows, key, last_allowed, named, verdict_object};
use super::cluster::Cluster;
use super::facts::InForce;
use super::finish;
use super::stable;
use crate::Now;

const FIRST_RETRY: SignedDuration = SignedDuration::from_secs(2);
const LAST_RETRY: SignedDuration = SignedDuration::from_secs(60);
/// What was denied for good is looked at again now and then: a registry's content does not change
/// under a digest, but what refers to it may be taken back.
const DENIED: SignedDuration = SignedDuration::from_secs(600);
/// One verification, whatever hangs.
const VERIFICATION: Duration = Duration::from_secs(60);
/// With nothing to do, look again after this long: expiries come without an event.
const IDLE: Duration = Duration::from_secs(30);
const AT_ONCE: usize = 4;
/// One look at a workload: without it, it is verified for any account.
const OWNER: Duration = Duration::from_secs(2);
/// A verdict that no Rollout needs: an `Allow` under the policy in force stays this long, since a
/// pod beside Tidegate may restart on it; any other goes after an hour.
const KEEP_ALLOW: SignedDuration = SignedDuration::from_hours(30 * 24);
const KEEP_OTHER: SignedDuration = SignedDuration::from_hours(1);

pub struct Ahead {
    cluster: Arc<dyn Cluster>,
    assessor: Arc<Assessor>,
    now: Now,
    attempts: HashMap<Digest, Attempt>,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    delay: SignedDuration,
    next: Timestamp,
}

impl Ahead {
    pub fn new(cluster: Arc<dyn Cluster>, assessor: Arc<Assessor>, now: Now) -> Self {
        Self { cluster, assessor, now, attempts: HashMap::new() }
    }

    /// Finishes what requests could not wait for, until dropped. A task of its own, beside [`Ahead::run`].
    pub fn finishing(&self) -> impl Future<Output = ()> + Send + 'static {
        let (cluster, assessor) = (self.cluster.clone(), self.assessor.clone());
        async move { finish::run(&*cluster, &assessor).await }
    }

    /// Works until dropped, or until nobody can change anything any more.
    pub async fn run(mut self, mut changes: watch::Receiver<u64>) {
        loop {
            changes.mark_unchanged();
            let wait = self.pass().await;
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Verifies what is due, drops what is done; how long nothing more is due.
    pub async fn pass(&mut self) -> Duration {
        let Ok(in_force) = self.cluster.in_force() else { return IDLE };
        let rollouts = self.cluster.rollouts(None);
        let mut wants = wanted(&rollouts);
        if accounts_matter(&in_force.policy) {
            self.fill_accounts(&mut wants, &rollouts).await;
        }
        self.drop_unneeded(&in_force, &wants).await;
        let now = (self.now)();
        let due: Vec<Want> = wants.iter().filter(|want| self.is_due(&in_force, want, now)).cloned().collect();
        let assessor = &self.assessor;
        let verified: Vec<(Want, Option<Verdict>)> = futures::stream::iter(due)
            .map(async |want| {
                let verdict = tokio::time::timeout(VERIFICATION, assessor.verify(&in_force, &want)).await;
                (want, verdict.ok())
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        for (want, verdict) in verified {
            self.settle(&in_force, &want, verdict).await;
        }
        self.until_due(&in_force, &wants)
    }

    fn is_due(&self, in_force: &InForce, want: &Want, now: Timestamp) -> bool {
        if self.attempts.get(&key(in_force, want)).is_some_and(|attempt| attempt.next > now) {
            return false;
        }
        match self.assessor.kept(in_force, want) {
            Some(kept) => !fits(in_force, &kept, want) || refresh_at(&kept).is_none_or(|at| at <= now) && !lasts(&kept),
            None => true,
        }
    }

    async fn settle(&mut self, in_force: &Arc<InForce>, want: &Want, verdict: Option<Verdict>) {
        let now = (self.now)();
        let retry_after = match &verdict {
            Some(verdict) if verdict.allows() => None,
            Some(verdict) if !verdict.retryable() => Some(DENIED),
            _ => Some(FIRST_RETRY),
        };
        let key = key(in_force, want);
        let written = match &verdict {
            Some(verdict) => self.write(in_force, want, verdict, now).await,
            None => Ok(()),
        };
        if let Err(error) = &written {
            tracing::warn!(%error, image = %want.image, "a verdict could not be written; again soon");
        }
        let delay = match (retry_after, written) {
            (None, Ok(())) => {
                // Until the cache shows what was written, it must not be verified again at once.
                self.attempts.insert(key, Attempt { delay: FIRST_RETRY, next: after(now, FIRST_RETRY) });
                return;
            }
            (Some(first), Ok(())) => first,
            (_, Err(_)) => FIRST_RETRY,
        };
        let before = self.attempts.get(&key).map_or(SignedDuration::ZERO, |attempt| attempt.delay);
        let delay = delay.max((before * 2).min(LAST_RETRY));
        self.attempts.insert(key, Attempt { delay, next: after(now, delay) });
    }

    async fn write(&self, in_force: &InForce, want: &Want, verdict: &Verdict, now: Timestamp) -> Result<(), String> {
        let Some((name, mut spec)) = verdict_object(in_force, want, verdict, now) else { return Ok(()) };
        if let Some(kept) = self.cluster.verdict(&name) {
            // Not knowing takes nothing back: an Allow stays until it expires, and remembers when it did.
            let knows_more = kept.decision == VerdictDecision::Allow && spec.decision == VerdictDecision::Error;
            if (knows_more && kept.image == spec.image) || !tells_more(&kept, &spec) {
                return Ok(());
            }
            if spec.decision != VerdictDecision::Allow {
                spec.last_allowed = match allows(&kept, now) {
                    true => Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now)),
                    false => last_allowed(&kept),
                };
            }
        }
        let level = format!("{:?}", spec.decision);
        tracing::info!(name, decision = level, summary = %spec.summary, "verdict");
        self.cluster.keep(&name, spec).await
    }

    async fn drop_unneeded(&mut self, in_force: &InForce, wants: &[Want]) {
        let now = (self.now)();
        let keys: BTreeSet<Digest> = wants.iter().map(|want| key(in_force, want)).collect();
        self.attempts.retain(|key, attempt| keys.contains(key) || attempt.next > now);
        let needed: BTreeSet<String> = wants.iter().filter_map(|want| name_of(in_force, want)).collect();
        for (name, kept) in self.cluster.verdicts() {
            let current = kept.policy_digest == in_force.policy_digest.as_str()
                && kept.trust_root_digest == in_force.trust_root_digest.as_str();
            let keep = match current && kept.decision == VerdictDecision::Allow {
                true => KEEP_ALLOW,
                false => KEEP_OTHER,
            };
            if needed.contains(&name) || now.duration_since(kept.verified_at.0) < keep {
                continue;
            }
            if let Err(error) = self.cluster.forget(&name).await {
                tracing::warn!(%error, name, "a verdict that nothing needs could not be deleted");
            }
        }
    }

    /// Check sets of service accounts apply: the workload says which account its pods have.
    async fn fill_accounts(&self, wants: &mut [Want], rollouts: &[Arc<Rollout>]) {
        let mut accounts: BTreeMap<String, Option<String>> = BTreeMap::new();
        for rollout in stable::current(rollouts) {
            let namespace = &rollout.spec.namespace;
            let owner = self.cluster.owner(namespace, "Deployment", &rollout.spec.workload.name);
            let owner = tokio::time::timeout(OWNER, owner).await.ok().and_then(Result::ok).flatten();
            let account = owner.map(|owner| {
                let name = owner.template.pointer("/spec/serviceAccountName").and_then(|name| name.as_str());
                name.filter(|name| !name.is_empty()).unwrap_or("default").to_owned()
            });
            let held = stable::images(&rollout);
            let images = rollout.spec.images.iter().chain(held);
            for image in images {
                accounts.insert(format!("{namespace} {}", image.reference()), account.clone());
            }
        }
        for want in wants {
            let reference = format!("{} {}", want.scope.namespace, want.image);
            want.scope.service_account = accounts.get(&reference).cloned().flatten();
        }
    }

    fn until_due(&self, in_force: &InForce, wants: &[Want]) -> Duration {
        let now = (self.now)();
        let next = wants.iter().filter_map(|want| self.attempts.get(&key(in_force, want))).map(|attempt| attempt.next);
        let soonest = next.filter(|next| *next > now).min();
        let wait = soonest.and_then(|next| Duration::try_from(next.duration_since(now)).ok());
        wait.unwrap_or(IDLE).clamp(Duration::from_millis(100), IDLE)
    }
}

/// Every image that a Rollout needs now: what is shipped, and what is stable or gone back to.
pub fn wanted(rollouts: &[Arc<Rollout>]) -> Vec<Want> {
    let mut current = stable::current(rollouts);
    // The newest speaks first where two name one image.
    current.sort_by_key(|rollout| std::cmp::Reverse(rollout.metadata.creation_timestamp.as_ref().map(|time| time.0)));
    let mut wants: BTreeMap<(String, String), Want> = BTreeMap::new();
    for rollout in &current {
        let spec = &rollout.spec;
        let revision = spec.revision.clone().filter(|_| spec.reason == RolloutReason::Ship);
        let ships = !stable::ended(rollout);
        let shipped = spec.images.iter().filter(|_| ships).map(|image| (image, revision.clone()));
        let held = stable::images(rollout).into_iter().map(|image| {
            let own = spec.images.contains(image);
            (image, revision.clone().filter(|_| own))
        });
        for (image, revision) in shipped.chain(held) {
            let reference = image.reference();
            let Ok(parsed) = reference.parse() else {
                tracing::warn!(reference, "a Rollout names what is no image reference");
                continue;
            };
            let scope = Scope { namespace: spec.namespace.clone(), service_account: None };
            let want = Want { image: parsed, scope, revision };
            wants.entry((spec.namespace.clone(), reference)).or_insert(want);
        }
    }
    wants.into_values().collect()
}

fn accounts_matter(policy: &Policy) -> bool {
    let scopes = policy.check_sets.iter().filter_map(|set| set.scope.as_ref());
    scopes.into_iter().any(|scope| scope.kubernetes_service_account.is_some())
}

fn name_of(in_force: &InForce, want: &Want) -> Option<String> {
    let image = named(want)?;
    let (policy, roots) = (in_force.policy_digest.as_str(), in_force.trust_root_digest.as_str());
    Some(verdict_name(&image, policy, roots, &want.scope.namespace))
}

/// Whether an `Allow` also answers for the revision that this rollout ships.
fn fits(in_force: &InForce, kept: &VerdictSpec, want: &Want) -> bool {
    let Some(revision) = &want.revision else { return true };
    if kept.decision != VerdictDecision::Allow {
        return true;
    }
    match &kept.revision {
        Some(verified) => verified == revision,
        None => {
            let checks = in_force.policy.check_set(&want.scope).into_iter().flat_map(|set| &set.checks);
            !checks.into_iter().any(|check| check.slsa_check.as_ref().is_some_and(|slsa| slsa.require_revision))
        }
    }
}

/// An `Allow` that never expires needs no second look.
fn lasts(kept: &VerdictSpec) -> bool {
    kept.decision == VerdictDecision::Allow && kept.expires_at.is_none()
}

/// When a kept verdict should be looked at again; `None`: as soon as its backoff lets it.
fn refresh_at(kept: &VerdictSpec) -> Option<Timestamp> {
    let expires = kept.expires_at.as_ref().filter(|_| kept.decision == VerdictDecision::Allow)?.0;
    let life = expires.duration_since(kept.verified_at.0);
    // In its last fifth, so that an outage of the registry finds it fresh.
    expires.checked_sub(life / 5).ok()
}

/// Whether `new` says anything that `kept` does not. Texts of errors change with every try
/// (durations, addresses): only which checks err counts.
fn tells_more(kept: &VerdictSpec, new: &VerdictSpec) -> bool {
    let mut same = new.clone();
    same.verified_at = kept.verified_at.clone();
    same.last_allowed = kept.last_allowed.clone();
    if same == *kept {
        return false;
    }
    let outcomes = |spec: &VerdictSpec| spec.checks.iter().map(|c| (c.name.clone(), c.outcome)).collect::<Vec<_>>();
    let errors = kept.decision == VerdictDecision::Error && new.decision == VerdictDecision::Error;
    !(errors && kept.image == new.image && outcomes(kept) == outcomes(new))
}

fn after(now: Timestamp, delay: SignedDuration) -> Timestamp {
    now.checked_add(delay).unwrap_or(Timestamp::MAX)
}
