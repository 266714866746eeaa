//! The acts of the demo, which `make test` plays too: each does something real to a [`Stage`], waits for what Tidegate
//! makes of it, and reports what was expected beside what came out. Nothing here knows an outcome beforehand.

pub mod gate;
pub mod ship;
pub mod trouble;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use kube::ResourceExt;
use serde::Serialize;
use tidegate_pipelines::api::{Release, ReleasePhase, Rollout, RolloutPhase};
use tokio::time::{Instant, sleep};

use crate::rig::Snapshot;
use crate::stage::{Stage, wait};

/// One line of the closing table and of `outcome.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub name: &'static str,
    pub expected: String,
    pub outcome: String,
    pub ok: bool,
    /// Over all environments while the act was played.
    pub requests: u64,
    /// Everything but a 2xx or a deliberate error.
    pub failed_requests: u64,
    /// Newest sample of the deciding evaluation to the acknowledged route write.
    pub breach_to_zero_ms: Option<i64>,
    pub seconds: f64,
}

/// What an act saw, when all of it was as expected.
#[derive(Default)]
pub struct Seen {
    pub outcome: String,
    pub breach_to_zero_ms: Option<i64>,
    /// Whether failed requests count against the act.
    pub may_fail_requests: bool,
}

impl Seen {
    pub fn that(outcome: impl Into<String>) -> Self {
        Self { outcome: outcome.into(), ..Self::default() }
    }
}

/// Plays one act: counts requests while it runs and turns an error into its outcome.
pub async fn play(
    stage: &Stage,
    name: &'static str,
    expected: &str,
    act: impl Future<Output = Result<Seen>>,
) -> Outcome {
    let started = Instant::now();
    let before = counts(stage).await;
    let result = act.await;
    let after = counts(stage).await;
    let (mut requests, mut failed, mut kinds) = (0, 0, BTreeMap::new());
    for (environment, snapshot) in &after {
        let since = before.get(environment).map_or_else(|| snapshot.clone(), |earlier| snapshot.since(earlier));
        requests += since.requests;
        failed += since.failed;
        for (kind, count) in since.failure_kinds() {
            *kinds.entry(format!("{environment}: {kind}")).or_insert(0) += count;
        }
    }
    let mut line = Outcome {
        name,
        expected: expected.to_owned(),
        outcome: String::new(),
        ok: false,
        requests,
        failed_requests: failed,
        breach_to_zero_ms: None,
        seconds: started.elapsed().as_secs_f64(),
    };
    match result {
        Ok(seen) => {
            line.ok = seen.may_fail_requests || failed == 0;
            line.outcome = seen.outcome;
            line.breach_to_zero_ms = seen.breach_to_zero_ms;
            if !line.ok {
                let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{kind} ({count})")).collect();
                line.outcome = format!("{}; but {failed} requests failed: {}", line.outcome, kinds.join(", "));
            }
        }
        Err(error) => line.outcome = format!("{error:#}"),
    }
    line
}

pub async fn counts(stage: &Stage) -> BTreeMap<String, Snapshot> {
    let mut counts = BTreeMap::new();
    for (name, load) in &stage.loads {
        counts.insert(name.clone(), load.snapshot().await);
    }
    counts
}

/// Keeps much load on the environment whose canary is being judged, and little on the others. Ends with the process.
pub fn follow(stage: Arc<Stage>) {
    crate::rig::spawn(async move {
        loop {
            let mut rolling = None;
            for environment in stage.loads.keys() {
                if under_way(&stage, environment).await {
                    rolling = Some(environment.clone());
                }
            }
            stage.spotlight(rolling.as_deref());
            sleep(Duration::from_millis(500)).await;
        }
    });
}

async fn under_way(stage: &Stage, environment: &str) -> bool {
    let Ok(environment) = stage.environment(environment) else { return false };
    let api: kube::Api<Rollout> =
        kube::Api::namespaced(environment.cluster.admin.clone(), crate::stage::manifests::APP);
    let Ok(all) = api.list(&Default::default()).await else { return false };
    all.items.iter().any(|rollout| {
        let phase = rollout.status.as_ref().and_then(|status| status.phase);
        phase.is_some_and(|phase| !phase.is_terminal() && phase != RolloutPhase::Waiting)
    })
}

/// The release of `digest`, once it exists.
pub async fn released(stage: &Stage, digest: &str) -> Result<Release> {
    wait::until(Duration::from_secs(30), &format!("a Release of {digest}"), || stage.release_of(digest)).await
}

/// Waits until the release of `digest` is in `phase`. Another end is an error at once, with its message.
pub async fn reaches(stage: &Stage, digest: &str, phase: ReleasePhase, limit: Duration) -> Result<Release> {
    use ReleasePhase::*;
    let deadline = Instant::now() + limit;
    loop {
        let release = stage.release_of(digest).await;
        let status = release.as_ref().and_then(|release| release.status.clone()).unwrap_or_default();
        let now = status.phase;
        if let (Some(release), Some(now)) = (release, now) {
            if now == phase {
                return Ok(release);
            }
            if now.is_terminal() && !(now == RolledBack && phase == RollingBack) {
                bail!("{} ended as {now:?}, not {phase:?}: {}", release.name_any(), status.message.unwrap_or_default());
            }
        }
        if Instant::now() > deadline {
            bail!("{phase:?} not within {} s; last {now:?}: {}", limit.as_secs(), progress(stage, digest).await);
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Where every environment stands with `digest`, for the message of a failure.
pub async fn progress(stage: &Stage, digest: &str) -> String {
    let mut lines = Vec::new();
    if let Some(release) = stage.release_of(digest).await {
        lines.push(release.status.and_then(|status| status.message).unwrap_or_default());
    }
    for environment in &stage.fleet.environments {
        if let Some(rollout) = stage.rollout_in(environment.name(), digest).await {
            let status = rollout.status.unwrap_or_default();
            lines.push(format!(
                "{}: {:?} step {:?} weight {} ({})",
                environment.name(),
                status.phase,
                status.step_text,
                status.weight,
                status.message.unwrap_or_default()
            ));
        }
    }
    lines.join(" | ")
}

/// Waits until the rollout of `digest` in `environment` satisfies `wanted`.
pub async fn rollout_where(
    stage: &Stage,
    environment: &str,
    digest: &str,
    what: impl Display,
    limit: Duration,
    wanted: impl Fn(&Rollout) -> bool,
) -> Result<Rollout> {
    let what = format!("{environment}: {what}");
    wait::until_ok(limit, &what, || async {
        match stage.rollout_in(environment, digest).await {
            Some(rollout) if wanted(&rollout) => Ok(rollout),
            Some(_) => Err(progress(stage, digest).await),
            None => Err(format!("no rollout; {}", progress(stage, digest).await)),
        }
    })
    .await
}

pub fn breach_ms(rollout: &Rollout) -> Option<i64> {
    let breach = rollout.status.as_ref()?.breach.as_ref()?;
    let written = breach.written_at.as_ref()?;
    Some(written.0.duration_since(breach.sample_at.0).as_millis() as i64)
}

/// An error unless `condition` holds.
pub fn check(condition: bool, what: impl Display) -> Result<()> {
    if !condition {
        bail!("{what}");
    }
    Ok(())
}
