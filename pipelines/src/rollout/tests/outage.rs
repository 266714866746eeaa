//! After the API server was away: the gateway's watches start over later than the spoke does.

use jiff::SignedDuration;

use super::foreign::recorded_at_50_and_written_25;
use super::world::*;
use crate::api::*;

fn api_back(world: &mut World) {
    world.catching_up_until = Some(world.now + SignedDuration::from_secs(40));
}

#[test]
fn no_weight_is_raised_before_the_gateway_had_time_to_know_the_pods() {
    let mut world = World::default();
    world.run_to_weight(25);
    api_back(&mut world);
    assert!(!world.until(39, |world| world.weight() > 25));
    assert_eq!(world.code(), "GatewayCatchingUp");
    assert!(world.until(10, |world| world.weight() == 50));
    assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
}

#[test]
fn the_route_returns_only_to_pods_that_the_gateway_had_time_to_know() {
    let mut world = World::default();
    world.run_to_promoting(PromotingStep::TemplateWritten);
    api_back(&mut world);
    assert!(!world.until(39, |world| world.weight() < 100));
    assert_eq!((world.code(), world.stable_runs(NEW)), ("GatewayCatchingUp", true));
    assert!(world.until(10, |world| world.weight() == 0));
    assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
}

#[test]
fn a_weight_that_was_recorded_before_the_outage_is_not_written_right_after_it() {
    let mut world = recorded_at_50_and_written_25();
    api_back(&mut world);
    assert!(!world.until(39, |world| world.weight() > 25));
    assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
}

#[test]
fn a_breach_right_after_an_outage_is_answered_at_once_while_stable_was_never_written() {
    let mut world = World::default();
    world.run_to_weight(25);
    api_back(&mut world);
    world.bad = Some(BreachKind::HardStop);
    assert!(world.until(2, |world| world.weight() == 0), "stable's pods were there before");
    assert_eq!(world.run_to_end(), RolloutPhase::RolledBack);
    for lost in [None, Some(false), Some(true)] {
        let mut world = World::default();
        world.run_to_promoting(PromotingStep::AtCanary);
        world.spec.paused = true;
        world.until(3, |_| false);
        api_back(&mut world);
        world.bad = Some(BreachKind::HardStop);
        world.until(1, |_| false);
        world.crash_at = lost.map(|reaches| (world.log.len() + 1, reaches));
        assert!(world.until(6, |world| world.weight() == 0), "{lost:?}: {}", world.code());
        assert_eq!(world.run_to_end(), RolloutPhase::RolledBack);
    }
}

#[test]
fn a_gateway_that_never_has_time_to_start_over_is_paged() {
    let endless = |world: &mut World| {
        world.catching_up_until = Some(world.now + SignedDuration::from_hours(2));
        assert!(!world.until(120, World::ended));
    };
    let mut world = World::default();
    world.run_to_promoting(PromotingStep::TemplateWritten);
    endless(&mut world);
    assert_eq!((world.code(), world.weight()), ("GatewayCatchingUp", 100));
    assert!(world.last.as_ref().unwrap().page.is_some());
    let mut world = World::default();
    world.until(900, |world| world.phase() == RolloutPhase::Baking);
    world.bad = Some(BreachKind::Judge);
    endless(&mut world);
    assert_eq!((world.phase(), world.weight()), (RolloutPhase::RollbackBlocked, 0));
    assert!(world.last.as_ref().unwrap().page.is_some());
    world.catching_up_until = None;
    assert_eq!(world.run_to_end(), RolloutPhase::RolledBack);
}

#[test]
fn the_rollback_path_moves_the_route_once_the_gateway_had_time_to_know_the_targets_pods() {
    let mut world = World::default();
    world.until(900, |world| world.phase() == RolloutPhase::Baking);
    world.bad = Some(BreachKind::Judge);
    api_back(&mut world);
    assert!(!world.until(39, |world| world.weight() > 0), "{}", world.code());
    assert!(world.until(10, |world| world.weight() == 100), "{}", world.code());
    api_back(&mut world);
    assert!(!world.until(39, |world| world.weight() < 100), "{}", world.code());
    assert_eq!(world.run_to_end(), RolloutPhase::RolledBack);
    assert!(world.stable_runs(OLD));
}
