//! Blindness, inconclusive steps, a lost hub, foreign writers, stale views.

use super::world::*;
use crate::api::*;
use crate::rollout::*;

#[test]
fn blindness_goes_back_to_the_certified_step_then_to_zero_and_ends_without_quarantine() {
    let mut world = World::default();
    world.run_to_weight(50);
    world.blind_from = Some(world.now);
    assert!(world.until(12, |world| world.weight() == 25), "{}", world.weight());
    assert!(world.until(12, |world| world.weight() == 0));
    assert!(world.quarantined.is_empty());
    assert_eq!(world.run_to_end(), RolloutPhase::Blind);
    assert!(world.quarantined.is_empty() && world.stable_runs(OLD));
    world.is_clean();
}

#[test]
fn sight_starts_again_from_step_one_at_most_twice() {
    let mut world = World::default();
    for round in 1..=2 {
        world.run_to_weight(25);
        world.blind_from = Some(world.now);
        assert!(world.until(30, |world| world.weight() == 0));
        world.blind_from = None;
        assert!(!world.until(28, |world| world.weight() > 0), "30 s of samples first");
        assert!(world.until(20, |world| world.weight() == 5));
        assert_eq!(world.status.blind_restarts, round);
    }
    world.run_to_weight(25);
    world.blind_from = Some(world.now);
    assert_eq!(world.run_to_end(), RolloutPhase::Blind);
}

#[test]
fn metrics_that_do_not_answer_at_all_are_blindness() {
    let mut world = World::default();
    world.run_to_weight(25);
    world.metrics_away = true;
    assert!(world.until(30, |world| world.weight() == 0));
    assert_eq!(world.run_to_end(), RolloutPhase::Blind);
}

#[test]
fn blind_while_promoting_freezes_the_route_and_pages() {
    let mut world = World::default();
    world.run_to_promoting(PromotingStep::AtCanary);
    world.blind_from = Some(world.now);
    world.until(20, |_| false);
    let (weight, writes) = (world.weight(), world.log.len());
    world.until(300, |_| false);
    assert_eq!((world.weight(), world.log.len()), (weight, writes));
    assert!(world.last.as_ref().unwrap().page.is_some());
    world.blind_from = None;
    assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
}

#[test]
fn an_undecided_step_holds_until_the_progress_deadline() {
    let mut world = World::with(|world| world.good_after = None);
    world.run_to_weight(5);
    let from = world.now;
    assert!(!world.until(500, |world| world.weight() != 5));
    assert_eq!(world.code(), "Undecided");
    assert_eq!(world.run_to_end(), RolloutPhase::Inconclusive);
    assert!(world.status.finished_at.as_ref().unwrap().0.duration_since(from).as_secs() >= 500);
    assert!(world.quarantined.is_empty());
}

#[test]
fn an_undecided_step_may_get_its_time_once_more_or_go_back_at_once() {
    for (policy, least, most) in [(OnInconclusive::Rollback, 60, 75), (OnInconclusive::Longer, 120, 135)] {
        let mut world = World::with(|world| {
            world.good_after = None;
            world.spec.strategy.on_inconclusive = policy;
        });
        world.run_to_weight(5);
        let from = world.now;
        world.until(600, |world| world.weight() == 0);
        let took = world.now.duration_since(from).as_secs();
        assert!((least..=most).contains(&took), "{policy:?} {took}");
        assert_eq!(world.run_to_end(), RolloutPhase::Inconclusive);
    }
}

#[test]
fn a_lost_hub_holds_retreats_or_finishes_as_the_intent_says() {
    for policy in [OnHubLost::Hold, OnHubLost::Retreat, OnHubLost::Finish] {
        let mut world = World::with(|world| world.spec.strategy.on_hub_lost = policy);
        world.run_to_weight(25);
        world.hub_away = Some(world.now - std::time::Duration::from_secs(20));
        match policy {
            OnHubLost::Hold => {
                assert!(!world.until(200, |world| world.weight() != 25));
            }
            OnHubLost::Retreat => {
                assert!(world.until(20, |world| world.weight() == 0));
                assert!(!world.until(200, |world| world.weight() > 0));
            }
            OnHubLost::Finish => {}
        }
        if policy != OnHubLost::Finish {
            world.hub_away = None;
        }
        assert_eq!(world.run_to_end(), RolloutPhase::Promoted, "{policy:?}");
    }
}

