//! Pods of an arm and how they fare: pure reading of what the API server says. Decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::PartialObjectMeta;
use tidegate_pipelines::api::names;
use tidegate_pipelines::judge;
use tidegate_pipelines::rollout::{Arm, PodTrouble};

/// A ReplicaSet's metadata: whose it is, and what it selects by.
pub type ReplicaSetMeta = PartialObjectMeta<ReplicaSet>;

/// The one controller of an object, if it is of that kind.
fn controller<'a>(of: &'a ObjectMeta, kind: &str) -> Option<&'a OwnerReference> {
    let owners = of.owner_references.iter().flatten();
    owners.into_iter().find(|o| o.controller == Some(true) && o.kind == kind && o.api_version == "apps/v1")
}

/// The ReplicaSets that live under this Deployment, with their template's hash by uid. A name proves nothing: whoever may
/// make objects in the namespace chooses it, and a Deployment that was deleted leaves its name to the next.
pub fn sets_of(deployment: &Deployment, sets: &[Arc<ReplicaSetMeta>]) -> BTreeMap<String, String> {
    let Some(uid) = deployment.metadata.uid.as_deref().filter(|uid| !uid.is_empty()) else { return BTreeMap::new() };
    let ours = |set: &&Arc<ReplicaSetMeta>| {
        set.metadata.namespace == deployment.metadata.namespace
            && controller(&set.metadata, "Deployment").is_some_and(|owner| owner.uid == uid)
    };
    let hashed = |set: &Arc<ReplicaSetMeta>| {
        let hash = set.metadata.labels.as_ref()?.get(names::TEMPLATE_HASH_LABEL)?.clone();
        Some((set.metadata.uid.clone()?, hash))
    };
    sets.iter().filter(ours).filter_map(hashed).collect()
}

/// Whether one of these sets (see [`sets_of`]) controls the pod, and would keep it: a pod that its selector does not match
/// is let go by the ReplicaSet's own controller, whatever owner it was made with.
pub fn belongs_to(pod: &Pod, deployment: &Deployment, sets: &BTreeMap<String, String>) -> bool {
    let Some(hash) = controller(&pod.metadata, "ReplicaSet").and_then(|owner| sets.get(&owner.uid)) else {
        return false;
    };
    let has = |key: &str, value: &String| pod.metadata.labels.as_ref().and_then(|l| l.get(key)) == Some(value);
    let selector = deployment.spec.as_ref().and_then(|s| s.selector.match_labels.as_ref());
    pod.metadata.namespace == deployment.metadata.namespace
        && has(names::TEMPLATE_HASH_LABEL, hash)
        && selector.into_iter().flatten().all(|(key, value)| has(key, value))
}

fn leaving(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
        || matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// When the kubelet took it; until it says so, when the pod was made.
fn began(pod: &Pod) -> Option<Timestamp> {
    let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref());
    started.or(pod.metadata.creation_timestamp.as_ref()).map(|t| t.0)
}

/// (is ready, since when it is what it is).
fn readiness(pod: &Pod) -> (bool, Option<Timestamp>) {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|c| c.type_ == "Ready");
    (ready.is_some_and(|c| c.status == "True"), ready.and_then(|c| c.last_transition_time.as_ref()).map(|t| t.0))
}

pub fn is_ready(pod: &Pod) -> bool {
    !leaving(pod) && readiness(pod).0
}

/// Image reference per container of a Deployment's template.
fn images(deployment: &Deployment) -> BTreeMap<String, String> {
    let template = deployment.spec.as_ref().and_then(|s| s.template.spec.as_ref());
    let containers = template.map(|t| t.containers.as_slice()).unwrap_or_default();
    containers.iter().filter_map(|c| Some((c.name.clone(), c.image.clone()?))).collect()
}

fn runs(pod: &Pod, images: &BTreeMap<String, String>) -> bool {
    let containers = pod.spec.as_ref().map(|s| s.containers.as_slice()).unwrap_or_default();
    images.iter().all(|(name, image)| containers.iter().any(|c| &c.name == name && c.image.as_ref() == Some(image)))
}

fn count(n: Option<i32>) -> u32 {
    n.and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
}

/// One Deployment with its pods.
pub fn arm(deployment: &Deployment, pods: &[Arc<Pod>]) -> Arm {
    let images = images(deployment);
    let status = deployment.status.as_ref();
    let ready = pods.iter().filter(|p| is_ready(p)).count() as u32;
    let of_template = pods.iter().filter(|p| is_ready(p) && runs(p, &images)).count() as u32;
    Arm {
        uid: deployment.metadata.uid.clone().unwrap_or_default(),
        resource_version: deployment.metadata.resource_version.clone().unwrap_or_default(),
        generation: deployment.metadata.generation.unwrap_or_default(),
        observed_generation: status.and_then(|s| s.observed_generation).unwrap_or_default(),
        // An absent count is 1, as the API server's default says.
        wanted: deployment.spec.as_ref().map_or(1, |s| s.replicas.map_or(1, |n| count(Some(n)))),
        ready,
        // The same images in an older template would count as new: the controller's own count bounds it.
        updated_ready: of_template.min(count(status.and_then(|s| s.updated_replicas))),
        pods: pods.iter().filter(|p| !leaving(p)).count() as u32,
        images,
        stamp: deployment.metadata.annotations.as_ref().and_then(|a| a.get(names::CANARY_ROLLOUT)).cloned(),
    }
}

