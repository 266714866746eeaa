//! A StatefulSet held between two revisions by its partition: pods of the older one come back as they were, and what a
//! revision is, nobody but a deployer or its controller writes down.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tidegate_tests::rig::{Cluster, apply};
use tidegate_tests::stage::manifests::APP;
use tidegate_tests::stage::wait;

use super::hands::STAGING;
use crate::world::World;

const NAME: &str = "m-stateful";
const SOON: Duration = Duration::from_secs(30);

pub async fn between_revisions(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    let cluster = &stage.environment(STAGING)?.cluster;
    let dana = cluster.client_for("dana").await?;
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": NAME, "namespace": APP},
        "spec": {
            "replicas": 2, "serviceName": NAME, "selector": {"matchLabels": {"app": NAME}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}},
            "template": {"metadata": {"labels": {"app": NAME}}, "spec": {
                "serviceAccountName": "default",
                "containers": [{"name": "app", "image": stage.first.by_digest(), "env": [{"name": "ROUND", "value": "1"}]}]}},
        },
    });
    apply::objects(&dana, &[set]).await?;
    let sets: Api<StatefulSet> = Api::namespaced(dana, APP);
    let outcome = held_between(cluster, &sets).await;
    sets.delete(NAME, &DeleteParams::default()).await?;
    outcome
}

async fn held_between(cluster: &Cluster, sets: &Api<StatefulSet>) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(cluster.admin.clone(), APP);
    for pod in ["m-stateful-0", "m-stateful-1"] {
        comes(&pods, pod, "1", None).await?;
    }
    let second = json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "env": [{"name": "ROUND", "value": "2"}]}]}}}});
    sets.patch(NAME, &PatchParams::default(), &Patch::Strategic(second)).await?;
    comes(&pods, "m-stateful-1", "2", None).await?;
    for (pod, round) in [("m-stateful-0", "1"), ("m-stateful-1", "2")] {
        let drained = pods.get(pod).await?.uid();
        pods.delete(pod, &DeleteParams::default()).await?;
        comes(&pods, pod, round, drained).await.context("after it was drained")?;
    }
    a_forged_revision_is_refused(cluster).await
}

/// This pod is ready, of this round, and not the one that was drained.
async fn comes(pods: &Api<Pod>, name: &str, round: &str, drained: Option<String>) -> Result<()> {
    wait::until_ok(SOON, &format!("{name} of round {round}"), || async {
        let pod = pods.get_opt(name).await.map_err(|error| error.to_string())?.ok_or("there is none")?;
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let ready = conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True");
        let mut env = pod.spec.iter().flat_map(|spec| spec.containers.iter().flat_map(|c| c.env.iter().flatten()));
        let round_of = env.find(|one| one.name == "ROUND").and_then(|one| one.value.clone());
        let new = pod.metadata.deletion_timestamp.is_none() && pod.uid() != drained;
        if ready && new && round_of.as_deref() == Some(round) { Ok(()) } else { Err(format!("round {round_of:?}")) }
    })
    .await
}

/// Whoever may write ControllerRevisions but is no deployer has a pod of the StatefulSet made from nothing of theirs.
async fn a_forged_revision_is_refused(cluster: &Cluster) -> Result<()> {
    let revisions: Api<ControllerRevision> = Api::namespaced(cluster.client_for("sam").await?, APP);
    let all = revisions.list(&ListParams::default().labels(&format!("app={NAME}"))).await?.items;
    let mut forged = all.into_iter().next().context("the StatefulSet has no revisions")?;
    ensure!(forged.data.is_some(), "a revision without data");
    forged.metadata.name = Some("m-stateful-forged".to_owned());
    forged.metadata.resource_version = None;
    forged.metadata.managed_fields = None;
    match revisions.create(&PostParams { dry_run: true, ..PostParams::default() }, &forged).await {
        Ok(_) => bail!("a revision by somebody who is no deployer was let in"),
        Err(error) => ensure!(error.to_string().contains("is not a deployer"), "refused, but not for that: {error}"),
    }
    Ok(())
}
