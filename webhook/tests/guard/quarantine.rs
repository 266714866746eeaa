//! A quarantined digest: refused everywhere, but where it has been stable it may restart for a bounded
//! time, so that a drained node does not take down what serves while it is being rolled back.

use kube::core::admission::AdmissionResponse;
use serde_json::{Value, json};
use tidegate_pipelines::api::VerdictDecision;
use tidegate_webhook::guard::decide::Exception;
use tidegate_webhook::guard::metrics::ExceptionLabels;

use crate::house::*;

fn list(images: &[String]) -> Value {
    let split = images.iter().map(|image| image.split_once('@').unwrap());
    split.map(|(r, d)| json!({"container": "app", "repository": r, "digest": d})).collect()
}

/// `good(1)` was promoted two hours ago and is quarantined since an hour; its Deployment runs it.
fn serving() -> House {
    let house = House::enforcing();
    house.deploy(&pod(&good(1)));
    house.rollout("r-1", &[good(1)], &[good(5)], Some("Promoted"), -7200);
    house.quarantine(&digest(1), &[]);
    house
}

fn by_controller(spec: &Value) -> Value {
    owned(pod_review(REPLICA_SETS, spec), &reference("ReplicaSet", "portal-1", "rs-uid"))
}

async fn restart(house: &House) -> AdmissionResponse {
    house.ask(&by_controller(&pod(&good(1)))).await
}

fn refused(answer: &AdmissionResponse, name: &str) {
    assert!(!answer.allowed && answer.result.message.contains("is quarantined"), "{name}: {}", answer.result.message);
}

#[tokio::test]
async fn a_quarantined_digest_restarts_where_it_is_stable_and_that_is_told() {
    let house = serving();
    let answer = restart(&house).await;
    assert!(answer.allowed, "{}", answer.result.message);
    let warnings = answer.warnings.unwrap_or_default();
    assert!(
        warnings.iter().any(|w| w.contains("is quarantined") && w.contains("until it is rolled back")),
        "{warnings:?}"
    );
    assert!(answer.audit_annotations["exceptions"].starts_with(Exception::QuarantineGrace.as_str()));
    let label = ExceptionLabels { reason: "QuarantineGrace" };
    assert_eq!(house.guard.metrics.exceptions.get_or_create(&label).get(), 1);
}

#[tokio::test]
async fn a_quarantined_digest_starts_nowhere_else() {
    type Change = Box<dyn Fn(&House)>;
    let template = |owner: &'static str, image: String| -> Change {
        Box::new(move |house| {
            let mut owners = house.cluster.owners.write().unwrap();
            owners.get_mut(owner).unwrap().template["spec"] = pod(&image);
        })
    };
    let rollout = |change: fn(&mut Value)| -> Change { Box::new(move |house| house.change_rollout(change)) };
    let cases: Vec<(&str, Change)> = vec![
        ("another workload is stable with it", rollout(|r| r["spec"]["workload"]["name"] = json!("other"))),
        ("another container is stable with it", rollout(|r| r["spec"]["images"][0]["container"] = json!("mesh"))),
        (
            "the digest in another repository",
            rollout(|r| r["spec"]["images"][0]["repository"] = json!("r.test/good/x")),
        ),
        ("a Rollout that lies in another namespace", rollout(|r| r["metadata"]["namespace"] = json!("tenant"))),
        (
            "a Rollout of another namespace",
            rollout(|r| {
                r["metadata"]["namespace"] = json!("other");
                r["spec"]["namespace"] = json!("other");
            }),
        ),
        ("it was only a canary", rollout(|r| r["status"]["phase"] = json!("Canary"))),
        ("it went back before promotion", rollout(|r| r["status"]["phase"] = json!("RolledBack"))),
        (
            "made stable after the quarantine",
            rollout(|r| r["metadata"]["creationTimestamp"] = json!(at(-60).to_string())),
        ),
        ("no Rollout says so", Box::new(|house| house.cluster.rollouts.write().unwrap().clear())),
        ("the template of the Deployment has gone back", template("Deployment/portal", good(5))),
        (
            "rolled back since",
            Box::new(|house| {
                house.rollout("r-2", &[good(5)], &[good(1)], Some("RolledBack"), -600);
                house.change_rollout(|r| {
                    r["spec"]["reason"] = json!("Rollback");
                    r["status"]["goingBack"] =
                        json!({"end": "RolledBack", "why": "breach", "quarantine": false, "to": list(&[good(5)])});
                });
            }),
        ),
        (
            "denied besides",
            Box::new(|house| {
                let mut strict = policy(tidegate_policies::model::Mode::Enforce);
                strict.check_sets[1].image_allowlist = Default::default();
                strict.check_sets[1].checks.remove(0);
                let in_force =
                    tidegate_webhook::guard::InForce::new("prod", strict, Default::default(), Default::default());
                *house.cluster.in_force.write().unwrap() = Ok(in_force.into());
                house.break_glass(REPLICA_SETS, &digest(1), at(60));
            }),
        ),
    ];
    for (name, change) in cases {
        let house = serving();
        change(&house);
        let answer = restart(&house).await;
        assert!(!answer.allowed, "{name}");
        if name != "denied besides" {
            refused(&answer, name);
        }
    }
}

