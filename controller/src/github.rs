//! Commit and deployment statuses at GitHub, told in the background: a bounded line, one teller,
//! a deadline per call. A dead GitHub delays nothing but its own statuses; the newest state of each
//! context is what is told when it is back.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use octocrab::Octocrab;
use serde_json::{Value, json};
use tidegate_pipelines::api::{SecretKeyRef, names};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::connect::bounded;

/// GitHub's limit for a description.
const MAX_DESCRIPTION: usize = 140;
const CALL: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// After so long a state is history.
pub const GIVE_UP: Duration = Duration::from_secs(3600);
const MAX_OPEN: usize = 1024;
const DEFAULT_API: &str = "https://api.github.com";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Pending,
    InProgress,
    Success,
    Failure,
}

impl State {
    /// Of a commit status, which knows no "in progress".
    fn commit(self) -> &'static str {
        match self {
            State::Pending | State::InProgress => "pending",
            State::Success => "success",
            State::Failure => "failure",
        }
    }

    fn deployment(self) -> &'static str {
        match self {
            State::Pending => "queued",
            State::InProgress => "in_progress",
            State::Success => "success",
            State::Failure => "failure",
        }
    }
}

/// What one environment has come to with one release.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub api: Option<String>,
    pub token: SecretKeyRef,
    /// `owner/name`.
    pub repository: String,
    pub sha: String,
    /// Of the pipeline: two teams may name theirs alike.
    pub namespace: String,
    pub pipeline: String,
    pub environment: String,
    pub state: State,
    pub description: String,
    pub release: String,
    pub attempt: u32,
}

/// A place at GitHub that holds one state: a later report for it replaces an earlier one.
type Slot = (String, String, String);

impl Report {
    fn slot(&self) -> Slot {
        (self.repository.clone(), self.sha.clone(), self.context())
    }

    fn context(&self) -> String {
        format!("tidegate/{}/{}/{}", self.namespace, self.pipeline, self.environment)
    }

    fn described(&self) -> String {
        if self.description.chars().count() <= MAX_DESCRIPTION {
            return self.description.clone();
        }
        let head: String = self.description.chars().take(MAX_DESCRIPTION - 1).collect();
        format!("{head}…")
    }
}

#[derive(Debug, thiserror::Error)]
enum TellError {
    #[error("the Secret '{0}' in {ns} has no usable key '{1}'", ns = names::HUB_NAMESPACE)]
    Token(String, String),
    #[error("the Secret '{name}' in {ns} cannot be read: {source}", ns = names::HUB_NAMESPACE)]
    Secret { name: String, source: crate::connect::CallError },
    #[error("'{0}' is no owner/name")]
    Repository(String),
    #[error("no answer within {} s", CALL.as_secs())]
    Deadline,
    #[error("{0}")]
    Github(String),
    /// Asking again will not change it.
    #[error("refused: {0}")]
    Refused(String),
}

impl From<octocrab::Error> for TellError {
    fn from(error: octocrab::Error) -> Self {
        match &error {
            octocrab::Error::GitHub { source, .. } => {
                let (code, message) = (source.status_code.as_u16(), source.message.clone());
                // 401 may be a token that is being rotated, 403 and 429 a rate limit: those pass.
                if matches!(code, 404 | 409 | 422) {
                    TellError::Refused(format!("{code} {message}"))
                } else {
                    TellError::Github(format!("{code} {message}"))
                }
            }
            _ => TellError::Github(error.to_string()),
        }
    }
}

/// The line into which reports are put.
#[derive(Clone)]
pub struct Reports {
    line: mpsc::Sender<Report>,
}

struct Open {
    report: Report,
    since: Instant,
    due: Instant,
    tries: u32,
}

/// What GitHub was told last of a slot, and its deployment there.
#[derive(Default)]
struct Told {
    last: Option<(State, String)>,
    deployment: Option<(u32, u64)>,
}

struct Teller {
    client: Client,
    told: HashMap<Slot, Told>,
    open: BTreeMap<Slot, Open>,
}

