//! The guard's cluster over Kubernetes: caches kept by watches, owners read live, Verdicts written.
//! Never decides, and never serves a policy before all caches have been read once.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use kube::api::{Api, DeleteParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource, ResourceExt};
use serde_json::Value;
use tidegate_pipelines::api::{
    Attestor, BreakGlass, BreakGlassSpec, Environment, Quarantine, Rollout, TrustRoot, Verdict, VerdictSpec,
    VerificationPolicy, policy,
};
use tokio::sync::watch;

use super::cluster::{Cluster, NotInForce, Owner};
use super::facts::InForce;
use crate::cached::{self, is_read};

/// A write; how long a read may take is for who asks to say.
const CALL: Duration = Duration::from_secs(2);
const FIELD_MANAGER: &str = "tidegate-guard";

type Held = Option<(Vec<String>, Result<Arc<InForce>, NotInForce>)>;

pub struct KubeCluster {
    client: Client,
    environment: String,
    environments: Store<Environment>,
    policies: Store<VerificationPolicy>,
    attestors: Store<Attestor>,
    trust_roots: Store<TrustRoot>,
    quarantines: Store<Quarantine>,
    verdicts: Store<Verdict>,
    break_glasses: Store<BreakGlass>,
    rollouts: Store<Rollout>,
    /// What was last made of the policy objects, and their versions: digesting a trust root for every
    /// request would cost more than the rest of the decision.
    held: watch::Sender<Held>,
    changed: watch::Sender<u64>,
}

impl KubeCluster {
    /// The caches, and the task that keeps them and ends with any of its watches; nothing is known until it runs.
    pub fn new(client: Client, environment: impl Into<String>) -> (Arc<Self>, BoxFuture<'static, ()>) {
        let changed = watch::Sender::new(0);
        let mut watches: Vec<BoxFuture<'static, ()>> = Vec::new();
        let cluster = Self {
            environment: environment.into(),
            environments: follow(&client, &changed, &mut watches),
            policies: follow(&client, &changed, &mut watches),
            attestors: follow(&client, &changed, &mut watches),
            trust_roots: follow(&client, &changed, &mut watches),
            quarantines: follow(&client, &changed, &mut watches),
            verdicts: follow(&client, &changed, &mut watches),
            break_glasses: follow(&client, &changed, &mut watches),
            rollouts: follow(&client, &changed, &mut watches),
            held: watch::Sender::new(None),
            changed,
            client,
        };
        (Arc::new(cluster), futures::future::select_all(watches).map(drop).boxed())
    }

    /// Ticks with every change of what is cached.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Resolves when every cache has been read once.
    pub async fn synced(&self) {
        cached::until(&self.changed, || self.is_synced()).await;
    }

    fn is_synced(&self) -> bool {
        is_read(&self.environments)
            && is_read(&self.policies)
            && is_read(&self.attestors)
            && is_read(&self.trust_roots)
            && is_read(&self.quarantines)
            && is_read(&self.verdicts)
            && is_read(&self.break_glasses)
            && is_read(&self.rollouts)
    }

    fn build(&self, environment: &Environment) -> Result<Arc<InForce>, NotInForce> {
        let name = environment.spec.policy.clone();
        let found = self.policies.get(&ObjectRef::new(&name)).filter(|policy| !policy.spec.withdrawn);
        let Some(found) = found else { return Err(NotInForce::NoPolicy(name)) };
        if let Err(errors) = found.spec.policy.validate() {
            let reason = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            return Err(NotInForce::Invalid { name, reason });
        }
        let attestors = policy::attestors(self.attestors.state().iter().map(AsRef::as_ref));
        let trust_roots = policy::trust_roots(self.trust_roots.state().iter().map(AsRef::as_ref));
        Ok(Arc::new(InForce::new(name, found.spec.policy.clone(), attestors, trust_roots)))
    }

    fn versions(&self, environment: &Environment) -> Vec<String> {
        fn all<K: Resource<DynamicType = ()> + Clone>(store: &Store<K>) -> Vec<String> {
            let version = |object: &Arc<K>| {
                format!("{} {}", object.uid().unwrap_or_default(), object.resource_version().unwrap_or_default())
            };
            let mut versions: Vec<String> = store.state().iter().map(version).collect();
            versions.sort_unstable();
            versions
        }
        let own = environment.resource_version().unwrap_or_default();
        [vec![own], all(&self.policies), all(&self.attestors), all(&self.trust_roots)].concat()
    }

