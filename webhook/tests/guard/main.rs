//! Admission by behaviour: who may bring in which image, by which path; and what is verified ahead.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ahead;
mod hanging;
mod house;
mod odd;
mod owners;
mod quarantine;
mod revisions;
mod unasked;

use house::*;
use serde_json::{Value, json};
use tidegate_pipelines::api::VerdictDecision;
use tidegate_policies::model::Mode;
use tidegate_webhook::guard::NotInForce;

#[tokio::test]
async fn every_image_of_a_pod_is_judged_wherever_it_stands() {
    let house = House::enforcing();
    let full = |key: &str, value: Value| {
        let mut spec = pod(&good(1));
        spec[key] = value;
        spec
    };
    for (name, spec, allowed, expected) in [
        ("all good", pod(&good(1)), true, ""),
        ("bad", pod(&bad(1)), false, "container `app`: r.test/bad/portal@sha256:0101"),
        ("bad init", full("initContainers", json!([{"name": "i", "image": bad(2)}])), false, "init container `i`"),
        (
            "bad volume",
            full("volumes", json!([{"name": "v", "image": {"reference": bad(2)}}])),
            false,
            "image volume `v`",
        ),
        ("unsigned", pod(&unsigned(1)), false, "signed"),
        ("no image", json!({"containers": [{"name": "app"}]}), false, "names no image"),
        ("no reference", pod("Not An Image"), false, "not an image reference"),
        ("40 hex", pod(&format!("r.test/good/portal@sha256:{}", "a".repeat(40))), false, "64 hex digits"),
    ] {
        let answer = house.ask(&pod_review("anna", &spec)).await;
        assert_eq!(answer.allowed, allowed, "{name}: {}", answer.result.message);
        assert!(answer.result.message.contains(expected), "{name}: {}", answer.result.message);
    }
}

#[tokio::test]
async fn a_tag_is_refused_naming_its_digest_and_that_digests_verdict() {
    let house = House::enforcing();
    let digest = house.tag("r.test/good/portal:1").await;
    house.tag("r.test/bad/portal:1").await;
    let ask = async |image: &str| house.ask(&pod_review("anna", &pod(image))).await;
    let good = ask("r.test/good/portal:1").await;
    assert!(
        !good.allowed && good.result.message.contains(&format!("write `r.test/good/portal@{digest}`")),
        "{}",
        good.result.message
    );
    assert!(good.result.message.contains("which is allowed"), "{}", good.result.message);
    let bad = ask("r.test/bad/portal:1").await;
    assert!(
        bad.result.message.contains(&digest) && bad.result.message.contains("which is denied"),
        "{}",
        bad.result.message
    );
    house.quarantine(&digest, &[]);
    assert!(ask("r.test/good/portal:1").await.result.message.contains("quarantined"));
    let gone = ask("r.test/good/portal:none").await;
    assert!(gone.result.message.contains("could not be found out"), "{}", gone.result.message);
}

#[tokio::test]
async fn an_ephemeral_container_is_judged_and_the_rest_of_the_pod_is_not_again() {
    let house = House::enforcing();
    let old = pod(&bad(1));
    let with = |image: &str| {
        let mut new = old.clone();
        new["ephemeralContainers"] = json!([{"name": "debug", "image": image}]);
        new
    };
    let refused = house.ask(&pod_update("anna", &old, &with(&bad(2)))).await;
    assert!(
        !refused.allowed && refused.result.message.contains("ephemeral container `debug`"),
        "{}",
        refused.result.message
    );
    assert!(house.ask(&pod_update("anna", &old, &with(&good(2)))).await.allowed);
    assert!(!house.ask(&pod_update("bob", &old, &with(&good(2)))).await.allowed, "by a deployer only");
    assert!(house.ask(&pod_update("bob", &old, &old)).await.allowed, "what changes no image passes");
}

#[tokio::test]
async fn a_quarantined_digest_is_refused_where_the_quarantine_holds() {
    for (environments, lifted, allowed) in [
        (vec![], false, false),
        (vec!["prod-east"], false, false),
        (vec!["prod-west"], false, true),
        (vec![], true, true),
    ] {
        let house = House::enforcing();
        house.quarantine(&digest(1), &environments);
        house.break_glass("anna", &digest(1), at(60));
        if lifted {
            let mut all = house.cluster.quarantines.write().unwrap();
            let mut quarantine = (*all[0]).clone();
            quarantine.spec.lifted =
                Some(serde_json::from_value(json!({"by": "x", "reason": "fixed upstream"})).unwrap());
            all[0] = quarantine.into();
        }
        let answer = house.ask(&pod_review("anna", &pod(&good(1)))).await;
        assert_eq!(answer.allowed, allowed, "{environments:?} {lifted}: {}", answer.result.message);
    }
}

