//! Owners are looked up before any registry is asked: what that may take, and what it leaves to the images.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::json;
use tidegate_pipelines::api::VerdictDecision;
use tidegate_policies::model::Mode;
use tidegate_webhook::guard::decide::questions;
use tidegate_webhook::guard::gather::Gatherer;
use tidegate_webhook::guard::review::Review;
use tidegate_webhook::guard::route::parse;
use tidegate_webhook::guard::{Cluster, KubeCluster};
use tokio::time::Instant;

use crate::house::*;

/// Leaves 800 ms until all must be known.
const WAITS: Option<Duration> = Some(Duration::from_millis(1500));
const KNOWN_BY: Duration = Duration::from_millis(800);

fn under(owner: &str, image: &str) -> serde_json::Value {
    owned(pod_review(REPLICA_SETS, &pod(image)), &reference("ReplicaSet", owner, "rs-uid"))
}

#[tokio::test]
async fn owners_that_are_not_told_leave_the_images_their_time() {
    let mut anybody = policy(Mode::Enforce);
    anybody.deployers.clear();
    let house = House::with(anybody);
    let answer = house.ask_within(&under("hanging", &unsigned(1)), WAITS).await;
    assert_eq!(answer.result.reason, "ImageDenied", "{}", answer.result.message);
}

#[tokio::test]
async fn owners_that_are_not_told_refuse_in_time_and_ask_no_registry() {
    let house = House::enforcing();
    let began = Instant::now();
    let answer = house.ask_within(&under("hanging", &unsigned(1)), WAITS).await;
    assert!(began.elapsed() < KNOWN_BY, "it took all the time: {:?}", began.elapsed());
    let message = &answer.result.message;
    assert!(!answer.allowed && message.contains("the API server did not say within"), "{message}");
    assert_eq!((answer.result.reason.as_str(), house.registry.requests()), ("OwnerUnknown", 0));
}

#[tokio::test]
async fn owners_are_waited_for_where_no_registry_has_to_be_asked() {
    for (kept, allowed) in [(true, true), (false, false)] {
        let house = House::enforcing();
        house.deploy(&pod(&unsigned(1)));
        {
            let mut owners = house.cluster.owners.write().unwrap();
            let owner = owners["ReplicaSet/portal-1"].clone();
            owners.insert("ReplicaSet/slow".to_owned(), owner);
        }
        if kept {
            house.keep(&unsigned(1), VerdictDecision::Allow, None);
        }
        let answer = house.ask_within(&under("slow", &unsigned(1)), WAITS).await;
        assert_eq!(answer.allowed, allowed, "kept: {kept}: {}", answer.result.message);
        assert!(allowed || answer.result.message.contains("did not say"), "{}", answer.result.message);
    }
}

#[tokio::test]
async fn owners_have_half_of_the_time_however_long_that_is_and_all_of_it_where_no_registry_is_asked() {
    for (kept, least, most) in [(false, 9, 10), (true, 19, 20)] {
        let house = House::enforcing();
        if kept {
            house.keep(&unsigned(1), VerdictDecision::Allow, None);
        }
        let request = parse(&Bytes::from(under("portal-1", &unsigned(1)).to_string())).unwrap();
        let review = Review::of(request).unwrap();
        let gatherer = Gatherer {
            cluster: &*house.cluster,
            assessor: &house.assessor,
            environment: "prod-east",
            dry_run: false,
            deadline: Instant::now() + Duration::from_secs(20),
        };
        let in_force = house.guard.cluster.in_force().unwrap();
        let within = gatherer.for_owners(&review, &in_force, &questions(&review));
        assert!((Duration::from_secs(least)..=Duration::from_secs(most)).contains(&within), "{kept}: {within:?}");
    }
}

/// An API server that takes longer than a write may.
#[tokio::test]
async fn the_cluster_itself_gives_up_no_owner_that_its_request_still_waits_for() {
    let slow = tower::service_fn(|_: Request<Body>| async {
        tokio::time::sleep(Duration::from_millis(2200)).await;
        let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
                           "metadata": {"name": "portal-1", "namespace": "portal", "uid": "rs-uid"}});
        Ok::<_, Infallible>(Response::new(Body::from(owner.to_string().into_bytes())))
    });
    let (cluster, _watches) = KubeCluster::new(Client::new(slow, "default"), "prod-east");
    let owner = cluster.owner("portal", "ReplicaSet", "portal-1").await;
    assert_eq!(owner.map(|owner| owner.map(|owner| owner.uid)), Ok(Some("rs-uid".to_owned())));
}
