//! What runs in a pod: an HTTP server that behaves as its image says. Deliberate errors carry a header, so that a load
//! generator tells them from failures that a rollout caused.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::serve::Server;
use crate::supply::behavior::Behavior;

pub const PORT: u16 = 8080;
/// On an answer that is an error on purpose.
pub const DELIBERATE: &str = "x-deliberate";
pub const VERSION: &str = "x-version";

/// Counters start from 0 with the program, as a real process' do.
pub struct Program {
    environment: String,
    pod: String,
    digest: String,
    behavior: Behavior,
    ready_since: OnceLock<Instant>,
    asked: OnceLock<()>,
    first_asked: Notify,
    served: AtomicU64,
    failed: AtomicU64,
    /// Bits of the error rate that a test set; NaN while none did.
    sickness: AtomicU64,
}

impl Program {
    pub fn new(environment: &str, pod: &str, digest: &str, behavior: Behavior) -> Self {
        Self {
            environment: environment.to_owned(),
            pod: pod.to_owned(),
            digest: digest.to_owned(),
            behavior,
            ready_since: OnceLock::new(),
            asked: OnceLock::new(),
            first_asked: Notify::new(),
            served: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            sickness: AtomicU64::new(f64::NAN.to_bits()),
        }
    }

    pub fn version(&self) -> &str {
        &self.behavior.version
    }

    pub fn digest(&self) -> &str {
        &self.digest
    }

    pub fn behavior(&self) -> &Behavior {
        &self.behavior
    }

    pub fn answered(&self) -> u64 {
        self.served.load(Ordering::Relaxed) + self.errors()
    }

    pub fn errors(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    pub fn turn_sick(&self, rate: f64) {
        self.sickness.store(rate.to_bits(), Ordering::Relaxed);
    }

    pub fn become_ready(&self) {
        self.ready_since.get_or_init(Instant::now);
    }

    /// Returns with the first request that is no probe and no scrape.
    pub async fn asked(&self) {
        self.first_asked.notified().await;
    }

    /// Listens on the pod's address.
    pub async fn serve(self: &Arc<Self>, ip: Ipv4Addr) -> std::io::Result<Server> {
        let program = self.clone();
        Server::bind((ip, PORT).into(), move |request| {
            let program = program.clone();
            async move { program.answer(&request).await }
        })
        .await
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        match request.uri().path() {
            "/metrics" if self.behavior.no_metrics => text(StatusCode::NOT_FOUND, "no metrics here\n".to_owned()),
            "/metrics" => text(StatusCode::OK, self.metrics()),
            "/healthz" if self.ready_since.get().is_none() => {
                text(StatusCode::SERVICE_UNAVAILABLE, "warming up\n".to_owned())
            }
            "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
            _ => self.work().await,
        }
    }

    async fn work(&self) -> Response<Full<Bytes>> {
        if self.asked.set(()).is_ok() {
            self.first_asked.notify_one();
        }
        if self.behavior.latency_ms > 0 {
            sleep(Duration::from_millis(self.behavior.latency_ms)).await;
        }
        let fails = rand::random::<f64>() < self.error_rate();
        let (status, counter) =
            if fails { (StatusCode::INTERNAL_SERVER_ERROR, &self.failed) } else { (StatusCode::OK, &self.served) };
        counter.fetch_add(1, Ordering::Relaxed);
        let mut answer = text(status, format!("{}\n", self.behavior.version));
        let headers = answer.headers_mut();
        for (name, value) in [(VERSION, &self.behavior.version), ("x-digest", &self.digest), ("x-pod", &self.pod)] {
            if let Ok(value) = value.parse() {
                headers.insert(name, value);
            }
        }
        if fails {
            headers.insert(DELIBERATE, http::HeaderValue::from_static("1"));
        }
        answer
    }

    fn error_rate(&self) -> f64 {
        let sickness = f64::from_bits(self.sickness.load(Ordering::Relaxed));
        if !sickness.is_nan() {
            return sickness;
        }
        let ready = self.ready_since.get().map_or(Duration::ZERO, Instant::elapsed);
        self.behavior.error_rate_at(&self.environment, ready)
    }

    /// A series appears with its first event, as with any client library.
    fn metrics(&self) -> String {
        let mut out =
            String::from("# HELP http_requests_total Requests answered.\n# TYPE http_requests_total counter\n");
        for (code, counter) in [("200", &self.served), ("500", &self.failed)] {
            let count = counter.load(Ordering::Relaxed);
            if count > 0 {
                out.push_str(&format!("http_requests_total{{code=\"{code}\"}} {count}\n"));
            }
        }
        out.push_str(&format!("# TYPE app_info gauge\napp_info{{version=\"{}\"}} 1\n", self.behavior.version));
        out
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain; version=0.0.4"));
    answer
}
