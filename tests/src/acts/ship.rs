//! Versions that are allowed in: a good one, one that is worse in one environment, one that dies.

use std::time::Duration;

use anyhow::{Context, Result};
use kube::ResourceExt;
use tidegate_pipelines::api::{BuildEventPhase, ReleasePhase, RolloutPhase, RolloutReason};

use super::{Seen, breach_ms, check, counts, gate, reaches, released, rollout_where};
use crate::stage::{DELIBERATE, Stage, spec, wait};
use crate::supply::behavior::Behavior;
use crate::supply::release::Published;

pub const GOOD: &str = "all environments run it; no request failed because of the rollout";

/// Ships `version`, told by Cloud Build, through every stage.
pub async fn good(stage: &Stage, version: &str) -> Result<(Published, Seen)> {
    let published = stage.publish(&spec(version, Behavior::version(version).errors(DELIBERATE))).await?;
    stage.cloud_build_event(&published).await?;
    released(stage, &published.digest).await?;
    let release = reaches(stage, &published.digest, ReleasePhase::Promoted, Duration::from_secs(400)).await?;
    for environment in &stage.fleet.environments {
        let image = stage.stable_image(environment.name()).await?;
        check(image == published.by_digest(), format!("{} runs {image}", environment.name()))?;
        let weight = stage.canary_weight(environment.name()).await?;
        check(weight == 0, format!("{}: the route leaves {weight} % at the canary", environment.name()))?;
    }
    let seen =
        Seen::that(format!("{} promoted in {} environments", release.name_any(), stage.fleet.environments.len()));
    Ok((published, seen))
}

pub const REGRESSION: &str = "prod-east goes back by itself, prod-west never sees it, staging returns; quarantined: \
                              another event ships nothing, a person's pod is refused";

pub const REGRESSION_ALONE: &str = "prod-east goes back by itself, prod-west never sees it, staging keeps it \
                                    (rollback: environment); quarantined";

/// Healthy in staging, 15 % errors in prod-east; the pipeline says `rollback: release`.
pub async fn regression(stage: &Stage, version: &str, before: &Published) -> Result<Seen> {
    regression_with(stage, version, before, true).await
}

/// The same with `rollback: environment`, which the pipeline has to say already.
pub async fn regression_alone(stage: &Stage, version: &str, before: &Published) -> Result<Seen> {
    regression_with(stage, version, before, false).await
}

async fn regression_with(stage: &Stage, version: &str, before: &Published, everywhere: bool) -> Result<Seen> {
    let behavior = Behavior::version(version).errors(DELIBERATE).errors_in("prod-east", 0.15);
    let published = stage.publish(&spec(version, behavior)).await?;
    let start = counts(stage).await;
    stage.github_package_event(&published).await?;
    released(stage, &published.digest).await?;
    reaches(stage, &published.digest, ReleasePhase::RolledBack, Duration::from_secs(300)).await?;
    let failed =
        rollout_where(stage, "prod-east", &published.digest, "rolled back", Duration::from_secs(5), |rollout| {
            rollout.spec.reason == RolloutReason::Ship
                && rollout.status.as_ref().and_then(|status| status.phase) == Some(RolloutPhase::RolledBack)
        })
        .await?;
    let breach = failed.status.as_ref().and_then(|status| status.breach.clone()).context("no breach is recorded")?;
    check(stage.rollout_in("prod-west", &published.digest).await.is_none(), "prod-west was given a rollout")?;
    let west = stage.loads["prod-west"].snapshot().await.since(&start["prod-west"]);
    check(west.served_by(version) == 0, format!("prod-west served {} requests of it", west.served_by(version)))?;
    for environment in ["staging", "prod-east"] {
        let image = stage.stable_image(environment).await?;
        let expected = if environment == "prod-east" || everywhere { before } else { &published };
        check(image == expected.by_digest(), format!("{environment} runs {image}"))?;
        check(stage.canary_weight(environment).await? == 0, format!("{environment}: weight is not 0"))?;
    }
    check(stage.quarantined(stage.hub(), &published.digest).await, "no quarantine at the hub")?;
    let told = wait::until(Duration::from_secs(15), "GitHub is told", || async {
        stage
            .supply
            .github
            .status_of(&published.revision, "tidegate/portal/portal/prod-east")
            .filter(|state| state != "pending")
    })
    .await?;
    check(told == "failure", format!("GitHub's commit status for prod-east is {told}"))?;
    ships_nothing_again(stage, &published).await?;
    let east = stage.environment("prod-east")?;
    let refusal = gate::refused_pod(&east.cluster, "dana", "quarantined", &published.by_digest()).await?;
    check(refusal.contains("quarantine"), format!("refused, but not for its quarantine: {refusal}"))?;
    let outcome = format!("rolled back at weight {}: {}", weight_at_breach(&failed), breach.message);
    Ok(Seen { outcome, breach_to_zero_ms: breach_ms(&failed), may_fail_requests: false })
}