impl Reports {
    /// The line, and the work that empties it, to be run by the caller.
    pub fn open(client: Client) -> (Reports, impl Future<Output = ()> + Send) {
        let (line, waiting) = mpsc::channel(256);
        let teller = Teller { client, told: HashMap::new(), open: BTreeMap::new() };
        (Reports { line }, teller.run(waiting))
    }

    /// Never waits. When the line is full the report is dropped and counted in the log.
    pub fn tell(&self, report: Report) {
        if let Err(error) = self.line.try_send(report) {
            tracing::warn!(%error, "a GitHub status was dropped, the line is full");
        }
    }
}

impl Teller {
    async fn run(mut self, mut waiting: mpsc::Receiver<Report>) {
        loop {
            let due = self.open.values().map(|open| open.due).min();
            tokio::select! {
                biased;
                report = waiting.recv() => match report {
                    Some(report) => self.take(report),
                    None => return,
                },
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.turn().await,
            }
        }
    }

    fn take(&mut self, report: Report) {
        let (slot, now) = (report.slot(), Instant::now());
        if self.open.len() >= MAX_OPEN && !self.open.contains_key(&slot) {
            tracing::warn!(context = %report.context(), "a GitHub status was dropped, too many wait");
            return;
        }
        // A newer state for the same place, and the wait for a dead GitHub is kept.
        let (due, tries) = self.open.get(&slot).map_or((now, 0), |open| (open.due, open.tries));
        self.open.insert(slot, Open { report, since: now, due, tries });
    }

    async fn turn(&mut self) {
        let now = Instant::now();
        let Some((slot, report)) =
            self.open.iter().find(|(_, open)| open.due <= now).map(|(slot, open)| (slot.clone(), open.report.clone()))
        else {
            return;
        };
        let outcome = tokio::time::timeout(CALL, self.tell(&slot, &report)).await.unwrap_or(Err(TellError::Deadline));
        match outcome {
            Ok(()) => {
                self.open.remove(&slot);
            }
            Err(error @ (TellError::Refused(_) | TellError::Repository(_))) => {
                tracing::warn!(context = %report.context(), sha = %report.sha, %error, "GitHub will not take this status");
                self.open.remove(&slot);
            }
            Err(error) => {
                tracing::info!(context = %report.context(), %error, "GitHub could not be told; again later");
                let later = |open: &mut Open| {
                    let pause = FIRST_PAUSE.saturating_mul(1 << open.tries.min(6)).min(LONGEST_PAUSE);
                    open.tries += 1;
                    open.due = Instant::now() + pause;
                    open.since.elapsed() < GIVE_UP
                };
                if let Some(open) = self.open.get_mut(&slot)
                    && !later(open)
                {
                    self.open.remove(&slot);
                }
            }
        }
        if self.told.len() > 4 * MAX_OPEN {
            // Only a memory of what need not be repeated: GitHub takes a repeat as well.
            self.told.clear();
        }
    }

    async fn tell(&mut self, slot: &Slot, report: &Report) -> Result<(), TellError> {
        let state = (report.state, report.described());
        if self.told.get(slot).is_some_and(|told| told.last.as_ref() == Some(&state)) {
            return Ok(());
        }
        let crab = self.connect(report).await?;
        if !is_repository(&report.repository) {
            return Err(TellError::Repository(report.repository.clone()));
        }
        let base = format!("/repos/{}", report.repository);
        let status = json!({"state": report.state.commit(), "context": report.context(), "description": state.1});
        let _: Value = crab.post(format!("{base}/statuses/{}", report.sha), Some(&status)).await?;
        if report.state != State::Pending {
            let id = self.deployment(&crab, slot, report, &base).await?;
            let status = json!({
                "state": report.state.deployment(),
                "environment": report.environment,
                "description": state.1,
            });
            let _: Value = crab.post(format!("{base}/deployments/{id}/statuses"), Some(&status)).await?;
        }
        self.told.entry(slot.clone()).or_default().last = Some(state);
        Ok(())
    }

