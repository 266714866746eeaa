//! Deleting the pipeline: traffic returns, what is ours goes from the environment, what is the team's stays.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::Value;
use tidegate_pipelines::api::{Pipeline, RolloutPhase, RolloutReason, names};
use tidegate_tests::acts::released;
use tidegate_tests::stage::manifests::APP;
use tidegate_tests::stage::{Stage, wait};

use super::hands::{STAGING, at_rest, ends_as, only_staging, phase, publish_good, rollouts, to_mid_canary};
use crate::world::World;

pub async fn in_mid_canary(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    let published = to_mid_canary(&stage, "m-deleted").await?;
    let runs = stage.stable_image(STAGING).await?;
    let pipeline = delete(&stage).await?;
    let outcome = async {
        let left = left_as_it_was(&stage).await;
        let rollout = ends_as(&stage, &published.digest, RolloutPhase::Withdrawn, Duration::from_secs(30)).await?;
        ensure!(!stage.quarantined(stage.hub(), &published.digest).await, "{} was quarantined", rollout.name_any());
        ensure!(stage.stable_image(STAGING).await? == runs, "stable's template changed");
        left
    }
    .await;
    make_again(&stage, pipeline).await?;
    outcome
}

/// Everything promoted, nothing under way: what is left of it is taken away all the same.
pub async fn nothing_under_way(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    only_staging(&stage, false).await?;
    let published = publish_good(&stage, "m-leftover").await?;
    stage.cloud_build_event(&published).await?;
    released(&stage, &published.digest).await?;
    ends_as(&stage, &published.digest, RolloutPhase::Promoted, Duration::from_secs(240)).await?;
    ensure!(left_as_it_was(&stage).await.is_err(), "nothing of ours is there to be taken away");
    let pipeline = delete(&stage).await?;
    let outcome = async {
        left_as_it_was(&stage).await?;
        let image = stage.stable_image(STAGING).await?;
        ensure!(image.ends_with(&published.digest), "stable runs {image}");
        let retired = rollouts(&stage).await?.into_iter().filter(|r| r.spec.reason == RolloutReason::Retire);
        ensure!(retired.into_iter().all(|r| phase(&r) == Some(RolloutPhase::Withdrawn)), "not every one has ended");
        Ok(())
    }
    .await;
    make_again(&stage, pipeline).await?;
    outcome
}

/// Deletes the pipeline and waits until it is gone; as it was before.
async fn delete(stage: &Stage) -> Result<Pipeline> {
    let api: Api<Pipeline> = Api::namespaced(stage.hub().clone(), APP);
    let pipeline = api.get(APP).await?;
    api.delete(APP, &DeleteParams::default()).await?;
    wait::until_ok(Duration::from_secs(120), "the pipeline is gone", || async {
        match api.get_opt(APP).await {
            Ok(None) => Ok(()),
            Ok(Some(there)) => Err(format!("{:?}", there.status.and_then(|status| status.message))),
            Err(error) => Err(error.to_string()),
        }
    })
    .await?;
    Ok(pipeline)
}

async fn make_again(stage: &Stage, pipeline: Pipeline) -> Result<()> {
    let api: Api<Pipeline> = Api::namespaced(stage.hub().clone(), APP);
    api.create(&PostParams::default(), &Pipeline::new(APP, pipeline.spec)).await?;
    at_rest(stage).await
}

/// The route names the team's Service alone, without a mark of ours, and our two objects are gone.
async fn left_as_it_was(stage: &Stage) -> Result<()> {
    let route = stage.route(STAGING).await?;
    let rules = route.pointer("/spec/rules").and_then(Value::as_array).cloned().unwrap_or_default();
    ensure!(rules.len() == 1, "the route has {} rules", rules.len());
    let refs = rules[0]["backendRefs"].as_array().cloned().unwrap_or_default();
    let named: Vec<&str> = refs.iter().filter_map(|one| one["name"].as_str()).collect();
    ensure!(named == [APP], "the route names {named:?}");
    let weight = refs[0]["weight"].as_u64();
    // The team wrote none, and the API server's default for that is 1.
    ensure!(matches!(weight, None | Some(1)), "the team's Service has weight {weight:?}");
    let marks: Vec<String> = route
        .pointer("/metadata/annotations")
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|all| all.keys().filter(|key| key.starts_with("tidegate.io/")).cloned())
        .collect();
    ensure!(marks.is_empty(), "the route carries {marks:?}");
    let client = &stage.environment(STAGING)?.cluster.admin;
    let canary = names::canary_name(APP);
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), APP);
    let services: Api<Service> = Api::namespaced(client.clone(), APP);
    ensure!(deployments.get_opt(&canary).await?.is_none(), "Deployment {canary} is still there");
    ensure!(services.get_opt(&canary).await?.is_none(), "Service {canary} is still there");
    Ok(())
}
