//! The doors over a store and an issuer in memory, on a port of their own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::FutureExt;
use futures::future::BoxFuture;
use hmac::{Hmac, Mac};
use jiff::Timestamp;
use serde_json::{Value, json};
use tidegate_pipelines::api::{BuildEventSpec, EventSourceKind, EventSourceSpec, OidcPolicy, SecretKeyRef, Span};
use tidegate_webhook::doors::jwks::{KeyCache, KeySet, KeysError};
use tidegate_webhook::doors::metrics::Labels;
use tidegate_webhook::doors::route::{Limits, Side, routes};
use tidegate_webhook::doors::{Doors, Keys, Metrics, Store, StoreError, Stored};
use tidegate_webhook::serve::{Limits as ServeLimits, Transport, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::oidc_keys;

pub const NOW: i64 = 1_800_000_000;
pub const ISSUER: &str = "https://issuer.example";
pub const AUDIENCE: &str = "https://doors.example";
pub const EMAIL: &str = "push@acme-prod.iam.gserviceaccount.com";
const SUBSCRIPTION: &str = "projects/acme-prod/subscriptions/s";
const SECRET: &str = "s3cret";

#[derive(Default)]
pub struct Memory {
    events: Mutex<BTreeMap<String, BuildEventSpec>>,
    away: AtomicBool,
    second: AtomicBool,
    asked: AtomicUsize,
}

impl Memory {
    pub fn away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    pub fn add_second_github(&self) {
        self.second.store(true, Ordering::SeqCst);
    }

    fn reachable(&self) -> Result<(), StoreError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        match self.away.load(Ordering::SeqCst) {
            true => Err(StoreError::Away("away".to_owned())),
            false => Ok(()),
        }
    }
}

fn source(kind: EventSourceKind, secret: Option<&str>) -> EventSourceSpec {
    let oidc = OidcPolicy {
        issuer: ISSUER.into(),
        audience: AUDIENCE.into(),
        email: EMAIL.into(),
        subscription: Some(SUBSCRIPTION.into()),
    };
    EventSourceSpec {
        kind,
        hmac_secret: secret.map(|name| SecretKeyRef { name: name.into(), key: "hmac".into() }),
        oidc: (kind != EventSourceKind::Github).then_some(oidc),
        repositories: vec!["acme/portal".into(), "acme-prod".into()],
        images: vec!["ghcr.io/acme/**".into(), "europe-docker.pkg.dev/acme-prod/apps/portal".into()],
        wait: Span::from_secs(60),
        report: None,
    }
}

#[async_trait]
impl Store for Memory {
    async fn sources(&self) -> Result<Vec<(String, EventSourceSpec)>, StoreError> {
        self.reachable()?;
        let mut sources = vec![
            ("gh".to_owned(), source(EventSourceKind::Github, Some("hook"))),
            ("cb".to_owned(), source(EventSourceKind::Cloudbuild, None)),
            ("ar".to_owned(), source(EventSourceKind::Artifactregistry, None)),
        ];
        if self.second.load(Ordering::SeqCst) {
            sources.push(("gh2".to_owned(), source(EventSourceKind::Github, Some("hook"))));
        }
        Ok(sources)
    }

    async fn source(&self, name: &str) -> Result<Option<EventSourceSpec>, StoreError> {
        // Known by name alone, so that the other sources stay the only ones of their kind.
        if name == "orphan" {
            return Ok(Some(source(EventSourceKind::Github, Some("gone"))));
        }
        Ok(self.sources().await?.into_iter().find(|(found, _)| found == name).map(|(_, spec)| spec))
    }

    async fn secret(&self, reference: &SecretKeyRef) -> Result<Option<Vec<u8>>, StoreError> {
        self.reachable()?;
        Ok((reference.name == "hook").then(|| SECRET.as_bytes().to_vec()))
    }

    async fn put(&self, name: &str, event: BuildEventSpec) -> Result<Stored, StoreError> {
        self.reachable()?;
        let mut events = self.events.lock().await;
        if events.contains_key(name) {
            return Ok(Stored::There);
        }
        events.insert(name.to_owned(), event);
        Ok(Stored::New)
    }
}

#[derive(Default)]
struct Issuer {
    fetches: AtomicUsize,
    rotated: AtomicBool,
    away: AtomicBool,
}

struct Published(Arc<Issuer>);

#[async_trait]
impl Keys for Published {
    async fn fetch(&self, issuer: &str) -> Result<KeySet, KeysError> {
        self.0.fetches.fetch_add(1, Ordering::SeqCst);
        if self.0.away.load(Ordering::SeqCst) {
            return Err(KeysError::Away { issuer: issuer.to_owned(), reason: "away".to_owned() });
        }
        Ok(KeySet { keys: oidc_keys::published(self.0.rotated.load(Ordering::SeqCst)), max_age: None })
    }
}

struct Quiet;

impl Side for Quiet {
    fn ready(&self) -> bool {
        true
    }

    fn metrics(&self) -> BoxFuture<'_, String> {
        async { String::new() }.boxed()
    }
}

