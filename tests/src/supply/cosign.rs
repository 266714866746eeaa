//! cosign as a child process: sign, attest, verify, make keys. It talks to the local services and the registry only,
//! with an environment of its own, and it trusts nothing but the trusted root it is given.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::process::Command;

/// A run takes about a second; more than this is a service that hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// What an attestation is about; cosign's short names stand for the URIs beside them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PredicateType {
    /// `https://cyclonedx.org/bom`
    CycloneDx,
    /// `https://spdx.dev/Document`
    Spdx,
    /// `https://slsa.dev/provenance/v0.2`
    SlsaV02,
    /// `https://slsa.dev/provenance/v1`
    SlsaV1,
    Other(String),
}

impl PredicateType {
    pub fn flag(&self) -> &str {
        match self {
            Self::CycloneDx => "cyclonedx",
            Self::Spdx => "spdxjson",
            Self::SlsaV02 => "slsaprovenance02",
            Self::SlsaV1 => "slsaprovenance1",
            Self::Other(uri) => uri,
        }
    }

    pub fn uri(&self) -> &str {
        match self {
            Self::CycloneDx => "https://cyclonedx.org/bom",
            Self::Spdx => "https://spdx.dev/Document",
            Self::SlsaV02 => "https://slsa.dev/provenance/v0.2",
            Self::SlsaV1 => "https://slsa.dev/provenance/v1",
            Self::Other(uri) => uri,
        }
    }
}

/// A managed key pair (ECDSA P-256), its private half encrypted with an empty password.
#[derive(Debug, Clone)]
pub struct KeyPair {
    pub private: PathBuf,
    pub public: PathBuf,
    pub public_pem: String,
}

#[derive(Clone)]
pub struct Cosign {
    program: PathBuf,
    /// Home and scratch of every run.
    dir: PathBuf,
    scratch: Arc<AtomicU64>,
}

impl Cosign {
    pub fn new(program: &Path, dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        Ok(Self { program: program.to_owned(), dir: dir.to_owned(), scratch: Arc::new(AtomicU64::new(0)) })
    }

    /// Runs it and returns standard output; a failure carries what it said.
    pub async fn run(&self, args: &[&str]) -> Result<String> {
        let child = Command::new(&self.program)
            .args(args)
            .current_dir(&self.dir)
            .env_clear()
            .env("HOME", &self.dir)
            .env("TMPDIR", &self.dir)
            .env("COSIGN_PASSWORD", "")
            // No question is ever answered on a terminal.
            .env("COSIGN_YES", "true")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let what = args.first().copied().unwrap_or_default();
        let output = tokio::time::timeout(DEADLINE, child).await.with_context(|| format!("cosign {what} hangs"))??;
        if !output.status.success() {
            bail!("cosign {what}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Writes `value` to a scratch file of its own.
    pub fn scratch(&self, kind: &str, value: &Value) -> Result<PathBuf> {
        let number = self.scratch.fetch_add(1, Ordering::SeqCst);
        let path = self.dir.join(format!("{kind}-{number}.json"));
        std::fs::write(&path, serde_json::to_vec(value)?)?;
        Ok(path)
    }

    pub async fn generate_key(&self, name: &str) -> Result<KeyPair> {
        self.run(&["generate-key-pair", "--output-key-prefix", name]).await?;
        let public = self.dir.join(format!("{name}.pub"));
        let public_pem = std::fs::read_to_string(&public)?;
        Ok(KeyPair { private: self.dir.join(format!("{name}.key")), public, public_pem })
    }
}

/// A path as an argument: the rig makes its folders itself, under names of plain text.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("paths of the rig are UTF-8")
}
