//! An OIDC issuer: discovery, JWKS, key rotation, and tokens good and bad.
//! It stands in for the build system's issuer (Fulcio asks it) and for Google's (the doors ask it).
//! It never issues a token over HTTP: whoever may sign holds the [`Oidc`] value.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::http::{self as web, Server};
use super::unix_now;

/// What a token says. Starts valid; each method breaks or changes one thing.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims(Map<String, Value>);

impl Claims {
    pub fn set(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.0.remove(name);
        self
    }

    pub fn issuer(self, issuer: &str) -> Self {
        self.set("iss", issuer)
    }

    pub fn audience(self, audience: &str) -> Self {
        self.set("aud", audience)
    }

    /// Ended an hour ago: beyond any leeway.
    pub fn expired(self) -> Self {
        let now = unix_now();
        self.set("iat", now - 7_200).set("exp", now - 3_600)
    }

    pub fn unverified_email(self) -> Self {
        self.set("email_verified", false)
    }
}

struct SigningKey {
    kid: String,
    private: EncodingKey,
    public: Jwk,
    public_pem: String,
}

impl SigningKey {
    fn generate(kid: String) -> Result<Self> {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256)?;
        let private = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes())?;
        let mut public = Jwk::from_encoding_key(&private, Algorithm::RS256)?;
        public.common.key_id = Some(kid.clone());
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(Self { kid, private, public, public_pem: pair.public_key_pem() })
    }

    fn sign(&self, kid: &str, claims: &Claims) -> String {
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some(kid.to_owned());
        jsonwebtoken::encode(&header, &claims.0, &self.private).expect("an RSA key and JSON")
    }
}

#[derive(Clone)]
struct Keys {
    current: Arc<SigningKey>,
    published: BTreeMap<String, Jwk>,
    away: bool,
}

pub struct Oidc {
    issuer: String,
    keys: watch::Sender<Keys>,
    /// Never published.
    stranger: SigningKey,
    generated: AtomicU64,
    jwks_requests: Arc<AtomicU64>,
    server: Server,
}