/// Another event for a quarantined digest is stored, ships nothing and says why.
async fn ships_nothing_again(stage: &Stage, published: &Published) -> Result<()> {
    let known: Vec<String> = stage.build_events().await?.iter().map(ResourceExt::name_any).collect();
    stage.cloud_build_event(published).await?;
    let message = wait::until(Duration::from_secs(20), "the second event is looked at", || async {
        let events = stage.build_events().await.ok()?;
        let event = events.into_iter().find(|event| !known.contains(&event.name_any()))?;
        let status = event.status?;
        status.phase.map(|phase| (phase, status.message.unwrap_or_default()))
    })
    .await?;
    check(message.0 == BuildEventPhase::Ignored, format!("the second event became {:?}: {}", message.0, message.1))?;
    check(message.1.to_lowercase().contains("quarantin"), format!("the second event says: {}", message.1))
}

pub const DEAD: &str = "rolled back by the gateway's counters and workload health, although it counts no errors itself";

/// Ready and serving, then its pods refuse connections. Counted from the first request: a pod may be ready for seconds
/// before it is scraped and given any, and one that dies before costs nobody anything and proves little.
pub async fn dead(stage: &Stage, version: &str) -> Result<Seen> {
    let behavior = Behavior::version(version).errors(DELIBERATE).refuses_after_request(Duration::from_secs(2));
    let published = stage.publish(&spec(version, behavior)).await?;
    stage.github_package_event(&published).await?;
    released(stage, &published.digest).await?;
    reaches(stage, &published.digest, ReleasePhase::RolledBack, Duration::from_secs(120)).await?;
    let rollout =
        rollout_where(stage, "staging", &published.digest, "rolled back", Duration::from_secs(5), |rollout| {
            rollout.status.as_ref().and_then(|status| status.phase) == Some(RolloutPhase::RolledBack)
        })
        .await?;
    check(stage.canary_weight("staging").await? == 0, "staging: weight is not 0")?;
    let breach = rollout.status.as_ref().and_then(|status| status.breach.clone()).context("no breach is recorded")?;
    let (weight, breach_to_zero_ms) = (weight_at_breach(&rollout), breach_ms(&rollout));
    let outcome = format!("{:?} at weight {weight}: {}", breach.kind, breach.message);
    check(weight > 0, format!("it was found before it served a request: {outcome}"))?;
    check(breach_to_zero_ms.is_some(), format!("no write of weight 0 is on record: {outcome}"))?;
    // A canary that refuses connections costs requests before it is found out: the floor is not zero.
    Ok(Seen { outcome, breach_to_zero_ms, may_fail_requests: true })
}

fn weight_at_breach(rollout: &tidegate_pipelines::api::Rollout) -> u8 {
    let history = rollout.status.as_ref().map(|status| status.history.as_slice()).unwrap_or_default();
    history.iter().map(|entry| entry.weight).max().unwrap_or(0)
}