/// The judge's list: pods that the API server knows and that have started.
pub fn for_judge(pods: &[Arc<Pod>]) -> Vec<judge::Pod> {
    pods.iter()
        .filter(|p| !leaving(p))
        .filter_map(|p| {
            let since = began(p)?;
            Some(judge::Pod { name: p.metadata.name.clone()?, since })
        })
        .collect()
}

/// Which pods were seen ready by this process: the API server forgets that.
#[derive(Clone, Debug, Default)]
pub struct SeenReady(BTreeSet<String>);

impl SeenReady {
    pub fn look(&mut self, pods: &[Arc<Pod>]) {
        for pod in pods.iter().filter(|p| is_ready(p)) {
            if let Some(uid) = &pod.metadata.uid {
                self.0.insert(uid.clone());
            }
        }
    }

    fn was_ready(&self, pod: &Pod, since: Option<Timestamp>) -> bool {
        let seen = pod.metadata.uid.as_ref().is_some_and(|uid| self.0.contains(uid));
        // Over a restart of ours: the condition starts out as False with the pod and changes its time only when it
        // changes its value.
        let started = began(pod);
        let turned =
            matches!((started, since), (Some(a), Some(b)) if b.duration_since(a) > SignedDuration::from_secs(2));
        seen || turned
    }
}

