//! What `rig up` and `rig check` do with a fleet: a sample service, and a look at every part of the rig.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tidegate_tests::parts::Parts;
use tidegate_tests::rig::{Environment, Fleet, FleetConfig, Load, Spec, apply, cluster};
use tidegate_tests::supply::behavior::{Behavior, LABEL};
use tokio::time::{Instant, sleep};

const REGISTRY: &str = "10.244.255.2:5000";
const HOST: &str = "portal.example";

pub async fn up(dir: &Path, environments: &[String], parts: Parts) -> Result<()> {
    let fleet = start(dir, environments, parts).await?;
    let kubectl = fleet.parts.kubectl.display();
    let kubeconfig = fleet.environments[0].cluster.kubeconfig_for(cluster::ADMIN)?;
    println!("\nhub         {}", fleet.hub.kubeconfig_for(cluster::ADMIN)?.display());
    for environment in &fleet.environments {
        let kubeconfig = environment.cluster.kubeconfig_for(cluster::ADMIN)?;
        println!("{:<11} {}  {}", environment.name(), kubeconfig.display(), environment.gateway_url);
    }
    let enter = format!("nsenter --user --preserve-credentials --net --target {}", outer_pid());
    println!("\nAddresses are those of the rig's network namespace; from another terminal:");
    println!("  {enter} {kubectl} --kubeconfig {} get pods -A", kubeconfig.display());
    println!("  {enter} curl -si -H 'Host: {HOST}' {}", fleet.environments[0].gateway_url);
    println!("Ctrl-C ends everything.");
    std::future::pending().await
}

/// The process id outside of the namespaces, as another terminal sees it.
fn outer_pid() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    line.split_whitespace().next().unwrap_or("PID").to_owned()
}

async fn start(dir: &Path, environments: &[String], parts: Parts) -> Result<Fleet> {
    let begun = Instant::now();
    let names: Vec<&str> = environments.iter().map(String::as_str).collect();
    let fleet = Fleet::start(FleetConfig::new(dir, &names), parts).await?;
    println!("hub and {} environments ready after {:.1} s", names.len(), begun.elapsed().as_secs_f64());
    let registry = Spec::new("registry", &fleet.parts.registry).arg("--address").arg(REGISTRY);
    fleet.processes.start(registry).await?;
    fleet.processes.await_ready("registry", Duration::from_secs(10), async || get("/v2/").await.is_ok()).await?;
    let stable = push("portal", &Behavior::version("v1").errors(0.04)).await?;
    for environment in &fleet.environments {
        apply::objects(&environment.cluster.admin, &service("portal", &stable, 4)).await?;
    }
    for environment in &fleet.environments {
        answered_by(environment, "v1", Duration::from_secs(60)).await?;
    }
    println!("portal answers everywhere after {:.1} s", begun.elapsed().as_secs_f64());
    Ok(fleet)
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

pub async fn check(dir: &Path, environments: &[String], parts: Parts) -> Result<()> {
    let fleet = start(dir, environments, parts).await?;
    let first = &fleet.environments[0];
    let admin = &first.cluster.admin;
    let mut loads = vec![Load::start(&first.gateway_url, HOST, 600.0)?];
    for other in &fleet.environments[1..] {
        loads.push(Load::start(&other.gateway_url, HOST, 150.0)?);
    }
    let load = &loads[0];
    let rig_before = own_cpu();
    let begun = Instant::now();
    let traefik_before = fleet.processes.usage(&first.cluster.part("traefik")).await.unwrap_or_default();
    phase(load, "steady at 600/s", 10).await;
    let traefik = fleet.processes.usage(&first.cluster.part("traefik")).await.unwrap_or_default();
    let spent = begun.elapsed().as_secs_f64();
    println!(
        "  processor: rig (load, pods, kubelets) {:.1} % of a core, Traefik {:.1} %",
        (own_cpu() - rig_before) / spent * 100.0,
        (traefik.cpu_seconds - traefik_before.cpu_seconds) / spent * 100.0
    );

    let canary = push("portal", &Behavior::version("v2").errors(0.04)).await?;
    apply::objects(admin, &[deployment("portal-canary", &canary, 2)]).await?;
    sleep(Duration::from_secs(4)).await;
    weights(first, 75, 25).await?;
    phase(load, "canary at 25", 6).await;
    weights(first, 100, 0).await?;
    sleep(Duration::from_secs(2)).await;
    apply::objects(admin, &[deployment("portal-canary", &canary, 0)]).await?;
    phase(load, "back to 0, canary scaled down", 8).await;

    let stable = push("portal", &Behavior::version("v3").errors(0.04)).await?;
    apply::objects(admin, &[deployment("portal", &stable, 4)]).await?;
    phase(load, "stable rolls in place", 12).await;

    let dead = push("portal", &Behavior::version("dead").refuses_after_ready(Duration::from_secs(3))).await?;
    apply::objects(admin, &[deployment("portal-canary", &dead, 1)]).await?;
    sleep(Duration::from_millis(1500)).await;
    weights(first, 95, 5).await?;
    phase(load, "dead canary at 5", 8).await;
    for line in traefik_lines(first).await? {
        println!("  {line}");
    }
    weights(first, 100, 0).await?;
    sleep(Duration::from_secs(2)).await;

    fleet.kill(&first.cluster.part("api")).await?;
    phase(load, "API server killed", 4).await;
    let again = Instant::now();
    fleet.start_again(&first.cluster.part("api")).await?;
    println!("  API server ready again after {:.1} s", again.elapsed().as_secs_f64());
    fleet.stop(&first.cluster.part("prometheus")).await?;
    fleet.start_again(&first.cluster.part("prometheus")).await?;
    phase(load, "all back", 3).await;
    println!("{}", query(first, "count by (job) (up == 1)").await?);
    println!("{}", query(first, "sum by (pod, app, namespace, code) (http_requests_total)").await?);
    for name in fleet.processes.names().await {
        let usage = fleet.processes.usage(&name).await.unwrap_or_default();
        println!("{name:<24} {:>6.0} MB {:>6.1} s", usage.rss_mb, usage.cpu_seconds);
    }
    for load in loads {
        let all = load.finish().await;
        println!("{} requests, {} deliberate, {} failed", all.requests, all.deliberate, all.failed);
    }
    Ok(())
}

async fn phase(load: &Load, what: &str, seconds: u64) {
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
}

fn own_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit_once(") ").map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    fields.iter().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().expect("a client without options")
}

