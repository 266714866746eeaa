//! An OCI image made by hand: one small layer, a config that carries the behaviour, a manifest.
//! Same spec, same bytes, same digest. It pushes nothing; `registry` does.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::behavior::{self, Behavior};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// OCI's pre-defined annotation for the source revision.
pub const REVISION: &str = "org.opencontainers.image.revision";
pub const SOURCE: &str = "org.opencontainers.image.source";

#[derive(Debug, Clone)]
pub struct ImageSpec {
    pub behavior: Behavior,
    pub labels: BTreeMap<String, String>,
    pub architecture: String,
}

impl ImageSpec {
    pub fn new(behavior: Behavior) -> Self {
        Self { behavior, labels: BTreeMap::new(), architecture: "amd64".into() }
    }

    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    pub fn revision(self, commit: &str) -> Self {
        self.label(REVISION, commit)
    }

    pub fn source(self, uri: &str) -> Self {
        self.label(SOURCE, uri)
    }

    pub fn architecture(mut self, architecture: &str) -> Self {
        self.architecture = architecture.to_owned();
        self
    }

    pub fn build(&self) -> Result<BuiltImage> {
        let archive = archive(&self.behavior.version)?;
        // No name and no time in the gzip header: the bytes depend on the content only.
        let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
        gzip.write_all(&archive)?;
        let layer = gzip.finish()?;
        let mut labels = self.labels.clone();
        labels.insert(behavior::LABEL.into(), self.behavior.to_label());
        let config = serde_json::to_vec(&json!({
            "created": "2026-01-01T00:00:00Z",
            "architecture": self.architecture,
            "os": "linux",
            "config": {"User": "65532:65532", "Entrypoint": ["/server"], "Labels": labels},
            "rootfs": {"type": "layers", "diff_ids": [digest(&archive)]},
            "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "tidegate-tests"}],
        }))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config),
            "layers": [descriptor(LAYER, &layer)],
        }))?;
        let digest = digest(&manifest);
        Ok(BuiltImage { layer, config, manifest, digest, architecture: self.architecture.clone() })
    }
}

#[derive(Debug, Clone)]
pub struct BuiltImage {
    pub layer: Vec<u8>,
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
    pub digest: String,
    pub architecture: String,
}

/// The index over images of several architectures.
pub fn index(images: &[BuiltImage]) -> Result<Vec<u8>> {
    let manifests: Vec<Value> = images
        .iter()
        .map(|image| {
            let mut entry = descriptor(MANIFEST, &image.manifest);
            entry["platform"] = json!({"os": "linux", "architecture": image.architecture});
            entry
        })
        .collect();
    Ok(serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}))?)
}

pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

/// `sha256:<hex>`
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn archive(version: &str) -> Result<Vec<u8>> {
    let content = format!("stand-in program {version}\n");
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o755);
    header.set_mtime(0);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, "server", content.as_bytes())?;
    Ok(builder.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_spec_same_digest_and_another_behaviour_another() {
        let spec = ImageSpec::new(Behavior::version("v1")).revision("0123");
        let other = ImageSpec::new(Behavior::version("v1").errors(0.5)).revision("0123");
        assert_eq!(spec.build().unwrap().digest, spec.build().unwrap().digest);
        assert_ne!(spec.build().unwrap().digest, other.build().unwrap().digest);
    }

    #[test]
    fn manifest_names_the_config_that_carries_the_behaviour() {
        let image = ImageSpec::new(Behavior::version("v1").errors(0.04)).revision("abc").build().unwrap();
        let manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
        assert_eq!(manifest["config"]["digest"], digest(&image.config));
        let config: Value = serde_json::from_slice(&image.config).unwrap();
        let labels = &config["config"]["Labels"];
        assert_eq!(labels[REVISION], "abc");
        let behavior = Behavior::from_label(labels[behavior::LABEL].as_str().unwrap()).unwrap();
        assert!((behavior.error_rate - 0.04).abs() < 1e-9);
    }
}
