//! GitHub is told of every environment, by commit status and deployment status; hanging or failing it delays nothing.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tidegate_pipelines::api::{ReleasePhase, RolloutPhase};
use tidegate_tests::acts::{reaches, released};
use tidegate_tests::stage::manifests::APP;
use tidegate_tests::stage::{Stage, wait};
use tidegate_tests::supply::github::{Mode, Told};
use tidegate_tests::supply::release::Published;
use tokio::time::Instant;

use super::hands::{STAGING, ends_as, only_staging, publish_good};
use crate::world::World;

/// The teller pauses up to 60 s between two tries.
const BACK: Duration = Duration::from_secs(90);

pub async fn told(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    only_staging(&stage, false).await?;
    stage
        .change_pipeline(json!({"strategy": {"steps": [{"setWeight": 50}, {"setWeight": 100}], "bake": "1s"}}))
        .await?;
    let outcome = alive_and_dead(&stage).await;
    stage.supply.github.set_mode(Mode::Alive);
    let steps = json!([{"setWeight": 5}, {"setWeight": 25}, {"setWeight": 50}, {"setWeight": 100}]);
    stage.change_pipeline(json!({"strategy": {"steps": steps, "bake": "5s"}})).await?;
    outcome
}

async fn alive_and_dead(stage: &Stage) -> Result<()> {
    let github = &stage.supply.github;
    let (published, alive) = promoted(stage, "m-told").await?;
    wait::until_ok(Duration::from_secs(15), "GitHub is told", || async { all_told(stage, &published) }).await?;

    github.set_mode(Mode::Hanging);
    let (published, dead) = promoted(stage, "m-untold").await?;
    ensure!(told_of(stage, &published).is_empty(), "told while it hung: {:?}", told_of(stage, &published));
    ensure!(dead < alive.mul_f64(1.5) + Duration::from_secs(10), "{dead:?} with GitHub hanging, {alive:?} without");
    // The hub that knows what was not told goes away as well.
    stage.fleet.kill("hub-hub").await?;
    github.set_mode(Mode::Failing);
    stage.fleet.start_again("hub-hub").await?;
    let failed = |exchange: &tidegate_tests::supply::github::Exchange| {
        exchange.status == 500 && exchange.path.contains(&published.revision)
    };
    let tried = || async { github.exchanges().iter().any(failed).then_some(()) };
    wait::until(Duration::from_secs(60), "the next hub tries to tell", tried).await?;
    github.set_mode(Mode::Alive);
    let last = || async { last_told(stage, &published) };
    wait::until_ok(BACK, "GitHub is told of the end once it is back", last).await?;
    println!("  promoted in {:.0} s, with GitHub hanging in {:.0} s", alive.as_secs_f64(), dead.as_secs_f64());
    Ok(())
}

/// Ships a good version; what it took from the event to the end.
async fn promoted(stage: &Stage, version: &str) -> Result<(Published, Duration)> {
    let published = publish_good(stage, version).await?;
    let began = Instant::now();
    stage.github_package_event(&published).await?;
    released(stage, &published.digest).await?;
    ends_as(stage, &published.digest, RolloutPhase::Promoted, Duration::from_secs(180)).await?;
    reaches(stage, &published.digest, ReleasePhase::Promoted, Duration::from_secs(30)).await?;
    Ok((published, began.elapsed()))
}

/// All that GitHub accepted about this commit.
fn told_of(stage: &Stage, published: &Published) -> Vec<Told> {
    let deployments = deployments(stage, published);
    let about = |told: &Told| match told {
        Told::Status { sha, .. } => *sha == published.revision,
        Told::Deployment { id, .. } => deployments.contains(id),
        Told::DeploymentStatus { deployment, .. } => deployments.contains(deployment),
    };
    stage.supply.github.told().into_iter().filter(about).collect()
}

fn deployments(stage: &Stage, published: &Published) -> Vec<u64> {
    let told = stage.supply.github.told();
    let of_commit = |told: Told| match told {
        Told::Deployment { id, reference, environment, .. } => {
            (reference == published.revision && environment == STAGING).then_some(id)
        }
        _ => None,
    };
    told.into_iter().filter_map(of_commit).collect()
}

/// Commit statuses, and the statuses of the one deployment in staging, in the order in which they were told.
fn states(stage: &Stage, published: &Published) -> (Vec<String>, Vec<String>) {
    let (mut commit, mut deployment) = (Vec::new(), Vec::new());
    for told in told_of(stage, published) {
        match told {
            Told::Status { state, context, .. } if context == format!("tidegate/{APP}/{APP}/{STAGING}") => {
                commit.push(state)
            }
            Told::DeploymentStatus { state, .. } => deployment.push(state),
            _ => {}
        }
    }
    (commit, deployment)
}

/// One deployment, and success as the newest of both kinds.
fn last_told(stage: &Stage, published: &Published) -> Result<(), String> {
    let (commit, deployment) = states(stage, published);
    let success = |states: &[String]| states.last().is_some_and(|state| state == "success");
    let one = deployments(stage, published).len() == 1;
    if one && success(&commit) && success(&deployment) { Ok(()) } else { Err(format!("{commit:?}, {deployment:?}")) }
}

/// The whole way of a promotion.
fn all_told(stage: &Stage, published: &Published) -> Result<(), String> {
    last_told(stage, published)?;
    let (commit, deployment) = states(stage, published);
    let early = commit.first().context("no status").map_err(|error| error.to_string())? == "pending";
    let under_way = deployment.iter().any(|state| state == "in_progress");
    let failed = commit.iter().chain(&deployment).any(|state| state == "failure");
    if early && under_way && !failed { Ok(()) } else { Err(format!("{commit:?}, {deployment:?}")) }
}