#[tokio::test]
async fn break_glass_lets_its_digest_in_for_its_user_until_it_expires() {
    for (user, glass_user, of, expires, allowed) in [
        ("anna", "anna", 1, 60, true),
        ("anna", "bob", 1, 60, false),
        ("anna", "anna", 2, 60, false),
        ("anna", "anna", 1, -60, false),
    ] {
        let house = House::enforcing();
        house.break_glass(glass_user, &digest(of), at(expires));
        let answer = house.ask(&pod_review(user, &pod(&bad(1)))).await;
        assert_eq!(answer.allowed, allowed, "{glass_user} {of} {expires}");
        assert_eq!(answer.audit_annotations.contains_key("exceptions"), allowed, "its use is audited");
    }
}

#[tokio::test]
async fn googles_break_glass_mark_is_refused_naming_the_object_to_make() {
    let house = House::enforcing();
    for (field, key) in
        [("labels", "image-policy.k8s.io/break-glass"), ("annotations", "alpha.image-policy.k8s.io/break-glass")]
    {
        let mut review = pod_review("anna", &pod(&good(1)));
        review["request"]["object"]["metadata"][field] = json!({key: "true"});
        let answer = house.ask(&review).await;
        assert!(!answer.allowed && answer.result.message.contains("BreakGlass object"), "{}", answer.result.message);
        let mut template = workload_review("anna", "Deployment", &pod(&good(1)));
        template["request"]["object"]["spec"]["template"]["metadata"][field] = json!({key: "true"});
        assert!(!house.ask(&template).await.allowed, "in a template too");
    }
}

#[tokio::test]
async fn only_deployers_make_bare_pods_and_an_owner_reference_makes_nobody_one() {
    let house = House::enforcing();
    house.deploy(&pod(&good(1)));
    let bare = |user| pod_review(user, &pod(&good(1)));
    assert!(house.ask(&bare("anna")).await.allowed);
    assert!(house.ask(&bare(SPOKE)).await.allowed, "Tidegate's own account");
    let elsewhere = "system:serviceaccount:other:tidegate-spoke";
    assert!(!house.ask(&bare(elsewhere)).await.allowed, "an account of that name elsewhere");
    let refused = house.ask(&bare("bob")).await;
    assert!(!refused.allowed && refused.result.message.contains("not a deployer"), "{}", refused.result.message);
    let forged = house.ask(&owned(bare("bob"), &reference("ReplicaSet", "portal-1", "rs-uid"))).await;
    assert!(!forged.allowed && forged.result.message.contains("does not count"), "{}", forged.result.message);
}

#[tokio::test]
async fn a_controllers_pod_passes_only_under_live_owners_that_it_matches() {
    let house = House::enforcing();
    house.deploy(&pod(&good(1)));
    let made = |spec: &Value, owner| owned(pod_review(REPLICA_SETS, spec), &owner);
    let replica_set = |uid| reference("ReplicaSet", "portal-1", uid);
    let mut other = pod(&good(1));
    other["containers"][0]["command"] = json!(["sh"]);
    let mut injected = pod(&good(1));
    injected["containers"].as_array_mut().unwrap().push(json!({"name": "mesh", "image": good(2)}));
    let mut bad_injected = pod(&good(1));
    bad_injected["containers"].as_array_mut().unwrap().push(json!({"name": "mesh", "image": bad(2)}));
    for (name, review, expected) in [
        ("as its owner says", made(&pod(&good(1)), replica_set("rs-uid")), None),
        ("with a sidecar", made(&injected, replica_set("rs-uid")), None),
        ("with a bad sidecar", made(&bad_injected, replica_set("rs-uid")), Some("container `mesh`")),
        ("another command", made(&other, replica_set("rs-uid")), Some("`command`")),
        ("another uid", made(&pod(&good(1)), replica_set("older")), Some("another uid")),
        ("no such owner", made(&pod(&good(1)), reference("ReplicaSet", "gone", "rs-uid")), Some("does not exist")),
        ("a custom owner", made(&pod(&good(1)), reference("Widget", "w", "w")), Some("no built-in workload")),
        ("no owner", pod_review(REPLICA_SETS, &pod(&good(1))), Some("no controlling owner")),
        (
            "owner unreadable",
            made(&pod(&good(1)), reference("ReplicaSet", "unreadable", "x")),
            Some("could not be looked up"),
        ),
    ] {
        let answer = house.ask(&review).await;
        assert_eq!(answer.allowed, expected.is_none(), "{name}: {}", answer.result.message);
        assert!(answer.result.message.contains(expected.unwrap_or("")), "{name}: {}", answer.result.message);
    }
    house.cluster.owners.write().unwrap().get_mut("Deployment/portal").unwrap().deleting = true;
    let answer = house.ask(&made(&pod(&good(1)), replica_set("rs-uid"))).await;
    assert!(!answer.allowed && answer.result.message.contains("being deleted"), "{}", answer.result.message);
}

