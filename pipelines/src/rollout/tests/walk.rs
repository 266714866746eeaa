//! The good way, and what must hold on it.

use std::time::Duration;

use super::world::*;
use crate::api::*;
use crate::rollout::*;

fn weights(world: &World) -> Vec<u8> {
    world
        .log
        .iter()
        .filter_map(|wrote| match wrote {
            Wrote::Did(Action::SetWeights { percent, .. }) => Some(*percent),
            Wrote::Did(Action::LowerToZero { .. }) => Some(0),
            _ => None,
        })
        .collect()
}

#[test]
fn a_good_version_walks_its_steps_and_is_promoted() {
    let mut world = World::default();
    assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
    assert_eq!(weights(&world), [2, 5, 25, 50, 100, 0]);
    assert!(world.stable_runs(NEW));
    world.is_clean();
    assert_eq!(world.status.target, images(OLD));
    assert!(world.quarantined.is_empty());
}

#[test]
fn stable_rolls_only_behind_a_marked_route_without_traffic() {
    let mut world = World::default();
    world.run_to_end();
    let at = |found: fn(&Action) -> bool| {
        world.log.iter().position(|wrote| matches!(wrote, Wrote::Did(action) if found(action))).unwrap()
    };
    let marked = at(|action| matches!(action, Action::MarkPromoting { .. }));
    let template = at(|action| matches!(action, Action::SetStableTemplate { .. }));
    let last = world.log.iter().rposition(|w| matches!(w, Wrote::Did(Action::SetWeights { percent: 0, .. }))).unwrap();
    let down = at(|action| matches!(action, Action::ScaleCanary { replicas: 0 }));
    assert!(marked < template && template < last && last < down, "{marked} {template} {last} {down}");
}

#[test]
fn an_unchanged_situation_writes_nothing() {
    let mut world = World::with(|world| world.spec.paused = true);
    world.until(40, |_| false);
    let writes = world.log.len();
    for _ in 0..30 {
        world.pass();
    }
    assert_eq!(world.log.len(), writes, "{:?}", world.log.last());
}

#[test]
fn evidence_alone_is_written_every_ten_seconds() {
    let mut world = World::with(|world| world.good_after = None);
    world.run_to_weight(5);
    world.until(5, |_| false);
    let writes = world.log.len();
    world.until(30, |_| false);
    let more = world.log.len() - writes;
    assert!((2..=4).contains(&more), "{more}");
}

#[test]
fn the_canary_has_its_pods_before_its_weight() {
    let mut world = World::with(|world| world.pod_latency = Duration::from_secs(9));
    world.until(300, |world| world.weight() >= 50);
    assert!(world.canary.as_ref().unwrap().updated_ready >= 2);
    world.run_to_end();
}

#[test]
fn pods_not_ready_in_time_fail_without_quarantine() {
    let mut world = World::default();
    world.broken.insert(images(NEW)[0].digest.clone());
    assert_eq!(world.run_to_end(), RolloutPhase::Failed);
    assert!(world.quarantined.is_empty() && world.stable_runs(OLD));
    assert!(weights(&world).iter().all(|weight| *weight == 0));
    world.is_clean();
}

#[test]
fn the_first_weight_stays_small_while_pods_warm_up() {
    let mut world = World::with(|world| world.spec.strategy.mask = Span::from_secs(30));
    world.until(300, |world| world.weight() == 2);
    let from = world.now;
    world.until(300, |world| world.weight() == 5);
    assert!(world.now.duration_since(from).as_secs() >= 30);
}

#[test]
fn a_person_may_let_steps_pass_but_not_a_breach() {
    let mut world = World::with(|world| {
        world.good_after = None;
        world.spec.promote_through = Some(3);
    });
    assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
    let told: Vec<&str> =
        world.status.history.iter().filter(|e| e.reason == "PromotedByPerson").map(|e| e.message.as_str()).collect();
    assert_eq!(told.first(), Some(&"a person let step 1 pass"), "{told:?}");
    let mut world = World::with(|world| {
        world.spec.promote_through = Some(3);
        world.bad = Some(BreachKind::Judge);
    });
    assert_eq!(world.run_to_end(), RolloutPhase::RolledBack);
}

