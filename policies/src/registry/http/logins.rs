//! Users and passwords for registries, from Docker's `config.json` (`auths` alone): who they are for, and to
//! which token services they may go. Never runs a credential helper, and never shows a password.

use std::collections::BTreeMap;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use url::Url;

use crate::json;

/// A user and password for one registry; sent to it, or to the token service that it names over TLS.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Where credentials come from; asked whenever a registry asks, so that a rotation needs no restart.
#[async_trait]
pub trait Logins: Send + Sync {
    /// Those for this host, or host:port. An error says why they could not be read, and nothing of them.
    async fn of(&self, registry: &str) -> Result<Option<Credentials>, String>;
}

#[async_trait]
impl Logins for BTreeMap<String, Credentials> {
    async fn of(&self, registry: &str) -> Result<Option<Credentials>, String> {
        Ok(self.get(registry).cloned())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    creds_store: Option<String>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    identitytoken: Option<String>,
}

/// Docker's `config.json`, also what a `kubernetes.io/dockerconfigjson` Secret holds.
pub fn docker_config(bytes: &[u8]) -> Result<BTreeMap<String, Credentials>, String> {
    // Of a broken file only the place is told: its text may be a password.
    let config: Config =
        json::parse(bytes, "the registry configuration").map_err(|_| "it is not Docker's config.json".to_owned())?;
    if config.creds_store.is_some() || !config.cred_helpers.is_empty() {
        return Err("credential helpers (`credsStore`, `credHelpers`) are not run here: write `auths`".to_owned());
    }
    let mut logins = BTreeMap::new();
    for (key, entry) in config.auths {
        let host = host(&key)?;
        let login = login(&entry).map_err(|why| format!("the entry `{key}` {why}"))?;
        if logins.insert(host, login).is_some() {
            return Err(format!("two entries are for the registry of `{key}`"));
        }
    }
    Ok(logins)
}

fn login(entry: &Entry) -> Result<Credentials, String> {
    if entry.identitytoken.as_ref().is_some_and(|token| !token.is_empty()) {
        return Err("holds an identity token, which is not supported: write user and password".to_owned());
    }
    let (username, password) = match (&entry.auth, &entry.username, &entry.password) {
        (Some(auth), ..) if !auth.is_empty() => {
            let plain = STANDARD.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let plain = plain.ok_or("has an `auth` that is not base64 of text")?;
            let (username, password) = plain.split_once(':').ok_or("has an `auth` without a colon")?;
            (username.to_owned(), password.to_owned())
        }
        (_, Some(username), Some(password)) => (username.clone(), password.clone()),
        _ => return Err("has neither `auth` nor `username` and `password`".to_owned()),
    };
    if username.is_empty() || password.is_empty() {
        return Err("has an empty user or password".to_owned());
    }
    Ok(Credentials { username, password })
}

/// `https://index.docker.io/v1/` is how Docker writes its own registry.
fn host(key: &str) -> Result<String, String> {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.is_empty() || !matches!(path.trim_end_matches('/'), "" | "v1" | "v2") {
        return Err(format!("the entry `{key}` is for a path: only whole registries are supported"));
    }
    let host = host.to_ascii_lowercase();
    let docker = matches!(host.as_str(), "index.docker.io" | "registry-1.docker.io");
    Ok(if docker { "docker.io".to_owned() } else { host })
}

/// Whether the credentials of this registry may go to the token service that it names: what answers for a
/// registry for a moment must not be able to send its password elsewhere.
pub(super) fn may_go(registry: &str, service: &Url, allowed: &[String]) -> bool {
    let Some(host) = service.host_str() else { return false };
    let own = Url::parse(&format!("https://{registry}/")).ok();
    own.as_ref().and_then(Url::host_str) == Some(host)
        || (registry == "docker.io" && host == "auth.docker.io")
        || allowed.iter().any(|one| one.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_configuration_is_read_by_host() {
        let auth = STANDARD.encode("anna:pass:word");
        let config = format!(
            r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{auth}"}},"Reg.example:5000":{{"username":"b","password":"c"}}}},"HttpHeaders":{{}}}}"#
        );
        let read = docker_config(config.as_bytes()).unwrap();
        let login =
            |username: &str, password: &str| Credentials { username: username.into(), password: password.into() };
        assert_eq!(read["docker.io"], login("anna", "pass:word"));
        assert_eq!(read["reg.example:5000"], login("b", "c"));
        assert!(docker_config(b"{}").unwrap().is_empty());
    }

    #[test]
    fn what_is_not_supported_is_named_and_no_password_is_told() {
        for (config, says) in [
            (r#"{"auths":{"r.example":{"auth":"hunter2"}}}"#, "not base64"),
            (r#"{"auths":{"r.example":{"auth":"aHVudGVyMg=="}}}"#, "without a colon"),
            (r#"{"auths":{"r.example":{"password":"hunter2"}}}"#, "neither"),
            (r#"{"auths":{"r.example":{"username":"","password":"hunter2"}}}"#, "empty user"),
            (r#"{"auths":{"r.example/acme":{"username":"a","password":"hunter2"}}}"#, "for a path"),
            (r#"{"auths":{"r.example":{"identitytoken":"hunter2"}}}"#, "identity token"),
            (r#"{"auths":{"r.example":"hunter2"}}"#, "not Docker's"),
            (r#"{"credsStore":"desktop"}"#, "helpers"),
            (
                r#"{"auths":{"r.example":{"username":"a","password":"hunter2"},"https://r.example/v2/":{"username":"a","password":"hunter2"}}}"#,
                "two entries",
            ),
            ("hunter2", "not Docker's"),
        ] {
            let error = docker_config(config.as_bytes()).unwrap_err();
            assert!(error.contains(says) && !error.contains("hunter2"), "{config}: {error}");
        }
        let shown = format!("{:?}", Credentials { username: "anna".into(), password: "hunter2".into() });
        assert!(shown.contains("anna") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn credentials_go_to_the_registrys_own_host_or_a_named_one() {
        for (registry, service, allowed) in [
            ("us-docker.pkg.dev", "https://us-docker.pkg.dev/v2/token", true),
            ("reg.example:5000", "https://reg.example/token", true),
            ("docker.io", "https://auth.docker.io/token", true),
            ("registry.gitlab.com", "https://gitlab.com/jwt/auth", true),
            ("registry.gitlab.com", "https://gitlab.com.evil.example/jwt/auth", false),
            ("reg.example", "https://reg.example.evil.example/token", false),
            ("reg.example", "https://evil.example/reg.example", false),
            ("reg.example", "https://reg.example@evil.example/", false),
            ("reg.example", "https://auth.docker.io/token", false),
        ] {
            let named = ["gitlab.com".to_owned()];
            assert_eq!(may_go(registry, &Url::parse(service).unwrap(), &named), allowed, "{registry} {service}");
        }
    }
}
