//! A workload with an autoscaler: its `minReplicas` holds stable whole while a canary takes its traffic away, and is given
//! back however the rollout ends.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};
use serde_json::json;
use tidegate_pipelines::api::{Release, ReleasePhase, Rollout, RolloutPhase, names};
use tidegate_tests::acts::{reaches, released, rollout_where};
use tidegate_tests::rig::apply;
use tidegate_tests::stage::manifests::APP;
use tidegate_tests::stage::{Stage, wait};
use tidegate_tests::supply::release::Published;

use super::hands::{STAGING, abort, ends_as, only_staging, phase, publish_good};
use crate::world::World;

/// What the team wants at the least; stable has four pods when the rollouts begin.
const TEAMS: i32 = 2;
const WHOLE: i32 = 4;

pub async fn held_and_given_back(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    only_staging(&stage, false).await?;
    let client = stage.environment(STAGING)?.cluster.admin.clone();
    let autoscaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": APP, "namespace": APP},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": APP},
            "minReplicas": TEAMS, "maxReplicas": 10,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}],
        },
    });
    apply::objects(&client, &[autoscaler]).await?;
    let api: Api<HorizontalPodAutoscaler> = Api::namespaced(client, APP);
    let outcome = every_end(&stage, &api).await;
    api.delete(APP, &DeleteParams::default()).await?;
    outcome
}

async fn every_end(stage: &Stage, api: &Api<HorizontalPodAutoscaler>) -> Result<()> {
    let (published, release) = begun(stage, "m-hpa-aborted").await?;
    held(api).await.context("before the abort")?;
    abort(stage, &release).await?;
    ends_as(stage, &published.digest, RolloutPhase::Withdrawn, Duration::from_secs(90)).await?;
    given_back(api).await.context("after the abort")?;

    let (published, _) = begun(stage, "m-hpa-deleted").await?;
    held(api).await.context("before the deletion")?;
    let rollouts: Api<Rollout> = Api::namespaced(stage.environment(STAGING)?.cluster.admin.clone(), APP);
    let rollout = stage.rollout_in(STAGING, &published.digest).await.context("no rollout")?;
    rollouts.delete(&rollout.name_any(), &DeleteParams::default()).await?;
    let gone = || async { stage.rollout_in(STAGING, &published.digest).await.is_none().then_some(()) };
    wait::until(Duration::from_secs(90), "the deleted Rollout is gone", gone).await?;
    given_back(api).await.context("after the Rollout was deleted")?;
    ensure!(stage.canary_weight(STAGING).await? == 0, "deleted with traffic");
    reaches(stage, &published.digest, ReleasePhase::Withdrawn, Duration::from_secs(30)).await?;

    let (published, _) = begun(stage, "m-hpa-promoted").await?;
    held(api).await.context("before the promotion")?;
    ends_as(stage, &published.digest, RolloutPhase::Promoted, Duration::from_secs(200)).await?;
    given_back(api).await.context("after the promotion")
}

/// A version whose canary has requests.
async fn begun(stage: &Stage, version: &str) -> Result<(Published, Release)> {
    let published = publish_good(stage, version).await?;
    stage.cloud_build_event(&published).await?;
    let release = released(stage, &published.digest).await?;
    rollout_where(stage, STAGING, &published.digest, "a canary", Duration::from_secs(90), |rollout| {
        phase(rollout) == Some(RolloutPhase::Canary) && rollout.status.as_ref().is_some_and(|status| status.weight > 0)
    })
    .await?;
    Ok((published, release))
}

/// The moment traffic moves, capacity is already held: no waiting here.
async fn held(api: &Api<HorizontalPodAutoscaler>) -> Result<()> {
    let autoscaler = api.get(APP).await?;
    let mark = autoscaler.annotations().get(names::HPA_RAISED).cloned();
    let least = autoscaler.spec.and_then(|spec| spec.min_replicas);
    ensure!(least == Some(WHOLE), "minReplicas is {least:?} while the canary runs, not {WHOLE}");
    ensure!(mark == Some(WHOLE.to_string()), "it is marked {mark:?}");
    Ok(())
}

async fn given_back(api: &Api<HorizontalPodAutoscaler>) -> Result<()> {
    wait::until_ok(Duration::from_secs(20), "minReplicas is the team's again", || async {
        let autoscaler = api.get(APP).await.map_err(|error| error.to_string())?;
        let marked = autoscaler.annotations().contains_key(names::HPA_RAISED);
        match autoscaler.spec.and_then(|spec| spec.min_replicas) {
            Some(TEAMS) if !marked => Ok(()),
            least => Err(format!("{least:?}, marked: {marked}")),
        }
    })
    .await
}
