//! A table of hostile and broken inputs over the doors of a running fleet, under the doors' own account: each with its
//! status, its whole line, and what the hub's API server holds afterwards. Refused at the door: nothing. Told by the hub
//! alone: one BuildEvent `Ignored`, or a Release `Denied`, and no Rollout.

mod events;
mod github;
mod ground;
mod pubsub;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use futures::future::join_all;
use tidegate_pipelines::api::{BuildEventPhase, ReleasePhase};
use tidegate_tests::acts::{reaches, released};
use tidegate_tests::rig::now;
use tidegate_tests::stage::Stage;
use tidegate_tests::supply::raw::{Answer, Request};
use tokio::time::{Instant, sleep};

use super::hands::{Stored, event_since, only_staging};
use crate::world::World;
use ground::Ground;

const LEAST_ROWS: usize = 40;

/// One input and all that it may cause.
pub struct Row {
    name: String,
    request: Request,
    /// Sent so often at once; all but one must then meet what the first has stored.
    times: usize,
    status: u16,
    /// The whole answer; `*` stands for anything.
    line: String,
    then: Then,
}

pub enum Then {
    /// Nothing is stored.
    Nothing,
    /// One BuildEvent, `Ignored` with this whole message; no Release.
    Ignored(String),
    /// One BuildEvent, and of this digest one Release, `Denied` with reasons that hold this; no Rollout.
    Denied { digest: String, reason: String },
}

impl Row {
    pub fn refused(name: &str, request: Request, status: u16, line: &str) -> Self {
        Self { name: name.to_owned(), request, times: 1, status, line: line.to_owned(), then: Then::Nothing }
    }

    /// Acknowledged without being stored, now or again.
    pub fn nothing(name: &str, request: Request, line: &str) -> Self {
        Self::refused(name, request, 200, line)
    }

    pub fn stored(name: &str, request: Request, then: Then) -> Self {
        Self { then, ..Self::refused(name, request, 202, STORED) }
    }

    pub fn ignored(name: &str, request: Request, message: impl Into<String>) -> Self {
        Self::stored(name, request, Then::Ignored(message.into()))
    }

    pub fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    fn events(&self) -> usize {
        usize::from(!matches!(self.then, Then::Nothing))
    }

    async fn check(&self, ground: &Ground<'_>) -> Result<()> {
        let before = Stored::now(ground.stage).await?;
        let sent = join_all((0..self.times).map(|_| ground.raw.send(&self.request))).await;
        let mut answers = Vec::new();
        for answer in sent {
            answers.extend(answer?);
        }
        self.check_answers(&answers)?;
        match &self.then {
            Then::Nothing => {}
            Then::Ignored(message) => ignored(ground.stage, &before, message).await?,
            Then::Denied { digest, reason } => denied(ground.stage, digest, reason).await?,
        }
        let after = Stored::now(ground.stage).await?;
        let new = |after: &std::collections::BTreeSet<String>, before| after.difference(before).count();
        let counts = (new(&after.events, &before.events), new(&after.releases, &before.releases));
        let expected = (self.events(), usize::from(matches!(self.then, Then::Denied { .. })));
        ensure!(counts == expected, "stored (BuildEvents, Releases): {counts:?}, not {expected:?}");
        ensure!(new(&after.rollouts, &before.rollouts) == 0, "a Rollout was made");
        Ok(())
    }

