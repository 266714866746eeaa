//! What the hub knows of its cluster: one watch per kind into a store, and which work a change
//! calls for. Reads only.

use std::fmt::Debug;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::Api;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tidegate_pipelines::api::{
    Approval, Attestor, BuildEvent, Environment, EventSource, Pipeline, Quarantine, Release, Rollout, TrustRoot,
    VerificationPolicy, names,
};
use tidegate_webhook::cached::{is_read, until};
use tidegate_webhook::patience::{Patience, unanswered};
use tokio::sync::{mpsc, watch};

use super::queue::Key;
use super::standing::Standings;

/// Name of the Lease by which a spoke says that it is alive, in `env-<name>`.
pub const SPOKE_LEASE: &str = "spoke";

#[derive(Clone)]
pub struct Index {
    pub events: Store<BuildEvent>,
    pub sources: Store<EventSource>,
    pub pipelines: Store<Pipeline>,
    pub releases: Store<Release>,
    pub approvals: Store<Approval>,
    pub rollouts: Store<Rollout>,
    pub environments: Store<Environment>,
    pub policies: Store<VerificationPolicy>,
    pub attestors: Store<Attestor>,
    pub trust_roots: Store<TrustRoot>,
    pub quarantines: Store<Quarantine>,
    pub namespaces: Store<Namespace>,
    pub leases: Store<Lease>,
    pub standings: Standings,
    /// Counts up as each kind has been listed.
    listed: watch::Sender<u64>,
}

type Watch = BoxFuture<'static, ()>;
/// The work that a change of an object calls for.
type Concerns<K> = fn(&Index, &K) -> Vec<Key>;

/// A watch that is not begun yet: it needs the index that its own store is a part of.
struct Opening<K: Resource<DynamicType = ()> + Clone + 'static> {
    api: Api<K>,
    config: watcher::Config,
    writer: reflector::store::Writer<K>,
    keep: fn(&K) -> bool,
    /// Whether pipelines' standings rest on it.
    judged_by: bool,
}

fn open<K>(api: Api<K>, config: watcher::Config) -> (Store<K>, Opening<K>)
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let (reader, writer) = reflector::store();
    (reader, Opening { api, config, writer, keep: |_| true, judged_by: false })
}

/// An intent speaks for an environment only from that environment's namespace: whoever may write Rollouts elsewhere
/// tells the hub nothing.
fn in_its_place(rollout: &Rollout) -> bool {
    rollout.metadata.namespace.as_deref() == Some(&names::environment_namespace(&rollout.spec.environment))
}

impl<K> Opening<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    fn start(self, keys: &mpsc::Sender<Key>, index: &Index, concerns: Concerns<K>) -> Watch {
        // Nobody here reads who set which field, and it is half of an object's size.
        let stream = watcher(self.api, self.config).modify(|object| object.managed_fields_mut().clear());
        let keep = self.keep;
        let kept = move |event: &watcher::Event<K>| match event {
            watcher::Event::Apply(object) | watcher::Event::InitApply(object) | watcher::Event::Delete(object) => {
                keep(object)
            }
            watcher::Event::Init | watcher::Event::InitDone => true,
        };
        let stream = stream.try_filter(move |event| std::future::ready(kept(event)));
        let stream = stream.backoff(Patience::default()).reflect(self.writer);
        let (keys, index, judged_by) = (keys.clone(), index.clone(), self.judged_by);
        async move {
            let mut stream = std::pin::pin!(stream);
            while let Some(event) = stream.next().await {
                use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
                if judged_by && event.is_ok() {
                    index.standings.changed();
                }
                let object = match event {
                    Ok(Apply(object) | InitApply(object) | Delete(object)) => object,
                    Ok(InitDone) => {
                        index.listed.send_modify(|n| *n += 1);
                        continue;
                    }
                    Ok(Init) => continue,
                    Err(error) if unanswered(&error) => {
                        tracing::debug!(kind = %K::kind(&()), %error, "watch interrupted");
                        continue;
                    }
                    Err(error) => {
                        tracing::warn!(kind = %K::kind(&()), %error, "watch interrupted");
                        continue;
                    }
                };
                for key in concerns(&index, &object) {
                    if keys.send(key).await.is_err() {
                        return;
                    }
                }
            }
        }
        .boxed()
    }
}

