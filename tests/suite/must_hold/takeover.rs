//! Two spokes of one environment, and the one that leads is gone: the second goes on where the first was, nothing is done
//! twice, and what the first one sent too late is refused where it arrives.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::Client;
use serde_json::{Value, json};
use tidegate_pipelines::api::{RolloutPhase, RolloutStatus};
use tidegate_tests::acts::counts;
use tidegate_tests::stage::manifests::APP;
use tidegate_tests::stage::{Stage, wait};
use tokio::time::{Instant, sleep};

use super::hands::{STAGING, at_weight, ends_as, to_mid_canary};
use super::outage::unharmed;
use crate::world::World;

/// A lease lasts 15 s and is renewed every 2 s: whoever dies may have renewed it just before, or 2 s before.
const SOONEST: Duration = Duration::from_secs(12);
/// The same, with a look every 2 s and a list of every kind before the first write.
const LATEST: Duration = Duration::from_secs(25);

pub async fn takeover(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    let cluster = &stage.environment(STAGING)?.cluster;
    let second = stage.roles.start_second_spoke(&stage.fleet, cluster).await?;
    let outcome = killed_in_mid_canary(&stage).await;
    // The second gives its lease up, so that the first need not wait for its end.
    stage.fleet.start_again("staging-spoke").await?;
    stage.fleet.stop(&second).await?;
    stage.roles.spoke_ready(&stage.fleet, cluster).await?;
    outcome
}

async fn killed_in_mid_canary(stage: &Stage) -> Result<()> {
    let published = to_mid_canary(stage, "m-takeover").await?;
    let digest = published.digest.as_str();
    let before = counts(stage).await;
    let was = status(stage, digest).await.context("no rollout")?;
    stage.fleet.kill("staging-spoke").await?;
    let killed = Instant::now();
    let taking = async {
        let raised = || async { status(stage, digest).await.filter(|now| now.epoch > was.epoch) };
        let taken = wait::until(LATEST, "the second spoke drives the rollout under a higher epoch", raised).await?;
        let after = killed.elapsed();
        ensure!(after >= SOONEST, "taken over after {after:?}: before the first one's lease had run out");
        at_weight(stage, digest, 50).await?;
        late_write(stage, was.epoch, taken.epoch).await?;
        Ok((after, taken.epoch))
    };
    let (walked, taken) = tokio::join!(walk(stage, digest), taking);
    let (after, epoch) = taken?;
    let walked = walked?;
    eprintln!(
        "  taken over {:.1} s after the kill, epoch {} -> {epoch}, weights {walked:?}",
        after.as_secs_f64(),
        was.epoch
    );
    ensure!(walked == [25, 50, 100, 0], "the route's weights went {walked:?}");
    let ended = ends_as(stage, digest, RolloutPhase::Promoted, Duration::from_secs(30)).await?;
    let history = ended.status.map(|status| status.history).unwrap_or_default();
    let mut steps = BTreeSet::new();
    for entry in history.iter().filter(|e| ["WeightRaised", "StepCertified", "Promoting"].contains(&e.reason.as_str()))
    {
        let first = steps.insert((entry.reason.as_str(), entry.weight));
        ensure!(first, "done twice: {} at weight {}: {history:?}", entry.reason, entry.weight);
    }
    unharmed(stage, &before).await
}

async fn status(stage: &Stage, digest: &str) -> Option<RolloutStatus> {
    stage.rollout_in(STAGING, digest).await?.status
}

/// The weights that the route has from now to the rollout's end, without repeats.
async fn walk(stage: &Stage, digest: &str) -> Result<Vec<u64>> {
    let mut seen = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(200);
    loop {
        let weight = stage.canary_weight(STAGING).await?;
        if seen.last() != Some(&weight) {
            seen.push(weight);
        }
        if status(stage, digest).await.and_then(|now| now.phase).is_some_and(RolloutPhase::is_terminal) {
            return Ok(seen);
        }
        ensure!(Instant::now() < deadline, "no end; the weights went {seen:?}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// What the first spoke might still have sent, under its own account: refused by the API server itself. The same under
/// the epoch in force is let in, and so is a lowering, which leaves the decision alone.
async fn late_write(stage: &Stage, deposed: u64, leads: u64) -> Result<()> {
    let route = stage.route(STAGING).await?;
    let decision =
        route["metadata"]["annotations"]["tidegate.io/decision"].as_str().context("the route has no decision")?;
    let parts: Vec<&str> = decision.split('/').collect();
    ensure!(
        parts.len() == 3 && parts[1] == leads.to_string(),
        "the route was last driven as {decision}, not under {leads}"
    );
    let spoke = stage.environment(STAGING)?.cluster.client_for("tidegate-spoke").await?;
    let under = |epoch: u64| json!({"metadata": {"annotations": {"tidegate.io/decision": format!("{}/{epoch}/999", parts[0])}}});
    let refused = patch(&spoke, "", &under(deposed)).await;
    let said = refused.err().context("a deposed leader's route write was let in")?.to_string();
    ensure!(said.contains("comes from a deposed leader"), "refused, but by something else: {said}");
    patch(&spoke, "?dryRun=All", &under(leads)).await.context("the leader's own write")?;
    let lowered = json!({"metadata": {"annotations": {"tidegate.io/lowered": format!("{}/Breach", parts[0])}}});
    patch(&spoke, "?dryRun=All", &lowered).await.context("a lowering, which carries no decision")?;
    let now = stage.route(STAGING).await?;
    let kept = now["metadata"]["annotations"]["tidegate.io/decision"].as_str();
    ensure!(kept == Some(decision), "the refused write left a trace: {kept:?}");
    Ok(())
}

async fn patch(client: &Client, query: &str, patch: &Value) -> Result<()> {
    let path = format!("/apis/gateway.networking.k8s.io/v1/namespaces/{APP}/httproutes/{APP}{query}");
    let request = http::Request::patch(path)
        .header("content-type", "application/merge-patch+json")
        .body(serde_json::to_vec(patch)?)?;
    client.request::<Value>(request).await?;
    Ok(())
}