    /// The deployment of this attempt: known, found at GitHub (we were restarted), or made.
    async fn deployment(
        &mut self,
        crab: &Octocrab,
        slot: &Slot,
        report: &Report,
        base: &str,
    ) -> Result<u64, TellError> {
        let known = self.told.get(slot).and_then(|told| told.deployment);
        if let Some((attempt, id)) = known
            && attempt == report.attempt
        {
            return Ok(id);
        }
        let key = format!("{}/{}-{}", report.namespace, report.release, report.attempt);
        let query = [("sha", report.sha.as_str()), ("environment", report.environment.as_str())];
        let there: Vec<Value> = crab.get(format!("{base}/deployments"), Some(&query)).await?;
        let ours = there
            .iter()
            .find(|d| d.get("payload").and_then(|p| p.get("tidegate")).and_then(Value::as_str) == Some(&key));
        let found = ours.and_then(|d| d.get("id")).and_then(Value::as_u64);
        let id = match found {
            Some(id) => id,
            None => {
                // Our own pending commit status would block it (409) if contexts were required.
                let body = json!({
                    "ref": report.sha,
                    "environment": report.environment,
                    "auto_merge": false,
                    "required_contexts": [],
                    "description": format!("tidegate ships {}", report.release),
                    "payload": {"tidegate": key},
                });
                let made: Value = crab.post(format!("{base}/deployments"), Some(&body)).await?;
                made.get("id")
                    .and_then(Value::as_u64)
                    .ok_or_else(|| TellError::Github("a deployment without id".into()))?
            }
        };
        self.told.entry(slot.clone()).or_default().deployment = Some((report.attempt, id));
        Ok(id)
    }

    async fn connect(&self, report: &Report) -> Result<Octocrab, TellError> {
        let SecretKeyRef { name, key } = &report.token;
        let api: Api<Secret> = Api::namespaced(self.client.clone(), names::HUB_NAMESPACE);
        let secret = bounded(api.get(name)).await.map_err(|source| TellError::Secret { name: name.clone(), source })?;
        let token = secret.data.unwrap_or_default().remove(key).and_then(|bytes| String::from_utf8(bytes.0).ok());
        let token = token.ok_or_else(|| TellError::Token(name.clone(), key.clone()))?;
        let base = report.api.clone().unwrap_or_else(|| DEFAULT_API.into());
        let crab = Octocrab::builder()
            .base_uri(base)?
            .personal_token(token.trim().to_owned())
            .set_connect_timeout(Some(Duration::from_secs(3)))
            .build()?;
        Ok(crab)
    }
}

/// What came in by an event is not pasted into a path unread.
fn is_repository(text: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    text.split_once('/').is_some_and(|(owner, name)| plain(owner) && plain(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(state: State, description: &str) -> Report {
        Report {
            api: None,
            token: SecretKeyRef { name: "github".into(), key: "token".into() },
            repository: "acme/portal".into(),
            sha: "0".repeat(40),
            namespace: "shop".into(),
            pipeline: "portal".into(),
            environment: "staging".into(),
            state,
            description: description.into(),
            release: "portal-0123456789".into(),
            attempt: 1,
        }
    }

    #[test]
    fn a_pipeline_of_the_same_name_elsewhere_has_a_place_of_its_own() {
        let ours = report(State::Failure, "denied");
        let theirs = Report { namespace: "evil".into(), ..report(State::Success, "promoted") };
        assert_eq!(ours.context(), "tidegate/shop/portal/staging");
        assert!(ours.context() != theirs.context() && ours.slot() != theirs.slot());
    }

    #[test]
    fn a_description_fits_githubs_limit() {
        assert_eq!(report(State::Pending, "short").described(), "short");
        let long = report(State::Failure, &"ä".repeat(300)).described();
        assert_eq!(long.chars().count(), MAX_DESCRIPTION);
    }

    #[test]
    fn only_owner_and_name_reach_a_path() {
        for (text, expected) in [
            ("acme/portal", true),
            ("acme/../x", false),
            ("acme/", false),
            ("acme", false),
            ("acme/..", false),
            ("a/b?c", false),
        ] {
            assert_eq!(is_repository(text), expected, "{text}");
        }
    }
}
