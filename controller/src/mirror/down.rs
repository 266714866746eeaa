//! Pulling: each kind is watched at the hub and merged into this cluster, one object at a time. A failed write is
//! tried again at the next beat; a bad object stops nothing else.

use std::collections::HashMap;
use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde::{Serialize, de::Error as _};
use serde_json::{Value, json};
use tidegate_pipelines::api::policy::{Attestor, TrustRoot, VerificationPolicy};
use tidegate_pipelines::api::{Environment, Quarantine, Rollout, names};
use tidegate_webhook::patience::Patience;

use super::Mirror;
use super::kinds::{self, Kind};
use super::loosen;
use super::rollouts;
use crate::connect::{CallError, bounded};
use crate::spoke::cache::{Cache, version_of};
use crate::spoke::observe::namespace_allowed;

/// Between looks at everything: repairs what was missed and lets delays run out.
const BEAT: Duration = Duration::from_secs(5);
/// Intents are looked at more often: a write that failed should not cost a rollout seconds.
const INTENT_BEAT: Duration = Duration::from_secs(1);
/// As for the local caches: longer silence is a dead connection.
const WATCH_SECONDS: u32 = 30;

fn params() -> PatchParams {
    PatchParams::apply(names::MIRROR_FIELD_MANAGER).force()
}

fn config() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS)
}

impl Mirror {
    pub async fn pull_policies(self) {
        let (api, cache) = (Api::all(self.hub.clone()), self.world.policies.clone());
        self.pull::<VerificationPolicy>(Kind::Policy, api, cache).await;
    }

    pub async fn pull_attestors(self) {
        let (api, cache) = (Api::all(self.hub.clone()), self.world.attestors.clone());
        self.pull::<Attestor>(Kind::Attestor, api, cache).await;
    }

    pub async fn pull_trust_roots(self) {
        let (api, cache) = (Api::all(self.hub.clone()), self.world.trust_roots.clone());
        self.pull::<TrustRoot>(Kind::TrustRoot, api, cache).await;
    }

    pub async fn pull_quarantines(self) {
        let (api, cache) = (Api::all(self.hub.clone()), self.world.quarantines.clone());
        self.pull::<Quarantine>(Kind::Quarantine, api, cache).await;
    }

    /// Its own only, by name: the account may read no other.
    pub async fn pull_environment(self) {
        let api: Api<Environment> = Api::all(self.hub.clone());
        let mut ticks = tokio::time::interval(BEAT);
        loop {
            ticks.tick().await;
            match bounded(api.get(&self.environment)).await {
                Ok(source) => self.merge(Kind::Environment, &source, &self.world.environments).await,
                Err(error) => tracing::debug!(%error, "the Environment was not read at the hub"),
            }
        }
    }

