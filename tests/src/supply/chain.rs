//! The whole supply chain of a run, started at once at its usual addresses.
//! It starts no part of the fleet: that is the rig's.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::github::Github;
use super::oidc::Oidc;
use super::registry::Registry;
use super::release::Publisher;
use super::sigstore::Sigstore;
use super::tools::SupplyTools;

/// Loopback, like the rest of Sigstore: certificates name it as the identity's issuer.
pub const BUILD_ISSUER: &str = "127.0.0.1:7080";
pub const REGISTRY: &str = "10.244.254.1:5000";
/// In the place of `https://accounts.google.com`.
pub const GOOGLE_ISSUER: &str = "10.244.254.2:7080";
/// In the place of `https://api.github.com`.
pub const GITHUB: &str = "10.244.254.3:8080";

pub struct SupplyChain {
    pub registry: Arc<Registry>,
    pub sigstore: Arc<Sigstore>,
    /// Signs the tokens of Pub/Sub pushes.
    pub google: Oidc,
    pub github: Github,
    publisher: Publisher,
}

impl SupplyChain {
    /// `github_repos` are the repositories `owner/name` that the GitHub API knows.
    pub async fn start(dir: &Path, tools: &SupplyTools, github_repos: &[&str]) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let builds = Arc::new(Oidc::start(BUILD_ISSUER.parse()?).await?);
        let (registry, sigstore, google, github) = tokio::try_join!(
            async { Registry::start(tools, dir, REGISTRY.parse()?, true).await.context("registry") },
            async { Sigstore::start(&dir.join("sigstore"), tools, builds).await.context("Sigstore") },
            async { Oidc::start(GOOGLE_ISSUER.parse()?).await.context("Google's issuer") },
            async { Github::start(GITHUB.parse()?, github_repos).await.context("GitHub") },
        )?;
        let (registry, sigstore) = (Arc::new(registry), Arc::new(sigstore));
        let publisher = Publisher { registry: registry.clone(), sigstore: sigstore.clone() };
        Ok(Self { registry, sigstore, google, github, publisher })
    }

    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }
}
