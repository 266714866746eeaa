//! The hub's own findings: each image of a release under the policy of each environment. Asks the
//! verifier, remembers for a while, and paces what is asked again. Never decides anything itself.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use tidegate_pipelines::api::policy::{attestors, trust_roots};
use tidegate_pipelines::api::{Release, VerdictDecision};
use tidegate_pipelines::release::{Finding, target_namespace};
use tidegate_policies::image::ImageRef;
use tidegate_policies::model::{Attestor, Policy, Scope, TrustRoot, trust_root_digest};
use tidegate_policies::verdict::{Decision, Verdict};
use tidegate_policies::verifier::{Verifier, VerifyRequest};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Hub;

/// An Allow is asked for again after this long: what it rests on may have expired.
const ALLOW_KEPT: Duration = Duration::from_secs(600);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Everything that an answer depends on. A new attempt asks anew.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    release: String,
    attempt: u32,
    /// In which it will run: its check set. A further attempt takes the pipeline anew, and so perhaps another one.
    namespace: String,
    policy: String,
    trust: String,
}

struct Answer {
    finding: Finding,
    at: Instant,
    tries: u32,
}

impl Answer {
    /// When it is worth asking again.
    fn stale_at(&self) -> Option<Instant> {
        match (self.finding.decision, self.finding.retryable) {
            (VerdictDecision::Allow, _) => Some(self.at + ALLOW_KEPT),
            (VerdictDecision::Deny, false) => None,
            _ => {
                let pause = FIRST_PAUSE.saturating_mul(1 << self.tries.min(8)).min(LONGEST_PAUSE);
                Some(self.at + pause)
            }
        }
    }
}

pub struct Verdicts {
    pub verifier: Arc<Verifier>,
    kept: Mutex<HashMap<Question, Answer>>,
}

/// What is known, and when to ask again.
#[derive(Debug, Default)]
pub struct Findings {
    pub by_environment: BTreeMap<String, Finding>,
    pub again_after: Option<Duration>,
}

struct InForce {
    attestors: BTreeMap<String, Attestor>,
    trust_roots: BTreeMap<String, TrustRoot>,
}

impl InForce {
    fn now(hub: &Hub) -> Self {
        InForce {
            attestors: attestors(hub.index.attestors.state().iter().map(Arc::as_ref)),
            trust_roots: trust_roots(hub.index.trust_roots.state().iter().map(Arc::as_ref)),
        }
    }
}

impl Question {
    fn of(release: &Release, policy: &Policy, in_force: &InForce) -> Self {
        Question {
            release: release.uid().unwrap_or_default(),
            attempt: release.spec.attempt,
            namespace: target_namespace(&release.spec.snapshot, &release.namespace().unwrap_or_default()).to_owned(),
            policy: policy.digest(&in_force.attestors).to_string(),
            trust: trust_root_digest(policy, &in_force.attestors, &in_force.trust_roots).to_string(),
        }
    }
}

impl Verdicts {
    pub fn new(verifier: Arc<Verifier>) -> Self {
        Verdicts { verifier, kept: Mutex::default() }
    }

    /// Findings for every environment of the release that exists. Environments under one policy
    /// share one verification.
    pub async fn of(&self, hub: &Hub, release: &Release) -> Findings {
        let in_force = InForce::now(hub);
        let mut findings = Findings::default();
        for environment in environments_of(release) {
            let environment = &environment;
            let Some(object) = hub.index.environments.get(&ObjectRef::new(environment)) else { continue };
            let name = &object.spec.policy;
            let policy = hub.index.policies.get(&ObjectRef::new(name)).filter(|p| !p.spec.withdrawn);
            let finding = match policy {
                Some(policy) => {
                    self.finding(hub, release, &policy.spec.policy, &in_force, &mut findings.again_after).await
                }
                // Told anew by the watch when it comes.
                None => unknown(format!("there is no VerificationPolicy '{name}'")),
            };
            findings.by_environment.insert(environment.clone(), finding);
        }
        findings
    }

    /// What is known already under the policies now in force, without asking anyone.
    pub async fn kept(&self, hub: &Hub, release: &Release) -> Findings {
        let in_force = InForce::now(hub);
        let kept = self.kept.lock().await;
        let mut findings = Findings::default();
        for environment in &environments_of(release) {
            let object = hub.index.environments.get(&ObjectRef::new(environment));
            let policy = object.and_then(|o| hub.index.policies.get(&ObjectRef::new(&o.spec.policy)));
            let Some(policy) = policy.filter(|p| !p.spec.withdrawn) else { continue };
            if let Some(answer) = kept.get(&Question::of(release, &policy.spec.policy, &in_force)) {
                findings.by_environment.insert(environment.clone(), answer.finding.clone());
            }
        }
        findings
    }