#[tokio::test]
async fn nobody_but_stables_own_controller_starts_a_quarantined_digest() {
    let house = serving();
    house.break_glass("anna", &digest(1), at(60));
    refused(&house.ask(&pod_review("anna", &pod(&good(1)))).await, "a person's pod");
    refused(&house.ask(&pod_review(SPOKE, &pod(&good(1)))).await, "Tidegate's own account");
    let forged = owned(pod_review("anna", &pod(&good(1))), &reference("ReplicaSet", "portal-1", "rs-uid"));
    refused(&house.ask(&forged).await, "a person's pod with a forged owner reference");
    let mut beside = pod(&good(2));
    beside["containers"].as_array_mut().unwrap().push(json!({"name": "mesh", "image": good(1)}));
    house.deploy(&beside);
    refused(&house.ask(&by_controller(&beside)).await, "in another container");
    let mut init = pod(&good(1));
    init["initContainers"] = json!([{"name": "app", "image": good(1)}]);
    house.deploy(&init);
    refused(&house.ask(&by_controller(&init)).await, "as an init container of that name");
    let mut elsewhere = by_controller(&pod(&good(1)));
    house.deploy(&pod(&good(1)));
    elsewhere["request"]["namespace"] = json!("tenant");
    refused(&house.ask(&elsewhere).await, "in another namespace");
    house.cluster.owners.write().unwrap().get_mut("ReplicaSet/portal-1").unwrap().controller = None;
    let lone = house.ask(&by_controller(&pod(&good(1)))).await;
    refused(&lone, "a ReplicaSet of its own");
}

#[tokio::test]
async fn the_grace_of_a_quarantined_digest_ends_and_says_so() {
    for (since, allowed) in [(Some(-86_000), true), (Some(-87_000), false), (None, false)] {
        let house = House::enforcing();
        house.deploy(&pod(&good(1)));
        house.rollout("r-1", &[good(1)], &[], Some("Promoted"), -100_000);
        // A younger quarantine of the same digest does not begin anew.
        house.quarantine_since(&[&digest(1)], &["prod-east"], Some(-60));
        house.quarantine_since(&[&digest(1)], &[], since);
        let answer = restart(&house).await;
        assert_eq!(answer.allowed, allowed, "{since:?}: {}", answer.result.message);
        let ended = answer.result.message.contains("its grace to restart ended");
        assert_eq!(ended, !allowed && since.is_some(), "{}", answer.result.message);
    }
}

#[tokio::test]
async fn stable_keeps_its_grace_until_the_rollback_is_through() {
    let going = |to: Value| json!({"end": "RolledBack", "why": "breach", "quarantine": true, "to": to});
    for (phase, promoting, allowed) in [
        ("Canary", None, false),
        ("Promoting", Some("AtCanary"), false),
        ("Promoting", Some("TemplateWritten"), true),
        ("Promoting", Some("Returning"), true),
        ("Baking", None, true),
        ("RollingBack", Some("PreparingCanary"), true),
        ("RollingBack", Some("TemplateWritten"), true),
        ("RollbackBlocked", Some("PreparingCanary"), true),
        ("RolledBack", None, false),
        ("Withdrawn", None, false),
    ] {
        let house = House::enforcing();
        house.deploy(&pod(&good(1)));
        house.rollout("r-1", &[good(1)], &[good(5)], Some(phase), -7200);
        house.change_rollout(|r| {
            r["status"]["promoting"] = json!(promoting);
            if phase.starts_with("Roll") {
                r["status"]["goingBack"] = going(list(&[good(5)]));
            }
        });
        house.quarantine(&digest(1), &[]);
        let answer = restart(&house).await;
        assert_eq!(answer.allowed, allowed, "{phase} {promoting:?}: {}", answer.result.message);
    }
    // A release taken back everywhere: until its own Rollout has ended, the one before still says what runs.
    let house = serving();
    house.rollout("r-2", &[good(5)], &[good(1)], Some("RollingBack"), -600);
    assert!(restart(&house).await.allowed);
    house.rollout("r-3", &[good(6)], &[good(1)], Some("RolledBack"), -300);
    assert!(restart(&house).await.allowed, "a newer canary that went back left it where it was");
}

#[tokio::test]
async fn after_the_way_back_what_it_went_to_is_stable_and_not_what_it_left() {
    for (image, allowed) in [(unsigned(5), true), (unsigned(1), false)] {
        let house = House::enforcing();
        house.deploy(&pod(&image));
        house.keep(&image, VerdictDecision::Allow, Some(at(-60)));
        house.rollout("r-1", &[unsigned(1)], &[unsigned(5)], Some("Promoted"), -7200);
        house.rollout("r-2", &[unsigned(5)], &[unsigned(1)], Some("RolledBack"), -600);
        house.change_rollout(|r| {
            let to = list(&[unsigned(5)]);
            r["status"]["goingBack"] = json!({"end": "RolledBack", "why": "x", "quarantine": false, "to": to});
        });
        let answer = house.ask(&by_controller(&pod(&image))).await;
        assert_eq!(answer.allowed, allowed, "{image}: {}", answer.result.message);
    }
}

#[tokio::test]
async fn a_child_of_a_quarantined_index_is_refused_by_its_own_digest() {
    let house = House::enforcing();
    house.quarantine_since(&[&digest(1), &digest(2)], &[], Some(-60));
    house.break_glass("anna", &digest(2), at(60));
    refused(&house.ask(&pod_review("anna", &pod(&good(2)))).await, "a child");
    assert!(house.ask(&pod_review("anna", &pod(&good(3)))).await.allowed);
}
