//! The guard over a cluster and a registry in memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::core::admission::AdmissionResponse;
use serde_json::{Value, json};
use tidegate_pipelines::api::{
    BreakGlassSpec, Quarantine, QuarantineSpec, Rollout, VerdictDecision, VerdictSpec, verdict_name,
};
use tidegate_policies::image::ImageRef;
use tidegate_policies::model::{Attestor, Mode, Policy, PublicKey};
use tidegate_policies::registry::MemoryFetch;
use tidegate_policies::verifier::Verifier;
use tidegate_webhook::guard::cluster::Owner;
use tidegate_webhook::guard::route::parse;
use tidegate_webhook::guard::{
    Ahead, Assessor, Cluster, Decided, Guard, InForce, Metrics, NotInForce, Recorder, Settings,
};

pub const NOW: i64 = 1_800_000_000;
pub const SPOKE: &str = "system:serviceaccount:tidegate-system:tidegate-spoke";
pub const REPLICA_SETS: &str = "system:serviceaccount:kube-system:replicaset-controller";
pub const DEPLOYMENTS: &str = "system:serviceaccount:kube-system:deployment-controller";

pub fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW + seconds).unwrap()
}

/// `r.test/good/..` is allowed, `r.test/bad/..` denied; the evidence of all else lies at the registry.
pub fn policy(mode: Mode) -> Policy {
    let policy = json!({
        "mode": match mode { Mode::Audit => "Audit", Mode::Enforce => "Enforce" },
        "checkSets": [
            {"displayName": "strict", "scope": {"kubernetesNamespace": "locked"}, "checks": [{"displayName": "never", "alwaysDeny": true}]},
            {"displayName": "default", "imageAllowlist": {"allowPattern": ["r.test/good/**"]}, "checks": [
                {"displayName": "signed", "imageAllowlist": {"allowPattern": ["r.test/bad/**"]}, "sigstoreSignatureCheck": {"attestors": ["ci"]}},
                {"displayName": "not bad", "imageAllowlist": {"allowPattern": ["r.test/unsigned/**"]}, "alwaysDeny": true}]}],
        "deployers": [{"kind": "User", "name": "anna"}, {"kind": "Group", "name": "release-managers"}]});
    serde_json::from_value(policy).unwrap()
}

/// A key that signed nothing.
fn attestors() -> BTreeMap<String, Attestor> {
    static PEM: OnceLock<String> = OnceLock::new();
    let pem = PEM.get_or_init(|| {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        pair.public_key_pem()
    });
    let attestor = Attestor {
        keys: vec![PublicKey { pem: pem.clone(), ..PublicKey::default() }],
        unsafe_skip_transparency_log: true,
        ..Attestor::default()
    };
    BTreeMap::from([("ci".to_owned(), attestor)])
}

pub fn digest(n: u8) -> String {
    format!("sha256:{}", hex::encode([n; 32]))
}

pub fn good(n: u8) -> String {
    format!("r.test/good/portal@{}", digest(n))
}

pub fn bad(n: u8) -> String {
    format!("r.test/bad/portal@{}", digest(n))
}

/// Asks the registry for a signature that is not there.
pub fn unsigned(n: u8) -> String {
    format!("r.test/unsigned/portal@{}", digest(n))
}

pub struct Memory {
    pub in_force: std::sync::RwLock<Result<Arc<InForce>, NotInForce>>,
    pub verdicts: std::sync::RwLock<BTreeMap<String, Arc<VerdictSpec>>>,
    pub quarantines: std::sync::RwLock<Vec<Arc<Quarantine>>>,
    pub break_glass: std::sync::RwLock<Vec<BreakGlassSpec>>,
    pub rollouts: std::sync::RwLock<Vec<Arc<Rollout>>>,
    pub owners: std::sync::RwLock<BTreeMap<String, Owner>>,
    pub writes: AtomicUsize,
}

#[async_trait]
impl Cluster for Memory {
    fn in_force(&self) -> Result<Arc<InForce>, NotInForce> {
        self.in_force.read().unwrap().clone()
    }

    fn verdict(&self, name: &str) -> Option<Arc<VerdictSpec>> {
        self.verdicts.read().unwrap().get(name).cloned()
    }

    fn verdicts(&self) -> Vec<(String, Arc<VerdictSpec>)> {
        self.verdicts.read().unwrap().iter().map(|(name, v)| (name.clone(), v.clone())).collect()
    }

    fn quarantines(&self) -> Vec<Arc<Quarantine>> {
        self.quarantines.read().unwrap().clone()
    }

    fn break_glass(&self, _: &str) -> Vec<BreakGlassSpec> {
        self.break_glass.read().unwrap().clone()
    }

    fn rollouts(&self, namespace: Option<&str>) -> Vec<Arc<Rollout>> {
        let mut all = self.rollouts.read().unwrap().clone();
        all.retain(|r| namespace.is_none_or(|n| r.spec.namespace == n));
        all
    }

