//! What must not move: pipelines where they are not allowed, objectives that cannot be judged, and things that are done.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use tidegate_pipelines::api::{Pipeline, Release, RolloutPhase};
use tidegate_tests::acts::{released, rollout_where};
use tidegate_tests::rig::{apply, now};
use tidegate_tests::stage::manifests::{self, APP};
use tidegate_tests::stage::{Stage, spec, wait};
use tidegate_tests::supply::behavior::Behavior;
use tidegate_tests::supply::payloads::{self, Artifact};
use tokio::time::sleep;

use super::hands::{STAGING, Stored, abort, at_rest, ends_as, only_staging, publish_good, rollouts, watch};
use crate::world::World;

const STRANGER: &str = "stranger";

/// A second team's pipeline, in a namespace that no entry of the Environment selects.
pub async fn namespace_not_allowed(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    only_staging(&stage, false).await?;
    let pipelines: Api<Pipeline> = Api::namespaced(stage.hub().clone(), APP);
    let mut pipeline = serde_json::to_value(pipelines.get(APP).await?)?;
    let repository = stage.first.repository.replace(APP, STRANGER);
    pipeline["metadata"] = json!({"name": STRANGER, "namespace": STRANGER});
    pipeline["status"] = Value::Null;
    pipeline["spec"]["images"][0]["repository"] = repository.clone().into();
    // What it would like to act on exists: `portal` is right there, only not in its namespace.
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": STRANGER}});
    let cluster = &stage.environment(STAGING)?.cluster;
    apply::objects(&cluster.admin, std::slice::from_ref(&namespace)).await?;
    apply::objects(stage.hub(), &[namespace, pipeline]).await?;

    let mut image = spec("m-stranger", Behavior::version("m-stranger"));
    image.repo = manifests::REPOSITORY.replace(APP, STRANGER);
    let published = stage.publish(&image).await?;
    ensure!(published.repository == repository, "{} is not {repository}", published.repository);
    let (before, since) = (Stored::now(&stage).await?, now());
    let content = payloads::artifact_registry("INSERT", &Artifact::from(&published));
    let google = &stage.supply.google;
    let token = google.sign(&google.push_claims(manifests::PUSH_AUDIENCE, manifests::PUSH_EMAIL));
    let message = payloads::artifact_registry_message(&content, "m-stranger");
    let answer = stage.events.artifact_registry(Some(&token), &message).await?;
    ensure!(answer.status == 202, "the door answered {} {}", answer.status, answer.body);

    let releases: Api<Release> = Api::namespaced(stage.hub().clone(), STRANGER);
    let said = wait::until_ok(Duration::from_secs(30), "the release says that it is not allowed", || async {
        let all = releases.list(&Default::default()).await.map_err(|error| error.to_string())?.items;
        let status = serde_json::to_string(&all.first().and_then(|release| release.status.clone()));
        let status = status.map_err(|error| error.to_string())?;
        if status.contains("allowedPipelines") { Ok(status) } else { Err(status) }
    })
    .await;
    sleep(Duration::from_secs(5)).await;
    let after = Stored::now(&stage).await?;
    let writes = cluster.writes_since(since)?;
    let touched: Vec<_> = writes.iter().filter(|write| write.namespace == STRANGER && !write.dry_run).collect();
    let stranger: Api<Pipeline> = Api::namespaced(stage.hub().clone(), STRANGER);
    stranger.delete(STRANGER, &DeleteParams::default()).await?;
    said?;
    ensure!(after.rollouts == before.rollouts, "a rollout was made where nothing is allowed: {after:?}");
    ensure!(touched.is_empty(), "written in the namespace: {touched:?}");
    Ok(())
}

/// Asked of the metrics server before any weight.
pub async fn misspelt_metric(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    only_staging(&stage, false).await?;
    let ratio = |total: &str| {
        let errors = format!("{total}{{code=~\"5..\"}}");
        json!([{"name": "availability", "target": 0.9, "ratio": {"total": total, "errors": errors}}])
    };
    let hasty = json!({"objectives": ratio("http_reqests_total"), "strategy": {"capacityDeadline": "20s"}});
    stage.change_pipeline(hasty).await?;
    let outcome = refused(&stage, "m-misspelt", &["http_reqests_total"]).await;
    let usual = json!({"objectives": ratio("http_requests_total"), "strategy": {"capacityDeadline": "60s"}});
    stage.change_pipeline(usual).await?;
    outcome
}

