//! What these cases share: ships in `staging`, looks at it, counts what is stored. Judges nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tidegate_pipelines::api::{BuildEvent, Release, Rollout, RolloutPhase};
use tidegate_pipelines::judge::JudgeState;
use tidegate_tests::acts::{progress, released, rollout_where};
use tidegate_tests::stage::{DELIBERATE, Stage, name_of, spec, wait};
use tidegate_tests::supply::behavior::Behavior;
use tidegate_tests::supply::release::Published;
use tokio::time::{Instant, sleep};

pub const STAGING: &str = "staging";
/// Where things go on while a part of `staging`'s, or the hub's, is away.
pub const OTHER: &str = "prod-east";

/// One stage, one environment, nobody asked; the strategy's deadlines as the fleet has them.
pub async fn only_staging(stage: &Stage, approval: bool) -> Result<()> {
    one_stage(stage, &[STAGING], approval).await
}

async fn one_stage(stage: &Stage, environments: &[&str], approval: bool) -> Result<()> {
    let stages = json!([{"name": STAGING, "environments": environments, "soak": "0s", "requireApproval": approval}]);
    stage.change_pipeline(json!({"stages": stages, "rollback": "environment"})).await?;
    at_rest(stage).await
}

/// Nothing is under way in any environment.
pub async fn at_rest(stage: &Stage) -> Result<()> {
    for environment in &stage.fleet.environments {
        let name = environment.name();
        wait::until_ok(Duration::from_secs(240), &format!("{name} is at rest"), || async {
            match rollouts_in(stage, name).await {
                Ok(all) => match all.into_iter().find(|rollout| !phase(rollout).is_some_and(RolloutPhase::is_terminal))
                {
                    Some(moving) => Err(format!("{} is {:?}", moving.name_any(), phase(&moving))),
                    None => Ok(()),
                },
                Err(error) => Err(format!("{error:#}")),
            }
        })
        .await?;
    }
    Ok(())
}

/// A good version on its way; returns when its canary has weight 25 and is judged there.
pub async fn to_mid_canary(stage: &Stage, version: &str) -> Result<Published> {
    only_staging(stage, false).await?;
    ship_to_mid_canary(stage, version).await
}

/// The same in `staging`, while the version is on its way in [`OTHER`] too: requests of its canary were served there.
pub async fn to_mid_canary_beside_another(stage: &Stage, version: &str) -> Result<Published> {
    one_stage(stage, &[STAGING, OTHER], false).await?;
    let published = ship_to_mid_canary(stage, version).await?;
    rollout_where(stage, OTHER, &published.digest, "a canary", Duration::from_secs(60), |rollout| {
        phase(rollout) == Some(RolloutPhase::Canary)
    })
    .await?;
    Ok(published)
}

async fn ship_to_mid_canary(stage: &Stage, version: &str) -> Result<Published> {
    let published = publish_good(stage, version).await?;
    stage.cloud_build_event(&published).await?;
    released(stage, &published.digest).await?;
    at_weight(stage, &published.digest, 25).await?;
    Ok(published)
}

/// Waits until the canary in `staging` has this weight and the data plane follows.
pub async fn at_weight(stage: &Stage, digest: &str, weight: u8) -> Result<Rollout> {
    let limit = Duration::from_secs(150);
    rollout_where(stage, STAGING, digest, format!("weight {weight}"), limit, |rollout| {
        phase(rollout) == Some(RolloutPhase::Canary)
            && rollout.status.as_ref().is_some_and(|status| status.weight == weight && status.step_since.is_some())
    })
    .await
}

pub async fn publish_good(stage: &Stage, version: &str) -> Result<Published> {
    stage.publish(&spec(version, Behavior::version(version).errors(DELIBERATE))).await
}

pub fn phase(rollout: &Rollout) -> Option<RolloutPhase> {
    rollout.status.as_ref().and_then(|status| status.phase)
}

/// All rollouts that `staging` knows.
pub async fn rollouts(stage: &Stage) -> Result<Vec<Rollout>> {
    rollouts_in(stage, STAGING).await
}

async fn rollouts_in(stage: &Stage, environment: &str) -> Result<Vec<Rollout>> {
    let api: Api<Rollout> = Api::all(stage.environment(environment)?.cluster.admin.clone());
    Ok(api.list(&Default::default()).await?.items)
}

/// One look at an environment.
#[derive(Debug, Clone)]
pub struct Sight {
    pub at: Duration,
    pub weight: u64,
    pub phase: Option<RolloutPhase>,
    pub message: String,
    /// What its spoke has decided so far, and up to when it has read samples.
    pub decisions: usize,
    pub evidence: Option<JudgeState>,
}

