//! The Sigstore bundles that refer to an image: read them back as a client finds them, or attach one by hand.
//! Attaching by hand is what an attacker with push rights does; cosign itself never does it.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::image::{self, MANIFEST};
use super::registry::{Registry, fallback_tag};

pub const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const PREDICATE: &str = "dev.sigstore.bundle.predicateType";

#[derive(Debug, Clone)]
pub struct Referrer {
    /// The entry of the referrers list.
    pub descriptor: Value,
    pub manifest: Value,
    pub bundle: Vec<u8>,
}

impl Referrer {
    /// From the manifest's annotations: a hint, never proof.
    pub fn predicate_type(&self) -> Option<&str> {
        self.manifest["annotations"][PREDICATE].as_str()
    }
}

/// All bundles of `digest`, in the registry's order.
pub async fn fetch(registry: &Registry, repo: &str, digest: &str) -> Result<Vec<Referrer>> {
    let mut found = Vec::new();
    for descriptor in registry.referrers(repo, digest).await? {
        let reference = descriptor["digest"].as_str().context("a descriptor without a digest")?;
        let manifest = registry.manifest(repo, reference).await?.context("a referrer that is not there")?.json()?;
        let layer = manifest["layers"][0]["digest"].as_str().context("a referrer without a layer")?;
        let bundle = registry.blob(repo, layer).await?.to_vec();
        found.push(Referrer { descriptor, manifest, bundle });
    }
    Ok(found)
}

/// Attaches `bundle` to `digest`, whatever it says of itself; returns the referrer's digest.
pub async fn attach(registry: &Registry, repo: &str, digest: &str, bundle: &[u8], predicate: &str) -> Result<String> {
    let subject = registry.manifest(repo, digest).await?.context("the subject is not there")?;
    registry.put_blob(repo, b"{}").await?;
    registry.put_blob(repo, bundle).await?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": BUNDLE,
        "config": image::descriptor(EMPTY, b"{}"),
        "layers": [image::descriptor(BUNDLE, bundle)],
        "subject": image::descriptor(&subject.media_type, &subject.bytes),
        "annotations": {"dev.sigstore.bundle.content": "dsse-envelope", PREDICATE: predicate},
    }))?;
    let referrer = image::digest(&manifest);
    registry.put_manifest(repo, &referrer, MANIFEST, manifest.clone()).await?;
    if !registry.serves_referrers() {
        let mut entries = registry.referrers(repo, digest).await?;
        let mut entry = image::descriptor(MANIFEST, &manifest);
        entry["artifactType"] = BUNDLE.into();
        entries.push(entry);
        let index = serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": image::INDEX, "manifests": entries}))?;
        registry.put_manifest(repo, &fallback_tag(digest), image::INDEX, index).await?;
    }
    Ok(referrer)
}