/// Whoever mends the pipeline and retries means the mended one.
pub async fn retry_of_a_mended_pipeline(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    only_staging(&stage, false).await?;
    stage.change_pipeline(json!({"strategy": {"capacityDeadline": "20s"}, "service": "portal-misspelt"})).await?;
    let published = publish_good(&stage, "m-retried").await?;
    stage.cloud_build_event(&published).await?;
    let release = released(&stage, &published.digest).await?;
    let failed = ends_as(&stage, &published.digest, RolloutPhase::Failed, Duration::from_secs(90)).await;
    stage.change_pipeline(json!({"strategy": {"capacityDeadline": "60s"}, "service": APP})).await?;
    failed?;
    let patch = Patch::Merge(json!({"spec": {"attempt": 2}}));
    let name = release.name_any();
    stage.releases().patch(&name, &PatchParams::default(), &patch).await?;
    let again = wait::until_ok(Duration::from_secs(60), "the second attempt is under way", || async {
        let all = rollouts(&stage).await.map_err(|error| error.to_string())?;
        let second = all.into_iter().find(|r| r.spec.release == name && r.spec.attempt == 2);
        let second = second.ok_or("there is none yet")?;
        match second.status.as_ref().and_then(|status| status.phase) {
            Some(RolloutPhase::Canary) => Ok(second),
            other => Err(format!("it is {other:?}")),
        }
    })
    .await;
    abort(&stage, &release).await?;
    at_rest(&stage).await?;
    let again = again?;
    ensure!(again.spec.service == APP, "it ships by the pipeline as it was: {}", again.spec.service);
    Ok(())
}

/// Its pods are ready, but Prometheus is never told of them.
pub async fn nobody_scrapes(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    only_staging(&stage, false).await?;
    stage.change_pipeline(json!({"strategy": {"capacityDeadline": "20s"}})).await?;
    let kubelet = &stage.environment(STAGING)?.kubelet;
    kubelet.hide_from_monitoring("app", "portal-canary").await;
    let outcome = refused(&stage, "m-unscraped", &["no `up` sample of the canary's pods", "CanaryNotScraped"]).await;
    kubelet.show_all_to_monitoring().await;
    stage.change_pipeline(json!({"strategy": {"capacityDeadline": "60s"}})).await?;
    outcome
}

/// Ships `version`, which must fail with all `words` in its message, without a single request served by it.
async fn refused(stage: &Stage, version: &str, words: &[&str]) -> Result<()> {
    let published = publish_good(stage, version).await?;
    let load = stage.loads.get(STAGING).context("no load in staging")?;
    let before = load.snapshot().await;
    stage.cloud_build_event(&published).await?;
    released(stage, &published.digest).await?;
    rollout_where(stage, STAGING, &published.digest, "begun", Duration::from_secs(30), |_| true).await?;
    let (seen, ended) = tokio::join!(
        watch(stage, STAGING, &published.digest, Duration::from_secs(25)),
        ends_as(stage, &published.digest, RolloutPhase::Failed, Duration::from_secs(90)),
    );
    let rollout = ended?;
    let message = rollout.status.and_then(|status| status.message).unwrap_or_default();
    for word in words {
        ensure!(message.contains(word), "it does not name {word:?}: {message}");
    }
    let moved = seen.iter().find(|sight| sight.weight > 0);
    ensure!(moved.is_none() && !seen.is_empty(), "traffic moved before it was refused: {moved:?}");
    let served = load.snapshot().await.since(&before).served_by(version);
    ensure!(served == 0, "it served {served} requests");
    ensure!(!stage.quarantined(stage.hub(), &published.digest).await, "a wrong pipeline quarantined the digest");
    Ok(())
}

/// Counted at the API servers, for all our accounts; Leases and dry runs apart.
pub async fn idle(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    at_rest(&stage).await?;
    let ended = rollouts(&stage).await?.len();
    ensure!(ended > 0, "there is no finished rollout to be idle about: run it after another case");
    // What an end still owes: the last report, events, retention.
    sleep(Duration::from_secs(15)).await;
    let since = now();
    sleep(Duration::from_secs(60)).await;
    let clusters = stage.fleet.environments.iter().map(|environment| &environment.cluster).chain([&stage.fleet.hub]);
    let mut seen = Vec::new();
    for cluster in clusters {
        let writes = cluster.writes_since(since)?;
        let heartbeats = writes.iter().filter(|write| write.resource == "leases").count();
        ensure!(heartbeats > 0, "{}: not even a Lease is renewed: does its audit log work?", cluster.name);
        let ours = |name: &str| name.starts_with("system:serviceaccount:tidegate-system:");
        let asked = writes.into_iter().filter(|w| ours(&w.user) && w.resource != "leases" && !w.dry_run);
        seen.extend(asked.map(|write| format!("{}: {write:?}", cluster.name)));
    }
    let names: Vec<String> = rollouts(&stage).await?.iter().map(ResourceExt::name_any).collect();
    ensure!(seen.is_empty(), "{} writes in 60 s with {names:?} finished:\n{}", seen.len(), seen.join("\n"));
    Ok(())
}
