//! Caches over an API server in memory that lists nothing, late: whoever waits for them is woken.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::convert::Infallible;
use std::time::Duration;

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::json;
use tidegate_webhook::doors::KubeStore;
use tidegate_webhook::guard::KubeCluster;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Lists nothing once `open`; a watch never says anything.
fn late(open: watch::Receiver<bool>) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let mut open = open.clone();
        async move {
            open.wait_for(|open| *open).await.unwrap();
            if request.uri().query().is_some_and(|query| query.contains("watch=")) {
                std::future::pending::<()>().await;
            }
            let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": []});
            Ok::<_, Infallible>(Response::new(Body::from(list.to_string().into_bytes())))
        }
    });
    Client::new(service, "default")
}

/// Each waits in a task of its own, and all have begun to wait before the first answer comes.
async fn all_are_woken<F: Future<Output = ()> + Send + 'static>(wait: impl Fn() -> F, open: watch::Sender<bool>) {
    let mut waiters = JoinSet::new();
    for _ in 0..3 {
        waiters.spawn(wait());
    }
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    open.send_replace(true);
    let woken = tokio::time::timeout(Duration::from_secs(10), async {
        let mut woken = 0;
        while waiters.join_next().await.is_some_and(|ended| ended.is_ok()) {
            woken += 1;
        }
        woken
    });
    assert_eq!(woken.await, Ok(3), "not all that waited were woken");
}

#[tokio::test]
async fn all_that_wait_for_the_doors_sources_are_woken() {
    let (open, opened) = watch::channel(false);
    let (store, watch) = KubeStore::new(late(opened));
    let mut tasks = JoinSet::new();
    tasks.spawn(watch);
    let wait = || {
        let store = store.clone();
        async move { store.synced().await }
    };
    all_are_woken(wait, open).await;
}

#[tokio::test]
async fn all_that_wait_for_the_guards_caches_are_woken() {
    let (open, opened) = watch::channel(false);
    let (cluster, watches) = KubeCluster::new(late(opened), "prod-east");
    let mut tasks = JoinSet::new();
    tasks.spawn(watches);
    let wait = || {
        let cluster = cluster.clone();
        async move { cluster.synced().await }
    };
    all_are_woken(wait, open).await;
}
