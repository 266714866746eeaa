//! An API server in memory for unit tests of what holds a client: it lists what it was given, and tells what it was
//! asked to write or delete.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// By the last part of the path: `attestors/ci`.
pub type Objects = BTreeMap<String, Value>;

pub fn objects(all: &[Value]) -> Objects {
    let key = |o: &Value| {
        let plural = match o["kind"].as_str().unwrap() {
            "VerificationPolicy" => "verificationpolicies".to_owned(),
            kind => format!("{}s", kind.to_lowercase()),
        };
        format!("{plural}/{}", o["metadata"]["name"].as_str().unwrap())
    };
    all.iter().map(|o| (key(o), o.clone())).collect()
}

/// Lists and gives what it holds, takes every patch and tells of it; a watch brings nothing.
pub fn server(holds: Objects) -> (Client, mpsc::UnboundedReceiver<String>) {
    refusing(holds, 0)
}

/// The same, but it refuses the first patches, so many, and tells so.
pub fn refusing(holds: Objects, patches: usize) -> (Client, mpsc::UnboundedReceiver<String>) {
    let refusals = Arc::new(AtomicUsize::new(patches));
    let (line, written) = mpsc::unbounded_channel();
    let holds = Arc::new(holds);
    let service = tower::service_fn(move |request: Request<Body>| {
        let (line, holds, refusals) = (line.clone(), holds.clone(), refusals.clone());
        async move {
            let (parts, body) = request.into_parts();
            if parts.uri.query().is_some_and(|q| q.contains("watch=true")) {
                std::future::pending::<()>().await;
            }
            let path = parts.uri.path().split("/v1alpha1/").nth(1).unwrap_or_default();
            // Where an object lies makes no difference here.
            let path = path.strip_prefix("namespaces/").and_then(|p| Some(p.split_once('/')?.1)).unwrap_or(path);
            let path = path.to_owned();
            let (code, said) = if parts.method == Method::DELETE {
                line.send(format!("DELETE {path}")).unwrap();
                (200, json!({"kind": "Status", "status": "Success"}))
            } else if parts.method == Method::PATCH
                && refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
            {
                line.send(format!("REFUSED {path}")).unwrap();
                (
                    503,
                    json!({"kind": "Status", "status": "Failure", "reason": "Unavailable", "message": "no", "code": 503}),
                )
            } else if parts.method == Method::PATCH {
                let sent: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
                let mut answer = match holds.get(&path) {
                    Some(held) if parts.headers["content-type"] == "application/merge-patch+json" => {
                        let mut held = held.clone();
                        json_patch::merge(&mut held, &sent);
                        held
                    }
                    _ => sent,
                };
                // Newer than what it lists.
                answer["metadata"]["resourceVersion"] = json!("2");
                line.send(path).unwrap();
                (200, answer)
            } else if let Some(object) = holds.get(&path) {
                (200, object.clone())
            } else if path.contains('/') {
                (
                    404,
                    json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "message": "no", "code": 404}),
                )
            } else {
                let items: Vec<&Value> =
                    holds.iter().filter(|(key, _)| key.starts_with(&format!("{path}/"))).map(|(_, o)| o).collect();
                (200, json!({"metadata": {"resourceVersion": "1"}, "items": items}))
            };
            let body = Body::from(serde_json::to_vec(&said).unwrap());
            Ok::<_, std::convert::Infallible>(Response::builder().status(code).body(body).unwrap())
        }
    });
    (Client::new(service, "default"), written)
}

/// What a server was asked so far, in order.
pub fn told(mut asked: mpsc::UnboundedReceiver<String>) -> Vec<String> {
    std::iter::from_fn(|| asked.try_recv().ok()).collect()
}