    async fn owner(&self, _: &str, kind: &str, name: &str) -> Result<Option<Owner>, String> {
        if name == "unreadable" {
            return Err("the API server is away".to_owned());
        }
        match name {
            "hanging" => std::future::pending().await,
            "slow" => tokio::time::sleep(Duration::from_millis(500)).await,
            _ => {}
        }
        Ok(self.owners.read().unwrap().get(&format!("{kind}/{name}")).cloned())
    }

    async fn keep(&self, name: &str, verdict: VerdictSpec) -> Result<(), String> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.verdicts.write().unwrap().insert(name.to_owned(), Arc::new(verdict));
        Ok(())
    }

    async fn forget(&self, name: &str) -> Result<(), String> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.verdicts.write().unwrap().remove(name);
        Ok(())
    }
}

struct Silent;

impl Recorder for Silent {
    fn decided(&self, _: &Decided) {}
}

pub struct House {
    pub cluster: Arc<Memory>,
    pub registry: Arc<MemoryFetch>,
    pub guard: Guard,
    pub assessor: Arc<Assessor>,
    clock: Arc<std::sync::atomic::AtomicI64>,
}

impl House {
    pub fn enforcing() -> Self {
        Self::with(policy(Mode::Enforce))
    }

    pub fn with(policy: Policy) -> Self {
        let in_force = Arc::new(InForce::new("prod", policy, attestors(), BTreeMap::new()));
        let cluster = Arc::new(Memory {
            in_force: Ok(in_force).into(),
            verdicts: Default::default(),
            quarantines: Default::default(),
            break_glass: Default::default(),
            rollouts: Default::default(),
            owners: Default::default(),
            writes: AtomicUsize::new(0),
        });
        let registry = Arc::new(MemoryFetch::new());
        let clock = Arc::new(std::sync::atomic::AtomicI64::new(NOW));
        let hands = clock.clone();
        let time: tidegate_webhook::Now =
            Arc::new(move || Timestamp::from_second(hands.load(Ordering::SeqCst)).unwrap());
        let verifier = Arc::new(Verifier::new(registry.clone()));
        let metrics = Metrics::default();
        let assessor = Arc::new(Assessor::new(cluster.clone(), verifier, time.clone(), metrics.clone()));
        let guard = Guard {
            cluster: cluster.clone(),
            assessor: assessor.clone(),
            settings: Settings {
                environment: "prod-east".to_owned(),
                excluded: ["kube-system".to_owned()].into(),
                restart_grace: SignedDuration::from_hours(24),
                timeout: Duration::from_secs(5),
            },
            now: time,
            metrics,
            recorder: Arc::new(Silent),
        };
        Self { cluster, registry, guard, assessor, clock }
    }

    pub fn ahead(&self) -> Ahead {
        Ahead::new(self.cluster.clone(), self.assessor.clone(), self.guard.now.clone())
    }

    pub fn advance(&self, seconds: i64) {
        self.clock.fetch_add(seconds, Ordering::SeqCst);
    }

    pub fn writes(&self) -> usize {
        self.cluster.writes.load(Ordering::SeqCst)
    }

    pub async fn ask(&self, review: &Value) -> AdmissionResponse {
        self.ask_within(review, None).await
    }

    /// `timeout`: what the API server waits.
    pub async fn ask_within(&self, review: &Value, timeout: Option<Duration>) -> AdmissionResponse {
        let request = parse(&Bytes::from(review.to_string())).unwrap();
        self.guard.respond(request, timeout).await
    }