#[test]
fn a_pause_step_waits_and_an_endless_one_waits_for_a_person() {
    let pause = |duration| Step { set_weight: None, pause: Some(Pause { duration }) };
    let mut world = World::with(|world| {
        world.spec.strategy.steps =
            vec![Step::weight(5), pause(Some(Span::from_secs(40))), Step::weight(50), pause(None)];
    });
    world.until(300, |world| world.status.step == 1);
    let from = world.now;
    world.until(300, |world| world.status.step == 2);
    assert!(world.now.duration_since(from).as_secs() >= 40);
    // Longer than progressDeadlineSeconds: a pause does not count.
    assert!(!world.until(1500, |world| world.status.step > 3 || world.ended()));
    world.spec.promote_through = Some(3);
    assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
}

#[test]
fn paused_holds_the_weight_and_its_time_does_not_count() {
    let mut world = World::default();
    world.run_to_weight(25);
    world.spec.paused = true;
    assert!(!world.until(1500, |world| world.weight() != 25 || world.ended()));
    assert!(world.status.conditions.iter().any(|one| one.type_ == "Paused" && one.status == "True"));
    world.spec.paused = false;
    assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
}

#[test]
fn the_hubs_ceiling_is_never_passed() {
    let mut world = World::with(|world| world.spec.max_weight = 25);
    assert!(!world.until(300, |world| world.weight() > 25));
    assert_eq!((world.weight(), world.code()), (25, "CeilingReached"));
    world.spec.max_weight = 5;
    assert!(world.until(10, |world| world.weight() == 5));
    world.spec.max_weight = 100;
    assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
}

#[test]
fn a_first_release_has_no_canary() {
    let mut world = World::with(|world| world.stable.as_mut().unwrap().ready = 0);
    world.stable.as_mut().unwrap().updated_ready = 0;
    world.broken.insert(images(OLD)[0].digest.clone());
    assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
    assert!(world.stable_runs(NEW) && world.canary.is_none() && weights(&world).is_empty());
}

#[test]
fn a_first_release_that_fails_leaves_its_pods_and_quarantines_nothing() {
    let mut world = World::default();
    let stable = world.stable.as_mut().unwrap();
    (stable.ready, stable.updated_ready) = (0, 0);
    world.broken.extend([images(OLD)[0].digest.clone(), images(NEW)[0].digest.clone()]);
    assert_eq!(world.run_to_end(), RolloutPhase::Failed);
    assert!(world.stable_runs(NEW) && world.quarantined.is_empty());
    assert!(world.status.message.as_ref().unwrap().contains("NoRollbackTarget"));
}

#[test]
fn a_version_that_runs_already_is_not_rolled_out_again() {
    let mut world = World::with(|world| world.spec.images = images(OLD));
    assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
    assert!(world.log.iter().all(|wrote| matches!(wrote, Wrote::Status(_))));
}

#[test]
fn nothing_is_touched_where_it_may_not_ship() {
    type Change = fn(&mut World);
    let table: [(Change, RolloutPhase); 5] = [
        (|world| world.namespace_allowed = false, RolloutPhase::Failed),
        (
            |world| world.verdict(NEW, VerdictView::Deny { reason: "unsigned".into(), revoked: false }),
            RolloutPhase::Denied,
        ),
        (|world| world.quarantined.extend([images(NEW)[0].digest.clone()]), RolloutPhase::Denied),
        (|world| world.spec.abort = true, RolloutPhase::Withdrawn),
        (|world| world.spec.superseded_by = Some("portal-newer".into()), RolloutPhase::Superseded),
    ];
    for (change, end) in table {
        let mut world = World::with(change);
        assert_eq!(world.run_to_end(), end);
        assert!(world.log.iter().all(|wrote| matches!(wrote, Wrote::Status(_))), "{end:?} {:?}", world.log);
    }
}