#[tokio::test]
async fn a_template_is_a_deployers_to_change_and_anybodys_to_restart_or_scale() {
    let house = House::enforcing();
    let (old, new) = (pod(&good(1)), pod(&good(2)));
    let mut command = old.clone();
    command["containers"][0]["command"] = json!(["sh"]);
    for kind in ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"] {
        assert!(!house.ask(&workload_review("bob", kind, &old)).await.allowed, "{kind}: first creation");
        assert!(house.ask(&workload_review("anna", kind, &old)).await.allowed, "{kind}");
        assert!(!house.ask(&workload_update("bob", kind, &old, &new)).await.allowed, "{kind}: an older image");
        assert!(!house.ask(&workload_update("bob", kind, &old, &command)).await.allowed, "{kind}: a command");
        assert!(house.ask(&workload_update("anna", kind, &old, &new)).await.allowed, "{kind}");
        let mut scaled = workload_update("bob", kind, &old, &old);
        scaled["request"]["object"]["spec"]["replicas"] = json!(40);
        assert!(house.ask(&scaled).await.allowed, "{kind}: scaling");
        let mut restarted = workload_update("bob", kind, &old, &old);
        restarted["request"]["object"]["spec"]["template"]["metadata"]["annotations"] =
            json!({"kubectl.kubernetes.io/restartedAt": "2026-11-22T16:00:00Z"});
        assert!(house.ask(&restarted).await.allowed, "{kind}: a restart");
    }
    let group = {
        let mut review = workload_update("carl", "Deployment", &old, &new);
        review["request"]["userInfo"]["groups"] = json!(["release-managers"]);
        review
    };
    assert!(house.ask(&group).await.allowed, "a member of a deployer group");
}

#[tokio::test]
async fn an_older_template_is_not_brought_back_by_scaling_its_replica_set() {
    let house = House::enforcing();
    let spec = pod(&good(1));
    let update = |user: &str, made_by_a_deployment: bool, from: i64, to: i64| {
        let mut review = workload_update(user, "ReplicaSet", &spec, &spec);
        for (object, replicas) in [("oldObject", from), ("object", to)] {
            let hash = if made_by_a_deployment { json!({"pod-template-hash": "5d4"}) } else { json!({"app": "x"}) };
            review["request"][object]["spec"]["selector"] = json!({"matchLabels": hash});
            review["request"][object]["spec"]["replicas"] = json!(replicas);
        }
        review
    };
    let scale = |user: &str, made_by_a_deployment: bool, from: i64, to: i64| {
        let mut review = update(user, made_by_a_deployment, from, to);
        let selector = if made_by_a_deployment { "app=portal,pod-template-hash=5d4" } else { "app=portal" };
        for (object, replicas) in [("oldObject", from), ("object", to)] {
            let number = if replicas == 0 { json!({}) } else { json!({"replicas": replicas}) };
            review["request"][object] = json!({"apiVersion": "autoscaling/v1", "kind": "Scale",
                "metadata": {"name": "portal-1", "namespace": "portal"}, "spec": number,
                "status": {"replicas": from, "selector": selector}});
        }
        review["request"]["kind"] = json!({"group": "autoscaling", "version": "v1", "kind": "Scale"});
        review["request"]["resource"] = json!({"group": "apps", "version": "v1", "resource": "replicasets"});
        review["request"]["subResource"] = json!("scale");
        review
    };
    let autoscaler = "system:serviceaccount:kube-system:horizontal-pod-autoscaler";
    for (user, made_by_a_deployment, from, to, allowed) in [
        ("bob", true, 0, 4, false),
        (autoscaler, true, 1, 4, false),
        ("bob", true, 4, 0, true),
        ("bob", true, 4, 4, true),
        ("bob", false, 0, 4, true),
        ("anna", true, 0, 4, true),
        (DEPLOYMENTS, true, 0, 4, true),
        ("system:kube-controller-manager", true, 0, 4, true),
    ] {
        for (by, review) in [
            ("update", update(user, made_by_a_deployment, from, to)),
            ("scale", scale(user, made_by_a_deployment, from, to)),
        ] {
            let answer = house.ask(&review).await;
            let told = &answer.result.message;
            assert_eq!(answer.allowed, allowed, "{by} {user} {made_by_a_deployment} {from} -> {to}: {told}");
            assert!(allowed || told.contains("scaling up a ReplicaSet that a Deployment made"), "{told}");
        }
    }
}

