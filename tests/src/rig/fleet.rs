//! A fleet: one etcd, a hub, environments - each with its own real API server - and everything an environment needs to
//! run pods, route traffic and measure it. Tidegate's own roles are not started here: the suites install and start them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures::future::try_join_all;
use serde_json::json;

use super::claim::Claim;
use super::cluster::{Cluster, DEPLOYERS, DEVELOPERS, User};
use super::gateway::{self, METRICS_PORT, PROMETHEUS_PORT, WEB_PORT};
use super::kubelet::Kubelet;
use super::pki::Authority;
use super::process::Processes;
use super::{apply, control_plane};
use crate::netns;
use crate::parts::Parts;

pub const HUB_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 244, 255, 1);
/// A fleet is up after 10 s on two idle cores; a machine that also compiles takes many times that.
const READY_LIMIT: Duration = Duration::from_secs(240);

pub struct FleetConfig {
    /// At most eight.
    pub environments: Vec<String>,
    /// Logs, keys and data of the run. Emptied first when an earlier run left it.
    pub dir: PathBuf,
    /// Accounts beside [`User::standard`], known to every API server.
    pub users: Vec<User>,
    /// Without it neither Traefik nor Prometheus are started: enough for admission and API tests.
    pub data_plane: bool,
}

impl FleetConfig {
    pub fn new(dir: impl Into<PathBuf>, environments: &[&str]) -> Self {
        let environments = environments.iter().map(ToString::to_string).collect();
        Self { environments, dir: dir.into(), users: Vec::new(), data_plane: true }
    }
}

/// An environment: a cluster with pods, a gateway and metrics.
pub struct Environment {
    pub cluster: Cluster,
    pub kubelet: Kubelet,
    /// Where users' requests go in: `http://10.244.255.11:8000`.
    pub gateway_url: String,
    pub prometheus_url: String,
    /// Traefik's own counters.
    pub gateway_metrics_url: String,
}

impl Environment {
    pub fn name(&self) -> &str {
        &self.cluster.name
    }
}

pub struct Fleet {
    pub dir: PathBuf,
    pub parts: Parts,
    pub processes: Processes,
    pub authority: Authority,
    /// File with the authority's certificate.
    pub ca_pem: PathBuf,
    pub hub: Cluster,
    pub environments: Vec<Environment>,
    _claim: Claim,
}

impl Fleet {
    /// Starts everything and returns when all of it answers.
    pub async fn start(config: FleetConfig, parts: Parts) -> Result<Self> {
        // Beside `ring`, rustls cannot choose; a second call is refused and harmless.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        if config.environments.len() > 8 {
            bail!("a rig has at most eight environments");
        }
        let claim = Claim::take(&config.dir, netns::outer_pid())?;
        let dir = claim.dir.clone();
        let processes = Processes::new(dir.join("logs"))?;
        let authority = Authority::new()?;
        let ca_pem = dir.join("ca.pem");
        std::fs::write(&ca_pem, authority.ca_pem())?;
        let mut users = User::standard(&config.environments);
        users.extend(config.users);

        processes.start(control_plane::etcd(&parts, &dir, HUB_ADDRESS)).await?;
        let mut clusters = Vec::new();
        let names = std::iter::once("hub").chain(config.environments.iter().map(String::as_str));
        for (index, name) in names.enumerate() {
            let address = address_of(index);
            let home = dir.join(name);
            let tokens: BTreeMap<_, _> = control_plane::prepare(&home, name, address, &authority, &users)?;
            clusters.push(Cluster::new(name, address, home, ca_pem.clone(), tokens).await?);
        }
        let etcd = control_plane::etcd_url(HUB_ADDRESS);
        processes.await_ready("etcd", READY_LIMIT, || http_ok(format!("{etcd}/health"))).await?;
        for cluster in &clusters {
            let spec = control_plane::api_server(&parts, &cluster.dir, &cluster.name, cluster.address, &etcd);
            processes.start(spec).await?;
        }
        try_join_all(clusters.iter().map(|cluster| async {
            let name = cluster.part("api");
            processes.await_ready(&name, READY_LIMIT, || api_ready(cluster)).await
        }))
        .await?;
        for (index, cluster) in clusters.iter().enumerate() {
            processes.start(control_plane::controllers(&parts, cluster, index == 0)?).await?;
            people(cluster).await?;
        }

