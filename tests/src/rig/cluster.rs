//! One API server as its users see it: kubeconfigs and clients for every account that the rig knows, roles and people
//! alike. It never widens what an account may do: that is `deploy/`'s RBAC, and a little of the rig's own for people.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;

use super::audit::{self, Write};

/// The rig itself: member of `system:masters`.
pub const ADMIN: &str = "cluster-admin";
/// Namespace of Tidegate's own accounts and objects.
pub const SYSTEM_NAMESPACE: &str = "tidegate-system";
/// A person who may deploy, member of [`DEPLOYERS`].
pub const DEPLOYER: &str = "dana";
/// A person who may change workloads as far as RBAC goes, but is no deployer: member of [`DEVELOPERS`].
pub const DEVELOPER: &str = "sam";
pub const DEPLOYERS: &str = "deployers";
pub const DEVELOPERS: &str = "developers";

/// An account of an API server, known by a static token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
}

impl User {
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        Self { name: name.into(), groups: groups.iter().map(ToString::to_string).collect() }
    }

    /// Named and grouped as the API server names the tokens of that ServiceAccount.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self::new(
            format!("system:serviceaccount:{namespace}:{name}"),
            &["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")],
        )
    }

    /// The accounts of every fleet: the rig, the roles, a spoke's account at the hub per environment, two people.
    pub fn standard(environments: &[String]) -> Vec<Self> {
        let mut users = vec![
            Self::new(ADMIN, &["system:masters"]),
            Self::new(DEPLOYER, &[DEPLOYERS]),
            Self::new(DEVELOPER, &[DEVELOPERS]),
        ];
        for role in ["doors", "hub", "spoke", "guard"] {
            users.push(Self::service_account(SYSTEM_NAMESPACE, &format!("tidegate-{role}")));
        }
        for environment in environments {
            users.push(Self::service_account(SYSTEM_NAMESPACE, &format!("tidegate-spoke-{environment}")));
        }
        users
    }
}

/// A running API server.
#[derive(Clone)]
pub struct Cluster {
    pub name: String,
    pub address: Ipv4Addr,
    pub server_url: String,
    /// The rig's certificate authority, which signed the server's certificate.
    pub ca_pem: PathBuf,
    /// Everything of this cluster lies here.
    pub dir: PathBuf,
    pub admin: Client,
    /// Token by user name; other tokens at every other cluster.
    tokens: BTreeMap<String, String>,
}

impl Cluster {
    pub(super) async fn new(
        name: &str,
        address: Ipv4Addr,
        dir: PathBuf,
        ca_pem: PathBuf,
        tokens: BTreeMap<String, String>,
    ) -> Result<Self> {
        let server_url = format!("https://{address}:6443");
        let ca = std::fs::read_to_string(&ca_pem)?;
        let token = tokens.get(ADMIN).ok_or_else(|| anyhow!("no token for {ADMIN}"))?;
        let admin = client_of(&kubeconfig(name, &server_url, &ca, ADMIN, token)).await?;
        Ok(Self { name: name.to_owned(), address, server_url, ca_pem, dir, admin, tokens })
    }

    /// The user's whole name for a whole name or the last part of a service account's.
    fn user(&self, user: &str) -> Result<(&str, &str)> {
        let suffix = format!(":{user}");
        self.tokens
            .iter()
            .find(|(name, _)| *name == user || name.ends_with(&suffix))
            .map(|(name, token)| (name.as_str(), token.as_str()))
            .ok_or_else(|| anyhow!("{} knows no user {user}; name it in FleetConfig.users", self.name))
    }

    pub fn token_for(&self, user: &str) -> Result<String> {
        Ok(self.user(user)?.1.to_owned())
    }

    /// Writes a kubeconfig for `user` (a whole name, or `tidegate-hub` for a service account) and says where.
    pub fn kubeconfig_for(&self, user: &str) -> Result<PathBuf> {
        let (name, token) = self.user(user)?;
        let ca = std::fs::read_to_string(&self.ca_pem)?;
        let path = self.dir.join(format!("kubeconfig-{}.yaml", user.replace(':', "_")));
        write_private(&path, &serde_yaml_ng::to_string(&kubeconfig(&self.name, &self.server_url, &ca, name, token))?)?;
        Ok(path)
    }

    pub async fn client_for(&self, user: &str) -> Result<Client> {
        let (name, token) = self.user(user)?;
        let ca = std::fs::read_to_string(&self.ca_pem)?;
        client_of(&kubeconfig(&self.name, &self.server_url, &ca, name, token)).await
    }

    /// Name of a process of this cluster: `api`, `controllers`, `traefik`, `prometheus`.
    pub fn part(&self, part: &str) -> String {
        format!("{}-{part}", self.name)
    }

    /// Writes that Tidegate's accounts and people asked this API server for since then, oldest first.
    pub fn writes_since(&self, since: jiff::Timestamp) -> Result<Vec<Write>> {
        audit::writes(&audit::log_of(&self.dir), since)
    }
}

pub(super) fn kubeconfig(cluster: &str, server: &str, ca: &str, user: &str, token: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": cluster,
        "clusters": [{"name": cluster, "cluster": {"server": server, "certificate-authority-data": STANDARD.encode(ca)}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": user}}],
    })
}

async fn client_of(kubeconfig: &serde_json::Value) -> Result<Client> {
    let kubeconfig: Kubeconfig = serde_json::from_value(kubeconfig.clone())?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.connect_timeout = Some(std::time::Duration::from_secs(2));
    Ok(Client::try_from(config)?)
}

/// Tokens are secrets even in a rig: readable by their owner only.
pub(super) fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    use std::sync::atomic::{AtomicU32, Ordering};
    static WRITTEN: AtomicU32 = AtomicU32::new(0);
    // Whole or not at all: several commands at once read and write the same kubeconfig.
    let unfinished = path.with_extension(format!("{}.part", WRITTEN.fetch_add(1, Ordering::Relaxed)));
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&unfinished)
        .with_context(|| format!("cannot write {}", path.display()))?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    Ok(std::fs::rename(&unfinished, path)?)
}