#[tokio::test]
async fn a_replica_set_of_the_deployment_controller_carries_its_deployments_template() {
    let house = House::enforcing();
    house.deploy(&pod(&good(1)));
    let made = |spec: &Value, uid| {
        owned(workload_review(DEPLOYMENTS, "ReplicaSet", spec), &reference("Deployment", "portal", uid))
    };
    assert!(house.ask(&made(&pod(&good(1)), "d-uid")).await.allowed);
    for (name, review) in [
        ("another template", made(&pod(&good(2)), "d-uid")),
        ("another uid", made(&pod(&good(1)), "older")),
        ("no owner", workload_review(DEPLOYMENTS, "ReplicaSet", &pod(&good(1)))),
        ("another kind", workload_review(DEPLOYMENTS, "Deployment", &pod(&good(1)))),
        ("a pod", pod_review(DEPLOYMENTS, &pod(&good(1)))),
    ] {
        assert!(!house.ask(&review).await.allowed, "{name}");
    }
}

#[tokio::test]
async fn images_in_workload_kinds_are_a_warning() {
    let house = House::enforcing();
    let digest = house.tag("r.test/good/portal:1").await;
    house.keep(&unsigned(1), VerdictDecision::Deny, None);
    for (image, expected) in [("r.test/good/portal:1".to_owned(), digest.as_str()), (unsigned(1), "kept")] {
        let answer = house.ask(&workload_review("anna", "Deployment", &pod(&image))).await;
        let warnings = answer.warnings.clone().unwrap_or_default();
        assert!(answer.allowed && warnings.iter().any(|w| w.contains(expected)), "{image}: {warnings:?}");
    }
}

#[tokio::test]
async fn audit_admits_with_a_warning_what_enforce_refuses() {
    let house = House::with(policy(Mode::Audit));
    house.quarantine(&digest(3), &[]);
    for review in [
        pod_review("anna", &pod(&bad(1))),
        pod_review("bob", &pod(&good(1))),
        pod_review("anna", &pod(&good(3))),
        pod_review("anna", &pod("r.test/good/portal:1")),
        workload_review("bob", "Deployment", &pod(&good(1))),
    ] {
        let answer = house.ask(&review).await;
        let warnings = answer.warnings.unwrap_or_default();
        assert!(
            answer.allowed && warnings.iter().any(|w| w.starts_with("would be refused in Enforce")),
            "{warnings:?}"
        );
    }
}

#[tokio::test]
async fn without_a_policy_nothing_new_starts_and_old_things_may_still_go() {
    for missing in [
        NotInForce::NotSynced,
        NotInForce::NoEnvironment("prod-east".into()),
        NotInForce::NoPolicy("prod".into()),
        NotInForce::Invalid { name: "prod".into(), reason: "x".into() },
    ] {
        let house = House::enforcing();
        *house.cluster.in_force.write().unwrap() = Err(missing.clone());
        let answer = house.ask(&pod_review("anna", &pod(&good(1)))).await;
        assert!(!answer.allowed && answer.result.message.contains(&missing.to_string()), "{}", answer.result.message);
        assert!(answer.result.message.contains("not known to be good"), "not knowing is no denial");
        let mut deletion = pod_review("bob", &pod(&bad(1)));
        deletion["request"]["operation"] = json!("DELETE");
        assert!(house.ask(&deletion).await.allowed, "deletion always passes");
        assert!(house.ask(&pod_update("bob", &pod(&bad(1)), &pod(&bad(1)))).await.allowed);
        let mut system = pod_review("bob", &pod(&bad(1)));
        system["request"]["namespace"] = json!("kube-system");
        assert!(house.ask(&system).await.allowed, "an excluded namespace");
    }
}