/// Troubles since `start`, and since when a pod that was ready is not.
pub fn trouble(pods: &[Arc<Pod>], start: Option<Timestamp>, seen: &SeenReady) -> (PodTrouble, Option<Timestamp>) {
    let mut trouble = PodTrouble::default();
    let mut unready_since: Option<Timestamp> = None;
    for pod in pods.iter().filter(|p| !leaving(p)) {
        trouble.pods += 1;
        let Some(status) = &pod.status else { continue };
        let young = matches!((start, began(pod)), (Some(start), Some(began)) if began >= start);
        for container in status.container_statuses.iter().flatten() {
            let ended = container.last_state.as_ref().and_then(|s| s.terminated.as_ref());
            let ended_now = container.state.as_ref().and_then(|s| s.terminated.as_ref());
            let since_start = |at: Option<Timestamp>| match (start, at) {
                (Some(start), Some(at)) => at >= start,
                _ => false,
            };
            let recent = ended.is_some_and(|t| since_start(t.finished_at.as_ref().map(|t| t.0)));
            // A pod older than the rollout brings restarts along; of those only the last one tells its time.
            trouble.restarts += match (young, recent) {
                (true, _) => count(Some(container.restart_count)),
                (false, true) => 1,
                (false, false) => 0,
            };
            let killed = |reason: Option<&String>| reason.is_some_and(|r| r == "OOMKilled");
            if (recent && killed(ended.and_then(|t| t.reason.as_ref())))
                || killed(ended_now.and_then(|t| t.reason.as_ref()))
            {
                trouble.oom_kills += 1;
            }
            if waits_for(container.state.as_ref(), "CrashLoopBackOff") {
                trouble.crash_looping += 1;
            }
        }
        let (ready, since) = readiness(pod);
        if !ready && seen.was_ready(pod, since) {
            trouble.lost_readiness += 1;
            unready_since = match (unready_since, since) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
    }
    (trouble, unready_since)
}

fn waits_for(state: Option<&ContainerState>, reason: &str) -> bool {
    state.and_then(|s| s.waiting.as_ref()).and_then(|w| w.reason.as_deref()) == Some(reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, status: serde_json::Value) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {
                    "name": name, "uid": name, "labels": {"pod-template-hash": "abc"},
                    "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "portal-abc", "uid": "r", "controller": true}]
                },
                "spec": {"containers": [{"name": "web", "image": "r/portal@sha256:00"}]},
                "status": status
            }))
            .unwrap(),
        )
    }

    fn ready(value: &str, at: &str) -> serde_json::Value {
        json!({"startTime": "2026-01-01T00:00:00Z", "conditions": [{"type": "Ready", "status": value, "lastTransitionTime": at}]})
    }

    fn deployment(name: &str, uid: &str) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "acme", "uid": uid},
            "spec": {"selector": {"matchLabels": {"app": "portal"}}, "template": {}}
        }))
        .unwrap()
    }

    fn owner(kind: &str, name: &str, uid: &str) -> serde_json::Value {
        json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": true})
    }

    fn set(name: &str, uid: &str, owner: serde_json::Value) -> Arc<ReplicaSetMeta> {
        let metadata = json!({
            "name": name, "namespace": "acme", "uid": uid, "ownerReferences": [owner],
            "labels": {"app": "portal", "pod-template-hash": "abc"}
        });
        Arc::new(serde_json::from_value(json!({ "metadata": metadata })).unwrap())
    }

    #[test]
    fn a_forged_pod_belongs_to_no_arm() {
        let (stable, canary) = (deployment("portal", "d-1"), deployment("portal-canary", "d-2"));
        let sets = [
            set("portal-abc", "s-1", owner("Deployment", "portal", "d-1")),
            set("portal-canary-abc", "s-2", owner("Deployment", "portal-canary", "d-2")),
            // Named after the Deployment, and not its own: of one that is gone, of nobody, of another kind.
            set("portal-old", "s-3", owner("Deployment", "portal", "d-0")),
            set("portal-job", "s-4", owner("CronJob", "portal", "d-1")),
        ];
        let arms = |pod: &Pod| {
            let arm = |d: &Deployment| belongs_to(pod, d, &sets_of(d, &sets));
            (arm(&stable), arm(&canary))
        };
        let made = |metadata: serde_json::Value| -> Pod {
            let mut pod: Pod = serde_json::from_value(json!({ "metadata": metadata })).unwrap();
            pod.metadata.name = Some("x".into());
            pod.metadata.namespace.get_or_insert("acme".into());
            pod
        };
        let labels = json!({"app": "portal", "pod-template-hash": "abc"});
        let under = |owner: serde_json::Value| made(json!({"labels": labels, "ownerReferences": [owner]}));
        let real = owner("ReplicaSet", "portal-abc", "s-1");
        let mut minor = real.clone();
        minor["controller"] = json!(false);
        for (pod, expected, case) in [
            (under(real.clone()), (true, false), "stable's own"),
            (under(owner("ReplicaSet", "portal-canary-abc", "s-2")), (false, true), "the canary's own"),
            (made(json!({"labels": labels})), (false, false), "bare, with the labels"),
            (under(owner("ReplicaSet", "portal-abc", "u-9")), (false, false), "the set's name with a uid of nobody"),
            (under(owner("ReplicaSet", "portal-old", "s-3")), (false, false), "of a Deployment that is gone"),
            (
                under(owner("ReplicaSet", "portal-job", "s-4")),
                (false, false),
                "of a set that a Deployment does not own",
            ),
            (under(owner("StatefulSet", "portal-abc", "s-1")), (false, false), "another kind under that uid"),
            (under(minor), (false, false), "owned, but not controlled"),
            (
                made(json!({"labels": {"app": "portal", "pod-template-hash": "abd"}, "ownerReferences": [real]})),
                (false, false),
                "another template's hash",
            ),
            (
                made(json!({"labels": {"app": "x", "pod-template-hash": "abc"}, "ownerReferences": [real]})),
                (false, false),
                "labels that the set does not select",
            ),
            (
                made(json!({"namespace": "other", "labels": labels, "ownerReferences": [real]})),
                (false, false),
                "in another namespace",
            ),
        ] {
            assert_eq!(arms(&pod), expected, "{case}");
        }
    }

    #[test]
    fn a_pod_that_was_ready_and_is_not_has_lost_readiness_but_a_starting_one_has_not() {
        let starting = pod("a", ready("False", "2026-01-01T00:00:01Z"));
        let lost = pod("b", ready("False", "2026-01-01T00:01:00Z"));
        let (trouble, since) = trouble(&[starting, lost], None, &SeenReady::default());
        assert_eq!((trouble.pods, trouble.lost_readiness), (2, 1));
        assert_eq!(since, "2026-01-01T00:01:00Z".parse().ok());
    }

    #[test]
    fn restarts_kills_and_crash_loops_since_the_start_are_counted() {
        let status = |began: &str, finished: &str| {
            json!({"startTime": began, "containerStatuses": [{
                "name": "web", "image": "i", "imageID": "i", "ready": false, "restartCount": 3,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": finished}}
            }]})
        };
        let start = "2026-01-01T01:00:00Z".parse().ok();
        for (began, finished, restarts, kills, case) in [
            ("2026-01-01T01:00:05Z", "2026-01-01T01:00:09Z", 3, 1, "a pod of this rollout"),
            ("2026-01-01T00:00:00Z", "2026-01-01T01:00:09Z", 1, 1, "an older pod that fell since"),
            ("2026-01-01T00:00:00Z", "2026-01-01T00:30:00Z", 0, 0, "an older pod that fell before"),
        ] {
            let (trouble, _) = trouble(&[pod("a", status(began, finished))], start, &SeenReady::default());
            assert_eq!((trouble.restarts, trouble.oom_kills, trouble.crash_looping), (restarts, kills, 1), "{case}");
        }
    }

    #[test]
    fn ready_pods_of_an_older_template_are_not_updated() {
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "portal", "generation": 2},
            "spec": {"replicas": 2, "selector": {}, "template": {"spec": {"containers": [{"name": "web", "image": "r/portal@sha256:11"}]}}},
            "status": {"observedGeneration": 2, "updatedReplicas": 1, "readyReplicas": 1}
        }))
        .unwrap();
        let arm = arm(&deployment, &[pod("a", ready("True", "2026-01-01T00:00:01Z"))]);
        assert_eq!((arm.wanted, arm.ready, arm.updated_ready, arm.pods), (2, 1, 0, 1));
    }
}
