//! Pulls what the test kubelet needs of an image: manifest and config, digests checked. Layers are never fetched.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use crate::supply::behavior::{Behavior, LABEL};

const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// Why an image cannot run; its text goes into the pod's status.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("{0} is not HOST/REPOSITORY[:TAG][@DIGEST]")]
    Reference(String),
    #[error("cannot reach the registry: {0}")]
    Away(#[from] reqwest::Error),
    #[error("{url}: {status}")]
    Refused { url: String, status: reqwest::StatusCode },
    #[error("{url} holds {found}")]
    Digest { url: String, found: String },
    #[error("{url}: {what}")]
    Content { url: String, what: String },
}

/// An image that was pulled.
#[derive(Debug, PartialEq)]
pub struct Image {
    /// `HOST/REPOSITORY@DIGEST`, as a container runtime reports it.
    pub id: String,
    /// Of the index, where the reference names one.
    pub digest: String,
    pub behavior: Behavior,
}

/// Pulls, and keeps what was pulled by digest.
pub struct Images {
    http: reqwest::Client,
    known: Mutex<BTreeMap<String, Arc<Image>>>,
}

struct Reference<'a> {
    host: &'a str,
    repository: &'a str,
    /// Tag or digest.
    what: &'a str,
}

impl<'a> Reference<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (host, rest) = text.split_once('/')?;
        let (name, digest) = match rest.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (rest, None),
        };
        let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "latest"));
        Some(Self { host, repository, what: digest.unwrap_or(tag) })
    }

    fn url(&self, kind: &str, what: &str) -> String {
        format!("http://{}/v2/{}/{kind}/{what}", self.host, self.repository)
    }
}

impl Images {
    pub fn new() -> reqwest::Result<Self> {
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?;
        Ok(Self { http, known: Mutex::default() })
    }

    /// By digest from what was pulled before, without asking the registry; a tag is always asked for.
    pub async fn pull(&self, text: &str) -> Result<Arc<Image>, PullError> {
        let reference = Reference::parse(text).ok_or_else(|| PullError::Reference(text.to_owned()))?;
        let id = |digest: &str| format!("{}/{}@{digest}", reference.host, reference.repository);
        if let Some(image) = self.known.lock().await.get(&id(reference.what)) {
            return Ok(image.clone());
        }
        let (mut manifest, digest) = self.fetch(&reference, "manifests", reference.what).await?;
        if let Some(child) = manifest["manifests"].as_array().and_then(|all| platform(all)) {
            manifest = self.fetch(&reference, "manifests", &child).await?.0;
        }
        let url = reference.url("manifests", reference.what);
        let content = |what: &str| PullError::Content { url: url.clone(), what: what.to_owned() };
        let config = manifest["config"]["digest"].as_str().ok_or_else(|| content("a manifest without config"))?;
        let (config, _) = self.fetch(&reference, "blobs", config).await?;
        let behavior = match config["config"]["Labels"][LABEL].as_str() {
            Some(label) => Behavior::from_label(label).map_err(|error| content(&error.to_string()))?,
            // An image that is not one of ours runs well and is named after its digest.
            None => Behavior::version(digest.chars().skip(7).take(12).collect::<String>()),
        };
        let image = Arc::new(Image { id: id(&digest), digest, behavior });
        self.known.lock().await.insert(image.id.clone(), image.clone());
        Ok(image)
    }

    async fn fetch(&self, reference: &Reference<'_>, kind: &str, what: &str) -> Result<(Value, String), PullError> {
        let url = reference.url(kind, what);
        let answer = self.http.get(&url).header("accept", ACCEPT).send().await?;
        if !answer.status().is_success() {
            return Err(PullError::Refused { status: answer.status(), url });
        }
        let body = answer.bytes().await?;
        let found = format!("sha256:{}", hex::encode(Sha256::digest(&body)));
        if what.starts_with("sha256:") && what != found {
            return Err(PullError::Digest { url, found });
        }
        let value =
            serde_json::from_slice(&body).map_err(|error| PullError::Content { url, what: error.to_string() })?;
        Ok((value, found))
    }
}

/// The manifest that this machine would run; an index of one platform needs no choice.
fn platform(manifests: &[Value]) -> Option<String> {
    let linux = manifests
        .iter()
        .find(|manifest| manifest["platform"]["os"] == "linux" && manifest["platform"]["architecture"] == "amd64");
    linux.or(manifests.first())?["digest"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_of_every_shape_are_read() {
        let cases = [
            ("10.244.255.2:5000/portal:v1", "http://10.244.255.2:5000/v2/portal/manifests/v1"),
            ("10.244.255.2:5000/p/r/img@sha256:ab", "http://10.244.255.2:5000/v2/p/r/img/manifests/sha256:ab"),
            ("h:1/portal:v1@sha256:ab", "http://h:1/v2/portal/manifests/sha256:ab"),
            ("h:1/portal", "http://h:1/v2/portal/manifests/latest"),
        ];
        for (text, url) in cases {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(reference.url("manifests", reference.what), url, "{text}");
        }
        assert!(Reference::parse("portal").is_none());
    }
}
