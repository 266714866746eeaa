//! Pulling intents: the Rollouts in this environment's namespace at the hub, each copied to where it acts. What is no
//! longer there is an abort here only if the hub says so about that very name; nothing here is ever deleted.

use std::time::Duration;

use futures::StreamExt;
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;
use tidegate_pipelines::api::{Rollout, names};
use tidegate_webhook::patience::Patience;

use super::Mirror;
use super::down::{config, not_yet, params};
use super::rollouts;
use crate::connect::{CallError, bounded};
use crate::spoke::cache::version_of;
use crate::spoke::observe::namespace_allowed;

/// Looked at more often than what holds here: a write that failed should not cost a rollout seconds.
const BEAT: Duration = Duration::from_secs(1);

impl Mirror {
    /// Intents of this environment.
    pub async fn pull_rollouts(self) {
        let api: Api<Rollout> = Api::namespaced(self.hub.clone(), &self.namespace());
        let mut stream = std::pin::pin!(watcher(api.clone(), config()).backoff(Patience::default()));
        let mut ticks = tokio::time::interval(BEAT);
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
            not_yet(&"intent", &name, &error);
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
            tokio::time::sleep(BEAT).await;
        }
    }
}
