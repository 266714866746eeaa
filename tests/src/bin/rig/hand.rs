//! What `rig up` and `rig check` do with a fleet: a sample service, and a look at every part of the rig.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use tidegate_tests::netns;
use tidegate_tests::parts::Parts;
use tidegate_tests::rig::{Environment, Fleet, FleetConfig, Load, Snapshot, apply, cluster, now};
use tidegate_tests::supply::{Behavior, ImageSpec, Registry};
use tokio::time::{Instant, sleep};

const REGISTRY: &str = "10.244.255.2:5000";
const HOST: &str = "portal.example";

pub async fn up(dir: &Path, environments: &[String], parts: Parts) -> Result<()> {
    let hand = start(dir, environments, parts).await?;
    let fleet = &hand.fleet;
    let enter = fleet.dir.join("enter");
    let kubectl = fleet.parts.kubectl.parent().context("kubectl lies in a directory")?;
    netns::write_enter_script(&enter, kubectl)?;
    println!("\n{:<11} {}", "hub", fleet.hub.kubeconfig_for(cluster::ADMIN)?.display());
    for environment in &fleet.environments {
        let kubeconfig = environment.cluster.kubeconfig_for(cluster::ADMIN)?;
        println!("{:<11} {}  {}", environment.name(), kubeconfig.display(), environment.gateway_url);
    }
    let kubeconfig = fleet.environments[0].cluster.kubeconfig_for(cluster::ADMIN)?;
    println!("\nThe addresses are those of the rig's network namespace; from another terminal:");
    println!("  {} kubectl --kubeconfig {} get pods -A", enter.display(), kubeconfig.display());
    println!("  {} curl -si -H 'Host: {HOST}' {}", enter.display(), fleet.environments[0].gateway_url);
    println!("Ctrl-C ends everything.");
    std::future::pending().await
}

/// A fleet and the registry that its images come from.
struct Hand {
    fleet: Fleet,
    registry: Registry,
}

impl Hand {
    async fn push(&self, behavior: Behavior) -> Result<String> {
        let tag = behavior.version.clone();
        let digest = self.registry.push("portal", &tag, &ImageSpec::new(behavior)).await?;
        Ok(self.registry.image("portal", &digest))
    }
}

async fn start(dir: &Path, environments: &[String], parts: Parts) -> Result<Hand> {
    let begun = Instant::now();
    let names: Vec<&str> = environments.iter().map(String::as_str).collect();
    let fleet = Fleet::start(FleetConfig::new(dir, &names), parts).await?;
    println!("hub and {} environments ready after {:.1} s", names.len(), begun.elapsed().as_secs_f64());
    let logs = fleet.dir.join("logs");
    let registry = Registry::start(&fleet.parts.supply_tools(), &logs, REGISTRY.parse()?, true).await?;
    let hand = Hand { fleet, registry };
    let stable = hand.push(Behavior::version("v1").errors(0.04)).await?;
    for environment in &hand.fleet.environments {
        apply::objects(&environment.cluster.admin, &service("portal", &stable, 4)).await?;
    }
    for environment in &hand.fleet.environments {
        answered_by(environment, "v1", Duration::from_secs(60)).await?;
    }
    println!("portal answers everywhere after {:.1} s", begun.elapsed().as_secs_f64());
    Ok(hand)
}

/// A Deployment, a Service for it and one for a canary, and a route between the two.
fn service(name: &str, image: &str, replicas: u32) -> Vec<Value> {
    let metadata = |name: &str| json!({"name": name, "namespace": "portal"});
    let service = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata(name),
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}})
    };
    let canary = format!("{name}-canary");
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "portal"}}),
        deployment(name, image, replicas),
        service(name),
        service(&canary),
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": metadata(name),
            "spec": {"parentRefs": [{"name": "gateway", "namespace": "gateway-system"}], "hostnames": [HOST],
                     "rules": [{"backendRefs": [{"name": name, "port": 80, "weight": 100}, {"name": canary, "port": 80, "weight": 0}]}]}}),
    ]
}

fn deployment(name: &str, image: &str, replicas: u32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "portal"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
                 "template": {"metadata": {"labels": {"app": name}}, "spec": {"serviceAccountName": "default", "containers": [
                     {"name": "app", "image": image, "ports": [{"containerPort": 8080}]}]}}}})
}

