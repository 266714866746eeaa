//! The webhook's one route, `POST /admission`. Bodies are counted while they are read; what is no
//! AdmissionReview is answered with a status and one line, which the API server takes as a refusal.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::Stream;
use http::StatusCode;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionReview};
use tokio::sync::Semaphore;
use warp::{Filter, Rejection, Reply};

use super::answer::Guard;
use crate::body::{self, BodyError};
use crate::serve::{Limits, Transport, serve};

/// etcd's own limit is 1.5 MiB an object; a review carries two.
pub const BODY: usize = 3 * 1024 * 1024;
const BODY_DEADLINE: Duration = Duration::from_secs(3);
/// Reviews at once; an API server sends each pod of a burst as one.
const AT_ONCE: usize = 256;

type Answer = Result<Box<dyn Reply>, Rejection>;

/// Filter over everything the guard serves.
pub fn routes(guard: Arc<Guard>) -> impl Filter<Extract = (impl Reply,), Error = Rejection> + Clone {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    warp::path!("admission")
        .and(warp::post())
        .and(warp::query::raw().or(warp::any().map(String::new)).unify())
        .and(warp::body::stream())
        .and_then(move |query: String, stream| {
            let (guard, places) = (guard.clone(), places.clone());
            async move { validate(guard, places, query, stream).await }
        })
        .or(warp::path!("healthz").and(warp::get()).map(|| "ok\n"))
}

/// Serves until `shutdown` resolves and running reviews are answered.
pub async fn run(
    guard: Arc<Guard>,
    listener: tokio::net::TcpListener,
    transport: Transport,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    serve(listener, transport, warp::service(routes(guard)), limits, shutdown).await;
}

async fn validate<B: Buf>(
    guard: Arc<Guard>,
    places: Arc<Semaphore>,
    query: String,
    stream: impl Stream<Item = Result<B, warp::Error>>,
) -> Answer {
    let Ok(_place) = places.try_acquire() else {
        return line(StatusCode::SERVICE_UNAVAILABLE, "too many reviews at once: try again");
    };
    let body = match body::read(stream, BODY, BODY_DEADLINE).await {
        Ok(body) => body,
        Err(error @ BodyError::TooLarge(_)) => return line(StatusCode::PAYLOAD_TOO_LARGE, &error.to_string()),
        Err(error @ BodyError::TooSlow(_)) => return line(StatusCode::REQUEST_TIMEOUT, &error.to_string()),
        Err(error @ BodyError::BrokenOff) => return line(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let request = match parse(&body) {
        Ok(request) => request,
        Err(why) => return line(StatusCode::BAD_REQUEST, &why),
    };
    let review = guard.respond(request, asked_timeout(&query)).await.into_review();
    Ok(Box::new(warp::reply::json(&review)))
}

fn line(status: StatusCode, text: &str) -> Answer {
    Ok(Box::new(warp::reply::with_status(format!("{text}\n"), status)))
}

pub fn parse(body: &Bytes) -> Result<AdmissionRequest<DynamicObject>, String> {
    let review: AdmissionReview<DynamicObject> =
        serde_json::from_slice(body).map_err(|error| format!("not an AdmissionReview: {error}"))?;
    let types = &review.types;
    if types.api_version != "admission.k8s.io/v1" || types.kind != "AdmissionReview" {
        return Err(format!(
            "`{} {}` is not spoken here, only `admission.k8s.io/v1 AdmissionReview`",
            types.api_version, types.kind
        ));
    }
    let request = review.try_into().map_err(|_| "the AdmissionReview carries no request".to_owned())?;
    Ok(request)
}

/// The API server tells its own deadline as `?timeout=5s`.
fn asked_timeout(query: &str) -> Option<Duration> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("timeout="))?;
    let seconds: u64 = value.strip_suffix('s')?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}
