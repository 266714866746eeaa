//! The life of one pod: bound, pulled, started, ready, perhaps crashed and started again, ended. Every step that a real
//! kubelet reports is written to the pod's status; nothing else of the pod is.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use super::image::Image;
use super::program::Program;
use super::{Ending, NODE, Shared};

/// What a readiness probe needs to notice: its period times its failure threshold.
const READINESS_LAG: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(300);

struct Life {
    shared: Arc<Shared>,
    pod: Pod,
    uid: String,
    api: Api<Pod>,
}

/// Runs the pod until its object is gone.
pub async fn live(shared: Arc<Shared>, pod: Pod, uid: String, mut ending: watch::Receiver<Ending>) {
    let api = Api::namespaced(shared.client.clone(), &pod.namespace().unwrap_or_default());
    let life = Life { shared, pod, uid, api };
    let mut running = None;
    tokio::select! {
        () = life.run(&mut running) => {}
        _ = ending.wait_for(|ending| *ending != Ending::No) => {}
    }
    let how = match ending.wait_for(|ending| *ending != Ending::No).await {
        Ok(how) => *how,
        Err(_) => Ending::AtOnce,
    };
    if let Ending::Gently(serve_on) = how {
        tokio::select! {
            () = sleep(serve_on) => {}
            _ = ending.wait_for(|ending| *ending == Ending::AtOnce) => {}
        }
        if let Some(server) = &running {
            super::serve::Server::drain(server);
        }
        remove(life.shared.client.clone(), life.namespace(), life.pod.name_any(), life.uid.clone()).await;
    }
    life.shared.pods.lock().await.remove(&life.uid);
}

/// Deletes the object for good, if it is still the same one.
pub async fn remove(client: Client, namespace: String, name: String, uid: String) {
    let api: Api<Pod> = Api::namespaced(client, &namespace);
    let params =
        DeleteParams::default().grace_period(0).preconditions(Preconditions { uid: Some(uid), resource_version: None });
    while let Err(error) = api.delete(&name, &params).await {
        if matches!(&error, kube::Error::Api(status) if status.code == 404 || status.code == 409) {
            return;
        }
        sleep(RETRY).await;
    }
}

impl Life {
    /// Leaves the server in `running`, so that the caller ends it. Returns only when there is nothing left to do.
    async fn run(&self, running: &mut Option<super::serve::Server>) {
        self.bind().await;
        let images = self.pull().await;
        let Some(image) = images.first() else { return };
        let ip = self.shared.address();
        let mut restarts = 0;
        loop {
            let started = super::super::now();
            let program = Arc::new(Program::new(
                &self.shared.environment,
                &self.pod.name_any(),
                &image.digest,
                image.behavior.clone(),
            ));
            let report = |ready: bool| {
                self.status(ip, ready, &images, restarts, &json!({"running": {"startedAt": time(started)}}))
            };
            self.write(report(false)).await;
            match program.serve(ip).await {
                Ok(server) => *running = Some(server),
                Err(error) => return eprintln!("{}: cannot listen on {ip}: {error}", self.pod.name_any()),
            }
            self.shared.running(&self.uid, Some(ip), Some(program.clone())).await;
            let behavior = program.behavior();
            sleep(Duration::from_millis(behavior.warm_up_ms)).await;
            program.become_ready();
            self.write(report(true)).await;

            let after = |millis: Option<u64>| async move {
                match millis {
                    Some(millis) => sleep(Duration::from_millis(millis)).await,
                    None => std::future::pending().await,
                }
            };
            let refuses = async {
                tokio::select! {
                    () = after(behavior.refuse_after_ready_ms) => {}
                    () = async { program.asked().await; after(behavior.refuse_after_request_ms).await } => {}
                }
            };
            tokio::select! {
                () = refuses => {
                    *running = None;
                    sleep(READINESS_LAG).await;
                    self.write(report(false)).await;
                    return;
                }
                () = after(behavior.crash_after_ms) => *running = None,
            }
            restarts += 1;
            let ended = json!({"exitCode": 1, "reason": "Error", "startedAt": time(started), "finishedAt": time(super::super::now())});
            let mut crashed = self.status(
                ip,
                false,
                &images,
                restarts,
                &json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off restarting failed container"}}),
            );
            crashed["containerStatuses"][0]["lastState"] = json!({"terminated": ended});
            self.write(crashed).await;
            sleep(Duration::from_secs(1 << restarts.min(5))).await;
        }
    }

