//! An issuer's signing keys: found by discovery, kept as long as its answer says, fetched again when
//! a token names a key that is not there - but not as often as strangers would like.

use std::collections::HashMap;
use std::sync::Arc;
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
const MINUTE: Duration = Duration::from_secs(60);
/// An issuer that has just failed is not asked again for so long: each delivery would wait for it.
const AWAY: Duration = Duration::from_secs(5);

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

/// What is known of one issuer.
#[derive(Default)]
struct Issuer {
    keys: HashMap<String, DecodingKey>,
    /// When the fetch began that brought `keys`.
    fetched: Option<Instant>,
    fresh_until: Option<Instant>,
    refetches: Vec<Instant>,
    /// The last fetch, if it failed.
    failed: Option<(Instant, KeysError)>,
    /// Held by the one who fetches.
    fetching: Arc<Mutex<()>>,
}

type Answer = Result<Option<DecodingKey>, KeysError>;

impl Issuer {
    /// What can be said without a fetch that began after `asked`; nothing if one is due.
    fn answer(&self, id: &str, asked: Instant, now: Instant) -> Option<Answer> {
        let known = self.lasting(id, now);
        if self.fresh_until.is_some_and(|until| until > now) {
            if known.is_some() {
                return Some(Ok(known));
            }
            if self.fetched.is_some_and(|began| began >= asked) {
                return Some(Ok(None));
            }
        }
        match &self.failed {
            Some((at, error)) if now.duration_since(*at) < AWAY || self.spent(now) => {
                Some(known.map_or_else(|| Err(error.clone()), |key| Ok(Some(key))))
            }
            None if self.spent(now) => Some(Ok(known)),
            _ => None,
        }
    }

    /// A key, as long as keys go on without their issuer.
    fn lasting(&self, id: &str, now: Instant) -> Option<DecodingKey> {
        let usable = self.fetched.is_some_and(|at| now.duration_since(at) < STALE);
        self.keys.get(id).filter(|_| usable).cloned()
    }

    /// Strangers name keys that are not there: no more fetches for that in this minute.
    fn spent(&self, now: Instant) -> bool {
        let fresh = self.fresh_until.is_some_and(|until| until > now);
        fresh && self.refetches.iter().filter(|at| now.duration_since(**at) < MINUTE).count() >= REFETCHES
    }

    fn take(&mut self, outcome: Result<KeySet, KeysError>, began: Instant, now: Instant) {
        if self.fresh_until.is_some_and(|until| until > began) {
            self.refetches.retain(|at| now.duration_since(*at) < MINUTE);
            self.refetches.push(began);
        }
        match outcome {
            Ok(set) => {
                let age = set.max_age.unwrap_or(DEFAULT_AGE).clamp(AGES.0, AGES.1);
                self.keys = usable(set.keys);
                (self.fetched, self.fresh_until, self.failed) = (Some(began), Some(now + age), None);
            }
            Err(error) => {
                tracing::warn!(%error, held = self.keys.len(), "the issuer's last keys, if any, go on being used");
                self.failed = Some((now, error));
            }
        }
    }
}

/// The keys of every issuer that an EventSource names. One fetch of an issuer at a time, and nobody
/// whose key is held waits for it.
pub struct KeyCache {
    keys: Box<dyn Keys>,
    issuers: Mutex<HashMap<String, Issuer>>,
}

impl KeyCache {
    pub fn new(keys: impl Keys + 'static) -> Self {
        Self { keys: Box::new(keys), issuers: Mutex::default() }
    }

