//! What this process watches of its cluster, and the clients it writes with. Knows no rollout.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, Client};
use tidegate_pipelines::api::policy::{Attestor, TrustRoot, VerificationPolicy, attestors, trust_roots};
use tidegate_pipelines::api::{Environment, Quarantine, Rollout, Verdict};
use tidegate_policies::model::trust_root_digest;
use tidegate_policies::model::{Attestor as AttestorModel, TrustRoot as TrustRootModel};

use super::cache::Cache;
use super::httproute::HttpRoute;
use super::last_words::LastWords;
use super::pods::ReplicaSetMeta;
use super::wake::Wakes;
use crate::reach::Reach;

/// Caches of the kinds that a rollout touches or is decided by.
#[derive(Clone)]
pub struct World {
    pub client: Client,
    /// Whether its API server answers.
    pub reach: Reach,
    pub wakes: Wakes,
    pub rollouts: Cache<Rollout>,
    pub last_words: LastWords,
    pub deployments: Cache<Deployment>,
    pub services: Cache<Service>,
    pub autoscalers: Cache<HorizontalPodAutoscaler>,
    pub routes: Cache<HttpRoute>,
    pub pods: Cache<Pod>,
    /// Whose a pod is says its ReplicaSet. Metadata only.
    pub replica_sets: Cache<ReplicaSetMeta>,
    pub verdicts: Cache<Verdict>,
    pub quarantines: Cache<Quarantine>,
    pub environments: Cache<Environment>,
    pub policies: Cache<VerificationPolicy>,
    pub attestors: Cache<Attestor>,
    pub trust_roots: Cache<TrustRoot>,
}

/// Digests under which this cluster's guard keeps its verdicts at present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    pub policy: String,
    pub trust_root: String,
    /// `Audit` or `Enforce`.
    pub mode: String,
}

impl World {
    /// The caches, and the tasks that keep them; the wiring runs those.
    pub fn open(client: Client, reach: Reach) -> (Self, Vec<BoxFuture<'static, ()>>) {
        let wakes = Wakes::default();
        let mut keepers: Vec<BoxFuture<'static, ()>> = Vec::new();
        macro_rules! cache {
            () => {{
                let (cache, keeper) = Cache::watch(Api::all(client.clone()), wakes.clone());
                keepers.push(Box::pin(keeper));
                cache
            }};
        }
        let last_words = LastWords::default();
        let said = last_words.clone();
        let (rollouts, keeper) =
            Cache::watch_ends(Api::all(client.clone()), wakes.clone(), move |rollout| said.record(rollout));
        keepers.push(Box::pin(keeper));
        let world = World {
            rollouts,
            last_words,
            deployments: cache!(),
            services: cache!(),
            autoscalers: cache!(),
            routes: cache!(),
            pods: cache!(),
            replica_sets: cache!(),
            verdicts: cache!(),
            quarantines: cache!(),
            environments: cache!(),
            policies: cache!(),
            attestors: cache!(),
            trust_roots: cache!(),
            client,
            reach,
            wakes,
        };
        (world, keepers)
    }

    /// Waits until every kind was listed once: before that, absence means nothing.
    pub async fn ready(&self) {
        self.rollouts.ready().await;
        self.deployments.ready().await;
        self.services.ready().await;
        self.autoscalers.ready().await;
        self.routes.ready().await;
        self.pods.ready().await;
        self.replica_sets.ready().await;
        self.verdicts.ready().await;
        self.quarantines.ready().await;
        self.environments.ready().await;
        self.policies.ready().await;
        self.attestors.ready().await;
        self.trust_roots.ready().await;
    }

    /// The policy that holds in this environment, as the guard digests it; none: nothing may ship.
    pub fn in_force(&self, environment: &Environment) -> Option<InForce> {
        let policy = self.policies.get(None, &environment.spec.policy).filter(|p| !p.spec.withdrawn)?;
        let attestors: Vec<Arc<Attestor>> = self.attestors.select(|_| true);
        let roots: Vec<Arc<TrustRoot>> = self.trust_roots.select(|_| true);
        let attestors: BTreeMap<String, AttestorModel> = attestors_of(&attestors);
        let roots: BTreeMap<String, TrustRootModel> = roots_of(&roots);
        Some(InForce {
            policy: policy.spec.policy.digest(&attestors).to_string(),
            trust_root: trust_root_digest(&policy.spec.policy, &attestors, &roots).to_string(),
            mode: format!("{:?}", policy.spec.policy.mode),
        })
    }
}

fn attestors_of(objects: &[Arc<Attestor>]) -> BTreeMap<String, AttestorModel> {
    attestors(objects.iter().map(Arc::as_ref))
}

fn roots_of(objects: &[Arc<TrustRoot>]) -> BTreeMap<String, TrustRootModel> {
    trust_roots(objects.iter().map(Arc::as_ref))
}
