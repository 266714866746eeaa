//! A registry in memory, for tests and simulations. Content-addressed like a real one; it can be
//! made to fail, and counts what it is asked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::RwLock;

use super::{Fetch, FetchError, Location, Manifest, Referrer};
use crate::digest::Digest;
use crate::image::ImageRef;

/// Media type of artifacts that hold one Sigstore bundle.
pub const BUNDLE_MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

#[derive(Default)]
pub struct MemoryFetch {
    state: RwLock<State>,
    requests: AtomicU64,
}

#[derive(Default)]
struct State {
    tags: BTreeMap<(String, String), Digest>,
    manifests: BTreeMap<(String, Digest), Manifest>,
    blobs: BTreeMap<(String, Digest), Bytes>,
    referrers: BTreeMap<(String, Digest), Vec<Referrer>>,
    away: Option<String>,
}

impl MemoryFetch {
    pub fn new() -> Self {
        Self::default()
    }

    /// Stores a manifest under its digest, and under the tag if the image names one.
    pub async fn push(&self, image: &ImageRef, manifest: impl Into<Bytes>) -> Digest {
        let bytes = manifest.into();
        let digest = Digest::of(&bytes);
        let mut state = self.state.write().await;
        let manifest = Manifest { media_type: "application/vnd.oci.image.manifest.v1+json".into(), bytes };
        state.manifests.insert((image.repository_path(), digest.clone()), manifest);
        if let Some(tag) = &image.tag {
            state.tags.insert((image.repository_path(), tag.clone()), digest.clone());
        }
        digest
    }

    /// Attaches a blob to an image as an artifact of this media type.
    pub async fn attach(&self, image: &ImageRef, subject: &Digest, media_type: &str, blob: impl Into<Bytes>) -> Digest {
        let blob = blob.into();
        let blob_digest = Digest::of(&blob);
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"{media_type}","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{}","size":2}},"layers":[{{"mediaType":"{media_type}","digest":"{blob_digest}","size":{}}}],"subject":{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{subject}","size":1}}}}"#,
            Digest::of(b"{}"),
            blob.len(),
        );
        self.state.write().await.blobs.insert((image.repository_path(), blob_digest), blob);
        self.refer(image, subject, "application/vnd.oci.empty.v1+json", manifest).await
    }

    /// Stores an artifact's manifest, listed as a referrer of the image.
    pub async fn refer(
        &self,
        image: &ImageRef,
        subject: &Digest,
        artifact_type: &str,
        manifest: impl Into<Bytes>,
    ) -> Digest {
        let untagged = ImageRef { tag: None, ..image.clone() };
        let bytes = manifest.into();
        let size = bytes.len() as u64;
        let digest = self.push(&untagged, bytes).await;
        let referrer = Referrer {
            digest: digest.clone(),
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            artifact_type: Some(artifact_type.to_owned()),
            size,
        };
        self.state
            .write()
            .await
            .referrers
            .entry((image.repository_path(), subject.clone()))
            .or_default()
            .push(referrer);
        digest
    }

    /// While there is a reason, every request is `Unreachable` for it.
    pub async fn set_away(&self, reason: Option<&str>) {
        self.state.write().await.away = reason.map(str::to_owned);
    }

    /// Requests answered so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    async fn ask<T>(
        &self,
        at: &Location,
        what: String,
        find: impl FnOnce(&State) -> Option<T>,
    ) -> Result<T, FetchError> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let state = self.state.read().await;
        if let Some(reason) = &state.away {
            return Err(FetchError::Unreachable { what, at: at.to_string(), reason: reason.clone() });
        }
        find(&state).ok_or_else(|| FetchError::NotFound { what, at: at.to_string() })
    }
}

#[async_trait]
impl Fetch for MemoryFetch {
    async fn resolve(&self, at: &Location, image: &ImageRef) -> Result<Digest, FetchError> {
        let repository = at.to_string();
        self.ask(at, format!("manifest of {image}"), |state| match &image.digest {
            Some(digest) => state.manifests.contains_key(&(repository, digest.clone())).then(|| digest.clone()),
            None => {
                let tag = image.tag.clone().unwrap_or_else(|| "latest".to_owned());
                state.tags.get(&(repository, tag)).cloned()
            }
        })
        .await
    }

    async fn manifest(&self, at: &Location, digest: &Digest) -> Result<Manifest, FetchError> {
        let key = (at.to_string(), digest.clone());
        self.ask(at, format!("manifest {digest}"), |state| state.manifests.get(&key).cloned()).await
    }

    async fn referrers(&self, at: &Location, digest: &Digest) -> Result<Vec<Referrer>, FetchError> {
        let key = (at.to_string(), digest.clone());
        self.ask(at, format!("referrers of {digest}"), |state| {
            Some(state.referrers.get(&key).cloned().unwrap_or_default())
        })
        .await
    }

    async fn blob(&self, at: &Location, digest: &Digest, limit: u64) -> Result<Bytes, FetchError> {
        let key = (at.to_string(), digest.clone());
        let what = format!("blob {digest}");
        let bytes = self.ask(at, what.clone(), |state| state.blobs.get(&key).cloned()).await?;
        if bytes.len() as u64 > limit {
            return Err(FetchError::TooLarge { what, at: at.to_string(), limit });
        }
        Ok(bytes)
    }
}
