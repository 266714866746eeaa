//! [`Fetch`] over HTTP.

use async_trait::async_trait;
use bytes::Bytes;

use super::{Fetch, FetchError, Location, Manifest, Referrer};
use crate::digest::Digest;
use crate::image::ImageRef;

/// Reads from real registries within the bounds of this module.
pub struct HttpFetch {}

impl HttpFetch {
    pub fn new() -> Result<Self, FetchError> {
        Ok(Self {})
    }
}

fn not_yet(at: &Location) -> FetchError {
    FetchError::Unreachable { what: "anything".into(), at: at.to_string(), reason: "not yet".into() }
}

#[async_trait]
impl Fetch for HttpFetch {
    async fn resolve(&self, at: &Location, _: &ImageRef) -> Result<Digest, FetchError> {
        Err(not_yet(at))
    }
    async fn manifest(&self, at: &Location, _: &Digest) -> Result<Manifest, FetchError> {
        Err(not_yet(at))
    }
    async fn referrers(&self, at: &Location, _: &Digest) -> Result<Vec<Referrer>, FetchError> {
        Err(not_yet(at))
    }
    async fn blob(&self, at: &Location, _: &Digest, _: u64) -> Result<Bytes, FetchError> {
        Err(not_yet(at))
    }
}
