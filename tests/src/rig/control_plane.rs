//! The flags that make etcd, kube-apiserver and kube-controller-manager a small, honest control plane: RBAC on,
//! certificates checked, every default admission plugin but ServiceAccount, which would want tokens mounted.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Result;
use serde_json::json;

use super::cluster::{self, User};
use super::pki::{Authority, Issued};
use super::process::Spec;
use super::{Cluster, audit};
use crate::parts::Parts;

/// Where the guard of a cluster listens, at its API server's address.
pub const GUARD_PORT: u16 = 9443;
/// Deployments, StatefulSets, endpoints and what cleans up. Node lifecycle is left out: the test kubelet sends no heartbeats.
const ENVIRONMENT_CONTROLLERS: &str = "deployment-controller,replicaset-controller,endpointslice-controller,\
     garbage-collector-controller,namespace-controller,disruption-controller,job-controller,statefulset-controller";
const HUB_CONTROLLERS: &str = "garbage-collector-controller,namespace-controller";

pub(super) fn etcd_url(hub: Ipv4Addr) -> String {
    format!("http://{hub}:2379")
}

/// One etcd for all: every API server has a prefix of its own.
pub(super) fn etcd(parts: &Parts, dir: &Path, hub: Ipv4Addr) -> Spec {
    let (program, first) = parts.control_plane("etcd");
    let (clients, peers) = (etcd_url(hub), format!("http://{hub}:2380"));
    Spec::new("etcd", program).args(first).args([
        format!("--data-dir={}", dir.join("etcd").display()),
        // What is lost in a crash of the machine is a test run.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=error".to_owned(),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=default={peers}"),
    ])
}

/// Writes what an API server reads at its start and returns the users' tokens.
pub(super) fn prepare(
    dir: &Path,
    name: &str,
    address: Ipv4Addr,
    authority: &Authority,
    users: &[User],
) -> Result<BTreeMap<String, String>> {
    std::fs::create_dir_all(dir)?;
    let address = address.to_string();
    let server = authority.issue(&[&address, "127.0.0.1", "localhost", "kubernetes.default.svc", "10.96.0.1"])?;
    std::fs::write(dir.join("apiserver.crt"), server.certificate)?;
    cluster::write_private(&dir.join("apiserver.key"), &server.key)?;
    let (private, public) = Authority::signing_keys()?;
    cluster::write_private(&dir.join("accounts.key"), &private)?;
    std::fs::write(dir.join("accounts.pub"), public)?;
    std::fs::write(dir.join("audit-policy.yaml"), audit::POLICY)?;
    webhook_client(dir, &address, authority)?;
    let mut tokens = BTreeMap::new();
    let mut lines = String::new();
    for (index, user) in users.iter().enumerate() {
        let token = format!("{name}-{}", hex::encode(rand::random::<[u8; 16]>()));
        lines.push_str(&format!("{token},{},u{index},\"{}\"\n", user.name, user.groups.join(",")));
        tokens.insert(user.name.clone(), token);
    }
    cluster::write_private(&dir.join("tokens.csv"), &lines)?;
    Ok(tokens)
}

/// What the API server of a cluster shows its guard.
pub fn shown_to_the_guard(cluster: &Cluster) -> Result<Issued> {
    let file = |name: &str| std::fs::read_to_string(cluster.dir.join(name));
    Ok(Issued { certificate: file("webhook-client.crt")?, key: file("webhook-client.key")? })
}

/// How an API server shows a guard that it is the API server: as docs/operations.md tells users to.
fn webhook_client(dir: &Path, address: &str, authority: &Authority) -> Result<()> {
    let issued = authority.issue_client("kube-apiserver")?;
    std::fs::write(dir.join("webhook-client.crt"), issued.certificate)?;
    cluster::write_private(&dir.join("webhook-client.key"), &issued.key)?;
    let file = |name: &str| dir.join(name).display().to_string();
    let user = json!({"client-certificate": file("webhook-client.crt"), "client-key": file("webhook-client.key")});
    let credentials = json!({"apiVersion": "v1", "kind": "Config",
        "users": [{"name": format!("{address}:{GUARD_PORT}"), "user": user}]});
    std::fs::write(dir.join("webhook-kubeconfig.yaml"), serde_yaml_ng::to_string(&credentials)?)?;
    let group = "apiserver.config.k8s.io/v1";
    let admission = json!({"apiVersion": group, "kind": "AdmissionConfiguration", "plugins": [{
        "name": "ValidatingAdmissionWebhook",
        "configuration": {"apiVersion": group, "kind": "WebhookAdmissionConfiguration",
            "kubeConfigFile": file("webhook-kubeconfig.yaml")}}]});
    Ok(std::fs::write(dir.join("admission.yaml"), serde_yaml_ng::to_string(&admission)?)?)
}

pub(super) fn api_server(parts: &Parts, dir: &Path, name: &str, address: Ipv4Addr, etcd: &str) -> Spec {
    let (program, first) = parts.control_plane("kube-apiserver");
    let file = |name: &str| dir.join(name).display().to_string();
    Spec::new(format!("{name}-api"), program).args(first).args([
        format!("--etcd-servers={etcd}"),
        format!("--etcd-prefix=/{name}"),
        "--secure-port=6443".to_owned(),
        format!("--bind-address={address}"),
        format!("--advertise-address={address}"),
        format!("--cert-dir={}", file("certificates")),
        format!("--tls-cert-file={}", file("apiserver.crt")),
        format!("--tls-private-key-file={}", file("apiserver.key")),
        format!("--service-account-key-file={}", file("accounts.pub")),
        format!("--service-account-signing-key-file={}", file("accounts.key")),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--token-auth-file={}", file("tokens.csv")),
        "--authorization-mode=RBAC".to_owned(),
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        format!("--admission-control-config-file={}", file("admission.yaml")),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        format!("--audit-policy-file={}", file("audit-policy.yaml")),
        format!("--audit-log-path={}", audit::log_of(dir).display()),
        // An outage by SIGTERM should begin at once.
        "--shutdown-delay-duration=0s".to_owned(),
        "--profiling=false".to_owned(),
    ])
}

pub(super) fn controllers(parts: &Parts, cluster: &Cluster, hub: bool) -> Result<Spec> {
    let (program, first) = parts.control_plane("kube-controller-manager");
    let controllers = if hub { HUB_CONTROLLERS } else { ENVIRONMENT_CONTROLLERS };
    Ok(Spec::new(cluster.part("controllers"), program).args(first).args([
        format!("--kubeconfig={}", cluster.kubeconfig_for(cluster::ADMIN)?.display()),
        format!("--bind-address={}", cluster.address),
        format!("--cert-dir={}", cluster.dir.join("controllers").display()),
        "--leader-elect=false".to_owned(),
        "--use-service-account-credentials=true".to_owned(),
        format!("--controllers={controllers}"),
        // The default of 20 requests/s is the bottleneck when many pipelines roll at once.
        "--kube-api-qps=200".to_owned(),
        "--kube-api-burst=400".to_owned(),
        "--profiling=false".to_owned(),
    ]))
}