        let mut clusters = clusters.into_iter();
        let hub = clusters.next().ok_or_else(|| anyhow!("a fleet has a hub"))?;
        let starting = clusters.enumerate().map(|(index, cluster)| {
            let (parts, processes) = (&parts, &processes);
            async move { environment(parts, processes, index, cluster, config.data_plane).await }
        });
        let environments = try_join_all(starting).await?;
        Ok(Self { dir, parts, processes, authority, ca_pem, hub, environments, _claim: claim })
    }

    pub fn environment(&self, name: &str) -> Result<&Environment> {
        self.environments
            .iter()
            .find(|environment| environment.cluster.name == name)
            .ok_or_else(|| anyhow!("the fleet has no environment {name}"))
    }

    /// Ends a part by SIGTERM: `etcd`, `hub-api`, `staging-api`, `staging-controllers`, `staging-traefik`,
    /// `staging-prometheus`, or any process that a suite started through `processes`.
    pub async fn stop(&self, part: &str) -> Result<()> {
        self.processes.stop(part).await
    }

    /// The same by SIGKILL.
    pub async fn kill(&self, part: &str) -> Result<()> {
        self.processes.kill(part).await
    }

    /// Starts a part again and waits until it answers.
    pub async fn start_again(&self, part: &str) -> Result<()> {
        self.processes.start_again(part).await?;
        if let Some(name) = part.strip_suffix("-api") {
            let cluster = if name == self.hub.name { &self.hub } else { &self.environment(name)?.cluster };
            self.processes.await_ready(part, READY_LIMIT, || api_ready(cluster)).await?;
        }
        if let Some(name) = part.strip_suffix("-prometheus") {
            let url = format!("{}/-/ready", self.environment(name)?.prometheus_url);
            self.processes.await_ready(part, READY_LIMIT, || http_ok(url.clone())).await?;
        }
        if let Some(name) = part.strip_suffix("-traefik") {
            let url = self.environment(name)?.gateway_metrics_url.clone();
            self.processes.await_ready(part, READY_LIMIT, || http_ok(url.clone())).await?;
        }
        Ok(())
    }
}

/// Hub `.1`, environments from `.11` on.
fn address_of(index: usize) -> Ipv4Addr {
    let last = if index == 0 { 1 } else { 10 + u8::try_from(index).unwrap_or(u8::MAX) };
    Ipv4Addr::new(10, 244, 255, last)
}

async fn environment(
    parts: &Parts,
    processes: &Processes,
    index: usize,
    cluster: Cluster,
    data_plane: bool,
) -> Result<Environment> {
    let name = cluster.name.clone();
    let client = cluster.admin.clone();
    apply::objects(&client, &gateway::definitions(parts)?).await?;
    apply::custom_kinds_served(&client).await?;
    apply::objects(&client, &gateway::objects()).await.with_context(|| format!("{name}: the Gateway"))?;
    let kubelet = Kubelet::start(&name, index, client, cluster.address).await?;
    let address = cluster.address;
    let environment = Environment {
        gateway_url: format!("http://{address}:{WEB_PORT}"),
        prometheus_url: format!("http://{address}:{PROMETHEUS_PORT}"),
        gateway_metrics_url: format!("http://{address}:{METRICS_PORT}/metrics"),
        kubelet,
        cluster,
    };
    if data_plane {
        processes.start(gateway::traefik(parts, &environment.cluster)?).await?;
        processes.start(gateway::prometheus(parts, &environment.cluster)?).await?;
        let metrics = &environment.gateway_metrics_url;
        processes.await_ready(&format!("{name}-traefik"), READY_LIMIT, || http_ok(metrics.clone())).await?;
        let ready = format!("{}/-/ready", environment.prometheus_url);
        processes.await_ready(&format!("{name}-prometheus"), READY_LIMIT, || http_ok(ready.clone())).await?;
    }
    Ok(environment)
}

/// People may change workloads as far as RBAC goes: what stops them beyond that is Tidegate's guard.
async fn people(cluster: &Cluster) -> Result<()> {
    let rbac = "rbac.authorization.k8s.io/v1";
    let subjects: Vec<_> = [DEPLOYERS, DEVELOPERS]
        .map(|group| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}))
        .to_vec();
    let verbs = json!(["get", "list", "watch", "create", "update", "patch", "delete"]);
    apply::objects(
        &cluster.admin,
        &[
            json!({"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": "rig-people"}, "rules": [
                {"apiGroups": [""], "verbs": verbs, "resources": ["pods", "pods/ephemeralcontainers", "services",
                    "configmaps", "secrets", "events", "replicationcontrollers", "podtemplates"]},
                {"apiGroups": [""], "verbs": ["get", "list", "watch"], "resources": ["namespaces", "nodes"]},
                {"apiGroups": ["apps", "batch", "autoscaling", "policy"], "verbs": verbs, "resources": ["*"]},
                {"apiGroups": ["gateway.networking.k8s.io"], "verbs": verbs, "resources": ["httproutes"]}]}),
            json!({"apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": {"name": "rig-people"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "rig-people"},
                "subjects": subjects}),
        ],
    )
    .await
}

async fn api_ready(cluster: &Cluster) -> bool {
    let Ok(request) = http::Request::get("/readyz").body(Vec::new()) else { return false };
    cluster.admin.request_text(request).await.is_ok_and(|answer| answer == "ok")
}

async fn http_ok(url: String) -> bool {
    let Ok(client) = reqwest::Client::builder().no_proxy().build() else { return false };
    client.get(url).send().await.is_ok_and(|answer| answer.status().is_success())
}