    async fn finding(
        &self,
        hub: &Hub,
        release: &Release,
        policy: &Policy,
        in_force: &InForce,
        again: &mut Option<Duration>,
    ) -> Finding {
        let question = Question::of(release, policy, in_force);
        let now = Instant::now();
        let mut tries = 0;
        if let Some(answer) = self.kept.lock().await.get(&question) {
            match answer.stale_at() {
                Some(at) if at <= now => tries = answer.tries + 1,
                Some(at) => {
                    if answer.finding.decision != VerdictDecision::Allow {
                        sooner(again, at - now);
                    }
                    return answer.finding.clone();
                }
                None => return answer.finding.clone(),
            }
        }
        let finding = self.ask(hub, release, policy, in_force).await;
        let answer = Answer { finding: finding.clone(), at: Instant::now(), tries };
        if finding.decision != VerdictDecision::Allow
            && let Some(at) = answer.stale_at()
        {
            sooner(again, at.saturating_duration_since(Instant::now()));
        }
        let mut kept = self.kept.lock().await;
        // Bounded: what is oldest is asked again should it ever be needed.
        if kept.len() >= 4096
            && let Some(oldest) = kept.iter().min_by_key(|(_, a)| a.at).map(|(q, _)| q.clone())
        {
            kept.remove(&oldest);
        }
        kept.insert(question, answer);
        finding
    }

    async fn ask(&self, hub: &Hub, release: &Release, policy: &Policy, in_force: &InForce) -> Finding {
        let namespace = release.namespace().unwrap_or_default();
        let scope =
            Scope { namespace: target_namespace(&release.spec.snapshot, &namespace).to_owned(), service_account: None };
        let mut asked: Vec<BoxFuture<'_, Finding>> = Vec::new();
        for image in &release.spec.images {
            let reference = image.reference();
            let scope = scope.clone();
            asked.push(
                async move {
                    let parsed: ImageRef = match reference.parse() {
                        Ok(parsed) => parsed,
                        Err(error) => return unknown(format!("{reference}: {error}")),
                    };
                    let request = VerifyRequest {
                        image: parsed,
                        policy,
                        attestors: &in_force.attestors,
                        trust_roots: &in_force.trust_roots,
                        scope,
                        expected_revision: release.spec.revision.clone(),
                        now: hub.clock.now(),
                    };
                    judged(&self.verifier.verify(request).await)
                }
                .boxed(),
            );
        }
        combined(futures::future::join_all(asked).await)
    }
}

fn environments_of(release: &Release) -> Vec<String> {
    release.spec.snapshot.stages.iter().flat_map(|s| &s.environments).cloned().collect()
}

fn sooner(known: &mut Option<Duration>, candidate: Duration) {
    *known = Some(known.map_or(candidate, |k| k.min(candidate)));
}

fn unknown(reason: String) -> Finding {
    Finding { decision: VerdictDecision::Error, reasons: vec![reason], retryable: true }
}

fn judged(verdict: &Verdict) -> Finding {
    use tidegate_policies::verdict::Outcome;
    let decision = match verdict.decision {
        Decision::Allow => VerdictDecision::Allow,
        Decision::Deny => VerdictDecision::Deny,
        Decision::Error => VerdictDecision::Error,
    };
    let failed = verdict.checks.iter().filter(|c| matches!(c.outcome, Outcome::Failed | Outcome::Error));
    let mut reasons: Vec<String> = failed.map(|c| format!("{}: {}", c.name, c.message)).collect();
    if reasons.is_empty() && decision != VerdictDecision::Allow {
        reasons.push(verdict.summary());
    }
    Finding { decision, reasons, retryable: verdict.retryable() }
}

/// All images must be allowed; the worst speaks for all. A final no is not softened by an error.
fn combined(findings: Vec<Finding>) -> Finding {
    let of = |decision| findings.iter().filter(move |f| f.decision == decision);
    let decision = match () {
        () if of(VerdictDecision::Deny).next().is_some() => VerdictDecision::Deny,
        () if of(VerdictDecision::Error).next().is_some() || findings.is_empty() => VerdictDecision::Error,
        () => VerdictDecision::Allow,
    };
    let retryable = of(decision).all(|f| f.retryable);
    let reasons = of(decision).flat_map(|f| f.reasons.clone()).collect();
    Finding { decision, reasons, retryable }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(decision: VerdictDecision, retryable: bool) -> Finding {
        Finding { decision, reasons: vec![format!("{decision:?}")], retryable }
    }

    #[test]
    fn the_worst_image_speaks_for_the_release() {
        use VerdictDecision::*;
        for (given, expected, retryable) in [
            (vec![(Allow, false), (Allow, false)], Allow, false),
            (vec![(Allow, false), (Error, true)], Error, true),
            (vec![(Error, true), (Deny, true)], Deny, true),
            (vec![(Deny, true), (Deny, false)], Deny, false),
            (vec![], Error, true),
        ] {
            let all = combined(given.iter().map(|(d, r)| finding(*d, *r)).collect());
            assert_eq!((all.decision, all.retryable), (expected, retryable), "{given:?}");
        }
    }
}
