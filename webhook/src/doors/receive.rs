//! One delivery from its headers and body to an answer. The order of the checks is the point:
//! whoever does not authenticate learns neither which sources exist nor what they expect, and
//! nothing is acknowledged before it is stored.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use tidegate_pipelines::api::{EventSourceKind, EventSourceSpec};
use tidegate_pipelines::event::{self, Delivery, EventError, Fact};

use super::jwks::KeyCache;
use super::metrics::Metrics;
use super::oidc::TokenError;
use super::pubsub::Pushed;
use super::store::{Store, StoreError, Stored};
use super::{hmac, oidc, pubsub};
use crate::Now;

/// Status, one line, and how it is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: StatusCode,
    pub line: String,
    pub outcome: &'static str,
    /// Seconds after which repeating makes sense.
    pub retry_after: Option<u32>,
}

impl Reply {
    pub fn new(status: StatusCode, outcome: &'static str, line: impl Into<String>) -> Self {
        Self { status, line: line.into(), outcome, retry_after: None }
    }

    pub fn later(outcome: &'static str, line: &str, seconds: u32) -> Self {
        Self { retry_after: Some(seconds), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, outcome, line) }
    }
}

/// An EventSource by name.
pub struct Source {
    pub name: String,
    pub spec: EventSourceSpec,
}

pub struct Doors {
    pub store: Arc<dyn Store>,
    pub keys: KeyCache,
    pub now: Now,
    pub metrics: Metrics,
}

impl Doors {
    /// Whose delivery this is: the named source, or the only one of its kind.
    ///
    /// `None` is answered like a wrong signature: names of sources are nobody's business.
    pub async fn source(&self, kind: EventSourceKind, name: Option<&str>) -> Result<Option<Source>, Reply> {
        let found = match name {
            Some(name) => {
                let spec = self.store.source(name).await.map_err(|error| away(&error))?;
                spec.filter(|spec| spec.kind == kind).map(|spec| Source { name: name.to_owned(), spec })
            }
            None => {
                let mut all = self.store.sources().await.map_err(|error| away(&error))?;
                all.retain(|(_, spec)| spec.kind == kind);
                if all.len() > 1 {
                    tracing::warn!(sources = all.len(), "several sources of this kind: the path must name one");
                }
                let only = all.len() == 1;
                all.pop().filter(|_| only).map(|(name, spec)| Source { name, spec })
            }
        };
        Ok(found)
    }

    /// A GitHub delivery, its body read.
    pub async fn github(&self, source: Option<Source>, headers: &HeaderMap, body: &[u8]) -> Reply {
        let refused = || Reply::new(StatusCode::UNAUTHORIZED, "unauthenticated", "the signature is missing or wrong");
        let reference = source.as_ref().and_then(|source| source.spec.hmac_secret.as_ref());
        let secret = match reference {
            None => None,
            Some(reference) => match self.store.secret(reference).await {
                Ok(secret) => secret,
                Err(error) => return away(&error),
            },
        };
        let signature = text(headers, "x-hub-signature-256");
        // Without a source or secret the work is done all the same: time tells nothing either.
        let holds = hmac::holds(secret.as_deref().unwrap_or(b"no source"), signature, body) && secret.is_some();
        let Some(source) = source.filter(|_| holds) else { return refused() };
        let media = text(headers, "content-type").and_then(|kind| kind.split(';').next()).map(str::trim);
        if !media.is_some_and(|media| media.eq_ignore_ascii_case("application/json")) {
            return malformed("the content type is not application/json: set it so in the webhook's settings");
        }
        let event = text(headers, "x-github-event").unwrap_or_default();
        let now = (self.now)();
        let delivery = Delivery { source: &source.name, spec: &source.spec, received_at: now };
        self.store_fact(&source.name, event::github::read(delivery, event, body)).await
    }

    /// Whether a Pub/Sub push carries the token its source expects. Asked before its body is read.
    pub async fn pubsub_token(&self, source: Option<Source>, headers: &HeaderMap) -> Result<Source, Reply> {
        let refused = |error: TokenError| Reply::new(StatusCode::UNAUTHORIZED, "unauthenticated", error.to_string());
        let Some(source) = source else { return Err(refused(TokenError::NotAccepted)) };
        let Some(policy) = &source.spec.oidc else { return Err(refused(TokenError::NotAccepted)) };
        match oidc::check(&self.keys, policy, text(headers, "authorization"), (self.now)()).await {
            Ok(()) => Ok(source),
            Err(TokenError::Keys(error)) => {
                tracing::warn!(%error, source = source.name, "a token cannot be checked");
                Err(Reply::later("unavailable", "the token cannot be checked now: try again", 10))
            }
            Err(error) => Err(refused(error)),
        }
    }

    /// An authenticated Pub/Sub push, its body read.
    pub async fn pubsub(&self, source: Source, headers: &HeaderMap, body: &[u8]) -> Reply {
        let delivery = Delivery { source: &source.name, spec: &source.spec, received_at: (self.now)() };
        let expected = source.spec.oidc.as_ref().and_then(|policy| policy.subscription.as_ref());
        let fact = pubsub::unpack(headers, body).and_then(|Pushed { message, subscription }| {
            if expected.is_some() && expected != subscription.as_ref() {
                return Err(EventError::Unbound("it is not of the subscription that this source expects".to_owned()));
            }
            match source.spec.kind {
                EventSourceKind::Cloudbuild => event::cloudbuild::read(delivery, &message),
                EventSourceKind::Artifactregistry => event::artifactregistry::read(delivery, &message),
                EventSourceKind::Github => Err(EventError::Unknown("GitHub does not push through Pub/Sub".to_owned())),
            }
        });
        self.store_fact(&source.name, fact).await
    }

    async fn store_fact(&self, source: &str, fact: Result<Fact, EventError>) -> Reply {
        let spec = match fact {
            Ok(Fact::Build(spec)) => *spec,
            Ok(Fact::Nothing(line)) => return Reply::new(StatusCode::OK, "nothing", line),
            Err(EventError::Malformed(line)) => return malformed(line),
            Err(EventError::Unknown(line)) => return Reply::new(StatusCode::BAD_REQUEST, "unknown_event", line),
            Err(EventError::Unbound(line)) => return Reply::new(StatusCode::FORBIDDEN, "unbound", line),
        };
        let name = event::name(source, &spec.key);
        match self.store.put(&name, spec).await {
            Ok(Stored::New) => Reply::new(StatusCode::ACCEPTED, "stored", format!("{name} stored")),
            Ok(Stored::There) => Reply::new(StatusCode::OK, "repeated", format!("{name} was stored before")),
            Err(StoreError::Refused(why)) => {
                tracing::warn!(why, name, source, "the API server refuses an event");
                malformed("the event does not fit what can be stored")
            }
            Err(error) => away(&error),
        }
    }
}

pub fn malformed(line: impl Into<String>) -> Reply {
    Reply::new(StatusCode::BAD_REQUEST, "malformed", line)
}

fn away(error: &StoreError) -> Reply {
    tracing::warn!(%error, "a delivery could not be taken; its sender is asked to repeat it");
    Reply::later("unavailable", "nothing was stored: try again", 5)
}

/// A header given twice is none: a proxy before us may have looked at the other one.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none());
    value.and_then(|value| value.to_str().ok())
}