    fn check_answers(&self, answers: &[Answer]) -> Result<()> {
        ensure!(answers.len() == self.times, "{} answers to {} requests: {answers:?}", answers.len(), self.times);
        let expected = |answer: &&Answer| answer.status == self.status && like(&self.line, answer.body.trim_end());
        let repeated = |answer: &&Answer| answer.status == 200 && like(BEFORE, answer.body.trim_end());
        let as_expected = answers.iter().filter(expected).count();
        let repeats = if self.times > 1 { answers.iter().filter(repeated).count() } else { 0 };
        if as_expected != 1 || repeats != self.times - 1 {
            let got: Vec<_> = answers.iter().map(|answer| (answer.status, answer.body.trim_end())).collect();
            bail!("answered {got:?}, not {:?}", (self.status, &self.line));
        }
        for answer in answers {
            ensure!(answer.body.trim_end().lines().count() <= 1, "not one line: {:?}", answer.body);
            ensure!(answer.body.len() <= 400, "a line of {} bytes", answer.body.len());
            let retry = answer.headers.contains_key("retry-after");
            ensure!(retry == (answer.status == 503), "{} with retry-after: {retry}", answer.status);
        }
        Ok(())
    }
}

const STORED: &str = "be-* stored";
pub const BEFORE: &str = "be-* was stored before";

/// Whether `text` is `pattern`, in which `*` stands for anything within a line.
fn like(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        let at = if parts.peek().is_none() { rest.rfind(part) } else { rest.find(part) };
        let Some(at) = at else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty()
}

async fn ignored(stage: &Stage, before: &Stored, message: &str) -> Result<()> {
    let status = event_since(stage, before).await?.status.unwrap_or_default();
    let told = status.message.unwrap_or_default();
    ensure!(status.phase == Some(BuildEventPhase::Ignored), "the BuildEvent became {:?}: {told}", status.phase);
    ensure!(like(message, &told), "the BuildEvent says {told:?}, not {message:?}");
    Ok(())
}

async fn denied(stage: &Stage, digest: &str, reason: &str) -> Result<()> {
    released(stage, digest).await?;
    let release = reaches(stage, digest, ReleasePhase::Denied, Duration::from_secs(30)).await?;
    let legs = release.status.into_iter().flat_map(|status| status.environments);
    let reasons: Vec<String> = legs.flat_map(|leg| leg.reasons).collect();
    ensure!(reasons.iter().any(|told| told.contains(reason)), "no reason holds {reason:?}: {reasons:?}");
    Ok(())
}

pub async fn table(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    only_staging(&stage, false).await?;
    let ground = Ground::prepare(&stage).await?;
    let outcome = play(&ground).await;
    ground.clear().await?;
    outcome
}

async fn play(ground: &Ground<'_>) -> Result<()> {
    let mut rows = github::rows(ground)?;
    rows.extend(pubsub::rows(ground)?);
    rows.extend(events::rows(ground).await?);
    ensure!(rows.len() >= LEAST_ROWS, "only {} rows", rows.len());
    let (began, since, before) = (Instant::now(), now(), Stored::now(ground.stage).await?);
    let mut failed = Vec::new();
    for row in &rows {
        if let Err(error) = row.check(ground).await {
            failed.push(format!("{}: {error:#}", row.name));
        }
    }
    println!("  {} inputs at the doors in {:.1} s", rows.len(), began.elapsed().as_secs_f64());
    ensure!(failed.is_empty(), "{} of {} rows failed:\n{}", failed.len(), rows.len(), failed.join("\n"));
    // What came late would have been missed by the row itself.
    sleep(Duration::from_secs(1)).await;
    let after = Stored::now(ground.stage).await?;
    let (stored, expected) = (after.events.difference(&before.events).count(), rows.iter().map(Row::events).sum());
    ensure!(stored == expected, "{stored} BuildEvents over the whole table, not {expected}");
    let writes = ground.stage.fleet.hub.writes_since(since)?;
    let doors: Vec<_> = writes.iter().filter(|write| write.user.ends_with(":tidegate-doors")).collect();
    let others: Vec<_> =
        doors.iter().filter(|w| (w.verb.as_str(), w.resource.as_str()) != ("create", "buildevents")).collect();
    ensure!(
        doors.len() >= expected && others.is_empty(),
        "the doors asked for {} writes, and for {others:?}",
        doors.len()
    );
    Ok(())
}