impl Index {
    /// The stores, and the watches that fill them, to be run by the caller.
    pub fn open(client: &Client, keys: &mpsc::Sender<Key>) -> (Index, Vec<Watch>) {
        let system = names::SYSTEM_NAMESPACE;
        let all = watcher::Config::default;
        let (events, on_events) = open(Api::namespaced(client.clone(), system), all());
        let (sources, on_sources) = open(Api::namespaced(client.clone(), system), all());
        let (pipelines, on_pipelines) = open(Api::all(client.clone()), all());
        let on_pipelines = Opening { judged_by: true, ..on_pipelines };
        let (releases, on_releases) = open(Api::all(client.clone()), all());
        let (approvals, on_approvals) = open(Api::all(client.clone()), all());
        let (rollouts, on_rollouts) = open(Api::all(client.clone()), all());
        let on_rollouts = Opening { keep: in_its_place, ..on_rollouts };
        let (environments, on_environments) = open(Api::all(client.clone()), all());
        let on_environments = Opening { judged_by: true, ..on_environments };
        let (policies, on_policies) = open(Api::all(client.clone()), all());
        let (attestors, on_attestors) = open(Api::all(client.clone()), all());
        let (trust_roots, on_trust_roots) = open(Api::all(client.clone()), all());
        let (quarantines, on_quarantines) = open(Api::all(client.clone()), all());
        let (namespaces, on_namespaces) = open(Api::all(client.clone()), all());
        let on_namespaces = Opening { judged_by: true, ..on_namespaces };
        let heartbeats = all().fields(&format!("metadata.name={SPOKE_LEASE}"));
        let (leases, on_leases) = open(Api::all(client.clone()), heartbeats);
        let index = Index {
            events,
            sources,
            pipelines,
            releases,
            approvals,
            rollouts,
            environments,
            policies,
            attestors,
            trust_roots,
            quarantines,
            namespaces,
            leases,
            standings: Standings::default(),
            listed: watch::Sender::new(0),
        };
        let watches = vec![
            on_events.start(keys, &index, |_, e| vec![Key::Event(e.name_any())]),
            on_sources.start(keys, &index, |index, _| index.open_events()),
            on_pipelines.start(keys, &index, Index::of_pipeline),
            on_releases.start(keys, &index, Index::of_release),
            on_approvals.start(keys, &index, |_, a| {
                vec![Key::Release(a.namespace().unwrap_or_default(), a.spec.release.clone())]
            }),
            on_rollouts.start(keys, &index, Index::of_rollout),
            on_environments.start(keys, &index, Index::of_environment),
            on_policies.start(keys, &index, |index, _| index.open_releases(|_| true)),
            on_attestors.start(keys, &index, |index, _| index.open_releases(|_| true)),
            on_trust_roots.start(keys, &index, |index, _| index.open_releases(|_| true)),
            on_quarantines.start(keys, &index, |index, _| index.open_releases(|_| true)),
            on_namespaces.start(keys, &index, Index::of_namespace),
            on_leases.start(keys, &index, Index::of_lease),
        ];
        (index, watches)
    }

    /// Resolves when every store holds what the API server had, for any number that wait.
    pub async fn ready(&self) {
        until(&self.listed, || self.is_read()).await;
    }

    fn is_read(&self) -> bool {
        is_read(&self.events)
            && is_read(&self.sources)
            && is_read(&self.pipelines)
            && is_read(&self.releases)
            && is_read(&self.approvals)
            && is_read(&self.rollouts)
            && is_read(&self.environments)
            && is_read(&self.policies)
            && is_read(&self.attestors)
            && is_read(&self.trust_roots)
            && is_read(&self.quarantines)
            && is_read(&self.namespaces)
            && is_read(&self.leases)
    }

    pub fn event(&self, name: &str) -> Option<Arc<BuildEvent>> {
        self.events.get(&ObjectRef::new(name).within(names::SYSTEM_NAMESPACE))
    }

    pub fn release(&self, namespace: &str, name: &str) -> Option<Arc<Release>> {
        self.releases.get(&ObjectRef::new(name).within(namespace))
    }

    pub fn pipeline(&self, namespace: &str, name: &str) -> Option<Arc<Pipeline>> {
        self.pipelines.get(&ObjectRef::new(name).within(namespace))
    }

    fn open_events(&self) -> Vec<Key> {
        let open = |event: &BuildEvent| {
            use tidegate_pipelines::api::BuildEventPhase::Waiting;
            event.status.as_ref().and_then(|s| s.phase).is_none_or(|phase| phase == Waiting)
        };
        self.events.state_filter(open).iter().map(|event| Key::Event(event.name_any())).collect()
    }

    /// Releases that may still move.
    fn open_releases(&self, of: impl Fn(&Release) -> bool) -> Vec<Key> {
        let open = |release: &Release| {
            let status = release.status.as_ref();
            let settled =
                status.is_some_and(|s| s.attempt == release.spec.attempt && s.phase.is_some_and(|p| p.is_terminal()));
            !settled && of(release)
        };
        let found = self.releases.state_filter(open);
        found.iter().map(|r| Key::Release(r.namespace().unwrap_or_default(), r.name_any())).collect()
    }

    fn all_pipelines(&self) -> Vec<Key> {
        self.pipelines.state().iter().map(|p| Key::Pipeline(p.namespace().unwrap_or_default(), p.name_any())).collect()
    }

