//! What the doors may read and write: EventSources, their secrets, and new BuildEvents. Every call
//! has a deadline; an API server that is away is told, so that the sender repeats.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};
use kube::runtime::reflector::{ObjectRef, Store as Cache};
use kube::{Client, ResourceExt};
use tidegate_pipelines::api::{BuildEvent, BuildEventSpec, EventSource, EventSourceSpec, SecretKeyRef, names};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::cached;

const CALL: Duration = Duration::from_secs(3);
/// A flood of forged deliveries must not become a flood of reads; a changed secret is seen this late.
const SECRET_AGE: Duration = Duration::from_secs(5);
/// A read that failed is an answer for those who waited for it, not for long: each would take its own [`CALL`].
const AWAY_AGE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Nothing is known: the sender repeats.
    #[error("{0}")]
    Away(String),
    /// The API server will never take this.
    #[error("{0}")]
    Refused(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    New,
    /// The same content was stored before.
    There,
}

#[async_trait]
pub trait Store: Send + Sync {
    async fn sources(&self) -> Result<Vec<(String, EventSourceSpec)>, StoreError>;

    async fn source(&self, name: &str) -> Result<Option<EventSourceSpec>, StoreError> {
        let all = self.sources().await?;
        Ok(all.into_iter().find(|(found, _)| found == name).map(|(_, spec)| spec))
    }

    /// `None` if there is no such secret or key.
    async fn secret(&self, reference: &SecretKeyRef) -> Result<Option<Vec<u8>>, StoreError>;

    async fn put(&self, name: &str, event: BuildEventSpec) -> Result<Stored, StoreError>;
}

type Secrets = HashMap<(String, String), (Instant, Result<Option<Vec<u8>>, StoreError>)>;

pub struct KubeStore {
    client: Client,
    sources: Cache<EventSource>,
    changed: watch::Sender<u64>,
    secrets: Mutex<Secrets>,
}

impl KubeStore {
    /// The store, and the task that keeps its cache of sources.
    pub fn new(client: Client) -> (Arc<Self>, BoxFuture<'static, ()>) {
        let changed = watch::Sender::new(0);
        let api: Api<EventSource> = Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE);
        let (sources, watch) = cached::follow(api, &changed);
        (Arc::new(Self { client, sources, changed, secrets: Mutex::default() }), watch)
    }

    /// Resolves when the sources have been read once.
    pub async fn synced(&self) {
        cached::until(&self.changed, || cached::is_read(&self.sources)).await;
    }

    fn ready(&self) -> Result<(), StoreError> {
        match cached::is_read(&self.sources) {
            true => Ok(()),
            false => Err(StoreError::Away("the sources have not been read yet".to_owned())),
        }
    }
}

async fn bounded<T>(call: impl Future<Output = kube::Result<T>>) -> Result<kube::Result<T>, StoreError> {
    tokio::time::timeout(CALL, call).await.map_err(|_| StoreError::Away("no answer in time".to_owned()))
}

#[async_trait]
impl Store for KubeStore {
    async fn sources(&self) -> Result<Vec<(String, EventSourceSpec)>, StoreError> {
        self.ready()?;
        Ok(self.sources.state().iter().map(|source| (source.name_any(), source.spec.clone())).collect())
    }

    async fn source(&self, name: &str) -> Result<Option<EventSourceSpec>, StoreError> {
        self.ready()?;
        let reference = ObjectRef::new(name).within(names::SYSTEM_NAMESPACE);
        Ok(self.sources.get(&reference).map(|source| source.spec.clone()))
    }

    async fn secret(&self, reference: &SecretKeyRef) -> Result<Option<Vec<u8>>, StoreError> {
        let key = (reference.name.clone(), reference.key.clone());
        // Held over the read: concurrent deliveries share one.
        let mut secrets = self.secrets.lock().await;
        let lasts =
            |(at, found): &(Instant, Result<_, _>)| at.elapsed() < if found.is_ok() { SECRET_AGE } else { AWAY_AGE };
        if let Some(kept) = secrets.get(&key).filter(|kept| lasts(kept)) {
            return kept.1.clone();
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), names::DOORS_NAMESPACE);
        let found = match bounded(api.get_opt(&reference.name)).await {
            Ok(Ok(secret)) => Ok(secret.and_then(|secret| secret.data?.remove(&reference.key)).map(|bytes| bytes.0)),
            Ok(Err(error)) => Err(StoreError::Away(error.to_string())),
            Err(error) => Err(error),
        };
        secrets.retain(|_, kept| lasts(kept));
        secrets.insert(key, (Instant::now(), found.clone()));
        found
    }

    async fn put(&self, name: &str, event: BuildEventSpec) -> Result<Stored, StoreError> {
        let api: Api<BuildEvent> = Api::namespaced(self.client.clone(), names::SYSTEM_NAMESPACE);
        let params = PostParams { field_manager: Some("tidegate-doors".to_owned()), ..PostParams::default() };
        match bounded(api.create(&params, &BuildEvent::new(name, event))).await? {
            Ok(_) => Ok(Stored::New),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Stored::There),
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 413 | 422) => {
                Err(StoreError::Refused(status.message.clone()))
            }
            Err(error) => Err(StoreError::Away(error.to_string())),
        }
    }
}
