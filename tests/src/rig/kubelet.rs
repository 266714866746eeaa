//! The test kubelet: the one stand-in for a container runtime. It binds pods to its node, pulls their image's manifest
//! and config from the registry, and runs each as a real HTTP server at an address of its own that behaves as the
//! image says - so the digest really decides what runs. It never looks at names, annotations or arguments.

mod image;
mod pod;
mod program;
mod serve;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::sync::{Mutex, watch};
use tokio::time::sleep;

use super::gateway::DISCOVERY_PORT;
use super::spawn;
use program::Program;

pub const NODE: &str = "node-1";
const PODS_PER_BLOCK: u32 = 250;
/// Addresses are used again as late as possible: a gateway may keep connections to an address that changed owner.
const BLOCKS: u32 = 16;

/// How a pod is to end, told to its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    /// Being deleted: serves on for a while, as a program with a preStop hook does.
    Gently(Duration),
    /// Its object is gone.
    AtOnce,
}

struct Entry {
    namespace: String,
    name: String,
    labels: BTreeMap<String, String>,
    ip: Option<Ipv4Addr>,
    program: Option<Arc<Program>>,
    ending: watch::Sender<Ending>,
}

struct Shared {
    environment: String,
    /// Third octet of the first address.
    first_block: u32,
    client: Client,
    images: image::Images,
    pods: Mutex<BTreeMap<String, Entry>>,
    /// Label pairs whose pods Prometheus is not told of.
    hidden: Mutex<Vec<(String, String)>>,
    next_address: AtomicU32,
    /// Error rate per version that wins over the image's, set by a test at a moment of its choice.
    sickness: Mutex<BTreeMap<String, f64>>,
}

/// What a pod does and did.
#[derive(Debug, Clone)]
pub struct PodView {
    pub namespace: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub address: Option<Ipv4Addr>,
    pub version: Option<String>,
    pub digest: Option<String>,
    pub answered: u64,
    /// Deliberate errors among the answers.
    pub errors: u64,
}

/// Handle on the test kubelet of an environment; clones share it.
#[derive(Clone)]
pub struct Kubelet {
    shared: Arc<Shared>,
}

impl Kubelet {
    /// Registers the node, then watches pods until the process ends. `index` keeps the addresses of environments apart.
    pub(super) async fn start(environment: &str, index: usize, client: Client, address: Ipv4Addr) -> Result<Self> {
        let shared = Arc::new(Shared {
            environment: environment.to_owned(),
            first_block: 1 + u32::try_from(index)? * BLOCKS,
            client,
            images: image::Images::new()?,
            pods: Mutex::default(),
            hidden: Mutex::default(),
            next_address: AtomicU32::new(0),
            sickness: Mutex::default(),
        });
        register_node(&shared.client, address).await.context("cannot register the node")?;
        let kubelet = Self { shared: shared.clone() };
        serve::discovery(kubelet.clone(), (address, DISCOVERY_PORT).into()).await?;
        spawn(watch_pods(shared));
        Ok(kubelet)
    }

    pub async fn pods(&self) -> Vec<PodView> {
        let pods = self.shared.pods.lock().await;
        pods.values().map(view).collect()
    }

    /// From now on Prometheus is not told of pods with this label: a service that nobody scrapes.
    pub async fn hide_from_monitoring(&self, label: &str, value: &str) {
        self.shared.hidden.lock().await.push((label.to_owned(), value.to_owned()));
    }

    pub async fn show_all_to_monitoring(&self) {
        self.shared.hidden.lock().await.clear();
    }

    /// From now on pods of `version` fail this share of requests, whatever their image says.
    pub async fn turn_sick(&self, version: &str, error_rate: f64) {
        self.shared.sickness.lock().await.insert(version.to_owned(), error_rate);
        for entry in self.shared.pods.lock().await.values() {
            if let Some(program) = entry.program.as_ref().filter(|program| program.version() == version) {
                program.turn_sick(error_rate);
            }
        }
    }

    /// Pods that Prometheus is told of, as `http_sd_config` wants them.
    async fn targets(&self) -> serde_json::Value {
        let hidden = self.shared.hidden.lock().await.clone();
        let pods = self.shared.pods.lock().await;
        let shown =
            pods.values().filter(|entry| !hidden.iter().any(|(label, value)| entry.labels.get(label) == Some(value)));
        shown
            .filter_map(|entry| {
                let app = entry.labels.get("app").cloned().unwrap_or_default();
                Some(json!({"targets": [format!("{}:{}", entry.ip?, program::PORT)],
                            "labels": {"namespace": entry.namespace, "pod": entry.name, "app": app}}))
            })
            .collect()
    }
}