fn foreign(world: &mut World, percent: u32) {
    let now = world.now;
    let route = world.route.as_mut().unwrap();
    (route.stable, route.canary) = (100 - percent, Some(percent));
    (route.rv, route.generation, route.changed) = (route.rv + 1, route.generation + 1, now);
}

fn foreign_told(world: &World) -> bool {
    world.status.conditions.iter().any(|one| one.type_ == "ForeignWriter" && one.status == "True")
}

#[test]
fn a_foreign_weight_above_the_record_is_lowered_first() {
    let mut world = World::default();
    world.run_to_weight(25);
    foreign(&mut world, 80);
    world.pass();
    assert_eq!(world.weight(), 25);
    assert!(foreign_told(&world));
    assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
}

#[test]
fn a_foreign_weight_below_the_record_is_kept_until_a_new_decision() {
    let mut world = World::default();
    world.run_to_weight(25);
    foreign(&mut world, 10);
    world.until(8, |_| false);
    assert_eq!(world.weight(), 10);
    assert!(foreign_told(&world));
    assert!(world.until(60, |world| world.weight() == 50), "the next step is a new decision");
}

#[test]
fn a_route_lowered_by_hand_stays_at_zero() {
    let mut world = World::with(|world| world.good_after = None);
    world.run_to_weight(5);
    foreign(&mut world, 0);
    assert!(!world.until(300, |world| world.weight() > 0));
    world.run_to_end();
}

#[test]
fn a_stale_view_neither_repeats_nor_hastens_a_step() {
    let straight = {
        let mut world = World::default();
        world.run_to_end();
        world
    };
    for stale in [1, 2, 4] {
        let mut world = World::with(|world| world.stale = stale);
        assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
        let raises = |world: &World| {
            let mut all: Vec<(u8, u64)> = world
                .log
                .iter()
                .filter_map(|wrote| match wrote {
                    Wrote::Did(Action::SetWeights { percent, decision, .. }) => Some((*percent, decision.n)),
                    _ => None,
                })
                .collect();
            all.dedup();
            all
        };
        assert_eq!(raises(&world), raises(&straight), "{stale} passes late");
        assert_eq!(world.weight(), 0);
        assert_eq!(world.canary.as_ref().unwrap().wanted, 0);
    }
}

#[test]
fn a_deposed_leader_writes_nothing() {
    let mut world = World::default();
    world.epoch = 5;
    world.run_to_weight(25);
    world.epoch = 4;
    world.bad = Some(BreachKind::Judge);
    let writes = world.log.len();
    world.until(20, |_| false);
    assert_eq!(world.log.len(), writes);
    world.epoch = 6;
    assert_eq!(world.run_to_end(), RolloutPhase::RolledBack);
}

#[test]
fn a_lost_canary_is_left_at_once() {
    let mut world = World::default();
    world.run_to_weight(25);
    world.canary = None;
    world.pass();
    assert_eq!(world.weight(), 0);
    assert_eq!(world.run_to_end(), RolloutPhase::Failed);
    assert!(world.quarantined.is_empty());
}

#[test]
fn a_route_left_over_by_another_goes_back_to_a_strong_stable_before_the_canary_changes() {
    let mut world = World::default();
    let now = world.now;
    let mut left = world.route.clone().unwrap();
    (left.stable, left.canary, left.promoting, left.changed) = (0, Some(100), true, now);
    left.rollout = Some("another".into());
    left.decision = Some(RouteDecision { rollout: "another".into(), epoch: 1, n: 7 });
    world.route = Some(left);
    assert!(world.until(20, |world| world.canary.is_some()));
    assert_eq!(world.weight(), 0);
    assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
}

#[test]
fn a_missing_route_is_waited_for_and_then_fails() {
    let mut world = World::default();
    let route = world.route.take();
    world.until(30, |_| false);
    assert_eq!(world.code(), "RouteMissing");
    let mut back = world.clone();
    back.route = route;
    assert_eq!(back.run_to_end(), RolloutPhase::Promoted);
    assert_eq!(world.run_to_end(), RolloutPhase::Failed);
}
