//! The guard's serving certificate and the authority behind it change while the fleet works: all the while signed images
//! get in, a person's and a controller's, and unsigned ones do not. In the order that docs/operations.md gives.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tidegate_tests::rig::control_plane::shown_to_the_guard;
use tidegate_tests::rig::pki::Authority;
use tidegate_tests::rig::{Cluster, apply};
use tidegate_tests::stage::manifests::APP;
use tidegate_tests::stage::roles::{GUARD_PORT, certificate_files};
use tidegate_tests::stage::{Stage, spec, wait};
use tidegate_tests::supply::behavior::Behavior;
use tidegate_tests::supply::raw::{Raw, Request};
use tokio::time::sleep;

use super::hands::{STAGING, at_rest};
use crate::world::World;

const NAME: &str = "m-rotation";
const PAUSE: Duration = Duration::from_millis(50);
/// An API server follows its webhook configurations by a watch: seconds, where there are several of them.
const FOLLOWED: Duration = Duration::from_secs(2);

pub async fn without_a_gap(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    at_rest(&stage).await?;
    let cluster = &stage.environment(STAGING)?.cluster;
    let unsigned = stage.publish(&spec(NAME, Behavior::version(NAME)).unsigned()).await?;
    let dana = cluster.client_for("dana").await?;
    let workload = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": NAME, "namespace": APP},
        "spec": {
            "replicas": 0, "selector": {"matchLabels": {"app": NAME}},
            "template": {"metadata": {"labels": {"app": NAME}}, "spec": {
                "serviceAccountName": "default",
                "containers": [{"name": "app", "image": stage.first.by_digest()}]}},
        },
    });
    apply::objects(&dana, &[workload]).await?;

    let over = AtomicBool::new(false);
    let turns = async {
        let outcome = there_and_back(&stage, cluster).await;
        over.store(true, Ordering::Relaxed);
        outcome
    };
    let (signed, unsigned) = (stage.first.by_digest(), unsigned.by_digest());
    let (outcome, seen) = tokio::join!(turns, knock(&dana, &signed, &unsigned, &over));
    let failed = failed_to_make_pods(cluster).await;
    let deployments: Api<Deployment> = Api::namespaced(dana, APP);
    deployments.delete(NAME, &DeleteParams::default()).await?;
    if outcome.is_err() {
        certify(cluster, &stage.fleet.authority)?;
        stage.roles.install_webhook(cluster, &stage.fleet.ca_pem).await?;
    }
    outcome?;
    eprintln!("  {} signed pods admitted and {} unsigned ones refused meanwhile", seen.admitted, seen.refused);
    ensure!(seen.wrong.is_empty(), "{} wrong answers, first: {}", seen.wrong.len(), seen.wrong[0]);
    ensure!(seen.admitted > 20 && seen.refused > 20, "hardly asked");
    let failed = failed?;
    ensure!(failed.is_empty(), "its controller was refused pods: {failed:?}");
    Ok(())
}

/// To a new authority, and back to the fleet's own, as every later rotation.
async fn there_and_back(stage: &Stage, cluster: &Cluster) -> Result<()> {
    let (first, second) = (&stage.fleet.authority, &Authority::new()?);
    let guard = cluster.part("guard");
    let process = stage.fleet.processes.pid(&guard).await;
    turn(stage, cluster, first, second, 0).await.context("to the new authority")?;
    turn(stage, cluster, second, first, 3).await.context("back to the first one")?;
    ensure!(stage.fleet.processes.pid(&guard).await == process, "the guard was started anew");
    Ok(())
}

async fn turn(stage: &Stage, cluster: &Cluster, old: &Authority, new: &Authority, pods: u32) -> Result<()> {
    let trusted = cluster.dir.join("guard-authorities.pem");
    let trust = async |bundle: String| {
        std::fs::write(&trusted, bundle)?;
        stage.roles.install_webhook(cluster, &trusted).await?;
        sleep(FOLLOWED).await;
        anyhow::Ok(())
    };
    trust(old.ca_pem() + &new.ca_pem()).await?;
    scaled(cluster, pods + 1).await.context("with both authorities trusted")?;

    certify(cluster, new)?;
    let serves = || async { answers(cluster, new).await.map_err(|error| format!("{error:#}")) };
    wait::until_ok(Duration::from_secs(5), "the guard serves its new certificate", serves).await?;
    ensure!(answers(cluster, old).await.is_err(), "the guard still serves the old certificate");
    scaled(cluster, pods + 2).await.context("with the new certificate")?;

    trust(new.ca_pem()).await?;
    scaled(cluster, pods + 3).await.context("with the new authority alone")
}