    fn of_pipeline(&self, pipeline: &Pipeline) -> Vec<Key> {
        let (namespace, name) = (pipeline.namespace().unwrap_or_default(), pipeline.name_any());
        // Its claims may have made others ambiguous, or set them free.
        let mut keys = self.all_pipelines();
        keys.push(Key::Pipeline(namespace.clone(), name.clone()));
        keys.extend(self.open_releases(|r| r.spec.pipeline == name && r.namespace().as_deref() == Some(&namespace)));
        keys.extend(self.open_events());
        keys
    }

    fn of_release(&self, release: &Release) -> Vec<Key> {
        let namespace = release.namespace().unwrap_or_default();
        let mut keys = vec![
            Key::Release(namespace.clone(), release.name_any()),
            Key::Pipeline(namespace, release.spec.pipeline.clone()),
        ];
        keys.extend(self.open_releases(|r| r.spec.pipeline_uid == release.spec.pipeline_uid));
        keys
    }

    fn of_rollout(&self, rollout: &Rollout) -> Vec<Key> {
        let spec = &rollout.spec;
        let namespace = spec.pipeline_namespace.clone();
        let mut keys = vec![Key::Release(namespace.clone(), spec.release.clone())];
        keys.extend(self.open_releases(|r| {
            r.spec.pipeline == spec.pipeline && r.namespace().as_deref() == Some(namespace.as_str())
        }));
        let deleted = |p: Arc<Pipeline>| p.metadata.deletion_timestamp.is_some();
        if self.pipeline(&namespace, &spec.pipeline).is_some_and(deleted) {
            keys.push(Key::Pipeline(namespace.clone(), spec.pipeline.clone()));
        }
        if self
            .environments
            .get(&ObjectRef::new(&spec.environment))
            .is_some_and(|e| e.metadata.deletion_timestamp.is_some())
        {
            keys.push(Key::Environment(spec.environment.clone()));
        }
        keys
    }

    fn of_environment(&self, environment: &Environment) -> Vec<Key> {
        let mut keys = vec![Key::Environment(environment.name_any())];
        keys.extend(self.all_pipelines());
        keys.extend(self.open_releases(|_| true));
        keys
    }

    fn of_namespace(&self, namespace: &Namespace) -> Vec<Key> {
        let name = namespace.name_any();
        let mut keys = self.open_releases(|r| r.namespace().as_deref() == Some(name.as_str()));
        keys.extend(self.all_pipelines().into_iter().filter(|k| matches!(k, Key::Pipeline(n, _) if *n == name)));
        keys
    }

    fn of_lease(&self, lease: &Lease) -> Vec<Key> {
        let namespace = lease.namespace().unwrap_or_default();
        namespace.strip_prefix("env-").map(|name| Key::Environment(name.to_owned())).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use futures::stream::FuturesUnordered;

    use super::*;
    use crate::memory;

    #[tokio::test]
    async fn any_number_wait_until_everything_is_listed() {
        let (client, _written) = memory::server(memory::Objects::new());
        let (keys, _work) = mpsc::channel(1024);
        let (index, watches) = Index::open(&client, &keys);
        // Each polled by itself, as two tasks would be.
        let mut waiting: FuturesUnordered<_> = (0..2).map(|_| index.ready()).collect();
        assert!(waiting.next().now_or_never().is_none(), "nothing is listed yet");
        let mut watches = join_all(watches);
        for _ in 0..1000 {
            assert!((&mut watches).now_or_never().is_none(), "the watches ended");
            tokio::task::yield_now().await;
        }
        assert!(index.is_read());
        assert_eq!(waiting.next().now_or_never(), Some(Some(())));
        assert_eq!(waiting.next().now_or_never(), Some(Some(())), "one of them would wait for ever");
    }

    #[test]
    fn a_rollout_outside_its_environments_namespace_counts_for_nothing() {
        let rollout = |namespace: &str| -> Rollout {
            serde_json::from_value(serde_json::json!({
                "apiVersion": "tidegate.io/v1alpha1", "kind": "Rollout", "metadata": {"name": "r", "namespace": namespace},
                "spec": {
                    "environment": "prod", "pipelineNamespace": "acme", "pipeline": "portal", "release": "portal-1",
                    "attempt": 1, "namespace": "acme", "images": [], "workload": {"name": "portal"}, "service": "portal",
                    "route": {"httpRoute": "portal"}, "strategy": {}, "objectives": []
                }
            }))
            .unwrap()
        };
        assert!(in_its_place(&rollout("env-prod")));
        for elsewhere in ["acme", "prod", "env-staging", "env-"] {
            assert!(!in_its_place(&rollout(elsewhere)), "{elsewhere}");
        }
    }
}
