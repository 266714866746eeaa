//! What is verified before any pod asks, how it is kept fresh, and that nothing is written twice.

use tidegate_pipelines::api::VerdictDecision::{Allow, Deny, Error};
use tidegate_policies::model::Scope;
use tidegate_policies::verdict::Decision;
use tidegate_webhook::guard::assess::Want;

use crate::house::*;

#[tokio::test]
async fn images_and_targets_of_rollouts_have_verdicts_ahead_and_idleness_writes_nothing() {
    let house = House::enforcing();
    house.rollout("r-2", &[good(2)], &[good(1)], Some("Canary"), 0);
    house.rollout("r-3", &[bad(3)], &[good(1)], None, 0);
    let mut ahead = house.ahead();
    ahead.pass().await;
    assert_eq!(
        (house.is_kept(&good(1)), house.is_kept(&good(2)), house.is_kept(&bad(3))),
        (Some(Allow), Some(Allow), Some(Deny))
    );
    let written = house.writes();
    for _ in 0..20 {
        house.advance(60);
        ahead.pass().await;
    }
    assert_eq!(house.writes(), written, "nothing changed, nothing is written");
    // As after a restart: memory is gone, the objects are not.
    let mut again = house.ahead();
    again.pass().await;
    assert_eq!(house.writes(), written);
}

#[tokio::test]
async fn an_error_is_retried_and_becomes_an_allow_once_evidence_can_be_had() {
    let house = House::enforcing();
    house.registry.set_away(Some("gone")).await;
    house.rollout("r-1", &[unsigned(1)], &[], None, 0);
    let mut ahead = house.ahead();
    ahead.pass().await;
    assert_eq!(house.is_kept(&unsigned(1)), Some(Error));
    let asked = house.registry.requests();
    ahead.pass().await;
    assert_eq!(house.registry.requests(), asked, "not before its backoff");
    house.advance(3);
    ahead.pass().await;
    assert!(house.registry.requests() > asked, "after two seconds it is tried again");
    house.registry.set_away(None).await;
    house.advance(120);
    ahead.pass().await;
    assert_eq!(house.is_kept(&unsigned(1)), Some(Deny), "no signature is a denial, and known");
}

#[tokio::test]
async fn not_knowing_takes_no_allow_back() {
    let house = House::enforcing();
    house.registry.set_away(Some("gone")).await;
    house.rollout("r-1", &[unsigned(1)], &[], None, 0);
    house.keep(&unsigned(1), Allow, Some(at(60)));
    let mut ahead = house.ahead();
    for _ in 0..4 {
        ahead.pass().await;
        house.advance(60);
    }
    assert_eq!((house.is_kept(&unsigned(1)), house.writes()), (Some(Allow), 0));
}

#[tokio::test]
async fn a_denial_after_an_allow_remembers_that_it_was_allowed() {
    let house = House::enforcing();
    house.rollout("r-1", &[unsigned(1)], &[], None, 0);
    let name = house.keep(&unsigned(1), Allow, Some(at(60)));
    house.ahead().pass().await;
    let kept = house.cluster.verdicts.read().unwrap()[&name].clone();
    assert_eq!((kept.decision, kept.last_allowed.as_ref().map(|t| t.0)), (Deny, Some(now())));
}

#[tokio::test]
async fn a_verdict_that_nothing_needs_goes_after_a_while_and_what_is_stable_stays() {
    let house = House::enforcing();
    house.rollout("r-0", &[bad(4)], &[good(1)], Some("RolledBack"), -100);
    house.rollout("r-1", &[good(1)], &[good(5)], Some("Promoted"), 0);
    house.keep(&bad(9), Deny, None);
    house.keep(&good(8), Allow, None);
    house.advance(3700);
    let mut ahead = house.ahead();
    ahead.pass().await;
    assert_eq!(house.is_kept(&bad(9)), None, "a denial that nothing needs");
    assert_eq!(house.is_kept(&good(8)), Some(Allow), "an allow may be needed by a pod beside Tidegate");
    assert_eq!(house.is_kept(&good(1)), Some(Allow), "what is stable");
    assert_eq!(house.is_kept(&bad(4)), None, "what went back is not verified again");
    house.advance(31 * 24 * 3600);
    ahead.pass().await;
    assert_eq!((house.is_kept(&good(8)), house.is_kept(&good(1))), (None, Some(Allow)));
}

#[tokio::test]
async fn what_only_a_pod_asked_for_is_written_if_it_allows() {
    let house = House::enforcing();
    for (image, expected) in [(unsigned(1), None), (good(1), Some(Allow))] {
        let scope = Scope { namespace: "portal".to_owned(), service_account: Some("default".to_owned()) };
        let want = Want { image: image.parse().unwrap(), scope, revision: None };
        let in_force = house.guard.cluster.in_force().unwrap();
        let finished = house.assessor.finish(&in_force, &want).await;
        assert!(finished.is_some_and(|verdict| verdict.decision != Decision::Error), "{image}");
        assert_eq!(house.is_kept(&image), expected, "{image}");
    }
    assert!(house.registry.requests() > 0, "the other one was looked at");
}