    async fn pull<K>(self, kind: Kind, api: Api<K>, local: Cache<K>)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        let mut sources: HashMap<String, K> = HashMap::new();
        let mut stream = std::pin::pin!(watcher(api, config()).backoff(Patience::default()));
        let mut ticks = tokio::time::interval(BEAT);
        loop {
            tokio::select! {
                event = stream.next() => match event {
                    Some(Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object))) => {
                        self.merge(kind, &object, &local).await;
                        sources.insert(object.name_any(), object);
                    }
                    // Gone at the hub removes nothing here; it is only no longer compared.
                    Some(Ok(watcher::Event::Delete(object))) => drop(sources.remove(&object.name_any())),
                    Some(Ok(watcher::Event::Init | watcher::Event::InitDone)) => {}
                    Some(Err(error)) => tracing::debug!(?kind, %error, "watch at the hub failed; trying again"),
                    None => return,
                },
                _ = ticks.tick() => for source in sources.values() {
                    self.merge(kind, source, &local).await;
                },
            }
        }
    }

    fn loosen_delay(&self) -> i64 {
        // The one in force here, not the one that the hub would like.
        let environment = self.world.environments.get(None, &self.environment);
        loosen::seconds(environment.and_then(|e| e.spec.loosen_delay))
    }

    async fn merge<K>(&self, kind: Kind, source: &K, cache: &Cache<K>)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        let name = source.name_any();
        if let Err(error) = self.try_merge(kind, &name, source, cache).await {
            if error.is_unanswered() {
                tracing::debug!(?kind, %name, %error, "not mirrored yet");
            } else {
                tracing::warn!(?kind, %name, %error, "not mirrored yet");
            }
        }
    }

    async fn try_merge<K>(&self, kind: Kind, name: &str, source: &K, cache: &Cache<K>) -> Result<(), CallError>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        if !self.may_write() {
            return Ok(());
        }
        cache.ready().await;
        let local = cache.get(None, name);
        let (source_value, local_value) = (value(source)?, local.as_deref().map(value).transpose()?);
        let now = self.clock.now();
        let api: Api<K> = Api::all(self.world.client.clone());
        match kinds::merge(kind, &source_value, local_value.as_ref(), self.loosen_delay(), now) {
            kinds::Merge::Nothing => Ok(()),
            kinds::Merge::Write { spec, annotations } => {
                if annotations.get(names::PENDING).is_some() {
                    tracing::warn!(?kind, name, "loosened at the hub; it takes effect after loosenDelay");
                }
                let body = json!({
                    "apiVersion": K::api_version(&()), "kind": K::kind(&()),
                    "metadata": {"name": name, "annotations": annotations}, "spec": spec,
                });
                let written = bounded(api.patch(name, &params(), &Patch::Apply(&body))).await?;
                tracing::info!(?kind, name, "mirrored");
                cache.wrote(written);
                Ok(())
            }
            kinds::Merge::Remove => {
                let uid = local.as_ref().and_then(|l| l.uid());
                let preconditions = Preconditions { uid, resource_version: None };
                match bounded(api.delete(name, &DeleteParams::default().preconditions(preconditions))).await {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => tracing::info!(?kind, name, "removed by its tombstone"),
                }
                cache.forget(None, name);
                Ok(())
            }
        }
    }

    /// Intents of this environment.
    pub async fn pull_rollouts(self) {
        let api: Api<Rollout> = Api::namespaced(self.hub.clone(), &self.namespace());
        let mut stream = std::pin::pin!(watcher(api.clone(), config()).backoff(Patience::default()));
        let mut ticks = tokio::time::interval(INTENT_BEAT);
        let mut listed: Option<Vec<Rollout>> = None;
        let mut newest = 0_u64;
        loop {
            tokio::select! {
                event = stream.next() => match event {
                    Some(Ok(watcher::Event::Apply(intent))) => {
                        newest = newest.max(version_of(intent.metadata.resource_version.as_deref()));
                        self.intents.insert(intent.clone());
                        self.intent(&intent).await;
                    }
                    Some(Ok(watcher::Event::Delete(intent))) => {
                        self.intents.remove(&intent.name_any());
                        self.withdrawn(&intent.spec.namespace, &intent.name_any()).await;
                    }
                    Some(Ok(watcher::Event::Init)) => listed = Some(vec![]),
                    Some(Ok(watcher::Event::InitApply(intent))) => listed.get_or_insert_default().push(intent),
                    Some(Ok(watcher::Event::InitDone)) => {
                        let present = listed.take().unwrap_or_default();
                        self.relisted(&api, &present, newest).await;
                        for intent in present {
                            newest = newest.max(version_of(intent.metadata.resource_version.as_deref()));
                            self.intents.insert(intent.clone());
                            self.intent(&intent).await;
                        }
                        self.intents.complete();
                    }
                    Some(Err(error)) => tracing::debug!(%error, "watch of intents failed; trying again"),
                    None => return,
                },
                _ = ticks.tick() => for intent in self.intents.all() {
                    self.intent(&intent).await;
                },
            }
        }
    }

    /// What was there before a gap in the watch and is not listed now. Only a source that is newer than what
    /// was seen, and says so about this very name, has taken it away.
    async fn relisted(&self, api: &Api<Rollout>, present: &[Rollout], newest: u64) {
        for known in self.intents.all() {
            let name = known.name_any();
            if present.iter().any(|p| p.name_any() == name) {
                continue;
            }
            let missing = matches!(bounded(api.get(&name)).await, Err(error) if error.is_not_found());
            let at = bounded(api.list(&ListParams::default().limit(1))).await;
            let version = at.ok().map(|list| version_of(list.metadata.resource_version.as_deref()));
            if missing && version.is_some_and(|v| v >= newest) {
                self.intents.remove(&name);
                self.withdrawn(&known.spec.namespace, &name).await;
            } else {
                tracing::warn!(%name, "an intent is not listed any more, but the hub's data are older than before: kept");
            }
        }
    }

    async fn intent(&self, intent: &Rollout) {
        if !self.may_write() {
            return;
        }
        let name = intent.name_any();
        if let Err(error) = self.try_intent(intent, &name).await {
            if error.is_unanswered() {
                tracing::debug!(%name, %error, "intent not mirrored yet");
            } else {
                tracing::warn!(%name, %error, "intent not mirrored yet");
            }
        }
    }

    async fn try_intent(&self, intent: &Rollout, name: &str) -> Result<(), CallError> {
        self.world.rollouts.ready().await;
        let Some(environment) = self.world.environments.get(None, &self.environment) else { return Ok(()) };
        let namespace = intent.spec.namespace.clone();
        let local = self.world.rollouts.get(Some(&namespace), name);
        match rollouts::merge(intent, local.as_deref()) {
            rollouts::Merge::Nothing => Ok(()),
            rollouts::Merge::DeletedHere => {
                let last = self.world.last_words.of(&namespace, name);
                match rollouts::last_report(intent, last) {
                    rollouts::LastReport::Ended(status) => self.report_status(intent, &status).await,
                    rollouts::LastReport::Withdrawn(intent) => {
                        let message = "the Rollout was deleted in the environment";
                        self.report_end(&intent, "Withdrawn", "DeletedInEnvironment", message).await
                    }
                }
            }
            rollouts::Merge::Write(_) if local.is_none() && !namespace_allowed(&environment, &intent.spec) => {
                let message = format!(
                    "namespace '{namespace}' is not among the Environment's allowedPipelines for pipelines of namespace '{}'",
                    intent.spec.pipeline_namespace
                );
                self.report_end(intent, "Failed", "NamespaceNotAllowed", &message).await
            }
            rollouts::Merge::Write(body) => {
                let api: Api<Rollout> = Api::namespaced(self.world.client.clone(), &namespace);
                let written = bounded(api.patch(name, &params(), &Patch::Apply(&body))).await?;
                tracing::info!(name, namespace = %namespace, "intent mirrored");
                self.world.rollouts.wrote(written);
                Ok(())
            }
        }
    }

    /// Its intent was taken away at the hub, which is an abort.
    async fn withdrawn(&self, namespace: &str, name: &str) {
        let Some(local) = self.world.rollouts.get(Some(namespace), name) else { return };
        let ended = local.status.as_ref().and_then(|s| s.phase).is_some_and(|p| p.is_terminal());
        if ended || local.annotations().contains_key(names::WITHDRAWN) {
            return;
        }
        let api: Api<Rollout> = Api::namespaced(self.world.client.clone(), namespace);
        let patch = json!({"metadata": {"uid": local.uid(), "annotations": {names::WITHDRAWN: "true"}}});
        // The watch tells it once only: tried until it is written or the rollout has ended.
        for _ in 0..20 {
            match bounded(api.patch(name, &PatchParams::default(), &Patch::Merge(&patch))).await {
                Ok(written) => return self.world.rollouts.wrote(written),
                Err(error) if error.is_not_found() => return,
                Err(error) => tracing::warn!(name, %error, "withdrawal not written yet"),
            }
            tokio::time::sleep(INTENT_BEAT).await;
        }
    }
}

fn value<K: Serialize>(object: &K) -> Result<Value, CallError> {
    serde_json::to_value(object)
        .map_err(|error| CallError::Kube(kube::Error::SerdeError(serde_json::Error::custom(error.to_string()))))
}