    fn api(&self) -> Api<Verdict> {
        Api::all(self.client.clone())
    }
}

/// A cache of all objects of one kind, kept by a watch that is added to `watches`.
fn follow<K>(client: &Client, changed: &watch::Sender<u64>, watches: &mut Vec<BoxFuture<'static, ()>>) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let (store, watch) = cached::follow(Api::all(client.clone()), changed);
    watches.push(watch);
    store
}

#[async_trait]
impl Cluster for KubeCluster {
    fn in_force(&self) -> Result<Arc<InForce>, NotInForce> {
        if !self.is_synced() {
            return Err(NotInForce::NotSynced);
        }
        let Some(environment) = self.environments.get(&ObjectRef::new(&self.environment)) else {
            return Err(NotInForce::NoEnvironment(self.environment.clone()));
        };
        let versions = self.versions(&environment);
        if let Some((of, held)) = &*self.held.borrow()
            && *of == versions
        {
            return held.clone();
        }
        let built = self.build(&environment);
        self.held.send_replace(Some((versions, built.clone())));
        built
    }

    fn verdict(&self, name: &str) -> Option<Arc<VerdictSpec>> {
        self.verdicts.get(&ObjectRef::new(name)).map(|verdict| Arc::new(verdict.spec.clone()))
    }

    fn verdicts(&self) -> Vec<(String, Arc<VerdictSpec>)> {
        self.verdicts.state().iter().map(|v| (v.name_any(), Arc::new(v.spec.clone()))).collect()
    }

    fn quarantines(&self) -> Vec<Arc<Quarantine>> {
        self.quarantines.state()
    }

    fn break_glass(&self, namespace: &str) -> Vec<BreakGlassSpec> {
        let all = self.break_glasses.state();
        let here = all.iter().filter(|glass| glass.namespace().as_deref() == Some(namespace));
        here.map(|glass| glass.spec.clone()).collect()
    }

    fn rollouts(&self, namespace: Option<&str>) -> Vec<Arc<Rollout>> {
        let mut all = self.rollouts.state();
        all.retain(|rollout| namespace.is_none_or(|namespace| rollout.spec.namespace == namespace));
        all
    }

    async fn owner(&self, namespace: &str, kind: &str, name: &str) -> Result<Option<Owner>, String> {
        let (group, template) = match kind {
            "CronJob" => ("batch", "/spec/jobTemplate/spec/template"),
            "Job" => ("batch", "/spec/template"),
            "ControllerRevision" => ("apps", "/data/spec/template"),
            "ReplicationController" => ("", "/spec/template"),
            _ => ("apps", "/spec/template"),
        };
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        let Some(object) = api.get_opt(name).await.map_err(|error| error.to_string())? else { return Ok(None) };
        let claims = object.data.pointer("/spec/volumeClaimTemplates").and_then(Value::as_array).into_iter().flatten();
        let claims = claims.filter_map(|claim| claim.pointer("/metadata/name")?.as_str().map(str::to_owned));
        Ok(Some(Owner {
            uid: object.uid().unwrap_or_default(),
            deleting: object.metadata.deletion_timestamp.is_some(),
            template: object.data.pointer(template).cloned().unwrap_or_default(),
            claims: claims.collect(),
            controller: object.owner_references().iter().find(|owner| owner.controller == Some(true)).cloned(),
        }))
    }

    async fn keep(&self, name: &str, verdict: VerdictSpec) -> Result<(), String> {
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let api = self.api();
        let write = async {
            let mut object = Verdict::new(name, verdict);
            if self.verdicts.get(&ObjectRef::new(name)).is_none() {
                match api.create(&params, &object).await {
                    Err(kube::Error::Api(status)) if status.code == 409 => {}
                    other => return other.map(drop),
                }
            }
            // Read anew: the cache may lag behind a write of our own.
            match api.get_opt(name).await? {
                None => api.create(&params, &object).await.map(drop),
                Some(there) => {
                    object.metadata.resource_version = there.metadata.resource_version;
                    api.replace(name, &params, &object).await.map(drop)
                }
            }
        };
        let written = tokio::time::timeout(CALL, write).await;
        written.map_err(|_| "no answer in time".to_owned())?.map_err(|error| error.to_string())
    }

    async fn forget(&self, name: &str) -> Result<(), String> {
        match tokio::time::timeout(CALL, self.api().delete(name, &DeleteParams::default())).await {
            Err(_) => Err("no answer in time".to_owned()),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok(_)) => Ok(()),
        }
    }
}
