//! Access to registries as the roles and `tidegate verify` are told of it: where credentials lie and which
//! token services they may go to. Never logs what is in the file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tidegate_policies::registry::{Credentials, FetchError, HttpFetch, HttpOptions, Logins, docker_config};

#[derive(clap::Args, Clone, Debug, Default)]
pub struct RegistryArgs {
    /// Docker's config.json with users and passwords of registries (`auths`); read whenever a registry asks, so
    /// that a rotation needs no restart. A file that is not there holds none.
    #[arg(long)]
    pub registry_config: Option<PathBuf>,
    /// Hosts of token services that may be sent a registry's credentials, besides the registry's own host.
    #[arg(long, value_delimiter = ',')]
    pub registry_token_hosts: Vec<String>,
}

impl RegistryArgs {
    pub fn fetch(&self) -> Result<HttpFetch, FetchError> {
        let logins: Arc<dyn Logins> = match &self.registry_config {
            Some(path) => Arc::new(File { path: path.clone() }),
            None => Arc::new(BTreeMap::new()),
        };
        let token_hosts = self.registry_token_hosts.clone();
        HttpFetch::with_options(HttpOptions { logins, token_hosts, ..HttpOptions::default() })
    }
}

struct File {
    path: PathBuf,
}

#[async_trait]
impl Logins for File {
    async fn of(&self, registry: &str) -> Result<Option<Credentials>, String> {
        let path = self.path.display();
        let bytes = match tokio::fs::read(&self.path).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{path} cannot be read: {error}")),
        };
        let mut all = docker_config(&bytes).map_err(|why| format!("{path} cannot be used: {why}"))?;
        Ok(all.remove(registry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn credentials_are_read_anew_and_a_broken_file_is_told() {
        let path = std::env::temp_dir().join(format!("tidegate-logins-{}.json", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let file = File { path: path.clone() };
        assert_eq!(file.of("r.example").await, Ok(None), "no file, no credentials");
        for password in ["one", "two"] {
            let config = format!(r#"{{"auths":{{"r.example":{{"username":"a","password":"{password}"}}}}}}"#);
            std::fs::write(&path, config).unwrap();
            assert_eq!(file.of("r.example").await.unwrap().unwrap().password, password);
            assert_eq!(file.of("other.example").await, Ok(None));
        }
        std::fs::write(&path, r#"{"auths":{"r.example":{"username":"a","password":"secret""#).unwrap();
        let error = file.of("r.example").await.unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert!(error.contains("cannot be used") && !error.contains("secret"), "{error}");
    }
}
