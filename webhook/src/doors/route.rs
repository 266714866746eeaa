//! The routes of the doors. Bounds what a stranger may cost: bytes, time and places.

use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use futures::Stream;
use http::{HeaderMap, StatusCode};
use tidegate_pipelines::api::EventSourceKind;
use tokio::sync::Semaphore;
use warp::Filter;

use super::receive::{Doors, Reply};
use crate::body::{self, BodyError};
use crate::serve::{self, Transport};

const PATHS: &str = "paths: /events/github /events/cloudbuild /events/artifactregistry";

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// GitHub sends up to 25 MiB, but no push or package event near that.
    pub body: usize,
    pub body_deadline: Duration,
    /// Deliveries at once.
    pub at_once: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { body: 1024 * 1024, body_deadline: Duration::from_secs(10), at_once: 256 }
    }
}

/// What `/readyz` and `/metrics` tell at the doors themselves.
pub trait Side: Send + Sync {
    fn ready(&self) -> bool;
    fn metrics(&self) -> futures::future::BoxFuture<'_, String>;
}

struct Served {
    doors: Arc<Doors>,
    limits: Limits,
    places: Semaphore,
    side: Arc<dyn Side>,
}

/// Filter over everything the doors serve.
pub fn routes(
    doors: Arc<Doors>,
    limits: Limits,
    side: Arc<dyn Side>,
) -> impl Filter<Extract = (impl warp::Reply,), Error = std::convert::Infallible> + Clone {
    let served = Arc::new(Served { doors, limits, places: Semaphore::new(limits.at_once), side });
    let with = {
        let served = served.clone();
        warp::any().map(move || served.clone())
    };
    let named = warp::path!("events" / String / String).map(|kind, source| (kind, Some(source)));
    let unnamed = warp::path!("events" / String).map(|kind| (kind, None));
    let events = named
        .or(unnamed)
        .unify()
        .and(warp::post())
        .and(warp::header::headers_cloned())
        .and(warp::body::stream())
        .and(with.clone())
        .then(|(kind, source): (String, Option<String>), headers, stream, served: Arc<Served>| async move {
            answer(served.receive(&kind, source, headers, stream).await)
        });
    // Before warp's own answers, which have no line and are not counted.
    let elsewhere = {
        let served = served.clone();
        warp::method().and(warp::path::full()).map(move |method: http::Method, path: warp::path::FullPath| {
            served.doors.metrics.count("none", "unknown_path");
            match (path.as_str().starts_with("/events/"), method == http::Method::POST) {
                (true, false) => line(StatusCode::METHOD_NOT_ALLOWED, "deliveries are sent by POST"),
                _ => line(StatusCode::NOT_FOUND, PATHS),
            }
        })
    };
    let healthz = warp::path!("healthz").and(warp::get()).map(|| line(StatusCode::OK, "ok"));
    let readyz =
        warp::path!("readyz").and(warp::get()).and(with.clone()).map(|served: Arc<Served>| match served.side.ready() {
            true => line(StatusCode::OK, "ok"),
            false => line(StatusCode::SERVICE_UNAVAILABLE, "not ready yet"),
        });
    let metrics = warp::path!("metrics").and(warp::get()).and(with).then(|served: Arc<Served>| async move {
        let text = served.side.metrics().await;
        http::Response::new(text)
    });
    events.or(healthz).unify().or(readyz).unify().or(metrics).unify().or(elsewhere).unify()
}

/// Serves until `shutdown` resolves and running deliveries are answered.
pub async fn run(
    doors: Arc<Doors>,
    side: Arc<dyn Side>,
    listener: tokio::net::TcpListener,
    transport: Transport,
    shutdown: impl Future<Output = ()>,
) {
    let routes = routes(doors, Limits::default(), side);
    serve::serve(listener, transport, warp::service(routes), connections(), shutdown).await;
}

/// Senders are many and none pools for long; a slow head costs a connection for this time at most. One address gets no
/// more than a quarter of the places for deliveries, slow bodies or not.
fn connections() -> serve::Limits {
    serve::Limits { head: Duration::from_secs(20), per_address: 64, ..serve::Limits::default() }
}

impl Served {
    async fn receive<B: Buf>(
        &self,
        kind: &str,
        source: Option<String>,
        headers: HeaderMap,
        stream: impl Stream<Item = Result<B, warp::Error>>,
    ) -> Reply {
        let (kind, label) = match kind {
            "github" => (EventSourceKind::Github, "github"),
            "cloudbuild" => (EventSourceKind::Cloudbuild, "cloudbuild"),
            "artifactregistry" => (EventSourceKind::Artifactregistry, "artifactregistry"),
            _ => {
                let reply = Reply::new(StatusCode::NOT_FOUND, "unknown_path", PATHS);
                self.doors.metrics.count("none", reply.outcome);
                return reply;
            }
        };
        let reply = self.deliver(kind, source, headers, stream).await;
        self.doors.metrics.count(label, reply.outcome);
        tracing::info!(kind = label, status = reply.status.as_u16(), outcome = reply.outcome, line = %reply.line, "delivery");
        reply
    }

    async fn deliver<B: Buf>(
        &self,
        kind: EventSourceKind,
        source: Option<String>,
        headers: HeaderMap,
        stream: impl Stream<Item = Result<B, warp::Error>>,
    ) -> Reply {
        let Ok(_place) = self.places.try_acquire() else {
            return Reply::later("busy", "too many deliveries at once: try again", 1);
        };
        let source = match self.doors.source(kind, source.as_deref()).await {
            Ok(source) => source,
            Err(reply) => return reply,
        };
        let read = body::read(stream, self.limits.body, self.limits.body_deadline);
        match kind {
            // The signature is over the body, so the body comes first.
            EventSourceKind::Github => match read.await {
                Ok(body) => self.doors.github(source, &headers, &body).await,
                Err(error) => unread(error),
            },
            EventSourceKind::Cloudbuild | EventSourceKind::Artifactregistry => {
                let source = match self.doors.pubsub_token(source, &headers).await {
                    Ok(source) => source,
                    Err(reply) => return reply,
                };
                match read.await {
                    Ok(body) => self.doors.pubsub(source, &headers, &body).await,
                    Err(error) => unread(error),
                }
            }
        }
    }
}

fn unread(error: BodyError) -> Reply {
    let (status, outcome) = match error {
        BodyError::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
        BodyError::TooSlow(_) => (StatusCode::REQUEST_TIMEOUT, "too_slow"),
        BodyError::BrokenOff => (StatusCode::BAD_REQUEST, "malformed"),
    };
    Reply::new(status, outcome, error.to_string())
}

fn line(status: StatusCode, text: &str) -> http::Response<String> {
    let mut response = http::Response::new(format!("{text}\n"));
    *response.status_mut() = status;
    response
}

fn answer(reply: Reply) -> http::Response<String> {
    let mut response = line(reply.status, &reply.line);
    if let Some(seconds) = reply.retry_after {
        response.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_the_places_of_all_deliveries() {
        assert!(connections().per_address * 4 <= Limits::default().at_once);
    }
}
