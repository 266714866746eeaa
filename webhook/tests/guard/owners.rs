//! Owners are looked up before any registry is asked: what that may take, and what it leaves to the images.

use std::time::Duration;

use tidegate_pipelines::api::VerdictDecision;
use tidegate_policies::model::Mode;
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