impl Oidc {
    /// Serves `http://<address>`, which is the issuer's name too.
    pub async fn start(address: SocketAddr) -> Result<Self> {
        let first = Arc::new(SigningKey::generate("key-1".into()).context("first key")?);
        let published = BTreeMap::from([(first.kid.clone(), first.public.clone())]);
        let (keys, observed) = watch::channel(Keys { current: first, published, away: false });
        let jwks_requests = Arc::new(AtomicU64::new(0));
        let counter = jwks_requests.clone();
        // With port 0 the name is known only after binding; it goes to the handler through a cell.
        let name = Arc::new(std::sync::OnceLock::<String>::new());
        let told = name.clone();
        let server = web::serve(address, move |request| {
            let answer = answer(request.uri().path(), told.get().map_or("", String::as_str), &observed, &counter);
            async move { answer }
        })
        .await?;
        let issuer = format!("http://{}", server.address);
        let _ = name.set(issuer.clone());
        let stranger = SigningKey::generate("stranger".into()).context("unpublished key")?;
        Ok(Self { issuer, keys, stranger, generated: AtomicU64::new(1), jwks_requests, server })
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub fn jwks_uri(&self) -> String {
        format!("{}/jwks", self.issuer)
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// How often the key set was fetched, or tried to: shows whether a client caches.
    pub fn jwks_requests(&self) -> u64 {
        self.jwks_requests.load(Ordering::SeqCst)
    }

    /// Signs with a new key from now on. The old one stays published when `keep_old`, as at a planned rotation;
    /// otherwise it is gone, as after a leak.
    pub fn rotate(&self, keep_old: bool) -> Result<()> {
        let number = self.generated.fetch_add(1, Ordering::SeqCst) + 1;
        let key = Arc::new(SigningKey::generate(format!("key-{number}"))?);
        self.keys.send_modify(|keys| {
            if !keep_old {
                keys.published.clear();
            }
            keys.published.insert(key.kid.clone(), key.public.clone());
            keys.current = key;
        });
        Ok(())
    }

    /// Answers 503 to everything while `away`. What is signed meanwhile is as good as ever.
    pub fn set_away(&self, away: bool) {
        self.keys.send_modify(|keys| keys.away = away);
    }

    /// Valid claims of a verified e-mail address, good for an hour.
    pub fn claims(&self, audience: &str, email: &str) -> Claims {
        let now = unix_now();
        Claims(Map::new())
            .issuer(&self.issuer)
            .audience(audience)
            .set("sub", email)
            .set("email", email)
            .set("email_verified", true)
            .set("iat", now)
            .set("exp", now + 3_600)
    }

    /// What cosign shows to Fulcio.
    pub fn sigstore_claims(&self, email: &str) -> Claims {
        self.claims("sigstore", email)
    }

    /// What Pub/Sub push shows to a door: `sub` and `azp` are the account's number, not its address.
    pub fn push_claims(&self, audience: &str, email: &str) -> Claims {
        let account = "113774264463038321964";
        self.claims(audience, email).set("sub", account).set("azp", account)
    }

    pub fn sign(&self, claims: &Claims) -> String {
        let key = self.keys.borrow().current.clone();
        key.sign(&key.kid, claims)
    }

    /// Signed by a key that was never published, under a key id of its own.
    pub fn sign_with_unknown_key(&self, claims: &Claims) -> String {
        self.stranger.sign(&self.stranger.kid, claims)
    }

    /// Signed by a key that was never published, claiming the published one's id.
    pub fn sign_with_forged_kid(&self, claims: &Claims) -> String {
        let kid = self.keys.borrow().current.kid.clone();
        self.stranger.sign(&kid, claims)
    }

    /// `alg: none`, with an empty signature.
    pub fn unsigned(&self, claims: &Claims) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let kid = self.keys.borrow().current.kid.clone();
        let header = json!({"alg": "none", "typ": "JWT", "kid": kid});
        format!("{}.{}.", part(&header), part(&Value::Object(claims.0.clone())))
    }

    /// HS256 keyed with the text of the public key: the classic confusion of algorithms.
    pub fn confused(&self, claims: &Claims) -> String {
        let key = self.keys.borrow().current.clone();
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(key.kid.clone());
        let secret = EncodingKey::from_secret(key.public_pem.as_bytes());
        jsonwebtoken::encode(&header, &claims.0, &secret).expect("a secret and JSON")
    }
}

fn answer(
    path: &str,
    issuer: &str,
    keys: &watch::Receiver<Keys>,
    jwks_requests: &AtomicU64,
) -> http::Response<http_body_util::Full<bytes::Bytes>> {
    if keys.borrow().away {
        if path == "/jwks" || path.starts_with("/.well-known") {
            jwks_requests.fetch_add(1, Ordering::SeqCst);
        }
        return web::json(StatusCode::SERVICE_UNAVAILABLE, &json!({"error": "away"}));
    }
    match path {
        "/.well-known/openid-configuration" => web::json(
            StatusCode::OK,
            &json!({
                "issuer": issuer,
                "jwks_uri": format!("{issuer}/jwks"),
                "authorization_endpoint": format!("{issuer}/auth"),
                "token_endpoint": format!("{issuer}/token"),
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }),
        ),
        "/jwks" => {
            jwks_requests.fetch_add(1, Ordering::SeqCst);
            let published: Vec<Jwk> = keys.borrow().published.values().cloned().collect();
            web::json(StatusCode::OK, &json!({ "keys": published }))
        }
        _ => web::json(StatusCode::NOT_FOUND, &json!({"error": "not found"})),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};

    async fn fetch_keys(oidc: &Oidc) -> jsonwebtoken::jwk::JwkSet {
        let client = web::client(None).unwrap();
        let discovery: Value = client
            .get(format!("{}/.well-known/openid-configuration", oidc.issuer()))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        assert_eq!(discovery["issuer"], oidc.issuer());
        client.get(discovery["jwks_uri"].as_str().unwrap()).send().await.unwrap().json().await.unwrap()
    }

    fn accepts(keys: &jsonwebtoken::jwk::JwkSet, token: &str) -> bool {
        let Ok(header) = decode_header(token) else { return false };
        let Some(jwk) = header.kid.and_then(|kid| keys.find(&kid)) else { return false };
        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_audience(&["tidegate"]);
        decode::<Value>(token, &DecodingKey::from_jwk(jwk).unwrap(), &validation).is_ok()
    }

    #[tokio::test]
    async fn only_the_proper_token_passes_a_validator() {
        let oidc = Oidc::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let keys = fetch_keys(&oidc).await;
        let claims = oidc.push_claims("tidegate", "push@project.example");
        assert!(accepts(&keys, &oidc.sign(&claims)));
        let bad = [
            ("expired", oidc.sign(&claims.clone().expired())),
            ("audience", oidc.sign(&claims.clone().audience("other"))),
            ("unknown key", oidc.sign_with_unknown_key(&claims)),
            ("forged kid", oidc.sign_with_forged_kid(&claims)),
            ("alg none", oidc.unsigned(&claims)),
            ("alg confusion", oidc.confused(&claims)),
        ];
        for (what, token) in bad {
            assert!(!accepts(&keys, &token), "{what}");
        }
    }

    #[tokio::test]
    async fn rotation_publishes_the_new_key_and_drops_the_old_one_when_asked() {
        let oidc = Oidc::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let claims = oidc.push_claims("tidegate", "push@project.example");
        let old = oidc.sign(&claims);
        oidc.rotate(true).unwrap();
        let keys = fetch_keys(&oidc).await;
        assert!(accepts(&keys, &old) && accepts(&keys, &oidc.sign(&claims)));
        oidc.rotate(false).unwrap();
        let keys = fetch_keys(&oidc).await;
        assert!(!accepts(&keys, &old) && accepts(&keys, &oidc.sign(&claims)));
        assert_eq!(oidc.jwks_requests(), 2);
    }
}
