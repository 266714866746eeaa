//! A digest is quarantined where it serves: the pods of its own workload restart for a bounded time, nobody else starts
//! one, and when that time is over the refusal says so.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::json;
use tidegate_pipelines::api::{Quarantine, RolloutPhase};
use tidegate_tests::acts::{gate, released};
use tidegate_tests::rig::{Cluster, apply};
use tidegate_tests::stage::manifests::APP;
use tidegate_tests::stage::roles::GUARD_TELEMETRY;
use tidegate_tests::stage::{Stage, wait};

use super::hands::{STAGING, at_rest, ends_as, only_staging, phase, publish_good, rollouts};
use crate::world::World;

const NAME: &str = "m-grace";
/// The same image under another workload of the same team.
const COPY: &str = "m-grace-copy";
const SOON: Duration = Duration::from_secs(30);

pub async fn quarantine(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    at_rest(&stage).await?;
    let image = stable_by_a_rollout(&stage).await?;
    let (_, digest) = image.split_once('@').context("stable runs a tag")?;
    let cluster = &stage.environment(STAGING)?.cluster;
    let quarantine = json!({
        "apiVersion": "tidegate.io/v1alpha1", "kind": "Quarantine", "metadata": {"name": NAME},
        "spec": {"digests": [digest], "environments": [STAGING], "reason": "loses orders, see INC-7"},
    });
    apply::objects(&cluster.admin, &[quarantine]).await?;
    let outcome = while_quarantined(&stage, cluster, &image).await;
    let all: Api<Quarantine> = Api::all(cluster.admin.clone());
    all.delete(NAME, &DeleteParams::default()).await?;
    let whole = whole_again(cluster, &image, None).await;
    stage.roles.restart_guard(&stage.fleet, cluster, &[]).await?;
    outcome?;
    whole.context("once the quarantine is gone")
}

/// What `staging`'s stable runs, if a rollout brought it there; else it is shipped first.
async fn stable_by_a_rollout(stage: &Stage) -> Result<String> {
    let image = stage.stable_image(STAGING).await?;
    let carries = |digest: &str| image.ends_with(digest);
    let all = rollouts(stage).await?;
    let shipped = all.iter().filter(|rollout| phase(rollout) == Some(RolloutPhase::Promoted));
    if shipped.into_iter().any(|rollout| rollout.spec.images.iter().any(|image| carries(&image.digest))) {
        return Ok(image);
    }
    only_staging(stage, false).await?;
    let published = publish_good(stage, "m-grace").await?;
    stage.cloud_build_event(&published).await?;
    released(stage, &published.digest).await?;
    ends_as(stage, &published.digest, RolloutPhase::Promoted, Duration::from_secs(240)).await?;
    Ok(published.by_digest())
}

async fn while_quarantined(stage: &Stage, cluster: &Cluster, image: &str) -> Result<()> {
    wait::until_ok(SOON, "a deployer's pod is refused for the quarantine", || async {
        let said = gate::refused_pod(cluster, "dana", "m-grace-person", image).await.map_err(|e| format!("{e:#}"))?;
        if said.contains("is quarantined (loses orders, see INC-7)") { Ok(()) } else { Err(said) }
    })
    .await?;

    let used = exceptions(cluster).await?;
    let drained = drain_one(cluster).await?;
    whole_again(cluster, image, Some(&drained)).await.context("within the grace")?;
    let used = exceptions(cluster).await? - used;
    ensure!(used >= 1, "a pod restarted, and no use of the grace was counted");

    others_are_refused(cluster, image).await?;

    stage.roles.restart_guard(&stage.fleet, cluster, &["--restart-grace=1s"]).await?;
    drain_one(cluster).await?;
    let said = fails_to_make_pods(cluster, APP).await.context("after the grace")?;
    ensure!(said.contains("its grace to restart ended at"), "refused without saying that its grace is over: {said}");
    Ok(())
}

/// Deletes a pod of stable's, as a drained node does; its name.
async fn drain_one(cluster: &Cluster) -> Result<String> {
    let pods: Api<Pod> = Api::namespaced(cluster.admin.clone(), APP);
    let all = pods.list(&ListParams::default().labels(&format!("app={APP}"))).await?.items;
    let serving = all.into_iter().find(|pod| pod.metadata.deletion_timestamp.is_none());
    let name = serving.context("stable has no pod")?.name_any();
    pods.delete(&name, &DeleteParams::default()).await?;
    Ok(name)
}

