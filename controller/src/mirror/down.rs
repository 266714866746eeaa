//! Pulling what holds here: each kind is watched at the hub and merged into this cluster, one object at a time. A
//! failed write is tried again at the next beat; a bad object stops nothing else. Knows no rollout.

use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde::{Serialize, de::Error as _};
use serde_json::{Value, json};
use tidegate_pipelines::api::policy::{Attestor, TrustRoot, VerificationPolicy};
use tidegate_pipelines::api::{Environment, Quarantine, names};
use tidegate_webhook::patience::Patience;

use super::Mirror;
use super::kinds::{self, Here, Kind, Pace};
use super::loosen;
use super::reliance::{Footing, Ground, Mirrored, Named};
use super::sources::Sources;
use crate::connect::{CallError, bounded};
use crate::spoke::cache::Cache;

/// Between looks at everything: repairs what was missed and lets delays run out.
const BEAT: Duration = Duration::from_secs(5);
/// As for the local caches: longer silence is a dead connection.
const WATCH_SECONDS: u32 = 30;

pub(super) fn params() -> PatchParams {
    PatchParams::apply(names::MIRROR_FIELD_MANAGER).force()
}

pub(super) fn config() -> watcher::Config {
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
            if let Err(error) = self.remember().await {
                not_yet(&Kind::Environment, &self.environment, &error);
            }
            match bounded(api.get(&self.environment)).await {
                Ok(source) => self.merge(Kind::Environment, &source, &self.world.environments).await,
                Err(error) if error.is_not_found() => {
                    let gone = |name: &str| name == self.environment;
                    self.lapse(Kind::Environment, gone, &self.world.environments).await;
                }
                Err(error) => tracing::debug!(%error, "the Environment was not read at the hub"),
            }
        }
    }

    async fn pull<K: Mirrored>(self, kind: Kind, api: Api<K>, local: Cache<K>) {
        let mut sources = Sources::default();
        let mut stream = std::pin::pin!(watcher(api, config()).backoff(Patience::default()));
        let mut ticks = tokio::time::interval(BEAT);
        loop {
            tokio::select! {
                event = stream.next() => match event {
                    Some(Ok(event)) => self.told(kind, event, &mut sources, &local).await,
                    Some(Err(error)) => tracing::debug!(?kind, %error, "watch at the hub failed; trying again"),
                    None => return,
                },
                _ = ticks.tick() => self.look(kind, &sources, &local).await,
            }
        }
    }

    pub(super) async fn told<K: Mirrored>(
        &self,
        kind: Kind,
        event: watcher::Event<K>,
        sources: &mut Sources<K>,
        local: &Cache<K>,
    ) {
        let ends = matches!(event, watcher::Event::Delete(_) | watcher::Event::InitDone);
        if let Some(object) = sources.take(event) {
            self.merge(kind, &object, local).await;
        }
        if ends {
            self.lapse(kind, |name| sources.lacks(name), local).await;
        }
    }

    pub(super) async fn look<K: Mirrored>(&self, kind: Kind, sources: &Sources<K>, local: &Cache<K>) {
        for source in sources.all() {
            self.merge(kind, source, local).await;
        }
        self.lapse(kind, |name| sources.lacks(name), local).await;
    }

    /// Gone at the hub removes nothing here, but what waits here and nobody holds any more waits no longer: put there
    /// again, its time begins anew and in the open.
    async fn lapse<K: Mirrored>(&self, kind: Kind, gone: impl Fn(&str) -> bool, cache: &Cache<K>) {
        self.waiting.end_all(kind, &gone);
        let waits = |copy: &K| copy.annotations().contains_key(names::PENDING);
        for copy in cache.all().into_iter().filter(|copy| waits(copy) && gone(&copy.name_any())) {
            if let Err(error) = self.retract(kind, copy.as_ref(), cache).await {
                not_yet(&kind, &copy.name_any(), &error);
            }
        }
    }

    /// Touches no more than the mark, and only on the copy that was looked at; another is looked at with the next beat.
    async fn retract<K: Mirrored>(&self, kind: Kind, copy: &K, cache: &Cache<K>) -> Result<(), CallError> {
        if !self.may_write() {
            return Ok(());
        }
        let name = copy.name_any();
        let api: Api<K> = Api::all(self.world.client.clone());
        let marks = json!({ names::PENDING: null, names::PENDING_SINCE: null });
        let patch = json!({"metadata": {
            "uid": copy.uid(), "resourceVersion": copy.resource_version(), "annotations": marks,
        }});
        let manager = PatchParams { field_manager: Some(names::MIRROR_FIELD_MANAGER.into()), ..PatchParams::default() };
        match bounded(api.patch(&name, &manager, &Patch::Merge(&patch))).await {
            Ok(written) => {
                tracing::warn!(?kind, name, "what would have loosened it is gone at the hub and waits no more");
                cache.wrote(written);
                Ok(())
            }
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn loosen_delay(&self) -> i64 {
        // The one in force here, not the one that the hub would like.
        let environment = self.world.environments.get(None, &self.environment);
        loosen::seconds(environment.and_then(|e| e.spec.loosen_delay))
    }

    pub(super) async fn merge<K: Mirrored>(&self, kind: Kind, source: &K, cache: &Cache<K>) {
        let name = source.name_any();
        if let Err(error) = self.try_merge(kind, &name, source, cache).await {
            not_yet(&kind, &name, &error);
        }
    }

    /// Before this nothing would seem to be in force.
    pub(super) async fn listed(&self) {
        let world = &self.world;
        let (environments, policies) = (world.environments.ready(), world.policies.ready());
        tokio::join!(environments, policies, world.attestors.ready(), world.trust_roots.ready());
    }

    fn ground(&self) -> Ground {
        let world = &self.world;
        Ground {
            environment: world.environments.get(None, &self.environment),
            policies: world.policies.all(),
            attestors: world.attestors.all(),
            trust_roots: world.trust_roots.all(),
        }
    }

    /// Keeps with the Environment here what the policy says that governs it, and with that policy that it governed:
    /// where either is missing later, it was taken away. From what is here alone, since a hub could keep its
    /// Environment to itself.
    pub(super) async fn remember(&self) -> Result<(), CallError> {
        self.listed().await;
        let _turn = self.turn.lock().await;
        let ground = self.ground();
        let Some(policy) = ground.in_force() else { return Ok(()) };
        let fingerprint = kinds::fingerprint(&value(policy.as_ref())?);
        if !ground.governed_by(&fingerprint) {
            self.mark(&self.environment, &fingerprint, &self.world.environments).await?;
        }
        if !policy.annotations().contains_key(names::GOVERNED) {
            self.mark(&policy.name_any(), &self.environment, &self.world.policies).await?;
        }
        Ok(())
    }

    async fn mark<K: Mirrored>(&self, name: &str, governed: &str, cache: &Cache<K>) -> Result<(), CallError> {
        // The caches and the turn may have taken longer than the lease.
        if !self.may_write() {
            return Ok(());
        }
        let api: Api<K> = Api::all(self.world.client.clone());
        let params = PatchParams { field_manager: Some(names::MEMORY_FIELD_MANAGER.into()), ..PatchParams::default() };
        let mark = json!({"metadata": {"annotations": {names::GOVERNED: governed}}});
        cache.wrote(bounded(api.patch(name, &params, &Patch::Merge(&mark))).await?);
        Ok(())
    }

    /// Attestors, and the roots they rest on, that a policy names for the first time: they come before it. Each
    /// kind has a watch of its own, and what arrived after the policy would wait, being relied on by then.
    fn furnish<'a>(&'a self, newly: &'a Named) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            let world = &self.world;
            for name in &newly.attestors {
                let here = world.attestors.get(None, name);
                let there =
                    if here.is_none() { self.at_the_hub::<Attestor>(Kind::Attestor, name).await? } else { None };
                let Some(attestor) = here.as_deref().or(there.as_ref()) else { continue };
                let root = attestor.spec.attestor.trust_root_name();
                if world.trust_roots.get(None, root).is_none()
                    && let Some(root) = self.at_the_hub::<TrustRoot>(Kind::TrustRoot, root).await?
                {
                    self.bring(Kind::TrustRoot, &root, &world.trust_roots).await?;
                }
                if let Some(attestor) = &there {
                    self.bring(Kind::Attestor, attestor, &world.attestors).await?;
                }
            }
            Ok(())
        })
    }

    async fn at_the_hub<K: Mirrored>(&self, kind: Kind, name: &str) -> Result<Option<K>, CallError> {
        match bounded(Api::<K>::all(self.hub.clone()).get_opt(name)).await {
            Err(error) if !error.is_unanswered() => {
                not_yet(&kind, name, &error);
                Ok(None)
            }
            answer => answer,
        }
    }

    /// One that is refused (it is malformed) keeps no tighter policy from coming; one that got no answer does.
    async fn bring<K: Mirrored>(&self, kind: Kind, source: &K, cache: &Cache<K>) -> Result<(), CallError> {
        let name = source.name_any();
        match self.try_merge(kind, &name, source, cache).await {
            Err(error) if error.is_unanswered() => Err(error),
            Err(error) => {
                not_yet(&kind, &name, &error);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn try_merge<K: Mirrored>(
        &self,
        kind: Kind,
        name: &str,
        source: &K,
        cache: &Cache<K>,
    ) -> Result<(), CallError> {
        if !self.may_write() {
            return Ok(());
        }
        cache.ready().await;
        // A quarantine names nothing and is named by nothing.
        if kind != Kind::Quarantine {
            self.listed().await;
        }
        self.furnish(&Named::newly(source, cache.get(None, name).as_deref())).await?;
        // What is written from here on is seen by whoever decides next.
        let _turn = if kind == Kind::Quarantine { None } else { Some(self.turn.lock().await) };
        // The caches, the hub and the turn may have taken longer than the lease.
        if !self.may_write() {
            return Ok(());
        }
        let local = cache.get(None, name);
        let newly = Named::newly(source, local.as_deref());
        let footing = if newly.is_nothing() { Footing::Firm } else { self.ground().footing(&newly) };
        let (source_value, local_value) = (value(source)?, local.as_deref().map(value).transpose()?);
        let waiting = self.waiting.of(kind, name);
        let here = local_value.as_ref().map(Here::Copy).unwrap_or_else(|| {
            let ground = self.ground();
            match ground.names(kind, name) {
                false => Here::Nothing,
                true if kind == Kind::Policy && ground.governed_by(&kinds::fingerprint(&source_value)) => Here::Lost,
                true => Here::Missed(waiting.as_ref().map(|(d, at)| (d.as_str(), *at))),
            }
        });
        let now = self.clock.now();
        let api: Api<K> = Api::all(self.world.client.clone());
        match kinds::merge(kind, &source_value, here, Pace { delay: self.loosen_delay(), now, footing }) {
            kinds::Merge::Nothing => Ok(()),
            kinds::Merge::Await(digest) => {
                tracing::warn!(
                    ?kind,
                    name,
                    "it is new here and missed by what is in force; it comes after loosenDelay"
                );
                self.waiting.begin(kind, name, digest, now);
                Ok(())
            }
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
                self.waiting.end(kind, name);
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
}

/// An API server that does not answer is told elsewhere, once.
pub(super) fn not_yet(kind: &dyn Debug, name: &str, error: &CallError) {
    if error.is_unanswered() {
        tracing::debug!(?kind, %name, %error, "not mirrored yet");
    } else {
        tracing::warn!(?kind, %name, %error, "not mirrored yet");
    }
}

fn value<K: Serialize>(object: &K) -> Result<Value, CallError> {
    serde_json::to_value(object)
        .map_err(|error| CallError::Kube(kube::Error::SerdeError(serde_json::Error::custom(error.to_string()))))
}
