//! Tidegate's own parts die or are cut off in mid-canary.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use tidegate_pipelines::api::{ReleasePhase, RolloutPhase};
use tokio::time::{Instant, sleep};

use super::{Seen, breach_ms, check, reaches, released, rollout_where};
use crate::stage::{DELIBERATE, Stage, revision_of, spec};
use crate::supply::behavior::Behavior;

pub const CRASH: &str = "spoke and hub killed in mid-canary: staging is promoted, no step twice, the split never jumps";

/// A push names a commit whose image appears seconds later; then the spoke of staging and the hub are killed.
pub async fn crash(stage: &Stage, version: &str) -> Result<Seen> {
    let stages = |approval: bool| {
        let names = stage.fleet.environments.iter().map(|environment| environment.name().to_owned());
        let stages: Vec<_> = names
            .enumerate()
            .map(|(i, name)| json!({"name": name, "environments": [name], "soak": "5s", "requireApproval": approval && i == 1}))
            .collect();
        json!({ "stages": stages })
    };
    stage.change_pipeline(stages(true)).await?;
    let revision = revision_of(version);
    stage.github_push_event(&revision).await?;
    sleep(Duration::from_secs(2)).await;
    let mut image = spec(version, Behavior::version(version).errors(DELIBERATE));
    image.tag = revision;
    let published = stage.publish(&image).await?;
    released(stage, &published.digest).await?;
    let walk = watch_weights(stage, "staging", &published.digest);
    let killing = async {
        let at = |weight| {
            move |rollout: &tidegate_pipelines::api::Rollout| {
                rollout
                    .status
                    .as_ref()
                    .is_some_and(|status| status.phase == Some(RolloutPhase::Canary) && status.weight >= weight)
            }
        };
        let limit = Duration::from_secs(90);
        rollout_where(stage, "staging", &published.digest, "weight 5", limit, at(5)).await?;
        stage.fleet.kill("staging-spoke").await?;
        sleep(Duration::from_secs(2)).await;
        stage.fleet.start_again("staging-spoke").await?;
        rollout_where(stage, "staging", &published.digest, "weight 25", limit, at(25)).await?;
        stage.fleet.kill("hub-hub").await?;
        sleep(Duration::from_secs(2)).await;
        stage.fleet.start_again("hub-hub").await
    };
    let (walked, killed) = tokio::join!(walk, killing);
    killed?;
    let walked = walked?;
    stage.change_pipeline(stages(false)).await?;
    // 2 % while the warm-up mask lasts.
    let expected = [0, 2, 5, 25, 50, 100, 0];
    check(walked == expected, format!("the route's weights went {walked:?}, not {expected:?}"))?;
    let rollout = stage.rollout_in("staging", &published.digest).await.context("staging's rollout is gone")?;
    let told: Vec<String> = rollout
        .status
        .iter()
        .flat_map(|status| &status.history)
        .map(|decision| format!("{} at {}", decision.reason, decision.weight))
        .collect();
    let once: std::collections::BTreeSet<&String> = told.iter().collect();
    check(once.len() == told.len(), format!("a step was decided twice: {told:?}"))?;
    let image = stage.stable_image("staging").await?;
    check(image == published.by_digest(), format!("staging runs {image}"))?;
    let release = released(stage, &published.digest).await?;
    let phase = release.status.as_ref().and_then(|status| status.phase);
    let now = phase.map_or("without a phase".to_owned(), |phase| format!("{phase:?}"));
    let walked = walked.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Ok(Seen::that(format!("weights {walked}; staging is promoted, the release is {now}")))
}

/// The weights that the route had from now until the rollout's end, without repeats.
async fn watch_weights(stage: &Stage, environment: &str, digest: &str) -> Result<Vec<u64>> {
    let deadline = Instant::now() + Duration::from_secs(180);
    let mut seen = vec![stage.canary_weight(environment).await?];
    loop {
        let weight = stage.canary_weight(environment).await?;
        if seen.last() != Some(&weight) {
            seen.push(weight);
        }
        let rollout = stage.rollout_in(environment, digest).await;
        let phase = rollout.and_then(|rollout| rollout.status).and_then(|status| status.phase);
        if phase.is_some_and(RolloutPhase::is_terminal) {
            check(phase == Some(RolloutPhase::Promoted), format!("{environment} ended as {phase:?}"))?;
            return Ok(seen);
        }
        check(Instant::now() < deadline, format!("no end: {}", super::progress(stage, digest).await))?;
        sleep(Duration::from_millis(100)).await;
    }
}

pub const ISLAND: &str =
    "hub away, the canary turns bad: the spoke rolls back alone; the hub learns of it and stops the rest";

/// Paused at weight 50 in prod-east, the hub is stopped, then the canary turns bad.
pub async fn island(stage: &Stage, version: &str) -> Result<Seen> {
    let before = stage.stable_image("staging").await?;
    let published = stage.publish(&spec(version, Behavior::version(version).errors(DELIBERATE))).await?;
    stage.cloud_build_event(&published).await?;
    let release = released(stage, &published.digest).await?;
    let at_half = |rollout: &tidegate_pipelines::api::Rollout| {
        rollout.status.as_ref().is_some_and(|status| status.phase == Some(RolloutPhase::Canary) && status.weight == 50)
    };
    let limit = Duration::from_secs(240);
    rollout_where(stage, "prod-east", &published.digest, "weight 50", limit, at_half).await?;
    let hub = stage.fleet.hub.kubeconfig_for(crate::rig::cluster::ADMIN)?.display().to_string();
    let name = crate::stage::name_of(&release);
    stage.roles.run(&["pause", &name, "-n", "portal", "--kubeconfig", &hub]).await?;
    // The pause stays in the hub's copy: what the environment makes of it is in its status.
    let paused = |rollout: &tidegate_pipelines::api::Rollout| {
        let conditions = rollout.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        conditions.iter().any(|condition| condition.type_ == "Paused" && condition.status == "True")
    };
    rollout_where(stage, "prod-east", &published.digest, "paused", Duration::from_secs(15), paused).await?;
    stage.fleet.stop("hub-hub").await?;
    stage.fleet.stop("hub-api").await?;
    let east = stage.environment("prod-east")?;
    east.kubelet.turn_sick(version, 0.5).await;
    let rolled_back = |rollout: &tidegate_pipelines::api::Rollout| {
        rollout.status.as_ref().and_then(|status| status.phase) == Some(RolloutPhase::RolledBack)
    };
    let rollout =
        rollout_where(stage, "prod-east", &published.digest, "rolled back alone", Duration::from_secs(60), rolled_back)
            .await?;
    check(stage.canary_weight("prod-east").await? == 0, "weight is not 0")?;
    stage.fleet.start_again("hub-api").await?;
    stage.fleet.start_again("hub-hub").await?;
    reaches(stage, &published.digest, ReleasePhase::RolledBack, Duration::from_secs(120)).await?;
    let staging = stage.stable_image("staging").await?;
    check(staging == before, format!("staging had passed and runs {staging}, not {before} as before"))?;
    check(stage.quarantined(stage.hub(), &published.digest).await, "the hub did not adopt the quarantine")?;
    check(stage.rollout_in("prod-west", &published.digest).await.is_none(), "prod-west was given a rollout")?;
    let breach = rollout.status.as_ref().and_then(|status| status.breach.clone()).context("no breach is recorded")?;
    Ok(Seen { outcome: breach.message, breach_to_zero_ms: breach_ms(&rollout), may_fail_requests: false })
}