async fn weights(environment: &Environment, stable: u32, canary: u32) -> Result<()> {
    let mut route = service("portal", "", 0).pop().context("the route is last")?;
    route["spec"]["rules"][0]["backendRefs"][0]["weight"] = json!(stable);
    route["spec"]["rules"][0]["backendRefs"][1]["weight"] = json!(canary);
    apply::objects(&environment.cluster.admin, &[route]).await
}

async fn answered_by(environment: &Environment, version: &str, limit: Duration) -> Result<()> {
    let begun = Instant::now();
    let load = Load::start(&environment.gateway_url, HOST, 20.0)?;
    loop {
        let before = load.snapshot().await;
        sleep(Duration::from_millis(300)).await;
        let phase = load.snapshot().await.since(&before);
        if phase.served_by(version) > 0 && phase.failed == 0 {
            return Ok(());
        }
        if begun.elapsed() > limit {
            bail!("{}: not served by {version}: {:?}", environment.name(), phase.failure_kinds());
        }
    }
}

/// Every part of the rig used once; an error when one does not do what the suites rely on.
pub async fn check(dir: &Path, environments: &[String], parts: Parts) -> Result<()> {
    let hand = start(dir, environments, parts).await?;
    let fleet = &hand.fleet;
    let first = &fleet.environments[0];
    let mut loads = vec![Load::start(&first.gateway_url, HOST, 600.0)?];
    for other in &fleet.environments[1..] {
        loads.push(Load::start(&other.gateway_url, HOST, 150.0)?);
    }
    costs(&hand, &loads[0]).await?;
    traffic(&hand, &loads[0]).await?;
    dead(&hand, &loads[0]).await?;
    outages(&hand, &loads[0]).await?;
    pods(&hand).await?;
    people(&hand).await?;
    for load in loads {
        let all = load.finish().await;
        println!("{} requests, {} deliberate, {} failed", all.requests, all.deliberate, all.failed);
    }
    for name in fleet.processes.names().await {
        let usage = fleet.processes.usage(&name).await.unwrap_or_default();
        println!("{name:<24} {:>6.0} MB {:>6.1} s", usage.rss_mb, usage.cpu_seconds);
    }
    Ok(())
}

