//! A hub's API server for unit tests of commands: it says what a test lets it say, and keeps what it was asked.

use std::sync::Arc;

use http::{Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::hub::Hub;

/// What was asked.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: String,
    /// With the query.
    pub uri: String,
    pub body: Value,
}

pub enum Answer {
    Say(u16, Value),
    /// The connection breaks before an answer.
    Lost,
}

impl Answer {
    pub fn refusal(code: u16, message: &str) -> Answer {
        let reason = if code == 404 { "NotFound" } else { "" };
        let status = json!({"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": code});
        Answer::Say(code, status)
    }

    pub fn list(items: &[Value]) -> Answer {
        Answer::Say(200, json!({"metadata": {"resourceVersion": "1"}, "items": items}))
    }
}

pub type Calls = mpsc::UnboundedReceiver<Call>;

/// A connection in `namespace` to a server that answers so.
pub fn hub(namespace: &str, answer: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> (Hub, Calls) {
    let (asked, calls) = mpsc::unbounded_channel();
    let answer = Arc::new(answer);
    let service = tower::service_fn(move |request: Request<Body>| {
        let (asked, answer) = (asked.clone(), answer.clone());
        async move {
            let (parts, body) = request.into_parts();
            let sent = body.collect().await.unwrap().to_bytes();
            let body = serde_json::from_slice(&sent).unwrap_or_default();
            let uri = parts.uri.path_and_query().unwrap().as_str().trim_end_matches('?').to_owned();
            let call = Call { method: parts.method.to_string(), uri, body };
            let said = answer(&call);
            drop(asked.send(call));
            match said {
                Answer::Say(code, value) => {
                    let body = Body::from(serde_json::to_vec(&value).unwrap());
                    Ok(Response::builder().status(code).body(body).unwrap())
                }
                Answer::Lost => Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
            }
        }
    });
    (Hub::over(Client::new(service, namespace), namespace), calls)
}

/// A connection to where nobody listens.
pub fn nowhere(namespace: &str) -> Hub {
    let client = Client::try_from(Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
    Hub::over(client, namespace)
}

/// What was asked so far, in order, without bodies.
pub fn lines(calls: Calls) -> Vec<String> {
    all(calls).into_iter().map(|call| format!("{} {}", call.method, call.uri)).collect()
}

pub fn all(mut calls: Calls) -> Vec<Call> {
    std::iter::from_fn(|| calls.try_recv().ok()).collect()
}
