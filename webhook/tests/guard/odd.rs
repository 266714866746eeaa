//! Requests that no API server should send, or sends rarely: each is answered.

use bytes::Bytes;
use serde_json::{Value, json};
use tidegate_webhook::guard::route::parse;

use crate::house::*;

#[tokio::test]
async fn every_odd_request_is_answered() {
    let house = House::enforcing();
    let base = || pod_review("anna", &pod(&good(1)));
    let with = |path: &str, value: Value| {
        let mut review = base();
        let (parent, key) = path.rsplit_once('/').unwrap();
        review.pointer_mut(&format!("/request{parent}")).unwrap()[key] = value;
        review
    };
    let update = pod_update("anna", &pod(&good(1)), &pod(&good(2)));
    let without = |mut review: Value, field: &str| {
        review["request"][field] = Value::Null;
        review
    };
    let deletion = |review: Value| {
        let mut review = review;
        review["request"]["operation"] = json!("DELETE");
        review
    };
    let many =
        |count: u8| -> Vec<Value> { (0..count).map(|n| json!({"name": format!("c{n}"), "image": good(n)})).collect() };
    for (name, review, allowed, expected) in [
        ("CREATE without object", without(base(), "object"), false, "no object"),
        ("UPDATE without object", without(update.clone(), "object"), false, "no object"),
        ("UPDATE without old object", without(update, "oldObject"), false, "no old object"),
        ("CREATE with an old object", with("/oldObject", base()["request"]["object"].clone()), true, ""),
        ("DELETE without object", deletion(without(base(), "object")), true, ""),
        ("DELETE with neither", deletion(without(without(base(), "object"), "oldObject")), true, ""),
        ("CONNECT", with("/operation", json!("CONNECT")), true, ""),
        ("a pod without spec", with("/object/spec", Value::Null), false, "no spec"),
        ("a pod whose spec is a list", with("/object/spec", json!([])), false, "no spec"),
        ("containers that are no list", with("/object/spec/containers", json!("x")), false, "cannot be read"),
        (
            "an image that is a number",
            with("/object/spec/containers", json!([{"name": "a", "image": 7}])),
            false,
            "cannot be read",
        ),
        ("a pod without containers", with("/object/spec/containers", json!([])), true, ""),
        ("64 images", with("/object/spec/containers", json!(many(64))), true, ""),
        ("200 images", with("/object/spec/containers", json!(many(200))), false, "and 120 more"),
        ("no namespace", with("/namespace", Value::Null), false, "no namespace"),
        ("no user", with("/userInfo", json!({})), false, "not a deployer"),
        ("a name to be made up", with("/name", json!("")), true, ""),
        (
            "another kind of that name",
            with("/kind", json!({"group": "acme.example", "version": "v1", "kind": "Pod"})),
            true,
            "",
        ),
        ("a workload without template", workload_without_template(), false, "no pod template"),
    ] {
        let answer = house.ask(&review).await;
        assert_eq!(answer.allowed, allowed, "{name}: {}", answer.result.message);
        assert!(answer.result.message.contains(expected), "{name}: {}", answer.result.message);
        assert_eq!(answer.uid, "u-1", "{name}: the answer is to this request");
    }
}

fn workload_without_template() -> Value {
    let mut review = workload_review("anna", "Deployment", &pod(&good(1)));
    review["request"]["object"]["spec"] = json!({"replicas": 1});
    review
}

#[test]
fn what_is_no_admission_review_is_refused_with_one_line() {
    let review = pod_review("anna", &pod(&good(1)));
    let with = |field: &str, value: Value| {
        let mut review = review.clone();
        review[field] = value;
        review.to_string()
    };
    for (name, body) in [
        ("empty", String::new()),
        ("no JSON", "x".to_owned()),
        ("a list", "[]".to_owned()),
        ("another version", with("apiVersion", json!("admission.k8s.io/v1beta1"))),
        ("another kind", with("kind", json!("Review"))),
        ("no request", with("request", Value::Null)),
        ("an empty request", with("request", json!({}))),
    ] {
        let refused = parse(&Bytes::from(body)).err().unwrap_or_else(|| panic!("{name} was parsed"));
        assert_eq!(refused.lines().count(), 1, "{name}: {refused}");
    }
}