async fn get(path: &str) -> Result<reqwest::Response> {
    Ok(http().get(format!("http://{REGISTRY}{path}")).send().await?.error_for_status()?)
}

async fn query(environment: &Environment, promql: &str) -> Result<String> {
    let url = format!("{}/api/v1/query", environment.prometheus_url);
    let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("query", promql).finish();
    Ok(http().get(format!("{url}?{query}")).send().await?.text().await?)
}

async fn traefik_lines(environment: &Environment) -> Result<Vec<String>> {
    let text = http().get(&environment.gateway_metrics_url).send().await?.text().await?;
    Ok(text.lines().filter(|line| line.starts_with("traefik_service_requests_total")).map(str::to_owned).collect())
}

/// An image of a config and no layers, and its reference by digest.
async fn push(repository: &str, behavior: &Behavior) -> Result<String> {
    let config = json!({"architecture": "amd64", "os": "linux", "config": {"Labels": {LABEL: behavior.to_label()}},
                        "rootfs": {"type": "layers", "diff_ids": []}})
    .to_string();
    let digest = |bytes: &str| format!("sha256:{}", hex::encode(Sha256::digest(bytes)));
    let base = format!("http://{REGISTRY}/v2/{repository}");
    let upload = http().post(format!("{base}/blobs/uploads/")).send().await?.error_for_status()?;
    let location = upload.headers()["location"].to_str()?.to_owned();
    let location = if location.starts_with('/') { format!("http://{REGISTRY}{location}") } else { location };
    let separator = if location.contains('?') { '&' } else { '?' };
    http()
        .put(format!("{location}{separator}digest={}", digest(&config)))
        .body(config.clone())
        .send()
        .await?
        .error_for_status()?;
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": [],
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()}})
    .to_string();
    let reference = digest(&manifest);
    http()
        .put(format!("{base}/manifests/{reference}"))
        .header("content-type", "application/vnd.oci.image.manifest.v1+json")
        .body(manifest)
        .send()
        .await?
        .error_for_status()?;
    Ok(format!("{REGISTRY}/{repository}@{reference}"))
}
