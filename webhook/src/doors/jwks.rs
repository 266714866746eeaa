//! An issuer's signing keys: found by discovery, kept as long as its answer says, fetched again when
//! a token names a key that is not there - but not as often as strangers would like.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, KeyAlgorithm, PublicKeyUse};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

const BODY: usize = 256 * 1024;
const CALL: Duration = Duration::from_secs(5);
const KEYS: usize = 64;
/// Google answers some hours; what says nothing is asked again hourly, whatever it says within a day.
const DEFAULT_AGE: Duration = Duration::from_secs(3600);
const AGES: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(24 * 3600));
/// With the issuer away its last keys go on for so long: tokens live an hour, an outage may too.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// Fetches for key ids that are not there, in any minute.
const REFETCHES: usize = 5;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// Try again: nothing is known about the token.
    #[error("the keys of {issuer} cannot be fetched: {reason}")]
    Away { issuer: String, reason: String },
}

/// A key set and how long it may be used.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    pub keys: Vec<Jwk>,
    pub max_age: Option<Duration>,
}

/// Fetching an issuer's keys; a test answers from memory.
#[async_trait]
pub trait Keys: Send + Sync {
    async fn fetch(&self, issuer: &str) -> Result<KeySet, KeysError>;
}

struct Held {
    keys: HashMap<String, DecodingKey>,
    fetched: Instant,
    fresh_until: Instant,
    refetches: Vec<Instant>,
}

/// The keys of every issuer that an EventSource names. One fetch at a time.
pub struct KeyCache {
    keys: Box<dyn Keys>,
    held: Mutex<HashMap<String, Held>>,
}

impl KeyCache {
    pub fn new(keys: impl Keys + 'static) -> Self {
        Self { keys: Box::new(keys), held: Mutex::default() }
    }

    /// The issuer's key of this id; `None` if it has none.
    pub async fn key(&self, issuer: &str, id: &str) -> Result<Option<DecodingKey>, KeysError> {
        let mut all = self.held.lock().await;
        let now = Instant::now();
        let fetch = match all.get_mut(issuer) {
            None => true,
            Some(held) if held.fresh_until <= now => true,
            Some(held) => {
                let unknown = !held.keys.contains_key(id);
                held.refetches.retain(|at| now.duration_since(*at) < Duration::from_secs(60));
                let may = held.refetches.len() < REFETCHES;
                if unknown && may {
                    held.refetches.push(now);
                }
                unknown && may
            }
        };
        if fetch {
            match self.keys.fetch(issuer).await {
                Ok(set) => {
                    let age = set.max_age.unwrap_or(DEFAULT_AGE).clamp(AGES.0, AGES.1);
                    let refetches = all.remove(issuer).map(|held| held.refetches).unwrap_or_default();
                    let keys = usable(set.keys);
                    all.insert(issuer.to_owned(), Held { keys, fetched: now, fresh_until: now + age, refetches });
                }
                Err(error) => match all.get_mut(issuer) {
                    Some(held) if now.duration_since(held.fetched) < STALE => {
                        tracing::warn!(%error, "the issuer's last keys go on being used");
                        held.fresh_until = held.fresh_until.max(now + Duration::from_secs(10));
                    }
                    _ => return Err(error),
                },
            }
        }
        Ok(all.get(issuer).and_then(|held| held.keys.get(id)).cloned())
    }
}

/// RSA keys for RS256 signatures, by id.
fn usable(keys: Vec<Jwk>) -> HashMap<String, DecodingKey> {
    let for_signatures = |key: &Jwk| {
        matches!(key.common.public_key_use, None | Some(PublicKeyUse::Signature))
            && matches!(key.common.key_algorithm, None | Some(KeyAlgorithm::RS256))
            && matches!(key.algorithm, AlgorithmParameters::RSA(_))
    };
    let usable = keys.into_iter().take(KEYS).filter(for_signatures);
    usable.filter_map(|key| Some((key.common.key_id.clone()?, DecodingKey::from_jwk(&key).ok()?))).collect()
}

/// Discovery and key set over HTTP.
pub struct HttpKeys {
    client: reqwest::Client,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

impl HttpKeys {
    pub fn new() -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .timeout(CALL)
            .connect_timeout(Duration::from_secs(3))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        Ok(Self { client })
    }

    async fn get(&self, url: &str) -> Result<(Vec<u8>, Option<Duration>), String> {
        let response = self.client.get(url).send().await.map_err(|error| error.without_url().to_string())?;
        if !response.status().is_success() {
            return Err(format!("{url} answered {}", response.status()));
        }
        let max_age = response.headers().get("cache-control").and_then(|value| value.to_str().ok()).and_then(max_age);
        let mut body = Vec::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| error.without_url().to_string())?;
            if body.len() + chunk.len() > BODY {
                return Err(format!("{url} answers more than {BODY} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((body, max_age))
    }
}

fn max_age(cache_control: &str) -> Option<Duration> {
    let mut directives = cache_control.split(',').map(str::trim);
    directives.find_map(|d| d.strip_prefix("max-age=")).and_then(|s| s.parse().ok()).map(Duration::from_secs)
}

#[async_trait]
impl Keys for HttpKeys {
    async fn fetch(&self, issuer: &str) -> Result<KeySet, KeysError> {
        let away = |reason: String| KeysError::Away { issuer: issuer.to_owned(), reason };
        let base = issuer.trim_end_matches('/');
        let (body, _) = self.get(&format!("{base}/.well-known/openid-configuration")).await.map_err(away)?;
        let found: Discovery = serde_json::from_slice(&body).map_err(|error| away(error.to_string()))?;
        if found.issuer.trim_end_matches('/') != base {
            return Err(away(format!("its discovery document is of `{}`", found.issuer)));
        }
        if base.starts_with("https://") && !found.jwks_uri.starts_with("https://") {
            return Err(away("its keys are not served over https".to_owned()));
        }
        let (body, max_age) = self.get(&found.jwks_uri).await.map_err(away)?;
        let document: Document = serde_json::from_slice(&body).map_err(|error| away(error.to_string()))?;
        // A key of a kind that we do not know must not take the others with it.
        let keys = document.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok()).collect();
        Ok(KeySet { keys, max_age })
    }
}
