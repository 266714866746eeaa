//! The data plane and the eyes of an environment: Traefik as Gateway API implementation, Prometheus that scrapes it and
//! the pods. It creates the Gateway; routes are the suites' and Tidegate's.

use anyhow::Result;
use serde_json::{Value, json};

use super::cluster::{ADMIN, Cluster};
use super::process::Spec;
use crate::parts::Parts;

pub const GATEWAY_NAMESPACE: &str = "gateway-system";
pub const GATEWAY: &str = "gateway";
pub const GATEWAY_CLASS: &str = "traefik";
pub const CONTROLLER_NAME: &str = "traefik.io/gateway-controller";
pub const WEB_PORT: u16 = 8000;
pub const METRICS_PORT: u16 = 9101;
pub const PROMETHEUS_PORT: u16 = 9090;
/// Where the test kubelet lists its pods for Prometheus.
pub const DISCOVERY_PORT: u16 = 8090;

/// The Gateway API's definitions; the policy against downgrades beside them would only cost time.
pub(super) fn definitions(parts: &Parts) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(&parts.gateway_crds)? {
        let documents = super::apply::documents(&std::fs::read_to_string(entry?.path())?)?;
        all.extend(documents.into_iter().filter(|document| document["kind"] == "CustomResourceDefinition"));
    }
    Ok(all)
}

pub(super) fn objects() -> Vec<Value> {
    let group = "gateway.networking.k8s.io/v1";
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": GATEWAY_NAMESPACE}}),
        json!({"apiVersion": group, "kind": "GatewayClass", "metadata": {"name": GATEWAY_CLASS},
               "spec": {"controllerName": CONTROLLER_NAME}}),
        json!({"apiVersion": group, "kind": "Gateway", "metadata": {"name": GATEWAY, "namespace": GATEWAY_NAMESPACE},
               "spec": {"gatewayClassName": GATEWAY_CLASS, "listeners": [{
                   // The listener's port has to be the entry point's.
                   "name": "web", "protocol": "HTTP", "port": WEB_PORT,
                   "allowedRoutes": {"namespaces": {"from": "All"}}}]}}),
    ]
}

pub(super) fn traefik(parts: &Parts, cluster: &Cluster) -> Result<Spec> {
    let address = cluster.address;
    let provider = "--providers.kubernetesgateway";
    Ok(Spec::new(cluster.part("traefik"), &parts.traefik).args([
        format!("{provider}=true"),
        format!("{provider}.endpoint={}", cluster.server_url),
        format!("{provider}.token={}", cluster.token_for(ADMIN)?),
        format!("{provider}.certauthfilepath={}", cluster.ca_pem.display()),
        format!("{provider}.statusaddress.ip={address}"),
        // Two seconds by default, and every pod change waits for it.
        "--providers.providersthrottleduration=100ms".to_owned(),
        format!("--entrypoints.web.address={address}:{WEB_PORT}"),
        format!("--entrypoints.traefik.address={address}:{METRICS_PORT}"),
        "--metrics.prometheus=true".to_owned(),
        "--metrics.prometheus.addserviceslabels=true".to_owned(),
        "--global.checknewversion=false".to_owned(),
        "--global.sendanonymoususage=false".to_owned(),
        "--log.level=INFO".to_owned(),
    ]))
}

pub(super) fn prometheus(parts: &Parts, cluster: &Cluster) -> Result<Spec> {
    let address = cluster.address;
    let config = json!({
        "global": {"scrape_interval": "1s", "scrape_timeout": "900ms", "external_labels": {"environment": cluster.name}},
        "scrape_configs": [
            {"job_name": "pods",
             "http_sd_configs": [{"url": format!("http://{address}:{DISCOVERY_PORT}/discovery"), "refresh_interval": "1s"}]},
            {"job_name": "traefik",
             "static_configs": [{"targets": [format!("{address}:{METRICS_PORT}")]}],
             // Its Go runtime's hundred series are nobody's evidence.
             "metric_relabel_configs": [{"source_labels": ["__name__"], "regex": "traefik_(service|entrypoint)_.*", "action": "keep"}]},
        ],
    });
    let file = cluster.dir.join("prometheus.yaml");
    std::fs::write(&file, serde_yaml_ng::to_string(&config)?)?;
    Ok(Spec::new(cluster.part("prometheus"), &parts.prometheus).args([
        format!("--config.file={}", file.display()),
        format!("--storage.tsdb.path={}", cluster.dir.join("prometheus").display()),
        "--storage.tsdb.retention.time=1d".to_owned(),
        format!("--web.listen-address={address}:{PROMETHEUS_PORT}"),
        "--log.level=warn".to_owned(),
        // Hidden, 5 s by default, and on top of the 5 s that its discovery takes anyhow: a new pod is scraped 6 s after it
        // is listed at the latest, not 11 s.
        "--scrape.discovery-reload-interval=200ms".to_owned(),
    ]))
}
