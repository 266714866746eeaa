//! Events whose ground moves between door and hub: a right that is taken away, a second pipeline, a tag. The table
//! ([`super::doors`]) has those that are wrong from the start.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use kube::api::{Api, DeleteParams};
use serde_json::{Value, json};
use tidegate_pipelines::api::{BuildEventPhase, Pipeline, ReleasePhase};
use tidegate_tests::acts::{reaches, released};
use tidegate_tests::rig::apply;
use tidegate_tests::stage::manifests::{self, APP, PUSH_AUDIENCE, PUSH_EMAIL};
use tidegate_tests::stage::{Stage, revision_of, spec, wait};
use tidegate_tests::supply::behavior::Behavior;
use tidegate_tests::supply::events::Answer;
use tidegate_tests::supply::payloads::{self, Artifact};
use tidegate_tests::supply::provenance::Provenance;
use tokio::time::sleep;

use super::hands::{Stored, abort, event_since, only_staging, patch_hub};
use crate::world::World;

const CLOUD_BUILD_SOURCE: &str = "/apis/tidegate.io/v1alpha1/namespaces/tidegate-system/eventsources/cloudbuild";

/// Refused at the door, which stores nothing; and if the source's right is taken away after the door, by the hub.
pub async fn foreign_registry(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    only_staging(&stage, false).await?;
    let before = Stored::now(&stage).await?;
    let foreign = Artifact { repository: "registry.evil.example/shop/portal".into(), ..artifact(&stage) };
    let answer = cloud_build(&stage, "m-foreign-door", &foreign).await?;
    ensure!(answer.status == 403, "the door answered {} {}", answer.status, answer.body);
    ensure!(answer.body.trim().lines().count() == 1 && answer.body.contains("may not name images"), "{}", answer.body);
    sleep(Duration::from_secs(2)).await;
    ensure!(Stored::now(&stage).await? == before, "a refused delivery left something");

    stage.fleet.stop("hub-hub").await?;
    let answer = cloud_build(&stage, "m-foreign-hub", &artifact(&stage)).await?;
    patch_hub(&stage, CLOUD_BUILD_SOURCE, &json!({"spec": {"images": ["registry.evil.example/shop/portal"]}})).await?;
    stage.fleet.start_again("hub-hub").await?;
    let outcome = ignored(&stage, &before, &answer, "may not speak for").await;
    patch_hub(&stage, CLOUD_BUILD_SOURCE, &json!({"spec": {"images": [stage.first.repository]}})).await?;
    outcome
}

/// Two pipelines that claim one workload: neither ships.
pub async fn ambiguous_pipelines(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    only_staging(&stage, false).await?;
    let pipelines: Api<Pipeline> = Api::namespaced(stage.hub().clone(), APP);
    let mut second = serde_json::to_value(pipelines.get(APP).await?)?;
    second["metadata"] = json!({"name": "portal-second", "namespace": APP});
    second["status"] = Value::Null;
    let before = Stored::now(&stage).await?;
    apply::objects(stage.hub(), &[second]).await?;
    // Told before any event comes.
    let told = wait::until(Duration::from_secs(15), "the second pipeline is told", || async {
        let pipeline = pipelines.get("portal-second").await.ok()?;
        let said = serde_json::to_string(&pipeline.status).ok()?;
        said.contains("claim").then_some(())
    })
    .await;
    let answer = cloud_build(&stage, "m-ambiguous", &artifact(&stage)).await?;
    let outcome = ignored(&stage, &before, &answer, "claim the same workload").await;
    pipelines.delete("portal-second", &DeleteParams::default()).await?;
    let gone = wait::until(Duration::from_secs(30), "the second pipeline is gone", || async {
        pipelines.get_opt("portal-second").await.ok()?.is_none().then_some(())
    })
    .await;
    outcome.and(told).and(gone)
}

/// The tag is moved before it is looked at, and again after: one digest, the one that was found.
pub async fn moved_tag(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    only_staging(&stage, true).await?;
    let revision = revision_of("m-moved");
    let of = |version: &str| {
        let mut of = spec(version, Behavior::version(version));
        of.tag.clone_from(&revision);
        of.revision.clone_from(&revision);
        of.provenance(Provenance::cloud_build(manifests::SOURCE, &revision))
    };
    stage.fleet.stop("hub-hub").await?;
    let first = stage.publish(&of("m-moved-a")).await?;
    let before = Stored::now(&stage).await?;
    stage.github_push_event(&revision).await?;
    let second = stage.publish(&of("m-moved-b")).await?;
    ensure!(first.digest != second.digest, "the tag was not moved");
    stage.fleet.start_again("hub-hub").await?;
    let release = released(&stage, &second.digest).await?;
    stage.supply.registry.tag(manifests::REPOSITORY, &first.digest, &revision).await?;
    let event = event_since(&stage, &before).await?;
    let resolved: Vec<_> = event.status.into_iter().flat_map(|status| status.resolved).collect();
    let digests: Vec<_> = resolved.iter().filter_map(|image| image.digest.as_deref()).collect();
    ensure!(digests == [second.digest.as_str()], "resolved to {resolved:?}");
    // Waits for its approval, while the tag says something else.
    let waiting = reaches(&stage, &second.digest, ReleasePhase::Waiting, Duration::from_secs(30)).await;
    sleep(Duration::from_secs(3)).await;
    ensure!(stage.release_of(&first.digest).await.is_none(), "the moved tag made a second release");
    let now = Stored::now(&stage).await?;
    ensure!(now.rollouts == before.rollouts, "something moved without an approval: {now:?}");
    abort(&stage, &release).await?;
    waiting?;
    reaches(&stage, &second.digest, ReleasePhase::Withdrawn, Duration::from_secs(30)).await?;
    Ok(())
}

fn artifact(stage: &Stage) -> Artifact {
    Artifact::from(&stage.first)
}

async fn cloud_build(stage: &Stage, id: &str, artifact: &Artifact) -> Result<Answer> {
    let build = payloads::cloud_build(id, "shop-prod", manifests::SOURCE, artifact);
    stage.events.cloud_build(Some(&token(stage)), &payloads::cloud_build_message(&build, id)).await
}

fn token(stage: &Stage) -> String {
    let google = &stage.supply.google;
    google.sign(&google.push_claims(PUSH_AUDIENCE, PUSH_EMAIL))
}

/// Acknowledged, one BuildEvent stored, `Ignored` with its reason, no Release and no Rollout.
async fn ignored(stage: &Stage, before: &Stored, answer: &Answer, reason: &str) -> Result<()> {
    ensure!(answer.status == 202, "the door answered {} {}", answer.status, answer.body);
    let event = event_since(stage, before).await?;
    let status = event.status.unwrap_or_default();
    let message = status.message.unwrap_or_default();
    ensure!(status.phase == Some(BuildEventPhase::Ignored), "it became {:?}: {message}", status.phase);
    ensure!(message.contains(reason) && message.lines().count() == 1, "it does not say why: {message}");
    let after = Stored::now(stage).await?;
    ensure!(after.events.len() == before.events.len() + 1, "stored: {:?}", after.events.difference(&before.events));
    ensure!(after.releases == before.releases, "an ignored event made a release");
    ensure!(after.rollouts == before.rollouts, "an ignored event made a rollout");
    Ok(())
}
