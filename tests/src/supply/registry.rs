//! A real OCI registry as a child process, and what a build system does to it: push, tag, index, delete.
//! It keeps everything in memory, so ending it loses the images: make it unreachable with `freeze`, not by killing it.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use super::daemon::Daemon;
use super::http as web;
use super::image::{self, ImageSpec};
use super::tools::SupplyTools;

pub struct Registry {
    daemon: Daemon,
    host: String,
    referrers: bool,
    client: reqwest::Client,
}

/// A manifest as the registry answered it.
#[derive(Debug, Clone)]
pub struct Manifest {
    pub digest: String,
    pub media_type: String,
    pub bytes: Bytes,
}

impl Manifest {
    pub fn json(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&self.bytes)?)
    }
}

impl Registry {
    /// `referrers: false` makes it a registry of OCI 1.0, where clients fall back to the `sha256-<hex>` tag.
    pub async fn start(tools: &SupplyTools, dir: &Path, address: SocketAddr, referrers: bool) -> Result<Self> {
        let host = address.to_string();
        let referrers_flag = format!("--referrers={referrers}");
        let name = if referrers { "registry" } else { "registry-without-referrers" };
        let mut daemon = Daemon::start(name, &tools.registry, &["--address", &host, &referrers_flag], dir)?;
        daemon.listening(&host).await?;
        Ok(Self { daemon, host, referrers, client: web::client(None)? })
    }

    /// `host:port`, as it stands in image references.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn serves_referrers(&self) -> bool {
        self.referrers
    }

    /// `host:port/repo@digest`
    pub fn image(&self, repo: &str, digest: &str) -> String {
        format!("{}/{repo}@{digest}", self.host)
    }

    /// Takes connections and answers nothing, until `thaw`.
    pub async fn freeze(&self) -> Result<()> {
        self.daemon.freeze().await
    }

    pub async fn thaw(&self) -> Result<()> {
        self.daemon.thaw().await
    }

    /// Pushes the image under `tag` and returns its digest.
    pub async fn push(&self, repo: &str, tag: &str, spec: &ImageSpec) -> Result<String> {
        let digest = self.push_untagged(repo, spec).await?.digest;
        self.tag(repo, &digest, tag).await?;
        Ok(digest)
    }

    /// Pushes the image by digest alone.
    pub async fn push_untagged(&self, repo: &str, spec: &ImageSpec) -> Result<image::BuiltImage> {
        let built = spec.build()?;
        self.put_blob(repo, &built.layer).await?;
        self.put_blob(repo, &built.config).await?;
        self.put_manifest(repo, &built.digest, image::MANIFEST, built.manifest.clone()).await?;
        Ok(built)
    }

    /// Pushes one image per architecture and the index over them; returns the index's digest and the children's.
    pub async fn push_index(&self, repo: &str, tag: &str, specs: &[ImageSpec]) -> Result<(String, Vec<String>)> {
        let mut built = Vec::with_capacity(specs.len());
        for spec in specs {
            built.push(self.push_untagged(repo, spec).await?);
        }
        let digest = self.put_manifest(repo, tag, image::INDEX, image::index(&built)?).await?;
        Ok((digest, built.into_iter().map(|image| image.digest).collect()))
    }

    /// Makes `tag` point to what `digest` names already.
    pub async fn tag(&self, repo: &str, digest: &str, tag: &str) -> Result<()> {
        let manifest = self.manifest(repo, digest).await?.with_context(|| format!("{repo}@{digest} is not there"))?;
        self.put_manifest(repo, tag, &manifest.media_type, manifest.bytes.to_vec()).await?;
        Ok(())
    }

    /// Deletes a tag, or a manifest by digest.
    pub async fn delete(&self, repo: &str, reference: &str) -> Result<()> {
        let url = self.url(repo, "manifests", reference);
        checked(self.client.delete(&url).send().await?, &[StatusCode::ACCEPTED]).await?;
        Ok(())
    }

    /// By tag or digest; `None` when the registry does not have it.
    pub async fn manifest(&self, repo: &str, reference: &str) -> Result<Option<Manifest>> {
        let request = self.client.get(self.url(repo, "manifests", reference)).header("accept", "*/*");
        let response = checked(request.send().await?, &[StatusCode::OK, StatusCode::NOT_FOUND]).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let media_type = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .context("a manifest without a media type")?
            .to_owned();
        let bytes = response.bytes().await?;
        Ok(Some(Manifest { digest: image::digest(&bytes), media_type, bytes }))
    }

    pub async fn blob(&self, repo: &str, digest: &str) -> Result<Bytes> {
        let response = self.client.get(self.url(repo, "blobs", digest)).send().await?;
        Ok(checked(response, &[StatusCode::OK]).await?.bytes().await?)
    }

    /// Stores a blob unless it is there; returns its digest.
    pub async fn put_blob(&self, repo: &str, bytes: &[u8]) -> Result<String> {
        let digest = image::digest(bytes);
        let present = self.client.head(self.url(repo, "blobs", &digest)).send().await?;
        if present.status() == StatusCode::OK {
            return Ok(digest);
        }
        let begin = self.client.post(format!("http://{}/v2/{repo}/blobs/uploads/", self.host)).send().await?;
        let begun = checked(begin, &[StatusCode::ACCEPTED]).await?;
        let location = begun.headers().get(LOCATION).context("an upload without a location")?.to_str()?;
        let mut location = reqwest::Url::parse(&format!("http://{}/", self.host))?.join(location)?;
        location.query_pairs_mut().append_pair("digest", &digest);
        let upload = self.client.put(location).header(CONTENT_TYPE, "application/octet-stream").body(bytes.to_vec());
        checked(upload.send().await?, &[StatusCode::CREATED]).await?;
        Ok(digest)
    }

    /// Stores a manifest under a tag or its digest; returns its digest.
    pub async fn put_manifest(&self, repo: &str, reference: &str, media_type: &str, bytes: Vec<u8>) -> Result<String> {
        let digest = image::digest(&bytes);
        let request = self.client.put(self.url(repo, "manifests", reference)).header(CONTENT_TYPE, media_type);
        checked(request.body(bytes).send().await?, &[StatusCode::CREATED]).await?;
        Ok(digest)
    }

    /// What refers to `digest`, found as a client of this registry finds it.
    pub async fn referrers(&self, repo: &str, digest: &str) -> Result<Vec<Value>> {
        let index = if self.referrers {
            let response = self.client.get(self.url(repo, "referrers", digest)).send().await?;
            checked(response, &[StatusCode::OK]).await?.json::<Value>().await?
        } else {
            match self.manifest(repo, &fallback_tag(digest)).await? {
                Some(manifest) => manifest.json()?,
                None => json!({"manifests": []}),
            }
        };
        Ok(index["manifests"].as_array().cloned().unwrap_or_default())
    }

    fn url(&self, repo: &str, kind: &str, reference: &str) -> String {
        format!("http://{}/v2/{repo}/{kind}/{reference}", self.host)
    }
}

/// The tag under which a registry without the referrers API keeps the list (OCI distribution 1.1, referrers tag schema).
pub fn fallback_tag(digest: &str) -> String {
    digest.replacen(':', "-", 1)
}

async fn checked(response: Response, wanted: &[StatusCode]) -> Result<Response> {
    if wanted.contains(&response.status()) {
        return Ok(response);
    }
    let (status, url) = (response.status(), response.url().clone());
    bail!("{url}: {status}: {}", response.text().await.unwrap_or_default())
}