#[test]
fn an_error_is_no_allow_and_no_denial() {
    for verdict in [VerdictView::Error { reason: "registry away".into() }, VerdictView::Pending] {
        let mut world = World::with(|world| world.verdict(NEW, verdict.clone()));
        assert!(!world.until(300, |world| world.status.started_at.is_some() || world.ended()));
        world.verdict(NEW, VerdictView::Allow);
        assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
    }
}

#[test]
fn one_rollout_at_a_time_acts_on_a_workload() {
    let other = OtherRollout {
        name: "portal-before-1".into(),
        reason: RolloutReason::Ship,
        phase: Some(RolloutPhase::Canary),
        started: true,
        newer: false,
    };
    let mut world = World::with(|world| world.others = vec![other]);
    assert!(!world.until(900, |world| world.status.started_at.is_some() || world.ended()));
    world.others.clear();
    assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
}

#[test]
fn a_canary_that_is_not_scraped_gets_no_weight() {
    let mut world = World::with(|world| world.scraped = false);
    world.until(20, |_| false);
    assert_eq!(world.code(), "CanaryNotScraped");
    assert_eq!(world.run_to_end(), RolloutPhase::Failed);
    assert!(weights(&world).iter().all(|weight| *weight == 0));
    let mut world = World::with(|world| world.config_errors = vec!["total matches nothing on stable".into()]);
    assert_eq!(world.run_to_end(), RolloutPhase::Failed);
}

#[test]
fn monitors_are_doubted_only_once_a_scrape_was_possible() {
    let mut world = World::with(|world| (world.scraped, world.young) = (false, true));
    world.until(20, |_| false);
    let said = world.last.as_ref().unwrap().report[0].message.clone();
    assert_eq!(
        (world.code(), said.as_str()),
        ("CanaryNotScraped", "waiting for the first scrape of the canary's pods")
    );
    world.young = false;
    world.until(2, |_| false);
    let said = &world.last.as_ref().unwrap().report[0].message;
    assert!(said.contains("do monitors select its labels?"), "{said}");
    assert!(weights(&world).iter().all(|weight| *weight == 0));
}

#[test]
fn weights_too_coarse_beside_foreign_backends_are_refused() {
    let mut world = World::default();
    let route = world.route.as_mut().unwrap();
    (route.foreign, route.stable) = (true, 10);
    assert_eq!(world.run_to_end(), RolloutPhase::Failed);
    assert!(world.codes().contains(&"WeightTooCoarse".into()));
    let mut world = World::default();
    let route = world.route.as_mut().unwrap();
    (route.foreign, route.stable) = (true, 200);
    assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
    assert_eq!(world.route.as_ref().unwrap().stable, 200);
}

#[test]
fn stables_capacity_is_held_against_its_autoscaler_and_given_back() {
    let mut world = World::default();
    world.run_to_weight(5);
    assert_eq!(world.hpa.as_ref().unwrap().min, 4);
    world.run_to_end();
    assert_eq!(world.hpa.as_ref().unwrap().min, 2);
    let mut world = World::with(|world| world.hpa.as_mut().unwrap().managed_by = Some("KEDA".into()));
    assert_eq!(world.run_to_end(), RolloutPhase::Failed);
    assert_eq!(world.hpa.as_ref().unwrap().min, 2);
}

#[test]
fn promotion_needs_something_to_go_back_to() {
    let deny = || VerdictView::Deny { reason: "never verified".into(), revoked: false };
    let mut world = World::with(|world| world.verdict(OLD, deny()));
    assert_eq!(world.run_to_end(), RolloutPhase::Failed);
    assert!(world.codes().contains(&"NoRollbackTarget".into()));
    assert!(weights(&world).contains(&50) && !weights(&world).contains(&100), "it gets a canary, not the promotion");
    let mut world = World::with(|world| {
        world.verdict(OLD, deny());
        world.spec.strategy.unsafe_allow_unverified_rollback_target = true;
    });
    assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
}
