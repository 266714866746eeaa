//! What must not get in: unsigned images, banned packages, intruders. Each is tried at the doors and at the API servers.

use std::time::Duration;

use anyhow::{Result, bail};
use kube::ResourceExt;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use tidegate_pipelines::api::ReleasePhase;

use super::{Seen, check, reaches, released};
use crate::rig::Cluster;
use crate::stage::manifests::APP;
use crate::stage::{Stage, spec};
use crate::supply::behavior::Behavior;
use crate::supply::release::{Published, Sbom};
use crate::supply::sbom::{Component, Subject};

pub const UNSIGNED: &str = "denied with reasons, nothing written in any environment; its pods are refused everywhere";

/// Never signed: by event, and by hand as a container, an init container and an ephemeral one.
pub async fn unsigned(stage: &Stage, version: &str) -> Result<Seen> {
    let published = stage.publish(&spec(version, Behavior::version(version)).unsigned()).await?;
    let reason = denied(stage, &published).await?;
    let mut tried = 0;
    for environment in &stage.fleet.environments {
        let cluster = &environment.cluster;
        let by_digest = refused_pod(cluster, "dana", "unsigned-digest", &published.by_digest()).await?;
        check(by_digest.contains("sign"), format!("{}: refused without its reason: {by_digest}", cluster.name))?;
        let by_tag = refused_pod(cluster, "dana", "unsigned-tag", &published.by_tag()).await?;
        check(by_tag.contains(&published.digest), format!("{}: a tag without its digest: {by_tag}", cluster.name))?;
        let init = pod("unsigned-init", &stage.first.by_digest(), |spec| {
            spec["initContainers"] = json!([{"name": "init", "image": published.by_digest()}]);
        });
        refused(cluster, "dana", &init).await?;
        refused_ephemeral(cluster, &published.by_digest()).await?;
        tried += 4;
    }
    Ok(Seen::that(format!("{reason}; {tried} pods refused by API servers")))
}

/// An ephemeral container in a pod that runs.
async fn refused_ephemeral(cluster: &Cluster, image: &str) -> Result<()> {
    use k8s_openapi::api::core::v1::Pod;
    let dana = cluster.client_for("dana").await?;
    let api: Api<Pod> = Api::namespaced(cluster.admin.clone(), APP);
    let Some(running) = api.list(&Default::default()).await?.items.into_iter().next() else {
        bail!("{}: no pod to debug", cluster.name)
    };
    let path = format!("/api/v1/namespaces/{APP}/pods/{}/ephemeralcontainers", running.name_any());
    let patch =
        json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": image, "targetContainerName": "app"}]}});
    let request = http::Request::patch(path)
        .header("content-type", "application/strategic-merge-patch+json")
        .body(serde_json::to_vec(&patch)?)?;
    match dana.request::<Value>(request).await {
        Ok(_) => bail!("{}: an ephemeral container with {image} was let in", cluster.name),
        Err(kube::Error::Api(status)) if status.message.contains("guard") || status.message.contains("admission") => {
            Ok(())
        }
        Err(error) => bail!("{}: refused, but not by the guard: {error}", cluster.name),
    }
}

pub const SBOM: &str =
    "denied, naming the component; denied without an SBOM, with another image's, with one about another";

/// Signed, but with a banned package; without SBOM; with other images' SBOMs.
pub async fn sbom(stage: &Stage, version: &str) -> Result<Seen> {
    let of = |suffix: &str| spec(&format!("{version}-{suffix}"), Behavior::version(version));
    let banned = stage.publish(&of("banned").with_component(Component::log4j_core("2.14.1"))).await?;
    let missing = stage.publish(&of("missing").sbom(Sbom::Missing)).await?;
    let copied = stage.publish(&of("copied").sbom(Sbom::CopiedFrom(stage.first.clone()))).await?;
    let other = Subject::new(&stage.first.repository, &stage.first.digest);
    let mistaken = stage.publish(&of("mistaken").sbom(Sbom::OfAnotherImage(other))).await?;
    let reason = denied(stage, &banned).await?;
    check(reason.contains("log4j-core"), format!("the component is not named: {reason}"))?;
    for (what, published) in [("missing", &missing), ("of another image", &copied), ("about another", &mistaken)] {
        let reason = denied(stage, published).await?;
        check(reason.to_lowercase().contains("sbom"), format!("SBOM {what}: {reason}"))?;
    }
    Ok(Seen::that(reason))
}

/// Sends the event and returns why the release was denied; nothing may be written in any environment.
async fn denied(stage: &Stage, published: &Published) -> Result<String> {
    stage.cloud_build_event(published).await?;
    released(stage, &published.digest).await?;
    let release = reaches(stage, &published.digest, ReleasePhase::Denied, Duration::from_secs(30)).await?;
    let status = release.status.unwrap_or_default();
    let reasons: Vec<String> = status.environments.iter().flat_map(|environment| environment.reasons.clone()).collect();
    check(!reasons.is_empty(), format!("denied without a reason: {:?}", status.message))?;
    for environment in &stage.fleet.environments {
        let name = environment.name();
        check(stage.rollout_in(name, &published.digest).await.is_none(), format!("{name} was given a rollout"))?;
    }
    Ok(reasons.first().cloned().unwrap_or_default())
}