/// Stable has all its pods, all of this image, and the drained one is not among them.
async fn whole_again(cluster: &Cluster, image: &str, drained: Option<&str>) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(cluster.admin.clone(), APP);
    let pods: Api<Pod> = Api::namespaced(cluster.admin.clone(), APP);
    wait::until_ok(SOON, "stable is whole again", || async {
        let said = |error: kube::Error| error.to_string();
        let wanted = deployments.get(APP).await.map_err(said)?.spec.and_then(|spec| spec.replicas).unwrap_or(1);
        let all = pods.list(&ListParams::default().labels(&format!("app={APP}"))).await.map_err(said)?.items;
        let ready = all.iter().filter(|pod| is_ready(pod) && runs(pod, image) && Some(&*pod.name_any()) != drained);
        match ready.count() {
            count if i32::try_from(count) == Ok(wanted) => Ok(()),
            count => Err(format!("{count} of {wanted} pods are ready")),
        }
    })
    .await
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn runs(pod: &Pod, image: &str) -> bool {
    pod.spec.iter().any(|spec| spec.containers.iter().any(|container| container.image.as_deref() == Some(image)))
}

/// Everybody and everywhere else, while the grace lasts.
async fn others_are_refused(cluster: &Cluster, image: &str) -> Result<()> {
    let dana = cluster.client_for("dana").await?;
    let sets: Api<ReplicaSet> = Api::namespaced(cluster.admin.clone(), APP);
    let all = sets.list(&ListParams::default().labels(&format!("app={APP}"))).await?.items;
    let set = all.into_iter().find(|set| set.status.as_ref().is_some_and(|status| status.replicas > 0));
    let set = set.context("stable has no ReplicaSet")?;
    let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": set.name_any(), "uid": set.uid(), "controller": true}]);
    for (what, namespace, owners) in
        [("a pod under stable's ReplicaSet", APP, owner), ("a pod in another namespace", "default", json!([]))]
    {
        let pod: Pod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "m-grace-other", "namespace": namespace, "labels": {"app": APP}, "ownerReferences": owners},
            "spec": {"containers": [{"name": "app", "image": image}], "serviceAccountName": "default"},
        }))?;
        let pods: Api<Pod> = Api::namespaced(dana.clone(), namespace);
        match pods.create(&PostParams { dry_run: true, ..PostParams::default() }, &pod).await {
            Ok(_) => bail!("{what} was let in by a person"),
            Err(error) => ensure!(error.to_string().contains("is quarantined"), "{what}: {error}"),
        }
    }
    let copy = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": COPY, "namespace": APP},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": COPY}},
            "template": {"metadata": {"labels": {"app": COPY}},
                         "spec": {"serviceAccountName": "default", "containers": [{"name": "app", "image": image}]}},
        },
    });
    apply::objects(&dana, &[copy]).await?;
    let said = fails_to_make_pods(cluster, COPY).await;
    let deployments: Api<Deployment> = Api::namespaced(dana, APP);
    deployments.delete(COPY, &DeleteParams::default()).await?;
    let said = said.context("another workload of the same image")?;
    ensure!(said.contains("is quarantined") && !said.contains("stable here"), "another workload: {said}");
    Ok(())
}

/// Why the Deployment's ReplicaSet gets no pods.
async fn fails_to_make_pods(cluster: &Cluster, name: &str) -> Result<String> {
    let deployments: Api<Deployment> = Api::namespaced(cluster.admin.clone(), APP);
    wait::until(SOON, &format!("{name} says why it gets no pods"), || async {
        let status = deployments.get(name).await.ok()?.status?;
        let failed = status.conditions?.into_iter().find(|condition| condition.type_ == "ReplicaFailure")?;
        failed.message.filter(|message| message.contains("guard.tidegate.io"))
    })
    .await
}

/// How often the guard let something in by this grace since it started.
async fn exceptions(cluster: &Cluster) -> Result<u64> {
    let url = format!("http://{}:{GUARD_TELEMETRY}/metrics", cluster.address);
    let text = reqwest::get(url).await?.error_for_status()?.text().await?;
    let line = text.lines().find(|line| {
        line.starts_with("tidegate_admission_exceptions_total") && line.contains(r#"reason="QuarantineGrace""#)
    });
    let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    Ok(value.unwrap_or_default())
}
