//! Pulling intents: the Rollouts in this environment's namespace at the hub, each copied to where it acts. What is no
//! longer there is an abort here only if the hub says so about that very name; nothing here is ever deleted.

use std::sync::Arc;
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

/// Copies whose intent was taken away, and that do not say so yet.
type Leaving = Vec<Arc<Rollout>>;

impl Mirror {
    /// Intents of this environment.
    pub async fn pull_rollouts(self) {
        let api: Api<Rollout> = Api::namespaced(self.hub.clone(), &self.namespace());
        let mut stream = std::pin::pin!(watcher(api.clone(), config()).backoff(Patience::default()));
        let mut ticks = tokio::time::interval(BEAT);
        let mut listed: Option<Vec<Rollout>> = None;
        let mut newest = 0_u64;
        let mut leaving = Leaving::default();
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
                        self.leave(&intent, &mut leaving).await;
                        self.withdraw(&mut leaving).await;
                    }
                    Some(Ok(watcher::Event::Init)) => listed = Some(vec![]),
                    Some(Ok(watcher::Event::InitApply(intent))) => listed.get_or_insert_default().push(intent),
                    Some(Ok(watcher::Event::InitDone)) => {
                        let present = listed.take().unwrap_or_default();
                        self.relisted(&api, &present, newest, &mut leaving).await;
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
                _ = ticks.tick() => {
                    self.withdraw(&mut leaving).await;
                    for intent in self.intents.all() {
                        self.intent(&intent).await;
                    }
                }
            }
        }
    }

    /// What was there before a gap in the watch and is not listed now. Only a source that is newer than what
    /// was seen, and says so about this very name, has taken it away.
    async fn relisted(&self, api: &Api<Rollout>, present: &[Rollout], newest: u64, leaving: &mut Leaving) {
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
                self.leave(&known, leaving).await;
            } else {
                tracing::warn!(%name, "an intent is not listed any more, but the hub's data are older than before: kept");
            }
        }
        self.withdraw(leaving).await;
    }

    async fn intent(&self, intent: &Rollout) {
        let name = intent.name_any();
        if let Err(error) = self.try_intent(intent, &name).await {
            not_yet(&"intent", &name, &error);
        }
    }

    async fn try_intent(&self, intent: &Rollout, name: &str) -> Result<(), CallError> {
        self.world.rollouts.ready().await;
        if !self.may_write() {
            return Ok(());
        }
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

    /// The copy here of an intent that was taken away at the hub, which is an abort.
    async fn leave(&self, intent: &Rollout, leaving: &mut Leaving) {
        self.world.rollouts.ready().await;
        leaving.extend(self.world.rollouts.get(Some(&intent.spec.namespace), &intent.name_any()));
    }

    /// The hub tells it once only: tried with each beat until it is written, or the rollout has ended or is gone.
    async fn withdraw(&self, leaving: &mut Leaving) {
        let mut answered = true;
        for known in std::mem::take(leaving) {
            // Each of the others would wait for an answer, too.
            if !answered || !self.may_write() {
                leaving.push(known);
                continue;
            }
            if let Err(error) = self.withdrawn(&known).await {
                not_yet(&"withdrawal", &known.name_any(), &error);
                answered = !error.is_unanswered();
                leaving.push(known);
            }
        }
    }

    async fn withdrawn(&self, known: &Rollout) -> Result<(), CallError> {
        let (namespace, name) = (known.namespace().unwrap_or_default(), known.name_any());
        let local = self.world.rollouts.get(Some(&namespace), &name);
        // Another of its name is another intent's.
        let Some(local) = local.filter(|local| local.uid() == known.uid()) else { return Ok(()) };
        let ended = local.status.as_ref().and_then(|s| s.phase).is_some_and(|p| p.is_terminal());
        if ended || local.annotations().contains_key(names::WITHDRAWN) {
            return Ok(());
        }
        let api: Api<Rollout> = Api::namespaced(self.world.client.clone(), &namespace);
        let patch = json!({"metadata": {"uid": local.uid(), "annotations": {names::WITHDRAWN: "true"}}});
        match bounded(api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))).await {
            Ok(written) => self.world.rollouts.wrote(written),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Permit;
    use crate::memory::{objects, refusing, told};
    use crate::mirror::down_tests::spoke_over;
    use serde_json::Value;

    fn rollout(name: &str, uid: &str, phase: &str) -> Value {
        json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": "Rollout",
            "metadata": {"name": name, "namespace": "acme", "uid": uid},
            "spec": {
                "environment": "east", "pipelineNamespace": "acme", "pipeline": "portal", "release": "portal-1", "attempt": 1,
                "namespace": "acme", "images": [], "workload": {"name": "portal"}, "service": "portal",
                "route": {"httpRoute": "portal"}, "strategy": {}, "objectives": []
            },
            "status": {"phase": phase}
        })
    }

    fn typed(rollout: Value) -> Rollout {
        serde_json::from_value(rollout).unwrap()
    }

    #[tokio::test]
    async fn a_withdrawal_that_is_refused_holds_up_nothing_and_is_tried_until_it_is_written() {
        let here = [rollout("r", "1", "Canary"), rollout("s", "2", "Canary")];
        let (client, written) = refusing(objects(&here), 30);
        let (mirror, kept) = spoke_over(&[], client);
        let withdrawal = async {
            let mut leaving = Leaving::default();
            mirror.leave(&typed(here[0].clone()), &mut leaving).await;
            mirror.leave(&typed(here[1].clone()), &mut leaving).await;
            for _ in 0..15 {
                mirror.withdraw(&mut leaving).await;
                assert_eq!(leaving.len(), 2, "both were refused");
            }
            mirror.withdraw(&mut leaving).await;
            assert_eq!(leaving.len(), 0);
        };
        tokio::select! {
            () = withdrawal => {}
            () = kept => {}
        }
        let written = told(written);
        assert_eq!(written[..2], ["REFUSED rollouts/r", "REFUSED rollouts/s"], "one holds not up the other");
        assert_eq!(written[30..], ["rollouts/r", "rollouts/s"]);
        let local = mirror.world.rollouts.get(Some("acme"), "r").unwrap();
        assert!(local.annotations().contains_key(names::WITHDRAWN));
    }

    #[tokio::test]
    async fn a_withdrawal_is_over_with_its_rollout_and_waits_for_a_permit() {
        for (here, permit, left, case) in [
            (vec![], Permit::unconditional(), 0, "it is gone"),
            (vec![rollout("r", "1", "RolledBack")], Permit::unconditional(), 0, "it has ended"),
            (vec![rollout("r", "2", "Canary")], Permit::unconditional(), 0, "another one has its name"),
            (vec![rollout("r", "1", "Canary")], Permit::lost(), 1, "another replica writes"),
        ] {
            let (client, written) = refusing(objects(&here), 0);
            let (mut mirror, kept) = spoke_over(&[], client);
            mirror.permit = permit;
            let mut leaving = vec![Arc::new(typed(rollout("r", "1", "Canary")))];
            let withdrawal = async {
                mirror.world.rollouts.ready().await;
                mirror.withdraw(&mut leaving).await;
            };
            tokio::select! {
                () = withdrawal => {}
                () = kept => {}
            }
            assert_eq!(leaving.len(), left, "{case}");
            assert_eq!(told(written), Vec::<String>::new(), "{case}");
        }
    }
}