    pub async fn tag(&self, image: &str) -> String {
        let image: ImageRef = image.parse().unwrap();
        self.registry.push(&image, r#"{"schemaVersion":2}"#).await.to_string()
    }

    /// Since an hour ago.
    pub fn quarantine(&self, digest: &str, environments: &[&str]) {
        self.quarantine_since(&[digest], environments, Some(-3600));
    }

    pub fn quarantine_since(&self, digests: &[&str], environments: &[&str], since: Option<i64>) {
        let spec = QuarantineSpec {
            digests: digests.iter().map(|digest| (*digest).to_owned()).collect(),
            revision: None,
            repositories: vec![],
            environments: environments.iter().map(|e| (*e).to_owned()).collect(),
            reason: "15 % errors in prod-east".to_owned(),
            origin: None,
            lifted: None,
        };
        let mut quarantine = Quarantine::new("q", spec);
        quarantine.metadata.creation_timestamp = since.map(|since| Time(at(since)));
        self.cluster.quarantines.write().unwrap().push(Arc::new(quarantine));
    }

    pub fn break_glass(&self, user: &str, digest: &str, expires: Timestamp) {
        let reason = "incident 42, vendor fix".to_owned();
        let spec = BreakGlassSpec { user: user.into(), digest: digest.into(), expires_at: Time(expires), reason };
        self.cluster.break_glass.write().unwrap().push(spec);
    }

    /// A ReplicaSet under a Deployment, both of this pod spec.
    pub fn deploy(&self, pod: &Value) {
        let template = json!({"metadata": {"labels": {"app": "portal"}}, "spec": pod});
        let owner = |uid: &str, controller| Owner {
            uid: uid.to_owned(),
            deleting: false,
            template: template.clone(),
            claims: vec![],
            controller,
        };
        let deployment = owner("d-uid", None);
        let replica_set = owner("rs-uid", Some(reference("Deployment", "portal", "d-uid")));
        let mut owners = self.cluster.owners.write().unwrap();
        owners.insert("Deployment/portal".to_owned(), deployment);
        owners.insert("ReplicaSet/portal-1".to_owned(), replica_set);
    }

    pub fn keep(&self, image: &str, decision: VerdictDecision, expires: Option<Timestamp>) -> String {
        let in_force = self.cluster.in_force().unwrap();
        let (policy, roots) = (in_force.policy_digest.to_string(), in_force.trust_root_digest.to_string());
        let digest = image.split('@').nth(1).unwrap().to_owned();
        let name = verdict_name(image, &policy, &roots, "portal");
        let spec = VerdictSpec {
            image: image.to_owned(),
            digest,
            policy_digest: policy,
            trust_root_digest: roots,
            namespace: "portal".to_owned(),
            check_set: "default".to_owned(),
            decision,
            summary: "kept".to_owned(),
            checks: vec![],
            revision: None,
            verified_at: Time(at(-3600)),
            expires_at: expires.map(Time),
            last_allowed: None,
        };
        self.cluster.verdicts.write().unwrap().insert(name.clone(), Arc::new(spec));
        name
    }

    pub fn rollout(&self, name: &str, images: &[String], target: &[String], phase: Option<&str>, made: i64) {
        let list = |images: &[String]| -> Vec<Value> {
            let split = images.iter().map(|image| image.split_once('@').unwrap());
            split.map(|(r, d)| json!({"container": "app", "repository": r, "digest": d})).collect()
        };
        let mut status = json!({"target": list(target)});
        if let Some(phase) = phase {
            status["phase"] = json!(phase);
        }
        let strategy = json!({"steps": [{"setWeight": 5}]});
        let rollout = json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": "Rollout",
            "metadata": {"name": name, "namespace": "portal", "creationTimestamp": at(made).to_string()},
            "spec": {"environment": "prod-east", "pipelineNamespace": "portal", "pipeline": "portal", "release": "r",
                     "attempt": 1, "namespace": "portal", "images": list(images), "workload": {"name": "portal"},
                     "service": "portal", "route": {"httpRoute": "portal"}, "strategy": strategy, "objectives": []},
            "status": status});
        let rollout: Rollout = serde_json::from_value(rollout).unwrap();
        self.cluster.rollouts.write().unwrap().push(Arc::new(rollout));
    }

    /// The Rollout made last, changed.
    pub fn change_rollout(&self, change: impl FnOnce(&mut Value)) {
        let mut all = self.cluster.rollouts.write().unwrap();
        let mut value = serde_json::to_value(&*all.pop().unwrap()).unwrap();
        change(&mut value);
        all.push(Arc::new(serde_json::from_value(value).unwrap()));
    }

    pub fn is_kept(&self, image: &str) -> Option<VerdictDecision> {
        let verdicts = self.cluster.verdicts.read().unwrap();
        verdicts.values().find(|v| v.image == image).map(|v| v.decision)
    }
}

pub fn reference(kind: &str, name: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: "apps/v1".to_owned(),
        kind: kind.to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

/// `{containers: [{name: app, image}]}`
pub fn pod(image: &str) -> Value {
    json!({"containers": [{"name": "app", "image": image}]})
}

fn review(user: &str, kind: (&str, &str, &str), operation: &str, new: Value, old: Value) -> Value {
    let (group, kind, resource) = kind;
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u-1", "kind": {"group": group, "version": "v1", "kind": kind},
        "resource": {"group": group, "version": "v1", "resource": resource},
        "name": "x", "namespace": "portal", "operation": operation,
        "userInfo": {"username": user, "groups": ["system:authenticated"]},
        "object": new, "oldObject": old, "dryRun": false}})
}

pub fn pod_review(user: &str, spec: &Value) -> Value {
    review(user, ("", "Pod", "pods"), "CREATE", pod_object(spec), Value::Null)
}

pub fn pod_update(user: &str, old: &Value, new: &Value) -> Value {
    review(user, ("", "Pod", "pods"), "UPDATE", pod_object(new), pod_object(old))
}

fn pod_object(spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": "portal", "labels": {"app": "portal"}}, "spec": spec})
}

/// As a controller makes it.
pub fn owned(mut review: Value, owner: &OwnerReference) -> Value {
    review["request"]["object"]["metadata"]["ownerReferences"] = json!([owner]);
    review
}

fn workload(kind: &str, spec: &Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "portal", "namespace": "portal"},
           "spec": {"replicas": 4, "template": {"metadata": {"labels": {"app": "portal"}}, "spec": spec}}})
}

pub fn workload_review(user: &str, kind: &str, spec: &Value) -> Value {
    review(user, ("apps", kind, "x"), "CREATE", workload(kind, spec), Value::Null)
}

pub fn workload_update(user: &str, kind: &str, old: &Value, new: &Value) -> Value {
    review(user, ("apps", kind, "x"), "UPDATE", workload(kind, new), workload(kind, old))
}