#[tokio::test]
async fn an_unreachable_registry_is_an_error_and_a_kept_verdict_answers_meanwhile() {
    let house = House::enforcing();
    house.registry.set_away(Some("the network is gone")).await;
    let answer = house.ask(&pod_review("anna", &pod(&unsigned(1)))).await;
    assert!(!answer.allowed && answer.result.message.contains("not known to be good"), "{}", answer.result.message);
    house.keep(&unsigned(1), VerdictDecision::Allow, Some(at(60)));
    assert!(house.ask(&pod_review("anna", &pod(&unsigned(1)))).await.allowed);
    house.keep(&unsigned(1), VerdictDecision::Allow, Some(at(-60)));
    assert!(!house.ask(&pod_review("anna", &pod(&unsigned(1)))).await.allowed, "it expired");
}

#[tokio::test]
async fn a_kept_verdict_speaks_for_its_namespace_repository_and_policy_alone() {
    for (name, change) in [
        ("repository", json!({"image": format!("r.test/other/portal@{}", digest(1))})),
        ("namespace", json!({"namespace": "other"})),
        ("policy", json!({"policyDigest": digest(9)})),
        ("trust root", json!({"trustRootDigest": digest(9)})),
        ("check set", json!({"checkSet": "strict"})),
        ("digest", json!({"digest": digest(9)})),
    ] {
        let house = House::enforcing();
        let kept = house.keep(&unsigned(1), VerdictDecision::Allow, None);
        {
            // Under the right name: a name is a way to find it, never proof.
            let mut all = house.cluster.verdicts.write().unwrap();
            let mut forged = serde_json::to_value(&*all[&kept]).unwrap();
            for (field, value) in change.as_object().unwrap() {
                forged[field] = value.clone();
            }
            all.insert(kept, std::sync::Arc::new(serde_json::from_value(forged).unwrap()));
        }
        assert!(!house.ask(&pod_review("anna", &pod(&unsigned(1)))).await.allowed, "{name}");
    }
}

#[tokio::test]
async fn what_is_stable_restarts_for_a_grace_after_its_verdict_expired() {
    for (name, user, expired, stable, quarantined, allowed) in [
        ("stable", REPLICA_SETS, -3600, true, false, true),
        ("not stable", REPLICA_SETS, -3600, false, false, false),
        ("too long ago", REPLICA_SETS, -100_000, true, false, false),
        ("quarantined", REPLICA_SETS, -3600, true, true, false),
        ("by a person", "anna", -3600, true, false, false),
    ] {
        let house = House::enforcing();
        house.deploy(&pod(&unsigned(1)));
        house.keep(&unsigned(1), VerdictDecision::Allow, Some(at(expired)));
        if stable {
            house.rollout("r-1", &[unsigned(1)], &[], Some("Promoted"), -60);
        }
        if quarantined {
            house.quarantine(&digest(1), &[]);
        }
        let review = pod_review(user, &pod(&unsigned(1)));
        let review = match user {
            REPLICA_SETS => owned(review, &reference("ReplicaSet", "portal-1", "rs-uid")),
            _ => review,
        };
        let answer = house.ask(&review).await;
        assert_eq!(answer.allowed, allowed, "{name}: {}", answer.result.message);
    }
}

#[tokio::test]
async fn a_cold_miss_is_kept_unless_it_is_a_dry_run_or_no_allow() {
    let house = House::enforcing();
    let mut dry = pod_review("anna", &pod(&good(1)));
    dry["request"]["dryRun"] = json!(true);
    assert!(house.ask(&dry).await.allowed);
    house.ask(&pod_review("anna", &pod(&bad(1)))).await;
    assert_eq!(house.writes(), 0);
    assert!(house.ask(&pod_review("anna", &pod(&good(1)))).await.allowed);
    assert_eq!((house.writes(), house.is_kept(&good(1))), (1, Some(VerdictDecision::Allow)));
    house.ask(&pod_review("anna", &pod(&good(1)))).await;
    assert_eq!(house.writes(), 1, "what is kept is not written again");
}
