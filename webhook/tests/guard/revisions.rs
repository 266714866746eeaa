//! Pods of a StatefulSet that is between two revisions, and who may write down what a revision is.

use serde_json::{Value, json};
use tidegate_webhook::guard::cluster::Owner;

use crate::house::*;

const STATEFUL_SETS: &str = "system:serviceaccount:kube-system:statefulset-controller";

/// `db` was given `good(2)`; its pods below the partition are still of `db-1`, which is `good(1)`.
fn house() -> House {
    let house = House::enforcing();
    let owner = |uid: &str, image: &str, controller| Owner {
        uid: uid.to_owned(),
        deleting: false,
        template: json!({"metadata": {"labels": {"app": "db"}}, "spec": pod(image), "$patch": "replace"}),
        claims: vec![],
        controller,
    };
    let revision = |uid: &str| owner("cr-uid", &good(1), Some(reference("StatefulSet", "db", uid)));
    let empty = Owner { template: Value::Null, ..revision("ss-uid") };
    let mut owners = house.cluster.owners.write().unwrap();
    owners.insert("StatefulSet/db".to_owned(), owner("ss-uid", &good(2), None));
    owners.insert("ControllerRevision/db-1".to_owned(), revision("ss-uid"));
    owners.insert("ControllerRevision/db-other".to_owned(), revision("another"));
    owners.insert("ControllerRevision/db-empty".to_owned(), empty);
    owners.insert("ControllerRevision/db-lone".to_owned(), Owner { controller: None, ..revision("ss-uid") });
    drop(owners);
    house
}

#[tokio::test]
async fn a_stateful_sets_pod_is_held_to_the_revision_that_it_is_of() {
    for (revision, image, allowed, why) in [
        (Some("db-1"), good(1), true, ""),
        (Some("db-1"), good(2), false, "`image`"),
        (Some("db-1"), bad(1), false, "`image`"),
        (None, good(2), true, ""),
        (None, good(1), false, "`image`"),
        (Some("db-gone"), good(2), true, ""),
        (Some("db-gone"), good(1), false, "`image`"),
        (Some("db-other"), good(1), false, "`image`"),
        (Some("db-lone"), good(1), false, "`image`"),
        (Some("db-empty"), good(1), false, "`image`"),
        (Some("unreadable"), good(1), false, "could not be looked up"),
    ] {
        let mut review = owned(pod_review(STATEFUL_SETS, &pod(&image)), &reference("StatefulSet", "db", "ss-uid"));
        if let Some(revision) = revision {
            review["request"]["object"]["metadata"]["labels"]["controller-revision-hash"] = json!(revision);
        }
        let answer = house().ask(&review).await;
        let told = &answer.result.message;
        assert_eq!(answer.allowed, allowed, "{revision:?} {image}: {told}");
        assert!(told.contains(why), "{revision:?} {image}: {told}");
    }
    // A label speaks for a StatefulSet's own pods alone.
    let house = house();
    house.deploy(&pod(&good(2)));
    let mut other = owned(pod_review(REPLICA_SETS, &pod(&good(1))), &reference("ReplicaSet", "portal-1", "rs-uid"));
    other["request"]["object"]["metadata"]["labels"]["controller-revision-hash"] = json!("db-1");
    assert!(!house.ask(&other).await.allowed);
}

#[tokio::test]
async fn a_revision_is_written_by_its_own_controller_or_a_deployer() {
    let house = house();
    let write = |user: &str, image: &str, uid: Option<&str>| {
        let mut review = workload_review(user, "ControllerRevision", &pod(image));
        let template = review["request"]["object"]["spec"]["template"].take();
        review["request"]["object"]["spec"] = Value::Null;
        review["request"]["object"]["data"] = json!({"spec": {"template": template}});
        match uid {
            Some(uid) => owned(review, &reference("StatefulSet", "db", uid)),
            None => review,
        }
    };
    for (user, image, uid, allowed) in [
        ("bob", good(1), Some("ss-uid"), false),
        ("bob", good(1), None, false),
        ("anna", good(1), Some("ss-uid"), true),
        (STATEFUL_SETS, good(2), Some("ss-uid"), true),
        (STATEFUL_SETS, good(1), Some("ss-uid"), false),
        (STATEFUL_SETS, good(2), Some("older"), false),
        (REPLICA_SETS, good(2), Some("ss-uid"), false),
    ] {
        let answer = house.ask(&write(user, &image, uid)).await;
        assert_eq!(answer.allowed, allowed, "{user} {image} {uid:?}: {}", answer.result.message);
    }
    let mut relabelled = write("bob", &good(1), None);
    relabelled["request"]["operation"] = json!("UPDATE");
    relabelled["request"]["oldObject"] = relabelled["request"]["object"].clone();
    assert!(house.ask(&relabelled).await.allowed, "what is in a revision cannot change");
    let mut anothers = write("bob", &good(1), None);
    anothers["request"]["object"]["data"] = json!({"settings": {"cpus": 2}});
    assert!(house.ask(&anothers).await.allowed, "of somebody who keeps no templates in it");
}
