//! The hub's hand over an API server in memory that refuses what a test names.

use std::sync::Arc;

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tidegate_pipelines::api::{Release, RolloutSpec};
use tidegate_pipelines::release::Write;
use tidegate_policies::registry::MemoryFetch;
use tidegate_policies::verifier::Verifier;
use tokio::sync::mpsc;

use super::heartbeat::Heartbeats;
use super::index::Index;
use super::metrics::Metrics;
use super::verify::Verdicts;
use super::{Hub, apply, report};
use crate::github::Reports;
use crate::lease::Permit;
use crate::ledger::LogLedger;
use crate::memory::told;

fn spec(environment: &str) -> Value {
    json!({
        "environment": environment, "pipelineNamespace": "shop", "pipeline": "portal", "release": "portal-1",
        "attempt": 1, "namespace": "shop", "images": [], "workload": {"name": "portal"}, "service": "portal",
        "route": {"httpRoute": "portal"}, "strategy": {}, "objectives": []
    })
}

/// Says yes to all but what contains `refuses`; who it was asked by `METHOD path` goes down the line.
async fn answer(request: Request<Body>, refuses: &str, line: mpsc::UnboundedSender<String>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let asked = format!("{} {}", parts.method, parts.uri.path());
    line.send(asked.clone()).unwrap();
    let sent = body.collect().await.unwrap().to_bytes();
    let (code, said) = if asked.contains(refuses) {
        (403, json!({"kind": "Status", "status": "Failure", "reason": "Forbidden", "message": "no", "code": 403}))
    } else if parts.method == Method::PATCH {
        let environment = asked.split("env-").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default();
        let metadata = json!({"name": "portal-1-1", "namespace": format!("env-{environment}")});
        (
            200,
            json!({"apiVersion": "tidegate.io/v1alpha1", "kind": "Rollout", "metadata": metadata, "spec": spec(environment)}),
        )
    } else {
        (201, serde_json::from_slice(&sent).unwrap())
    };
    Response::builder().status(code).body(Body::from(serde_json::to_vec(&said).unwrap())).unwrap()
}

fn hub(permit: Permit, refuses: &'static str) -> (Hub, mpsc::UnboundedReceiver<String>) {
    let (line, asked) = mpsc::unbounded_channel();
    let service = tower::service_fn(move |request| {
        let line = line.clone();
        async move { Ok::<_, std::convert::Infallible>(answer(request, refuses, line).await) }
    });
    let client = Client::new(service, "default");
    let (keys, _) = mpsc::channel(8);
    let hub = Hub {
        index: Index::open(&client, &keys).0,
        clock: crate::clock::wall(),
        permit,
        verdicts: Verdicts::new(Arc::new(Verifier::new(Arc::new(MemoryFetch::default())))),
        heartbeats: Heartbeats::default(),
        ledger: Arc::new(LogLedger),
        events: report::Events::open(client.clone()).0,
        metrics: Metrics::register(&mut prometheus_client::registry::Registry::default()),
        github: Reports::open(client.clone()).0,
        looked_at: tokio::sync::Mutex::default(),
        admission: tokio::sync::Mutex::default(),
        client,
    };
    (hub, asked)
}

fn release() -> Release {
    let snapshot = json!({
        "images": [], "workload": {"name": "portal"}, "service": "portal", "route": {"httpRoute": "portal"},
        "stages": [], "objectives": []
    });
    let object = json!({
        "apiVersion": "tidegate.io/v1alpha1", "kind": "Release", "metadata": {"name": "portal-1", "namespace": "shop"},
        "spec": {"pipeline": "portal", "pipelineUid": "uid", "images": [], "snapshot": snapshot}
    });
    serde_json::from_value(object).unwrap()
}

/// What a breach with `rollback: release` makes the hub write.
fn breach() -> Vec<Write> {
    let back: RolloutSpec = serde_json::from_value(spec("staging")).unwrap();
    let quarantine = json!({"digests": ["sha256:1"], "environments": [], "reason": "errors rose"});
    vec![
        Write::Quarantine { name: "sha256-1".into(), spec: Box::new(serde_json::from_value(quarantine).unwrap()) },
        Write::Abort { environment: "prod-west".into(), name: "portal-1-1".into() },
        Write::Create { name: "portal-1-1-rb".into(), spec: Box::new(back) },
    ]
}

#[tokio::test]
async fn a_write_that_is_refused_keeps_no_other_environment_from_going_back() {
    let group = "/apis/tidegate.io/v1alpha1";
    for (refused, left) in [("quarantines", "env-prod-west"), ("env-prod-west", "env-staging")] {
        let (hub, asked) = hub(Permit::unconditional(), refused);
        let outcome = apply::release(&hub, &release(), &breach()).await;
        assert!(outcome.unwrap_err().to_string().contains("no (403)"), "{refused}: told, so that it is tried again");
        let asked = told(asked);
        assert!(asked.iter().any(|a| a.contains(left)), "{refused}: {asked:?}");
        assert!(asked.contains(&format!("POST {group}/namespaces/env-staging/rollouts")), "{refused}: {asked:?}");
    }
}

#[tokio::test]
async fn who_no_longer_leads_writes_nothing() {
    let (hub, asked) = hub(Permit::lost(), "nothing");
    let outcome = apply::release(&hub, &release(), &breach()).await;
    assert!(outcome.unwrap_err().to_string().contains("no longer leads"));
    assert_eq!(told(asked), Vec::<String>::new());
}