    /// The issuer's key of this id; `None` if it has none. An error if it may have one.
    pub async fn key(&self, issuer: &str, id: &str) -> Answer {
        let asked = Instant::now();
        let fetching = {
            let mut issuers = self.issuers.lock().await;
            let held = issuers.entry(issuer.to_owned()).or_default();
            if let Some(answer) = held.answer(id, asked, asked) {
                return answer;
            }
            match (held.fetching.try_lock().is_ok(), held.lasting(id, asked)) {
                (false, Some(key)) => return Ok(Some(key)),
                _ => held.fetching.clone(),
            }
        };
        let _one = fetching.lock().await;
        if let Some(held) = self.issuers.lock().await.get(issuer)
            && let Some(answer) = held.answer(id, asked, Instant::now())
        {
            return answer;
        }
        let began = Instant::now();
        let outcome = self.keys.fetch(issuer).await;
        let failed = outcome.as_ref().err().cloned();
        let now = Instant::now();
        let mut issuers = self.issuers.lock().await;
        let held = issuers.entry(issuer.to_owned()).or_default();
        held.take(outcome, began, now);
        match (held.lasting(id, now), failed) {
            (None, Some(error)) => Err(error),
            (key, _) => Ok(key),
        }
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use tokio::sync::Notify;

    use super::*;

    const ISSUER: &str = "https://issuer.example";
    const KEY: &str = r#"{"kty":"RSA","kid":"key-1","use":"sig","alg":"RS256","e":"AQAB","n":"sXchDaQebHnPiGvyDOAT4saGEUetSyo9MKLOoWFsueri23bOdgWp4Dy1WlUzewbgBHod5pcM9H95GQRV3JDXboIRROSBigeC5yjU1hGzHHyXss8UDprecbAYxknTcQkhslANGRUZmdTOQ5qTRsLAt6BTYuyvVRdhS8exSZEy_c4gs_7svlJJQ4H9_NxsiIoLwAEk7-Q3UXERGYw_75IDrGA84-lA_-Ct4eTlXHBIY2EaV7t7LjJaynVJCpkv4LKjTTAumiGUIuQhrNhZLuF_RJLqHpM2kgWFLU7-VTdL1VbC2tejvcI2BlMkEpk1BzBZI0KQB0GaDWFLN-aEAw3vRw"}"#;

    /// Answers the first time; then it waits for `open` and fails.
    #[derive(Default)]
    struct Failing {
        fetches: AtomicUsize,
        asked: Notify,
        open: Notify,
    }

    #[async_trait]
    impl Keys for Arc<Failing> {
        async fn fetch(&self, issuer: &str) -> Result<KeySet, KeysError> {
            if self.fetches.fetch_add(1, SeqCst) == 0 {
                return Ok(KeySet { keys: vec![serde_json::from_str(KEY).unwrap()], max_age: None });
            }
            self.asked.notify_one();
            self.open.notified().await;
            Err(KeysError::Away { issuer: issuer.to_owned(), reason: "no answer".to_owned() })
        }
    }

    #[tokio::test]
    async fn an_issuer_that_hangs_holds_up_nobody_whose_key_is_held() {
        let issuer = Arc::new(Failing::default());
        let cache = KeyCache::new(issuer.clone());
        assert!(cache.key(ISSUER, "key-1").await.unwrap().is_some());
        let stranger = cache.key(ISSUER, "forged");
        let known = async {
            issuer.asked.notified().await;
            let key = tokio::time::timeout(Duration::from_secs(5), cache.key(ISSUER, "key-1")).await;
            issuer.open.notify_one();
            key
        };
        let (stranger, known) = tokio::join!(stranger, known);
        assert!(known.unwrap().unwrap().is_some());
        assert!(stranger.is_err(), "whether the issuer has that key is not known");
    }

    #[tokio::test]
    async fn those_who_wait_for_a_dead_issuer_share_one_fetch_and_learn_that_it_is_away() {
        let issuer = Arc::new(Failing::default());
        issuer.fetches.store(1, SeqCst);
        let cache = KeyCache::new(issuer.clone());
        let all = futures::future::join_all((0..20).map(|n| {
            let id = format!("key-{n}");
            let cache = &cache;
            async move { cache.key(ISSUER, &id).await }
        }));
        let open = async {
            issuer.asked.notified().await;
            issuer.open.notify_one();
        };
        let (answers, ()) = tokio::join!(all, open);
        assert!(answers.iter().all(Result::is_err));
        assert_eq!(issuer.fetches.load(SeqCst), 2);
    }

    #[tokio::test]
    async fn once_fetches_for_unknown_keys_are_spent_a_failure_stays_one() {
        let issuer = Arc::new(Failing::default());
        let cache = KeyCache::new(issuer.clone());
        assert!(cache.key(ISSUER, "key-1").await.unwrap().is_some());
        let now = Instant::now();
        {
            let mut issuers = cache.issuers.lock().await;
            let held = issuers.get_mut(ISSUER).unwrap();
            held.refetches = vec![now; REFETCHES];
            held.failed =
                Some((now - AWAY, KeysError::Away { issuer: ISSUER.to_owned(), reason: "no answer".to_owned() }));
        }
        assert!(cache.key(ISSUER, "key-2").await.is_err());
        assert!(cache.key(ISSUER, "key-1").await.unwrap().is_some());
        assert_eq!(issuer.fetches.load(SeqCst), 1);
    }
}