pub struct House {
    pub store: Arc<Memory>,
    issuer: Arc<Issuer>,
    address: SocketAddr,
    metrics: Metrics,
    _serving: JoinSet<()>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub line: String,
    pub retry_after: Option<String>,
}

impl House {
    pub async fn open() -> Self {
        Self::with(Issuer::default(), Limits::default()).await
    }

    pub async fn without_keys() -> Self {
        let issuer = Issuer::default();
        issuer.away.store(true, Ordering::SeqCst);
        Self::with(issuer, Limits::default()).await
    }

    /// One place, and a deadline that a test can wait for.
    pub async fn small() -> Self {
        let limits = Limits { at_once: 1, body_deadline: Duration::from_millis(300), ..Limits::default() };
        Self::with(Issuer::default(), limits).await
    }

    async fn with(issuer: Issuer, limits: Limits) -> Self {
        let (store, issuer, metrics) = (Arc::new(Memory::default()), Arc::new(issuer), Metrics::default());
        let doors = Arc::new(Doors {
            store: store.clone(),
            keys: KeyCache::new(Published(issuer.clone())),
            now: Arc::new(|| Timestamp::from_second(NOW).unwrap()),
            metrics: metrics.clone(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = warp::service(routes(doors, limits, Arc::new(Quiet)));
        let mut serving = JoinSet::new();
        let limits = ServeLimits::default();
        serving.spawn(serve(listener, Transport::Plain, service, limits, std::future::pending()));
        Self { store, issuer, address, metrics, _serving: serving }
    }

    pub async fn send(&self, request: &Request) -> Answer {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut sent = client.post(format!("http://{}{}", self.address, request.path)).body(request.body.clone());
        for (name, value) in &request.headers {
            sent = sent.header(name, value);
        }
        let answer = sent.send().await.unwrap();
        let retry_after = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        Answer { status: answer.status().as_u16(), retry_after, line: answer.text().await.unwrap() }
    }

    /// Sends half of the body and waits for the answer; its whole text.
    pub async fn send_half(&self, request: &Request) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut head =
            format!("POST {} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n", request.path, request.body.len());
        for (name, value) in &request.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
        stream.write_all(&request.body[..request.body.len() / 2]).await.unwrap();
        let mut answer = vec![0; 4096];
        let read = stream.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..read]).into_owned()
    }

    /// Until a delivery has got its place and looked for its source.
    pub async fn until_busy(&self) {
        while self.store.asked.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    }

    pub async fn stored(&self) -> usize {
        let stored = self.store.events.lock().await.len();
        let counted: u64 = ["github", "cloudbuild", "artifactregistry"]
            .iter()
            .map(|kind| self.metrics.deliveries.get_or_create(&Labels { kind, outcome: "stored" }).get())
            .sum();
        assert_eq!(stored as u64, counted, "what is counted as stored is stored");
        stored
    }

    pub fn fetches(&self) -> usize {
        self.issuer.fetches.load(Ordering::SeqCst)
    }

    pub fn rotate(&self) {
        self.issuer.rotated.store(true, Ordering::SeqCst);
    }
}

#[derive(Clone, Debug)]
pub struct Request {
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

pub fn signature(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

/// A delivery that GitHub would send for the source `gh`.
pub fn github(event: &str, payload: &Value) -> Request {
    let request =
        Request { path: "/events/github".to_owned(), headers: vec![], body: payload.to_string().into_bytes() };
    request.header("x-github-event", event).header("content-type", "application/json").signed()
}

impl Request {
    /// In the envelope of Pub/Sub.
    pub fn pubsub(kind: &str, token: &str, data: &Value) -> Self {
        let message = json!({"message": {"data": STANDARD.encode(data.to_string()), "messageId": "42", "message_id": "42",
            "publishTime": "2026-11-22T16:00:00Z"}, "subscription": SUBSCRIPTION});
        Self::json(kind, token, &message)
    }

    pub fn unwrapped(kind: &str, token: &str, data: &Value) -> Self {
        Self::json(kind, token, data)
            .header("x-goog-pubsub-message-id", "42")
            .header("x-goog-pubsub-subscription-name", SUBSCRIPTION)
    }

    pub fn json(kind: &str, token: &str, body: &Value) -> Self {
        let request = Request { path: format!("/events/{kind}"), headers: vec![], body: body.to_string().into_bytes() };
        request.header("authorization", &format!("Bearer {token}"))
    }

    pub fn at(mut self, path: &str) -> Self {
        self.path = path.to_owned();
        self
    }

    pub fn body(mut self, body: Vec<u8>) -> Self {
        self.body = body;
        self
    }

    pub fn header(self, name: &str, value: &str) -> Self {
        let mut without = self.without(name);
        without.headers.push((name.to_owned(), value.to_owned()));
        without
    }

    /// Beside what is there of this name.
    pub fn also(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(found, _)| found != name);
        self
    }

    /// With GitHub's signature of the present body.
    pub fn signed(self) -> Self {
        let signature = signature(SECRET, &self.body);
        self.header("x-hub-signature-256", &signature)
    }
}
