//! Caches of Kubernetes objects, kept by watches, for the doors and the guard. Never decides, and
//! never lets anybody wait on a store itself: a store remembers only the last task that waits for it.

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use kube::api::Api;
use kube::runtime::reflector::{Store, reflector, store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::patience::{Patience, unanswered};

/// A cache of what this API lists, and the watch that keeps it and counts up `changed` with every
/// change. Nothing is known until the watch is polled.
pub fn follow<K>(api: Api<K>, changed: &watch::Sender<u64>) -> (Store<K>, BoxFuture<'static, ()>)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let (reader, writer) = store();
    let changed = changed.clone();
    let slim = watcher(api, watcher::Config::default()).modify(|object| object.managed_fields_mut().clear());
    let events = reflector(writer, slim.backoff(Patience::default()));
    let watch = events.for_each(move |event| {
        match event {
            // Within a relist the cache still shows what was.
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
            Ok(_) => changed.send_modify(|n| *n += 1),
            Err(error) if unanswered(&error) => tracing::debug!(kind = %K::kind(&()), %error, "a watch is tried again"),
            Err(error) => {
                tracing::warn!(kind = %K::kind(&()), %error, "a watch broke; what was read last stays in force")
            }
        }
        futures::future::ready(())
    });
    (reader, watch.boxed())
}

/// Whether this cache has been read once.
pub fn is_read<K>(store: &Store<K>) -> bool
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    matches!(store.wait_until_ready().now_or_never(), Some(Ok(())))
}

/// Resolves when `ready` holds; every change asks again, so any number may wait.
pub async fn until(changed: &watch::Sender<u64>, ready: impl Fn() -> bool) {
    let mut changes = changed.subscribe();
    while !ready() {
        if changes.changed().await.is_err() {
            // The watches are gone: nothing will ever be known.
            std::future::pending::<()>().await;
        }
    }
}