pub const INTRUDER: &str = "older image, command, bare pod with the Service's labels, forged owner, a ReplicaSet scaled up: refused; scaling and restart work";

/// Somebody who is no deployer.
pub async fn intruder(stage: &Stage, environment: &str) -> Result<Seen> {
    let older = stage.publish(&spec("v0-older", Behavior::version("v0-older"))).await?;
    let cluster = &stage.environment(environment)?.cluster;
    let image = json!([{"name": "app", "image": older.by_digest()}]);
    change_refused(cluster, json!({"spec": {"template": {"spec": {"containers": image}}}}), "an older image").await?;
    let command = json!([{"name": "app", "command": ["/bin/sh", "-c", "id"]}]);
    change_refused(cluster, json!({"spec": {"template": {"spec": {"containers": command}}}}), "another command")
        .await?;
    let mut bare = pod("intruder-bare", &stage.first.by_digest(), |_| {});
    bare["metadata"]["labels"] = json!({"app": APP});
    refused(cluster, "sam", &bare).await?;
    let mut forged = pod("intruder-forged", &stage.first.by_digest(), |_| {});
    forged["metadata"]["labels"] = json!({"app": APP});
    forged["metadata"]["ownerReferences"] = json!([owner(cluster).await?]);
    refused(cluster, "sam", &forged).await?;
    older_template_refused(cluster).await?;

    let restart = json!({"spec": {"template": {"metadata": {"annotations": {
        "kubectl.kubernetes.io/restartedAt": crate::rig::now().to_string()
    }}}}});
    change(cluster, &restart).await.map_err(|error| error.context("rollout restart"))?;
    change(cluster, &json!({"spec": {"replicas": 5}})).await.map_err(|error| error.context("scaling up"))?;
    change(cluster, &json!({"spec": {"replicas": 4}})).await.map_err(|error| error.context("scaling down"))?;
    Ok(Seen::that(format!("5 refused in {environment}; restart and scaling done")))
}

/// A ReplicaSet that is scaled up past its Deployment brings its template back, however old.
async fn older_template_refused(cluster: &Cluster) -> Result<()> {
    use k8s_openapi::api::apps::v1::ReplicaSet;
    let api: Api<ReplicaSet> = Api::namespaced(cluster.client_for("sam").await?, APP);
    let set = owner(cluster).await?["name"].as_str().unwrap_or_default().to_owned();
    let patch = Patch::Merge(json!({"spec": {"replicas": 40}}));
    match api.patch_scale(&set, &PatchParams::default(), &patch).await {
        Ok(_) => bail!("{}: the ReplicaSet {set} was scaled up", cluster.name),
        Err(error) if error.to_string().contains("guard.tidegate.io") => Ok(()),
        Err(error) => bail!("{}: scaling {set} was refused, but not by the guard: {error:#}", cluster.name),
    }
}

/// A reference to a ReplicaSet that lives, as a controller would write it.
async fn owner(cluster: &Cluster) -> Result<Value> {
    use k8s_openapi::api::apps::v1::ReplicaSet;
    let api: Api<ReplicaSet> = Api::namespaced(cluster.admin.clone(), APP);
    let Some(set) = api.list(&Default::default()).await?.items.into_iter().next() else {
        bail!("{}: no ReplicaSet to pretend to", cluster.name)
    };
    Ok(
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": set.name_any(), "uid": set.uid(), "controller": true}),
    )
}

async fn change(cluster: &Cluster, patch: &Value) -> Result<()> {
    use k8s_openapi::api::apps::v1::Deployment;
    let api: Api<Deployment> = Api::namespaced(cluster.client_for("sam").await?, APP);
    api.patch(APP, &PatchParams::default(), &Patch::Strategic(patch)).await?;
    Ok(())
}

async fn change_refused(cluster: &Cluster, patch: Value, what: &str) -> Result<()> {
    match change(cluster, &patch).await {
        Ok(()) => bail!("{}: {what} was let in", cluster.name),
        Err(error) if error.to_string().contains("guard.tidegate.io") => Ok(()),
        Err(error) => bail!("{}: {what} was refused, but not by the guard: {error:#}", cluster.name),
    }
}

fn pod(name: &str, image: &str, more: impl FnOnce(&mut Value)) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": APP},
        "spec": {"containers": [{"name": "app", "image": image}], "serviceAccountName": "default"},
    });
    more(&mut pod["spec"]);
    pod
}

/// Creates a pod with `image` as `user` and returns the API server's refusal.
pub async fn refused_pod(cluster: &Cluster, user: &str, name: &str, image: &str) -> Result<String> {
    refused(cluster, user, &pod(name, image, |_| {})).await
}

async fn refused(cluster: &Cluster, user: &str, pod: &Value) -> Result<String> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Pod"));
    let api: Api<DynamicObject> = Api::namespaced_with(cluster.client_for(user).await?, APP, &resource);
    let object: DynamicObject = serde_json::from_value(pod.clone())?;
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => bail!("{}: the pod {} was let in", cluster.name, object.name_any()),
        Err(kube::Error::Api(status)) if status.message.contains("guard.tidegate.io") => Ok(status.message.clone()),
        Err(error) => bail!("{}: {} was refused, but not by the guard: {error}", cluster.name, object.name_any()),
    }
}
