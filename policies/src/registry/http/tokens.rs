//! Tokens of registries: asked for at the service that the challenge names, for reading one
//! repository, and kept for as long as they hold. Never sent anywhere but to their registry.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use super::Credentials;
use crate::json;
use crate::registry::Location;

pub(super) const MAX_ANSWER: u64 = 64 << 10;
const MAX_KEPT: usize = 256;
/// What a token holds at least, by the distribution specification.
const LEAST: Duration = Duration::from_secs(60);
const MOST: Duration = Duration::from_secs(3600);
/// Renewed this long before it ends, so that it does not end on the way.
const MARGIN: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Tokens(HashMap<Location, (String, Instant)>);

pub(super) struct Token {
    bearer: String,
    holds: Duration,
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

impl Tokens {
    pub fn get(&self, at: &Location) -> Option<String> {
        let (token, until) = self.0.get(at)?;
        (Instant::now() < *until).then(|| token.clone())
    }

    pub fn forget(&mut self, at: &Location) {
        self.0.remove(at);
    }

    pub fn keep(&mut self, at: &Location, token: Token) -> String {
        let now = Instant::now();
        if self.0.len() >= MAX_KEPT {
            self.0.retain(|_, (_, until)| now < *until);
        }
        if self.0.len() >= MAX_KEPT {
            self.0.clear();
        }
        self.0.insert(at.clone(), (token.bearer.clone(), now + token.holds.saturating_sub(MARGIN)));
        token.bearer
    }
}

pub(super) fn basic(credentials: &Credentials) -> String {
    format!("Basic {}", STANDARD.encode(format!("{}:{}", credentials.username, credentials.password)))
}

pub(super) fn url(realm: &str, service: Option<&str>, repository: &str) -> Result<Url, String> {
    let mut url = Url::parse(realm).map_err(|e| format!("its token service is no address: {e}"))?;
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = service {
            query.append_pair("service", service);
        }
        query.append_pair("scope", &format!("repository:{repository}:pull"));
    }
    Ok(url)
}

pub(super) fn parse(bytes: &[u8]) -> Result<Token, String> {
    let wire: Wire = json::parse(bytes, "the token service's answer").map_err(|e| e.to_string())?;
    let token = wire.token.or(wire.access_token).filter(|t| !t.is_empty()).ok_or("its token service gave none")?;
    if !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("its token service gave a token that is no header value".to_owned());
    }
    let holds = wire.expires_in.map_or(LEAST, Duration::from_secs).clamp(LEAST, MOST);
    Ok(Token { bearer: format!("Bearer {token}"), holds })
}
