//! How many verifications requests may have under way: so many in all, and fewer for each namespace, so that
//! one team's images at a registry that hangs take nobody else's place. Knows nothing of images.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

/// Each may hold some connections and their buffers.
const IN_ALL: usize = 256;
/// Half of what one pod may name; eight namespaces have to collude to fill the house.
const PER_NAMESPACE: usize = 32;

pub struct Places {
    all: Arc<Semaphore>,
    /// Of namespaces that have something under way.
    each: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// A place, until it is dropped.
pub struct Place {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Default for Places {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(IN_ALL)), each: Mutex::default() }
    }
}

impl Places {
    /// Waits for a place; `None` only if there will never be one again.
    pub async fn enter(&self, namespace: &str) -> Option<Place> {
        // Its own first: whoever waits for that must hold no place of the house.
        let own = self.of(namespace).await.acquire_owned().await.ok()?;
        let all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Place { _own: own, _all: all })
    }

    async fn of(&self, namespace: &str) -> Arc<Semaphore> {
        let mut each = self.each.lock().await;
        if let Some(own) = each.get(namespace).and_then(Weak::upgrade) {
            return own;
        }
        each.retain(|_, one| one.strong_count() > 0);
        let own = Arc::new(Semaphore::new(PER_NAMESPACE));
        each.insert(namespace.to_owned(), Arc::downgrade(&own));
        own
    }
}
