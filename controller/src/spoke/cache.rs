//! Watched objects, never older than this process's own writes: a step that was taken from a stale view
//! would be taken twice. Holds no decision and writes nothing.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::reflector::{Lookup, ObjectRef, Store, store::Writer};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tidegate_webhook::patience::{Patience, unanswered};
use tokio::sync::watch;
use tokio::time::Instant;

use super::wake::Wakes;

/// A watch that is silent longer than this (plus 5 s) is a dead connection and is opened again.
const WATCH_SECONDS: u32 = 30;

/// How long an own write outweighs a cache that does not know the object at all. Longer than any healthy
/// watch lags; after it the object counts as deleted.
const MISSING_GRACE: Duration = Duration::from_secs(10);

struct Own<K> {
    object: Arc<K>,
    at: Instant,
}

/// By namespace and name.
type OwnWrites<K> = HashMap<(String, String), Own<K>>;

/// The objects of one kind in this cluster.
pub struct Cache<K: Lookup<DynamicType = ()> + Clone + 'static> {
    store: Store<K>,
    own: Arc<RwLock<OwnWrites<K>>>,
    /// Not the store's own signal: that remembers only its last waiter, and several tasks wait here.
    listed: watch::Receiver<bool>,
}

impl<K: Lookup<DynamicType = ()> + Clone + 'static> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Cache { store: self.store.clone(), own: self.own.clone(), listed: self.listed.clone() }
    }
}

/// Resource versions are decimal numbers that grow (guaranteed from Kubernetes 1.35 on).
pub fn version_of(text: Option<&str>) -> u64 {
    text.and_then(|t| t.parse().ok()).unwrap_or(0)
}

impl<K> Cache<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// Opens the cache and gives the task that keeps it; the wiring runs that.
    pub fn watch(api: Api<K>, wakes: Wakes) -> (Self, impl Future<Output = ()> + Send + 'static) {
        Self::watch_ends(api, wakes, |_| {})
    }

    /// As [`Cache::watch`]; `gone` is handed each object that is no longer there, as it last was.
    pub fn watch_ends(
        api: Api<K>,
        wakes: Wakes,
        gone: impl Fn(&K) + Send + 'static,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let mut writer = Writer::<K>::new(());
        let (complete, listed) = watch::channel(false);
        let cache = Cache { store: writer.as_reader(), own: Arc::default(), listed };
        let config = watcher::Config::default().timeout(WATCH_SECONDS);
        let (own, reader) = (cache.own.clone(), cache.store.clone());
        let keeper = async move {
            let stream = watcher(api, config).backoff(Patience::default()).modify(|object| {
                // By far the largest part of most objects, and nothing here reads it.
                object.managed_fields_mut().clear();
            });
            let mut stream = std::pin::pin!(stream);
            while let Some(event) = stream.next().await {
                match event {
                    Ok(event) => {
                        let relisted = matches!(event, watcher::Event::InitDone);
                        let before = if relisted { reader.state() } else { vec![] };
                        // The object comes with its last state.
                        if let watcher::Event::Delete(object) = &event {
                            gone(object);
                        }
                        writer.apply_watcher_event(&event);
                        // Deleted while nobody watched.
                        before
                            .iter()
                            .filter(|old| reader.get(&ObjectRef::from_obj(old.as_ref())).is_none())
                            .for_each(|old| gone(old));
                        if let watcher::Event::Delete(object) = &event {
                            // Told by the server itself: nothing of ours is newer, unless it was made again.
                            let key = (object.meta().namespace.clone().unwrap_or_default(), object.name_any());
                            let mut own = own.write().unwrap_or_else(PoisonError::into_inner);
                            if own.get(&key).is_some_and(|o| o.object.meta().uid == object.meta().uid) {
                                own.remove(&key);
                            }
                        }
                        match &event {
                            watcher::Event::Apply(object) | watcher::Event::Delete(object) => {
                                wakes.wake(object.meta().namespace.clone().as_deref())
                            }
                            watcher::Event::InitDone => {
                                complete.send_replace(true);
                                wakes.wake(None);
                            }
                            watcher::Event::Init | watcher::Event::InitApply(_) => {}
                        }
                    }
                    Err(error) if unanswered(&error) => {
                        tracing::debug!(kind = std::any::type_name::<K>(), %error, "watch failed; trying again")
                    }
                    Err(error) => {
                        tracing::warn!(kind = std::any::type_name::<K>(), %error, "watch failed; trying again")
                    }
                }
            }
        };
        (cache, keeper)
    }

    /// Waits for the first complete list.
    pub async fn ready(&self) {
        // An error says that the keeper is gone, which happens at shutdown only.
        let _ = self.listed.clone().wait_for(|listed| *listed).await;
    }

    /// The object as last seen or last written by us, whichever is newer.
    pub fn get(&self, namespace: Option<&str>, name: &str) -> Option<Arc<K>> {
        let mut reference = ObjectRef::<K>::new(name);
        if let Some(namespace) = namespace {
            reference = reference.within(namespace);
        }
        self.newer(namespace, name, self.store.get(&reference))
    }

    fn newer(&self, namespace: Option<&str>, name: &str, seen: Option<Arc<K>>) -> Option<Arc<K>> {
        let key = (namespace.unwrap_or_default().to_owned(), name.to_owned());
        let own = {
            let table = self.own.read().unwrap_or_else(PoisonError::into_inner);
            table.get(&key).map(|own| (own.object.clone(), own.at))
        };
        let Some((object, at)) = own else { return seen };
        let keep = match &seen {
            Some(seen) => {
                version_of(object.meta().resource_version.as_deref())
                    > version_of(seen.meta().resource_version.as_deref())
            }
            None => at.elapsed() < MISSING_GRACE,
        };
        if keep {
            return Some(object);
        }
        self.own.write().unwrap_or_else(PoisonError::into_inner).remove(&key);
        seen
    }

    /// Remembers what the API server answered to a write of ours.
    pub fn wrote(&self, object: K) {
        let key = (object.meta().namespace.clone().unwrap_or_default(), object.name_any());
        let own = Own { object: Arc::new(object), at: Instant::now() };
        self.own.write().unwrap_or_else(PoisonError::into_inner).insert(key, own);
    }

    /// Forgets a write whose object turned out to be another by now.
    pub fn forget(&self, namespace: Option<&str>, name: &str) {
        let key = (namespace.unwrap_or_default().to_owned(), name.to_owned());
        self.own.write().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }

    /// Everything, with what we wrote and have not seen yet.
    pub fn all(&self) -> Vec<Arc<K>> {
        let seen = self.select(|_| true);
        let key = |object: &Arc<K>| (object.meta().namespace.clone().unwrap_or_default(), object.name_any());
        let known: HashSet<_> = seen.iter().map(key).collect();
        let ours: Vec<_> = self.own.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        let unseen = ours.into_iter().filter(|key| !known.contains(key));
        let unseen = unseen.filter_map(|(space, name)| self.get((!space.is_empty()).then_some(&space), &name));
        seen.into_iter().chain(unseen).collect()
    }

    /// All that match, each as new as our own writes.
    pub fn select(&self, matches: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        let seen = self.store.state_filter(|object| matches(object));
        seen.into_iter()
            .filter_map(|object| {
                let (namespace, name) = (object.meta().namespace.clone(), object.name_any());
                self.newer(namespace.as_deref(), &name, Some(object))
            })
            .collect()
    }
}