/// What the load and the gateway cost, and the evidence that Prometheus has of them.
async fn costs(hand: &Hand, load: &Load) -> Result<()> {
    let first = &hand.fleet.environments[0];
    let traefik = first.cluster.part("traefik");
    let (begun, rig) = (Instant::now(), own_cpu());
    let gateway = hand.fleet.processes.usage(&traefik).await.unwrap_or_default().cpu_seconds;
    let steady = phase(load, "steady at 600/s", 10).await;
    ensure!(steady.failed == 0 && steady.deliberate > 0, "a steady service fails");
    ensure!((590.0..610.0).contains(&(steady.requests as f64 / steady.seconds)), "not the rate that was asked for");
    let spent = begun.elapsed().as_secs_f64();
    let gateway = hand.fleet.processes.usage(&traefik).await.unwrap_or_default().cpu_seconds - gateway;
    let rig = own_cpu() - rig;
    println!("  processor: rig {:.1} % of a core, Traefik {:.1} %", rig / spent * 100.0, gateway / spent * 100.0);
    let pods = query(first, r#"count(up{job="pods", namespace="portal", app="portal"} == 1)"#).await?;
    ensure!(pods == Some(4.0), "Prometheus scrapes {pods:?} pods instead of 4");
    let counted = query(first, r#"sum(http_requests_total{namespace="portal"})"#).await?.unwrap_or_default();
    let seen =
        query(first, r#"sum(traefik_service_requests_total{service=~".*-svc-portal-portal-[0-9]+@.*"})"#).await?;
    let seen = seen.unwrap_or_default();
    ensure!((counted / seen - 1.0).abs() < 0.2, "pods counted {counted}, the gateway {seen}");
    Ok(())
}

/// A canary and a stable that rolls in place: nobody notices.
async fn traffic(hand: &Hand, load: &Load) -> Result<()> {
    let first = &hand.fleet.environments[0];
    let admin = &first.cluster.admin;
    let canary = hand.push(Behavior::version("v2").errors(0.04)).await?;
    apply::objects(admin, &[deployment("portal-canary", &canary, 2)]).await?;
    sleep(Duration::from_secs(4)).await;
    weights(first, 75, 25).await?;
    sleep(Duration::from_secs(3)).await;
    let split = phase(load, "canary at 25", 4).await;
    ensure!((split.share_of("v2") - 0.25).abs() < 0.01, "share {}", split.share_of("v2"));
    first.kubelet.turn_sick("v2", 0.5).await;
    let sick = phase(load, "canary turned sick", 2).await;
    let errors = sick.versions["v2"].deliberate as f64 / sick.served_by("v2") as f64;
    ensure!((0.4..0.6).contains(&errors), "a sick canary fails {errors}");
    first.kubelet.hide_from_monitoring("app", "portal-canary").await;
    weights(first, 100, 0).await?;
    // What Prometheus is told reaches its scrapes within 6 s.
    sleep(Duration::from_secs(8)).await;
    let hidden = query(first, r#"count(up{app="portal-canary"})"#).await?;
    ensure!(hidden.is_none(), "pods that were hidden are scraped: {hidden:?}");
    first.kubelet.show_all_to_monitoring().await;
    apply::objects(admin, &[deployment("portal-canary", &canary, 0)]).await?;
    let back = phase(load, "back to 0, canary scaled down", 8).await;
    ensure!(split.failed + sick.failed + back.failed == 0, "a canary that came and went cost requests");

    let stable = hand.push(Behavior::version("v3").errors(0.04)).await?;
    apply::objects(admin, &[deployment("portal", &stable, 4)]).await?;
    let rolled = phase(load, "stable rolls in place", 12).await;
    ensure!(rolled.failed == 0 && rolled.served_by("v3") > 0, "stable rolled with failures");
    Ok(())
}

/// Ready, then refuses connections: silent in its own counters, loud in the gateway's.
async fn dead(hand: &Hand, load: &Load) -> Result<()> {
    let first = &hand.fleet.environments[0];
    let dead = hand.push(Behavior::version("dead").refuses_after_ready(Duration::from_secs(3))).await?;
    apply::objects(&first.cluster.admin, &[deployment("portal-canary", &dead, 1)]).await?;
    sleep(Duration::from_millis(1500)).await;
    weights(first, 95, 5).await?;
    let phase = phase(load, "dead canary at 5", 8).await;
    ensure!(phase.failure_kinds().contains_key("status 502"), "a dead canary costs nothing");
    let refused =
        r#"sum(traefik_service_requests_total{code="502", service=~".*-svc-portal-portal-canary-[0-9]+@.*"})"#;
    let refused = query(first, refused).await?;
    ensure!(refused.is_some_and(|count| count > 0.0), "the gateway counted no refused connection");
    weights(first, 100, 0).await?;
    sleep(Duration::from_secs(2)).await;
    apply::objects(&first.cluster.admin, &[deployment("portal-canary", &dead, 0)]).await
}

async fn outages(hand: &Hand, load: &Load) -> Result<()> {
    let fleet = &hand.fleet;
    let first = &fleet.environments[0];
    let (api, prometheus, traefik) =
        (first.cluster.part("api"), first.cluster.part("prometheus"), first.cluster.part("traefik"));
    fleet.kill(&api).await?;
    ensure!(phase(load, "API server killed", 4).await.failed == 0, "traffic needs the API server");
    fleet.start_again(&api).await?;
    for part in [&api, &prometheus] {
        let begun = Instant::now();
        fleet.stop(part).await?;
        let stopped = begun.elapsed().as_secs_f64();
        fleet.start_again(part).await?;
        println!("  {part}: stopped within {stopped:.1} s, ready after {:.1} s", begun.elapsed().as_secs_f64());
    }
    fleet.kill(&traefik).await?;
    let away = phase(load, "gateway away", 2).await;
    ensure!(away.failed == away.requests, "a gateway that is away answers");
    fleet.start_again(&traefik).await?;
    sleep(Duration::from_secs(3)).await;
    ensure!(phase(load, "all back", 3).await.failed == 0, "the gateway is back and fails");
    Ok(())
}

/// Pods that cannot start, and pods that crash, look as real ones do.
async fn pods(hand: &Hand) -> Result<()> {
    let admin = &hand.fleet.environments[0].cluster.admin;
    let pods: Api<Pod> = Api::namespaced(admin.clone(), "portal");
    let crash = hand.push(Behavior::version("crash").crashes_after(Duration::from_secs(1))).await?;
    let missing = hand.registry.image("portal", &format!("sha256:{}", "0".repeat(64)));
    let bare = |name: &str, image: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "portal"},
        "spec": {"serviceAccountName": "default", "containers": [{"name": "app", "image": image}]}})
    };
    let by_tag = format!("{REGISTRY}/portal:v3");
    apply::objects(admin, &[bare("crash", &crash), bare("missing", &missing), bare("by-tag", &by_tag)]).await?;
    sleep(Duration::from_secs(4)).await;
    let status = async |name: &str| -> Result<Value> { Ok(serde_json::to_value(pods.get(name).await?.status)?) };
    let crash = status("crash").await?;
    ensure!(crash["containerStatuses"][0]["restartCount"].as_u64() >= Some(1), "no restart: {crash}");
    let missing = status("missing").await?;
    ensure!(missing["containerStatuses"][0]["state"]["waiting"]["reason"] == "ErrImagePull", "{missing}");
    let by_tag = status("by-tag").await?;
    ensure!(
        by_tag["containerStatuses"][0]["imageID"].as_str().is_some_and(|id| id.contains("/portal@sha256:")),
        "{by_tag}"
    );
    for name in ["crash", "missing", "by-tag"] {
        pods.delete(name, &DeleteParams::default()).await?;
    }
    let begun = Instant::now();
    while pods.get_opt("by-tag").await?.is_some() || pods.get_opt("missing").await?.is_some() {
        ensure!(begun.elapsed() < Duration::from_secs(8), "a deleted pod stays");
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Accounts have what RBAC gives them, and the audit log names them.
async fn people(hand: &Hand) -> Result<()> {
    let first = &hand.fleet.environments[0].cluster;
    let since = now();
    let sam: Api<Pod> = Api::namespaced(first.client_for(cluster::DEVELOPER).await?, "portal");
    sam.delete_collection(&DeleteParams::default(), &ListParams::default().labels("app=nobody")).await.ok();
    let victim = sam.list(&ListParams::default().labels("app=portal")).await?.items[0].name_any();
    sam.patch(&victim, &PatchParams::default(), &Patch::Merge(json!({"metadata": {"annotations": {"a": "b"}}})))
        .await?;
    let spoke: Api<Pod> = Api::namespaced(first.client_for("tidegate-spoke").await?, "portal");
    ensure!(spoke.list(&ListParams::default()).await.is_err(), "a role without RBAC reads pods");
    sleep(Duration::from_millis(300)).await;
    let writes = first.writes_since(since)?;
    ensure!(
        writes
            .iter()
            .any(|write| write.user == "sam" && write.verb == "patch" && write.name == victim && write.code == 200),
        "the audit log misses a write: {writes:?}"
    );
    Ok(())
}

async fn phase(load: &Load, what: &str, seconds: u64) -> Snapshot {
    let before = load.snapshot().await;
    sleep(Duration::from_secs(seconds)).await;
    let phase = load.snapshot().await.since(&before);
    let versions: Vec<_> = phase.versions.iter().map(|(name, count)| format!("{name} {}", count.requests)).collect();
    println!(
        "{what}: {:.0}/s, {} deliberate, {} failed {:?}, p50 {} ms, p99 {} ms; {}",
        phase.requests as f64 / phase.seconds,
        phase.deliberate,
        phase.failed,
        phase.failure_kinds(),
        phase.latency_ms(0.5),
        phase.latency_ms(0.99),
        versions.join(", ")
    );
    phase
}

fn own_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit_once(") ").map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    fields.iter().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// The one value of an instant query; `None` when nothing matches.
async fn query(environment: &Environment, promql: &str) -> Result<Option<f64>> {
    let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("query", promql).finish();
    let client = reqwest::Client::builder().no_proxy().build()?;
    let answer =
        client.get(format!("{}/api/v1/query?{query}", environment.prometheus_url)).send().await?.text().await?;
    let answer: Value = serde_json::from_str(&answer)?;
    Ok(answer["data"]["result"][0]["value"][1].as_str().and_then(|value| value.parse().ok()))
}