    fn namespace(&self) -> String {
        self.pod.namespace().unwrap_or_default()
    }

    fn containers(&self) -> &[Container] {
        self.pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default()
    }

    fn init_containers(&self) -> &[Container] {
        self.pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default()
    }

    async fn bind(&self) {
        if self.pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) {
            return;
        }
        let name = self.pod.name_any();
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, "uid": self.uid},
                             "target": {"apiVersion": "v1", "kind": "Node", "name": NODE}});
        loop {
            match self.api.create_subresource::<_, Value>("binding", &name, &PostParams::default(), &binding).await {
                Ok(_) => return,
                Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => return,
                Err(_) => sleep(RETRY).await,
            }
        }
    }

    /// All images, init containers' last; tries again for as long as the pod is wanted.
    async fn pull(&self) -> Vec<Arc<Image>> {
        let mut wait = 1;
        let mut told = String::new();
        loop {
            match self.pull_all().await {
                Ok(images) => return images,
                Err(message) => {
                    if message != told {
                        let containers: Vec<_> = self.containers().iter().map(|container| json!({
                            "name": container.name, "image": container.image, "imageID": "", "ready": false, "restartCount": 0,
                            "started": false, "state": {"waiting": {"reason": "ErrImagePull", "message": message}}})).collect();
                        self.write(json!({"phase": "Pending", "containerStatuses": containers,
                            "conditions": conditions(false, "ErrImagePull")}))
                            .await;
                        told = message;
                    }
                    sleep(Duration::from_secs(wait)).await;
                    wait = (wait * 2).min(8);
                }
            }
        }
    }

    async fn pull_all(&self) -> Result<Vec<Arc<Image>>, String> {
        let mut images = Vec::new();
        for container in self.containers().iter().chain(self.init_containers()) {
            let reference = container.image.as_deref().unwrap_or_default();
            let pulled = self.shared.images.pull(reference).await;
            images.push(pulled.map_err(|error| format!("failed to pull {reference}: {error}"))?);
        }
        Ok(images)
    }

    fn status(&self, ip: Ipv4Addr, ready: bool, images: &[Arc<Image>], restarts: u32, state: &Value) -> Value {
        let of = |(container, image): (&Container, &Arc<Image>), state: &Value, ready: bool| {
            json!({"name": container.name, "image": container.image, "imageID": image.id, "ready": ready,
                   "started": ready, "restartCount": restarts, "state": state})
        };
        let containers: Vec<_> = self.containers().iter().zip(images).map(|pair| of(pair, state, ready)).collect();
        let done = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
        let init: Vec<_> = self
            .init_containers()
            .iter()
            .zip(images.iter().skip(containers.len()))
            .map(|pair| of(pair, &done, true))
            .collect();
        let ip = ip.to_string();
        json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
               "conditions": conditions(ready, "ContainersNotReady"),
               "containerStatuses": containers, "initContainerStatuses": init})
    }

    async fn write(&self, status: Value) {
        let patch = Patch::Merge(json!({"metadata": {"uid": self.uid}, "status": status}));
        let name = self.pod.name_any();
        while let Err(error) = self.api.patch_status(&name, &PatchParams::default(), &patch).await {
            if let kube::Error::Api(status) = &error
                && (400..500).contains(&status.code)
                && status.code != 429
            {
                if status.code != 404 && status.code != 409 {
                    eprintln!("test kubelet: status of {name}: {status}");
                }
                return;
            }
            sleep(RETRY).await;
        }
    }
}

fn conditions(ready: bool, why_not: &str) -> Value {
    let now = time(super::super::now());
    let condition = |name: &str, holds: bool| {
        let mut condition =
            json!({"type": name, "status": if holds { "True" } else { "False" }, "lastTransitionTime": now});
        if !holds {
            condition["reason"] = json!(why_not);
        }
        condition
    };
    json!([
        condition("PodScheduled", true),
        condition("Initialized", true),
        condition("ContainersReady", ready),
        condition("Ready", ready)
    ])
}

/// Kubernetes keeps whole seconds.
fn time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