impl Shared {
    fn address(&self) -> Ipv4Addr {
        let number = self.next_address.fetch_add(1, Ordering::Relaxed) % (PODS_PER_BLOCK * BLOCKS);
        let block = self.first_block + number / PODS_PER_BLOCK;
        let [_, _, _, block] = block.to_be_bytes();
        let [_, _, _, last] = (2 + number % PODS_PER_BLOCK).to_be_bytes();
        Ipv4Addr::new(10, 244, block, last)
    }

    /// Takes note of a pod's program, or of its end.
    async fn running(&self, uid: &str, ip: Option<Ipv4Addr>, program: Option<Arc<Program>>) {
        let sick = match &program {
            Some(program) => self.sickness.lock().await.get(program.version()).copied(),
            None => None,
        };
        if let (Some(rate), Some(program)) = (sick, &program) {
            program.turn_sick(rate);
        }
        if let Some(entry) = self.pods.lock().await.get_mut(uid) {
            entry.ip = ip;
            entry.program = program;
        }
    }
}

fn view(entry: &Entry) -> PodView {
    let program = entry.program.as_deref();
    PodView {
        namespace: entry.namespace.clone(),
        name: entry.name.clone(),
        labels: entry.labels.clone(),
        address: entry.ip,
        version: program.map(|program| program.version().to_owned()),
        digest: program.map(|program| program.digest().to_owned()),
        answered: program.map_or(0, Program::answered),
        errors: program.map_or(0, Program::errors),
    }
}

async fn register_node(client: &Client, address: Ipv4Addr) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let params = PatchParams::apply("rig").force();
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE}}});
    nodes.patch(NODE, &params, &Patch::Apply(node)).await?;
    let room = json!({"cpu": "64", "memory": "256Gi", "pods": "500"});
    let status = json!({"status": {"capacity": room, "allocatable": room,
        "addresses": [{"type": "InternalIP", "address": address.to_string()}],
        "conditions": [{"type": "Ready", "status": "True", "reason": "TestKubelet"}]}});
    nodes.patch_status(NODE, &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}

async fn watch_pods(shared: Arc<Shared>) {
    let api: Api<Pod> = Api::all(shared.client.clone());
    let mut events = pin!(watcher(api, watcher::Config::default()));
    let mut listed = BTreeSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(pod)) => {
                listed.extend(pod.uid());
                seen(&shared, pod).await;
            }
            Ok(Event::InitDone) => {
                for (uid, entry) in &*shared.pods.lock().await {
                    if !listed.contains(uid) {
                        entry.ending.send_replace(Ending::AtOnce);
                    }
                }
            }
            Ok(Event::Apply(pod)) => seen(&shared, pod).await,
            Ok(Event::Delete(pod)) => {
                if let Some(uid) = pod.uid()
                    && let Some(entry) = shared.pods.lock().await.remove(&uid)
                {
                    entry.ending.send_replace(Ending::AtOnce);
                }
            }
            // The API server is away; pods run on.
            Err(_) => sleep(Duration::from_millis(300)).await,
        }
    }
}

/// A pod as the API server has it now: new, known, or on its way out.
async fn seen(shared: &Arc<Shared>, pod: Pod) {
    let (Some(uid), Some(namespace)) = (pod.uid(), pod.namespace()) else { return };
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return;
    }
    let mut pods = shared.pods.lock().await;
    if pod.metadata.deletion_timestamp.is_some() {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(30).clamp(0, 5);
        let ending = Ending::Gently(Duration::from_secs(grace.unsigned_abs()));
        match pods.get(&uid) {
            Some(entry) => {
                entry.ending.send_if_modified(|now| {
                    let first = *now == Ending::No;
                    if first {
                        *now = ending;
                    }
                    first
                });
            }
            // Of an earlier life of the rig: nothing serves it.
            None => drop(spawn(pod::remove(shared.client.clone(), namespace, pod.name_any(), uid))),
        }
        return;
    }
    if let Some(entry) = pods.get_mut(&uid) {
        entry.labels.clone_from(pod.labels());
        return;
    }
    let (ending, ended) = watch::channel(Ending::No);
    pods.insert(
        uid.clone(),
        Entry { namespace, name: pod.name_any(), labels: pod.labels().clone(), ip: None, program: None, ending },
    );
    spawn(pod::live(shared.clone(), pod, uid, ended));
}
