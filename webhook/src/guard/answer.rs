//! One admission review from request to response: gather, decide, record. Answers everything within
//! the API server's own deadline, so that a refusal carries a reason; what cannot be read is refused.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse};
use tokio::time::Instant;

use super::assess::Assessor;
use super::cluster::Cluster;
use super::decide::{Answer, Questions, Reason, decide, questions, refused_anyway};
use super::facts::{Chain, Facts};
use super::gather::Gatherer;
use super::metrics::{ExceptionLabels, Labels, Metrics};
use super::review::{Review, Subject};
use crate::Now;

/// We answer this much before the API server stops waiting.
const MARGIN: Duration = Duration::from_millis(500);
/// Gathering ends this much before our answer is due, so that it says what was missing.
const DECIDE: Duration = Duration::from_millis(200);
/// Longer warnings are cut by the API server, in the middle of a word.
const WARNING: usize = 256;
/// Findings that one message tells.
const TOLD: usize = 16;

#[derive(Clone, Debug)]
pub struct Settings {
    pub environment: String,
    /// Namespaces that are not judged, by name; never by a label that a tenant can set.
    pub excluded: BTreeSet<String>,
    /// How long a verdict that expired still lets the stable digest restart.
    pub restart_grace: SignedDuration,
    /// What the API server waits, unless its request says otherwise.
    pub timeout: Duration,
}

/// A decision, for the ledger.
#[derive(Clone, Debug)]
pub struct Decided {
    pub at: Timestamp,
    pub title: String,
    pub user: String,
    pub answer: Answer,
    pub policy: Option<(String, String)>,
    pub dry_run: bool,
}

/// Where decisions go.
pub trait Recorder: Send + Sync {
    fn decided(&self, decided: &Decided);
}

pub struct Guard {
    pub cluster: Arc<dyn Cluster>,
    pub assessor: Arc<Assessor>,
    pub settings: Settings,
    pub now: Now,
    pub metrics: Metrics,
    pub recorder: Arc<dyn Recorder>,
}

impl Guard {
    /// The response to one request; `timeout` is what the API server says it waits.
    pub async fn respond(
        &self,
        request: AdmissionRequest<DynamicObject>,
        timeout: Option<Duration>,
    ) -> AdmissionResponse {
        let started = Instant::now();
        let response = AdmissionResponse::from(&request);
        let budget = timeout.unwrap_or(self.settings.timeout).min(Duration::from_secs(30)).saturating_sub(MARGIN);
        let dry_run = request.dry_run;
        let (user, name) = (request.user_info.username.clone().unwrap_or_default(), request.name.clone());
        let (decided, policy) = match Review::of(request) {
            Err(error) => {
                let answer = Answer::refuse(Reason::Malformed, error.to_string());
                (Some((format!("{name} (unreadable)"), answer)), None)
            }
            Ok(review) => {
                let title = review.title.clone();
                let answered = tokio::time::timeout(budget, self.decide(&review, dry_run, started + budget)).await;
                match answered {
                    Ok((answer, policy)) => (answer.map(|answer| (title, answer)), policy),
                    Err(_) => {
                        let text = format!("no decision within {} ms; try again", budget.as_millis());
                        (Some((title, Answer::refuse(Reason::Deadline, text))), None)
                    }
                }
            }
        };
        self.metrics.seconds.observe(started.elapsed().as_secs_f64());
        let Some((title, answer)) = decided else {
            self.count(&Answer::allow());
            return response;
        };
        self.count(&answer);
        let decided = Decided { at: (self.now)(), title, user, answer, policy, dry_run };
        self.recorder.decided(&decided);
        fill(response, &decided)
    }