/// Key first: until both are there they do not fit, and the last good pair is served.
fn certify(cluster: &Cluster, authority: &Authority) -> Result<()> {
    let issued = authority.issue(&[&cluster.address.to_string()])?;
    let (certificate, key) = certificate_files(cluster, "guard");
    replace(&key, &issued.key)?;
    replace(&certificate, &issued.certificate)
}

fn replace(path: &Path, text: &str) -> Result<()> {
    let unfinished = path.with_extension("part");
    std::fs::write(&unfinished, text)?;
    Ok(std::fs::rename(unfinished, path)?)
}

/// Over a connection of its own that trusts nothing but this authority.
async fn answers(cluster: &Cluster, authority: &Authority) -> Result<()> {
    let shown = shown_to_the_guard(cluster)?;
    let raw = Raw::showing(Some(&shown), &cluster.address.to_string(), GUARD_PORT, &authority.ca_pem())?;
    let request = Request { method: "GET".to_owned(), ..Request::post("/healthz", Vec::new()) };
    let answers = raw.send(&request).await?;
    ensure!(answers.first().is_some_and(|answer| answer.status == 200), "{answers:?}");
    Ok(())
}

/// Whoever may scale: its pods are made by the cluster's own controller.
async fn scaled(cluster: &Cluster, pods: u32) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(cluster.client_for("sam").await?, APP);
    let patch = Patch::Merge(json!({"spec": {"replicas": pods}}));
    deployments.patch(NAME, &PatchParams::default(), &patch).await?;
    wait::until_ok(Duration::from_secs(20), &format!("{pods} pods by the controller"), || async {
        let status = deployments.get(NAME).await.map_err(|error| error.to_string())?.status.unwrap_or_default();
        match status.ready_replicas.and_then(|ready| u32::try_from(ready).ok()) {
            Some(ready) if ready == pods => Ok(()),
            _ => Err(format!("{status:?}")),
        }
    })
    .await
}

/// What its controller was refused: it tries again, so that the pods alone would not tell.
async fn failed_to_make_pods(cluster: &Cluster) -> Result<Vec<String>> {
    let events: Api<Event> = Api::namespaced(cluster.admin.clone(), APP);
    let all = events.list(&Default::default()).await?.items.into_iter();
    let of = |event: &Event| event.involved_object.name.as_deref().is_some_and(|name| name.starts_with(NAME));
    let failed = all.filter(|event| of(event) && event.reason.as_deref() == Some("FailedCreate"));
    Ok(failed.filter_map(|event| event.message).collect())
}

#[derive(Debug, Default)]
struct Seen {
    admitted: usize,
    refused: usize,
    wrong: Vec<String>,
}

/// A deployer's pods, again and again, as dry runs: nothing is left.
async fn knock(dana: &Client, signed: &str, unsigned: &str, over: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    while !over.load(Ordering::Relaxed) {
        match pod(dana, signed).await {
            Ok(()) => seen.admitted += 1,
            Err(error) => seen.wrong.push(format!("a signed image was refused: {error:#}")),
        }
        match pod(dana, unsigned).await {
            Err(error) if error.to_string().contains("signed by the build") => seen.refused += 1,
            other => seen.wrong.push(format!("an unsigned image: {other:?}")),
        }
        sleep(PAUSE).await;
    }
    seen
}

async fn pod(client: &Client, image: &str) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), APP);
    let pod = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "m-rotation-knock", "namespace": APP},
        "spec": {"containers": [{"name": "app", "image": image}], "serviceAccountName": "default"},
    }))?;
    pods.create(&PostParams { dry_run: true, ..PostParams::default() }, &pod).await?;
    Ok(())
}
