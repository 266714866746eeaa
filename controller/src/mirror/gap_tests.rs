//! Pulling across gaps: in the watch at the hub, and between the look at the permit and the write.

use std::sync::Arc;

use kube::ResourceExt;
use kube::runtime::watcher::Event;
use tidegate_pipelines::api::Quarantine;
use tidegate_pipelines::api::names;
use tidegate_pipelines::api::policy::{Attestor, VerificationPolicy};

use super::down_tests::{At, NOW, OF_LATE, attestor, due, environment, object, policy, spoke, typed};
use super::kinds::Kind;
use super::sources::Sources;
use crate::lease::Permit;
use crate::memory::told;

const NOTHING: [&str; 0] = [];

/// How the hub says that it holds this no more, after it did.
fn ways_to_go<K: Clone>(object: &K) -> [(Vec<Event<K>>, &'static str); 2] {
    [(vec![Event::Delete(object.clone())], "the watch tells it"), (vec![Event::Init, Event::InitDone], "a relist")]
}

#[tokio::test]
async fn a_loosening_that_went_at_the_hub_never_takes_effect_and_waits_anew_when_it_returns() {
    let loosened = typed::<VerificationPolicy>(policy(&["eve"]));
    let strict = due::<VerificationPolicy>(Kind::Policy, &policy(&["ci"]), &policy(&["eve"]));
    for (ways, case) in ways_to_go(&loosened) {
        let (mut mirror, kept, written) = spoke(&[], &[environment(), strict.clone()]);
        let cache = mirror.world.policies.clone();
        let mut sources = Sources::default();
        let play = async {
            mirror.clock = Arc::new(At("2026-01-01T00:09:59Z"));
            for event in [Event::Init, Event::InitApply(loosened.clone()), Event::InitDone].into_iter().chain(ways) {
                mirror.told(Kind::Policy, event, &mut sources, &cache).await;
            }
            mirror.clock = Arc::new(At(NOW));
            mirror.look(Kind::Policy, &sources, &cache).await;
            let copy = cache.get(None, "strict").unwrap();
            assert_eq!(copy.spec.policy.attestor_names().into_iter().collect::<Vec<_>>(), ["ci"], "{case}");
            assert_eq!(copy.annotations().get(names::PENDING), None, "{case}: the mark goes with it");
            mirror.told(Kind::Policy, Event::Apply(loosened.clone()), &mut sources, &cache).await;
            let copy = cache.get(None, "strict").unwrap();
            assert_eq!(copy.spec.policy.attestor_names().into_iter().collect::<Vec<_>>(), ["ci"], "{case}");
            let since = copy.annotations().get(names::PENDING_SINCE).map(String::as_str);
            assert_eq!(since, Some(NOW), "{case}: it waits anew");
        };
        tokio::select! {
            () = play => {}
            () = kept => {}
        }
        assert_eq!(told(written), ["verificationpolicies/strict"; 2], "{case}");
    }
}

#[tokio::test]
async fn the_wait_of_a_first_copy_ends_when_it_goes_at_the_hub() {
    let ci = typed::<Attestor>(attestor("ci"));
    for (ways, case) in ways_to_go(&ci) {
        let (mut mirror, kept, written) = spoke(&[], &[environment(), policy(&["ci"])]);
        let cache = mirror.world.attestors.clone();
        let mut sources = Sources::default();
        let play = async {
            mirror.clock = Arc::new(At(OF_LATE));
            for event in [Event::Init, Event::InitApply(ci.clone()), Event::InitDone] {
                mirror.told(Kind::Attestor, event, &mut sources, &cache).await;
            }
            assert!(mirror.waiting.of(Kind::Attestor, "ci").is_some(), "a policy in force names it");
            for event in ways {
                mirror.told(Kind::Attestor, event, &mut sources, &cache).await;
            }
            assert_eq!(mirror.waiting.of(Kind::Attestor, "ci"), None, "{case}");
            mirror.clock = Arc::new(At("2026-01-01T00:20:00Z"));
            mirror.look(Kind::Attestor, &sources, &cache).await;
        };
        tokio::select! {
            () = play => {}
            () = kept => {}
        }
        assert_eq!(told(written), NOTHING, "{case}");
    }
}

#[tokio::test]
async fn what_waits_stays_while_the_hub_was_not_listed_yet() {
    let strict = due::<VerificationPolicy>(Kind::Policy, &policy(&["ci"]), &policy(&["eve"]));
    let (mirror, kept, written) = spoke(&[], &[environment(), strict]);
    let play = async {
        mirror.listed().await;
        mirror.look(Kind::Policy, &Sources::default(), &mirror.world.policies).await;
    };
    tokio::select! {
        () = play => {}
        () = kept => {}
    }
    assert_eq!(told(written), NOTHING, "a spoke that starts anew begins no wait anew");
}

#[tokio::test]
async fn nothing_is_written_once_the_permit_went_while_a_merge_waited_for_its_turn() {
    let (mut mirror, kept, written) = spoke(&[], &[environment()]);
    let (lease, permit) = Permit::revocable();
    mirror.permit = permit;
    let qa = typed::<Attestor>(attestor("qa"));
    let turn = mirror.turn.clone().lock_owned().await;
    let deposed = async {
        mirror.listed().await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        lease.send_replace(None);
        drop(turn);
    };
    tokio::select! {
        _ = async { tokio::join!(mirror.merge(Kind::Attestor, &qa, &mirror.world.attestors), deposed) } => {}
        () = kept => {}
    }
    assert_eq!(told(written), NOTHING);
}

#[tokio::test]
async fn nothing_is_written_once_the_permit_went_before_this_cluster_was_listed() {
    let held = object("Quarantine", "q", serde_json::json!({"digests": [], "reason": "a breach"}));
    let held = typed::<Quarantine>(held);
    for which in ["a quarantine", "a memory"] {
        let (mut mirror, kept, written) = spoke(&[], &[environment(), policy(&["ci"])]);
        let (lease, permit) = Permit::revocable();
        mirror.permit = permit;
        let write = async {
            match which {
                "a quarantine" => mirror.merge(Kind::Quarantine, &held, &mirror.world.quarantines).await,
                _ => mirror.remember().await.unwrap(),
            }
        };
        let mut write = std::pin::pin!(write);
        assert!(futures::poll!(&mut write).is_pending(), "nobody keeps the caches yet");
        lease.send_replace(None);
        tokio::select! {
            () = write => {}
            () = kept => {}
        }
        assert_eq!(told(written), NOTHING, "{which}");
    }
}