    /// `None`: nothing about this request is ours to judge.
    async fn decide(&self, review: &Review, dry_run: bool, due: Instant) -> (Option<Answer>, Option<(String, String)>) {
        if self.settings.excluded.contains(&review.namespace) {
            return (None, None);
        }
        let new = match &review.subject {
            Subject::Passes => return (None, None),
            Subject::Pod { new, .. } | Subject::Workload { new, .. } => new,
        };
        let asked = questions(review);
        let in_force = self.cluster.in_force();
        let policy = in_force.as_ref().ok().map(|p| (p.name.clone(), p.policy_digest.to_string()));
        let gatherer = Gatherer {
            cluster: &*self.cluster,
            assessor: &self.assessor,
            environment: &self.settings.environment,
            dry_run,
            deadline: due.checked_sub(DECIDE).unwrap_or(due),
        };
        let chain = match &in_force {
            Ok(in_force) if asked.owners => {
                gatherer.chain(review, new, gatherer.for_owners(review, in_force, &asked)).await
            }
            _ => Chain::NotAsked,
        };
        let (known, tags) = gatherer.known(review, &asked);
        let mut facts = Facts {
            now: (self.now)(),
            images: known,
            in_force: in_force.clone(),
            chain,
            break_glass: self.cluster.break_glass(&review.namespace),
            restart_grace: self.settings.restart_grace,
        };
        // Whoever may not bring in any image makes us ask no registry for theirs.
        let answer = match (refused_anyway(review, &facts), &in_force) {
            (Some(answer), _) => answer,
            (None, Err(_)) => decide(review, &facts),
            (None, Ok(in_force)) => {
                let known = (std::mem::take(&mut facts.images), tags);
                facts.images = gatherer.images(review, in_force, asked.warn_only, known).await;
                facts.now = (self.now)();
                decide(review, &facts)
            }
        };
        let silent = asked == Questions::default() && answer == Answer::allow();
        ((!silent).then_some(answer), policy)
    }

    fn count(&self, answer: &Answer) {
        let outcome = match (answer.allowed, answer.findings.is_empty()) {
            (true, true) => "allowed",
            (true, false) => "audited",
            (false, _) => "refused",
        };
        let reason = answer.findings.first().map_or("None", |(reason, _)| reason.as_str());
        self.metrics.reviews.get_or_create(&Labels { outcome, reason }).inc();
        for (exception, _) in &answer.exceptions {
            self.metrics.exceptions.get_or_create(&ExceptionLabels { reason: exception.as_str() }).inc();
        }
    }
}

impl Decided {
    /// PascalCase, for the record: the first finding's reason, else the exception that was used, else `Admitted`.
    pub fn reason(&self) -> &'static str {
        let exception = self.answer.exceptions.first().map(|(exception, _)| exception.as_str());
        let finding = self.answer.findings.first().map(|(reason, _)| reason.as_str());
        finding.or(exception).unwrap_or("Admitted")
    }

    /// The exceptions that were used, for people.
    pub fn exceptions(&self) -> Vec<String> {
        self.answer.exceptions.iter().map(|(exception, told)| format!("{} {told}", exception.as_str())).collect()
    }

    /// What a person reads.
    pub fn message(&self) -> String {
        if self.answer.findings.is_empty() {
            return match self.exceptions() {
                none if none.is_empty() => "admitted".to_owned(),
                used => format!("{} admitted by exception: {}", self.title, used.join("; ")),
            };
        }
        let verb = match self.answer.allowed {
            true => "admitted in Audit, though",
            false if self.answer.findings.iter().all(|(reason, _)| reason.is_error()) => {
                "not admitted, since not known to be good"
            }
            false => "refused",
        };
        let policy = self.policy.as_ref().map(|(name, _)| format!(" (policy `{name}`)")).unwrap_or_default();
        let findings: Vec<&str> = self.answer.findings.iter().map(|(_, text)| text.as_str()).take(TOLD).collect();
        let more = match self.answer.findings.len().saturating_sub(TOLD) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        format!("{} {verb}{policy}: {}{more}", self.title, findings.join("; "))
    }
}

fn fill(response: AdmissionResponse, decided: &Decided) -> AdmissionResponse {
    let mut response = match decided.answer.allowed {
        true => response,
        false => {
            let mut response = response.deny(decided.message());
            response.result.reason = decided.reason().to_owned();
            response.result.code = 403;
            response
        }
    };
    if !decided.answer.warnings.is_empty() {
        let cut = |text: &String| text.chars().take(WARNING).collect();
        response.warnings = Some(decided.answer.warnings.iter().map(cut).collect());
    }
    if !decided.answer.findings.is_empty() {
        response.audit_annotations.insert("reason".to_owned(), decided.reason().to_owned());
    }
    if !decided.answer.exceptions.is_empty() {
        response.audit_annotations.insert("exceptions".to_owned(), decided.exceptions().join("; "));
    }
    response
}
