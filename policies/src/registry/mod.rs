//! Bounded fetching from OCI registries, behind a trait that the domain owns. The one place in the
//! domain that touches the network. Never hands out bytes whose digest was not checked.

mod error;
mod http;
mod memory;

pub use error::FetchError;
pub use http::{Credentials, HttpFetch, HttpOptions, Logins, docker_config};
pub use memory::{BUNDLE_MEDIA_TYPE, MemoryFetch};

use async_trait::async_trait;
use bytes::Bytes;

use crate::digest::Digest;
use crate::image::ImageRef;
use crate::json::{self, JsonError};
use crate::model::Registry;

/// A repository and how its registry may be spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    pub registry: String,
    pub repository: String,
    /// Plain HTTP, private and loopback addresses are allowed.
    pub insecure: bool,
}

impl Location {
    /// Insecure only if `registries` says so of exactly this host and port.
    pub fn of(image: &ImageRef, registries: &[Registry]) -> Self {
        Self {
            registry: image.registry.clone(),
            repository: image.repository.clone(),
            insecure: registries.iter().any(|r| r.insecure && r.host.eq_ignore_ascii_case(&image.registry)),
        }
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)
    }
}

/// A manifest's bytes, checked against its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub media_type: String,
    pub bytes: Bytes,
}

impl Manifest {
    /// The images that an index lists, one per platform; none for anything else.
    pub fn children(&self) -> Result<Vec<Digest>, JsonError> {
        #[derive(serde::Deserialize)]
        struct Index {
            #[serde(default)]
            manifests: Vec<Child>,
        }
        #[derive(serde::Deserialize)]
        struct Child {
            digest: Digest,
        }
        let index: Index = json::parse(&self.bytes, "the manifest")?;
        Ok(index.manifests.into_iter().map(|child| child.digest).collect())
    }
}

/// What refers to an image: an artifact manifest that names it as its subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    pub digest: Digest,
    pub media_type: String,
    pub artifact_type: Option<String>,
    pub size: u64,
}

/// Reading from registries. `NotFound` is an answer; every other error is not knowing.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// What the tag (or, where the image has one, the digest) names now. A digest is looked up: it
    /// is `NotFound` if the registry does not have it.
    async fn resolve(&self, at: &Location, image: &ImageRef) -> Result<Digest, FetchError>;

    async fn manifest(&self, at: &Location, digest: &Digest) -> Result<Manifest, FetchError>;

    /// By the referrers API, else by the fallback tag. Empty if there are none.
    async fn referrers(&self, at: &Location, digest: &Digest) -> Result<Vec<Referrer>, FetchError>;

    /// At most `limit` bytes; more is an error before they are read.
    async fn blob(&self, at: &Location, digest: &Digest, limit: u64) -> Result<Bytes, FetchError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_lists_its_images_and_an_image_lists_none() {
        let manifest = |text: &str| Manifest { media_type: String::new(), bytes: text.to_owned().into() };
        let digest = |digit: char| format!("sha256:{}", digit.to_string().repeat(64));
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"digest":"{}","size":1}},{{"digest":"{}"}}]}}"#,
            digest('a'),
            digest('b')
        );
        let children: Vec<String> = manifest(&index).children().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(children, [digest('a'), digest('b')]);
        let image = r#"{"schemaVersion":2,"config":{"digest":"sha256:00"},"layers":[]}"#;
        assert!(manifest(image).children().unwrap().is_empty());
        assert!(manifest("<html>").children().is_err());
    }
}
