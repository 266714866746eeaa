//! What is refused in any case costs no registry a request: whoever may bring in nothing cannot make the
//! guard fetch. What depends on the images is looked at as ever.

use serde_json::{Value, json};
use tidegate_policies::model::Mode;

use crate::house::*;

const TAG: &str = "r.test/unsigned/portal:1";

/// What nobody lets in, whatever is said of `unsigned(1)`, with a word of why.
fn hopeless() -> Vec<(&'static str, Value, &'static str)> {
    let spec = || pod(&unsigned(1));
    let beside = |image: &str| {
        let mut spec = spec();
        spec["containers"].as_array_mut().unwrap().push(json!({"name": "beside", "image": image}));
        spec
    };
    let many: Vec<Value> = (0..65).map(|n| json!({"name": format!("c{n}"), "image": unsigned(n)})).collect();
    let mut debugged = spec();
    debugged["ephemeralContainers"] = json!([{"name": "debug", "image": unsigned(2)}]);
    let mut marked = pod_review("anna", &spec());
    marked["request"]["object"]["metadata"]["labels"] = json!({"image-policy.k8s.io/break-glass": "true"});
    let replica_set = |uid| reference("ReplicaSet", "portal-1", uid);
    let mut command = spec();
    command["containers"][0]["command"] = json!(["sh"]);
    vec![
        ("a bare pod", pod_review("bob", &spec()), "not a deployer"),
        ("a bare pod by tag", pod_review("bob", &pod(TAG)), "not a deployer"),
        ("a forged owner", owned(pod_review("bob", &spec()), &replica_set("rs-uid")), "does not count"),
        ("a debug container", pod_update("bob", &spec(), &debugged), "not a deployer"),
        ("a workload by tag", workload_review("bob", "Deployment", &pod(TAG)), "not a deployer"),
        ("a controller's pod of nobody", pod_review(REPLICA_SETS, &spec()), "no controlling owner"),
        ("under another uid", owned(pod_review(REPLICA_SETS, &spec()), &replica_set("older")), "another uid"),
        ("not its owner's", owned(pod_review(REPLICA_SETS, &command), &replica_set("rs-uid")), "`command`"),
        (
            "an owner that cannot be read",
            owned(pod_review(REPLICA_SETS, &spec()), &reference("ReplicaSet", "unreadable", "x")),
            "could not be looked up",
        ),
        ("beside a quarantined one", pod_review("anna", &beside(&good(9))), "is quarantined"),
        ("beside what is no image", pod_review("anna", &beside("No Image")), "not an image reference"),
        ("too many", pod_review("anna", &json!({"containers": many})), "more than 64"),
        ("Google's mark", marked, "BreakGlass object"),
    ]
}

async fn house(mode: Mode) -> House {
    let house = House::with(policy(mode));
    house.deploy(&pod(&unsigned(1)));
    house.quarantine(&digest(9), &[]);
    house.tag(TAG).await;
    house
}

#[tokio::test]
async fn what_is_refused_in_any_case_asks_no_registry() {
    for (name, review, why) in hopeless() {
        let house = house(Mode::Enforce).await;
        let answer = house.ask(&review).await;
        assert!(!answer.allowed && answer.result.message.contains(why), "{name}: {}", answer.result.message);
        assert_eq!(house.registry.requests(), 0, "{name}");
        assert!(!answer.audit_annotations.contains_key("exceptions"), "{name}");
    }
}

#[tokio::test]
async fn what_depends_on_its_images_has_them_looked_at() {
    let by_controller =
        owned(pod_review(REPLICA_SETS, &pod(&unsigned(1))), &reference("ReplicaSet", "portal-1", "rs-uid"));
    for (name, review, why) in [
        ("a deployer's pod", pod_review("anna", &pod(&unsigned(1))), "signed"),
        ("a deployer's pod by tag", pod_review("anna", &pod(TAG)), "which is denied"),
        ("a controller's pod", by_controller, "signed"),
    ] {
        let house = house(Mode::Enforce).await;
        let answer = house.ask(&review).await;
        assert!(!answer.allowed && answer.result.message.contains(why), "{name}: {}", answer.result.message);
        assert!(house.registry.requests() > 0, "{name}");
    }
}

#[tokio::test]
async fn audit_tells_of_the_images_too_whoever_brings_them() {
    for (name, review, why) in hopeless() {
        let house = house(Mode::Audit).await;
        let answer = house.ask(&review).await;
        let warnings = answer.warnings.unwrap_or_default();
        assert!(answer.allowed && warnings.iter().any(|told| told.contains(why)), "{name}: {warnings:?}");
        let workload = review["request"]["kind"]["kind"] != "Pod";
        let told = |word: &str| warnings.iter().any(|told| told.contains(word));
        assert!(told("sign") || workload && told("is a tag"), "{name}: {warnings:?}");
    }
}