/// Looks four times a second; looks that fail (the API server is away) are left out.
pub async fn watch(stage: &Stage, environment: &str, digest: &str, time: Duration) -> Vec<Sight> {
    let started = Instant::now();
    let mut seen: Vec<Sight> = Vec::new();
    while started.elapsed() < time {
        if let (Ok(weight), Some(rollout)) =
            (stage.canary_weight(environment).await, stage.rollout_in(environment, digest).await)
        {
            let status = rollout.status.unwrap_or_default();
            let message = status.message.unwrap_or_default();
            let (decisions, evidence) = (status.history.len(), status.judge);
            seen.push(Sight { at: started.elapsed(), weight, phase: status.phase, message, decisions, evidence });
        }
        sleep(Duration::from_millis(250)).await;
    }
    seen
}

/// The weight never rises from `grace` on: what was decided before may still be on its way until then.
pub fn never_rises(seen: &[Sight], grace: Duration) -> Result<()> {
    let later: Vec<&Sight> = seen.iter().filter(|sight| sight.at >= grace).collect();
    ensure!(later.len() >= 10, "looked only {} times", later.len());
    for pair in later.windows(2) {
        ensure!(pair[1].weight <= pair[0].weight, "the weight rose without evidence: {:?} then {:?}", pair[0], pair[1]);
    }
    Ok(())
}

/// The spoke there goes on: it decided, or at least judged fresh samples. Says how far it came.
pub fn goes_on(seen: &[Sight]) -> Result<String> {
    let (Some(first), Some(last)) = (seen.first(), seen.last()) else { bail!("never saw {OTHER}") };
    let moved = last.decisions > first.decisions || last.evidence != first.evidence;
    ensure!(moved, "{OTHER} stood still as well: {first:?} then {last:?}");
    Ok(format!("{:?} {} -> {:?} {}", first.phase, first.weight, last.phase, last.weight))
}

/// One of `words` stands in a status message.
pub fn says(seen: &[Sight], words: &[&str]) -> Result<()> {
    let messages: BTreeSet<&str> = seen.iter().map(|sight| sight.message.as_str()).collect();
    let told = messages.iter().any(|message| words.iter().any(|word| message.contains(word)));
    ensure!(told, "no status says what is waited for ({words:?}); they say {messages:?}");
    Ok(())
}

/// What is stored where an event could leave a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub events: BTreeSet<String>,
    pub releases: BTreeSet<String>,
    pub rollouts: BTreeSet<String>,
}

impl Stored {
    pub async fn now(stage: &Stage) -> Result<Self> {
        let events = stage.build_events().await?.iter().map(name_of).collect();
        let releases: Api<Release> = Api::all(stage.hub().clone());
        let releases = releases.list(&Default::default()).await?.items.iter().map(name_of).collect();
        let intents: Api<Rollout> = Api::all(stage.hub().clone());
        let mut rollouts: BTreeSet<String> =
            intents.list(&Default::default()).await?.items.iter().map(|r| format!("hub/{}", r.name_any())).collect();
        rollouts.extend(self::rollouts(stage).await?.iter().map(|r| format!("staging/{}", r.name_any())));
        Ok(Self { events, releases, rollouts })
    }
}

/// The one BuildEvent stored since `before`, once the hub has said something final or `Waiting` of it.
pub async fn event_since(stage: &Stage, before: &Stored) -> Result<BuildEvent> {
    let what = "the stored event is looked at";
    let event = wait::until_ok(Duration::from_secs(30), what, || async {
        let all = stage.build_events().await.map_err(|error| error.to_string())?;
        let mut new: Vec<BuildEvent> = all.into_iter().filter(|e| !before.events.contains(&e.name_any())).collect();
        match (new.len(), new.pop()) {
            (1, Some(event)) if event.status.as_ref().is_some_and(|status| status.phase.is_some()) => Ok(event),
            (count, _) => Err(format!("{count} new events")),
        }
    })
    .await?;
    Ok(event)
}

/// Takes releases back that a case has made and that nobody is to ship.
pub async fn abort(stage: &Stage, release: &Release) -> Result<()> {
    let patch = Patch::Merge(json!({"spec": {"abort": true}}));
    stage.releases().patch(&release.name_any(), &PatchParams::default(), &patch).await?;
    Ok(())
}

/// Merges into the Environment `staging` or any other object of the hub's by its path.
pub async fn patch_hub(stage: &Stage, path: &str, patch: &Value) -> Result<()> {
    let request = http::Request::patch(path)
        .header("content-type", "application/merge-patch+json")
        .body(serde_json::to_vec(patch)?)?;
    stage.hub().request::<Value>(request).await?;
    Ok(())
}

/// Waits for the rollout's end in `staging` and holds it to `wanted`.
pub async fn ends_as(stage: &Stage, digest: &str, wanted: RolloutPhase, limit: Duration) -> Result<Rollout> {
    let ended = rollout_where(stage, STAGING, digest, "an end", limit, |rollout| {
        phase(rollout).is_some_and(RolloutPhase::is_terminal)
    })
    .await?;
    if phase(&ended) != Some(wanted) {
        bail!("it ended as {:?}, not {wanted:?}: {}", phase(&ended), progress(stage, digest).await);
    }
    Ok(ended)
}
