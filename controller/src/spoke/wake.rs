//! Who is woken by a change: everyone in a namespace, or everyone. Events are merged, never queued.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

#[derive(Clone, Default)]
pub struct Wakes {
    senders: Arc<RwLock<HashMap<String, watch::Sender<u64>>>>,
}

impl Wakes {
    /// Wakes those who wait for this namespace; none: everyone.
    pub fn wake(&self, namespace: Option<&str>) {
        let senders = self.senders.read().unwrap_or_else(PoisonError::into_inner);
        match namespace {
            Some(namespace) => {
                for key in [namespace, ""] {
                    if let Some(sender) = senders.get(key) {
                        sender.send_modify(|n| *n += 1);
                    }
                }
            }
            None => senders.values().for_each(|sender| sender.send_modify(|n| *n += 1)),
        }
    }

    /// Changes in this namespace and of cluster-scoped objects; an empty name: changes anywhere.
    pub fn listen(&self, namespace: &str) -> watch::Receiver<u64> {
        let mut senders = self.senders.write().unwrap_or_else(PoisonError::into_inner);
        senders.entry(namespace.to_owned()).or_insert_with(|| watch::channel(0).0).subscribe()
    }
}
