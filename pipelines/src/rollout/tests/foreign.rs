//! What others do to route, autoscaler and stable in mid-rollout: traffic stays with pods that carry it.

use std::time::Duration;

use super::world::*;
use crate::api::*;
use crate::rollout::*;

fn touched(world: &mut World, change: impl FnOnce(&mut Route)) {
    let now = world.now;
    let route = world.route.as_mut().unwrap();
    change(route);
    route.touch(now);
}

fn foreign_told(world: &World) -> bool {
    world.status.conditions.iter().any(|one| one.type_ == "ForeignWriter" && one.status == "True")
}

/// No request went to a canary without pods, at any second of it.
fn served(world: &World) -> bool {
    world.weight() == 0 || world.canary.as_ref().is_some_and(|canary| canary.ready > 0)
}

#[test]
fn a_canary_keeps_its_pods_until_the_route_no_longer_names_it() {
    type Change = fn(&mut Route);
    let odd: [(&str, Change); 2] =
        [("stable named twice", |route| route.twice = Some(1)), ("stable taken out", |route| route.stable_gone = true)];
    for (name, change) in odd {
        for breach in [true, false] {
            let mut world = World::default();
            world.run_to_weight(50);
            touched(&mut world, change);
            world.pass();
            world.bad = breach.then_some(BreachKind::Judge);
            let mut all_served = true;
            for _ in 0..600 {
                world.pass();
                all_served &= served(&world);
                world.tick(Duration::from_secs(1));
                if world.ended() {
                    break;
                }
            }
            assert!(all_served, "{name}, breach: {breach}");
            assert_eq!(world.weight(), 0, "{name}, breach: {breach}");
            if breach {
                assert_eq!(world.phase(), RolloutPhase::RolledBack, "{name}");
            }
            world.run_to_end();
        }
    }
}

#[test]
fn a_breach_lowers_a_route_that_cannot_be_read_for_raising() {
    let mut world = World::default();
    world.run_to_weight(50);
    touched(&mut world, |route| route.twice = Some(1));
    world.bad = Some(BreachKind::Judge);
    world.pass();
    assert_eq!(world.weight(), 0);
    assert!(world.canary.as_ref().unwrap().wanted > 0, "the last request is awaited");
    assert_eq!(world.run_to_end(), RolloutPhase::RolledBack);
}

#[test]
fn an_ambiguous_route_takes_no_step_and_fails_in_time() {
    let mut world = World::default();
    world.run_to_weight(25);
    touched(&mut world, |route| route.twice = Some(1));
    assert!(!world.until(50, |world| world.weight() > 25));
    assert!(foreign_told(&world));
    assert_eq!(world.run_to_end(), RolloutPhase::Failed);
    let mut mended = World::default();
    mended.run_to_weight(25);
    touched(&mut mended, |route| route.twice = Some(1));
    mended.until(20, |_| false);
    touched(&mut mended, |route| route.twice = None);
    assert_eq!(mended.run_to_end(), RolloutPhase::Promoted);
}

#[test]
fn what_another_left_on_the_canary_goes_before_its_pods() {
    let mut world = World::default();
    world.run_to_weight(25);
    world.spec.abort = true;
    world.pass();
    touched(&mut world, |route| {
        (route.stable, route.canary) = (50, Some(50));
        route.strip();
    });
    assert_eq!(world.run_to_end(), RolloutPhase::Withdrawn);
    assert_eq!(world.weight(), 0);
}

#[test]
fn load_that_grows_in_mid_canary_is_held_until_stable_has_it_back() {
    let mut world = World::with(|world| world.load = Some(4));
    world.run_to_weight(25);
    world.load = Some(8);
    world.until(10, |_| false);
    let peak = world.stable.as_ref().unwrap().wanted;
    assert!(peak > 4, "the autoscaler follows");
    world.run_to_promoting(PromotingStep::AtCanary);
    assert!(world.canary.as_ref().unwrap().ready >= peak, "all requests need all that stable had");
    world.until(30, |_| false);
    assert!(world.stable.as_ref().is_none_or(|stable| stable.wanted >= peak), "stable shrank without its requests");
    assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
    assert_eq!(world.hpa.as_ref().unwrap().min, 2, "given back");
}

#[test]
fn the_way_back_takes_no_pods_from_a_canary_that_serves() {
    let mut world = World::default();
    world.run_to_promoting(PromotingStep::TemplateWritten);
    let now = world.now;
    world.canary.as_mut().unwrap().scale(7, now);
    world.until(5, |_| false);
    world.bad = Some(BreachKind::BurnGuard);
    let back = world.until(60, |world| world.canary.as_ref().is_some_and(|canary| canary.images == images(OLD)));
    assert!(back, "{}", world.code());
    assert_eq!(world.canary.as_ref().unwrap().wanted, 7);
    assert_eq!(world.run_to_end(), RolloutPhase::RolledBack);
}

#[test]
fn without_an_autoscaler_a_person_may_scale_stable_down() {
    for hpa in [None, Some(Hpa { min: 1, max: 3, ours: None, managed_by: None })] {
        let mut world = World::default();
        world.run_to_promoting(PromotingStep::TemplateWritten);
        let now = world.now;
        world.hpa = hpa;
        world.stable.as_mut().unwrap().scale(3, now);
        assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
        assert_eq!(world.stable.as_ref().unwrap().wanted, 3);
    }
}

#[test]
fn a_replaced_route_gets_our_backend_back_and_the_way_back_goes_on() {
    let mut world = World::default();
    world.until(900, |world| world.phase() == RolloutPhase::Baking);
    world.bad = Some(BreachKind::Judge);
    assert!(world.until(60, |world| world.route.as_ref().unwrap().rollout.is_some()));
    // Applied again from its source after the adoption; what the source does not name survives.
    touched(&mut world, |route| (route.stable, route.canary) = (1, None));
    assert_eq!(world.run_to_end(), RolloutPhase::RolledBack);
    assert!(world.stable_runs(OLD));
}

#[test]
fn a_recorded_weight_is_written_to_a_route_that_lost_our_backend_before_the_write() {
    let mut world = World::default();
    world.until(900, |world| world.phase() == RolloutPhase::Baking);
    world.bad = Some(BreachKind::Judge);
    let mut before = world.clone();
    while world.status.weight != 100 {
        before = world.clone();
        world.pass();
        world.tick(Duration::from_secs(1));
    }
    let write = |wrote: &Wrote| matches!(wrote, Wrote::Did(Action::SetWeights { percent: 100, .. }));
    before.crash_at = world.log.iter().rposition(write).map(|at| (at, false));
    let mut world = before;
    world.pass();
    assert_eq!((world.status.weight, world.weight()), (100, 0), "recorded and not written");
    touched(&mut world, |route| (route.stable, route.canary) = (1, None));
    assert_eq!(world.run_to_end(), RolloutPhase::RolledBack);
    assert!(world.stable_runs(OLD));
}

/// Weight 50 is recorded, and the process died before it was written.
pub fn recorded_at_50_and_written_25() -> World {
    let mut world = World::default();
    world.run_to_weight(25);
    let mut before = world.clone();
    while world.status.weight != 50 {
        before = world.clone();
        world.pass();
        world.tick(Duration::from_secs(1));
    }
    let write = |wrote: &Wrote| matches!(wrote, Wrote::Did(Action::SetWeights { percent: 50, .. }));
    before.crash_at = world.log.iter().rposition(write).map(|at| (at, false));
    before.pass();
    assert_eq!((before.status.weight, before.weight()), (50, 25), "recorded and not written");
    before
}

#[test]
fn a_recorded_weight_is_not_written_above_a_ceiling_that_fell_meanwhile() {
    let mut world = recorded_at_50_and_written_25();
    world.spec.max_weight = 30;
    assert!(!world.until(60, |world| world.weight() > 30 || world.ended()));
    assert_eq!(world.weight(), 30, "{}", world.code());
    world.spec.max_weight = 100;
    assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
}

#[test]
fn a_recorded_weight_waits_for_stables_capacity() {
    let mut world = recorded_at_50_and_written_25();
    world.hpa.as_mut().unwrap().min = 2;
    world.hpa_refused = true;
    assert!(!world.until(30, |world| world.weight() > 25 || world.ended()));
    world.hpa_refused = false;
    assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
}

#[test]
fn a_way_back_that_finds_its_route_replaced_again_and_again_is_paged() {
    let mut world = World::default();
    world.until(900, |world| world.phase() == RolloutPhase::Baking);
    world.bad = Some(BreachKind::Judge);
    for _ in 0..200 {
        world.until(1, |_| false);
        touched(&mut world, |route| (route.stable, route.canary) = (1, None));
    }
    assert_eq!(world.phase(), RolloutPhase::RollbackBlocked, "{}", world.code());
    assert!(world.last.as_ref().unwrap().page.is_some());
}

#[test]
fn a_rule_that_comes_later_gets_our_backend_and_its_weight_with_the_next_decision() {
    let mut world = World::default();
    world.run_to_weight(25);
    touched(&mut world, |route| route.late = Some((1, None)));
    world.until(3, |_| false);
    assert_eq!(world.route.as_ref().unwrap().late, Some((1, Some(0))));
    assert!(world.until(60, |world| world.route.as_ref().unwrap().percents() == [50.0, 50.0]));
    assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
}

#[test]
fn a_weight_without_its_decision_is_never_raised_again() {
    let mut world = World::with(|world| world.good_after = None);
    world.run_to_weight(5);
    touched(&mut world, |route| {
        (route.stable, route.canary) = (100, Some(0));
        route.strip();
    });
    assert!(!world.until(300, |world| world.weight() > 0));
    assert!(foreign_told(&world));
    assert!(world.route.as_ref().unwrap().decision.is_some(), "marked again");
    world.run_to_end();
    let mut world = World::default();
    world.run_to_weight(25);
    touched(&mut world, |route| {
        (route.stable, route.canary) = (20, Some(80));
        route.strip();
    });
    world.pass();
    assert_eq!(world.weight(), 25, "a higher one is lowered all the same");
    assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
}

#[test]
fn a_stable_that_was_never_touched_takes_its_requests_back_whatever_its_verdict() {
    for quarantined in [false, true] {
        let mut world = World::with(|world| world.spec.strategy.unsafe_allow_unverified_rollback_target = true);
        world.run_to_promoting(PromotingStep::AtCanary);
        world.spec.paused = true;
        world.until(5, |_| false);
        world.verdict(OLD, VerdictView::Deny { reason: "a new finding".into(), revoked: false });
        if quarantined {
            world.quarantined.insert(images(OLD)[0].digest.clone());
        }
        world.bad = Some(BreachKind::BurnGuard);
        assert!(world.until(10, |world| world.weight() == 0), "{}", world.code());
        assert_eq!(world.run_to_end(), RolloutPhase::RolledBack);
        assert!(world.stable_runs(OLD));
        world.is_clean();
    }
}

#[test]
fn blindness_lowers_a_route_that_is_not_settled() {
    let mut world = World::default();
    world.run_to_weight(25);
    world.blind_from = Some(world.now);
    for _ in 0..9 {
        world.pass();
        world.tick(Duration::from_secs(1));
    }
    assert_eq!(world.weight(), 5, "the certified step");
    let mut world = World::default();
    world.run_to_weight(25);
    world.blind_from = Some(world.now);
    // Never settled: the marks are gone before each look.
    for _ in 0..20 {
        touched(&mut world, Route::strip);
        world.pass();
        world.tick(Duration::from_secs(1));
    }
    assert_eq!(world.weight(), 0);
}

#[test]
fn an_autoscaler_that_cannot_be_written_holds_up_no_way_back() {
    let mut world = World::default();
    world.run_to_weight(25);
    world.hpa.as_mut().unwrap().min = 2;
    world.hpa_refused = true;
    world.good_after = None;
    world.blind_from = Some(world.now);
    assert!(world.until(12, |world| world.weight() == 5), "{}", world.weight());
}

#[test]
fn a_blind_retreat_raises_nothing_that_another_lowered() {
    let mut world = World::default();
    world.run_to_weight(50);
    touched(&mut world, |route| (route.stable, route.canary) = (90, Some(10)));
    world.pass();
    world.blind_from = Some(world.now - jiff::SignedDuration::from_secs(10));
    world.pass();
    assert_eq!(world.weight(), 0, "not up to the certified 25");
}

#[test]
fn our_backend_goes_with_a_pipeline_that_goes_while_baking() {
    let mut world = World::default();
    world.until(900, |world| world.phase() == RolloutPhase::Baking);
    world.retire = true;
    assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
    assert!(world.canary.is_none() && world.route.as_ref().unwrap().canary.is_none());
}

/// On the way back, with all requests at the target's pods.
fn going_back(step: PromotingStep) -> World {
    let mut world = World::default();
    world.until(900, |world| world.phase() == RolloutPhase::Baking);
    world.bad = Some(BreachKind::Judge);
    let there = |world: &World| world.status.promoting == Some(step) && world.weight() == 100;
    assert!(world.until(300, there), "{}", world.code());
    world
}

#[test]
fn a_weight_that_someone_lowers_on_the_way_back_is_decided_anew() {
    for step in [PromotingStep::AtCanary, PromotingStep::TemplateWritten] {
        let mut world = going_back(step);
        let decision = world.status.decision;
        touched(&mut world, |route| (route.stable, route.canary) = (60, Some(40)));
        assert!(world.until(20, |world| world.weight() == 100), "{step:?} {}", world.code());
        assert_eq!(world.status.decision, decision + 1, "{step:?}");
        assert!(world.codes().contains(&"RaisedAgain".to_owned()), "{step:?}");
        assert_eq!(world.run_to_end(), RolloutPhase::RolledBack, "{step:?}");
        assert!(world.stable_runs(OLD), "{step:?}");
        world.is_clean();
    }
}

#[test]
fn who_resets_route_and_template_together_on_the_way_back_holds_nothing_up() {
    let mut world = going_back(PromotingStep::TemplateWritten);
    world.stable.as_mut().unwrap().stamp = None;
    touched(&mut world, |route| (route.stable, route.canary) = (100, Some(0)));
    assert!(world.until(20, |world| world.weight() == 100), "{}", world.code());
    assert_eq!(world.run_to_end(), RolloutPhase::RolledBack);
    assert!(world.stable_runs(OLD));
}

#[test]
fn who_lowers_it_again_and_again_is_not_fought_and_a_person_is_asked() {
    let mut world = going_back(PromotingStep::AtCanary);
    for _ in 0..200 {
        world.until(1, |_| false);
        if world.weight() == 100 {
            touched(&mut world, |route| (route.stable, route.canary) = (100, Some(0)));
        }
    }
    assert_eq!(world.status.going_back.as_ref().unwrap().raised_again, 3);
    assert_eq!(world.phase(), RolloutPhase::RollbackBlocked, "{}", world.code());
    assert!(world.last.as_ref().unwrap().page.is_some());
    // A person sets it.
    touched(&mut world, |route| (route.stable, route.canary) = (0, Some(100)));
    assert_eq!(world.run_to_end(), RolloutPhase::RolledBack);
}

#[test]
fn a_weight_lowered_on_the_way_back_is_not_raised_onto_pods_that_are_not_ready() {
    let mut world = going_back(PromotingStep::AtCanary);
    let canary = world.canary.as_mut().unwrap();
    (canary.ready, canary.updated_ready, canary.changed) = (1, 1, world.now);
    world.pod_latency = Duration::from_secs(30);
    touched(&mut world, |route| (route.stable, route.canary) = (100, Some(0)));
    assert!(!world.until(25, |world| world.weight() > 0));
    assert!(world.until(20, |world| world.weight() == 100), "{}", world.code());
    assert_eq!(world.run_to_end(), RolloutPhase::RolledBack);
}

#[test]
fn a_ceiling_that_falls_below_the_record_raises_nothing_that_another_lowered() {
    let mut world = World::with(|world| world.good_after = None);
    world.run_to_weight(5);
    world.spec.promote_through = Some(1);
    world.run_to_weight(50);
    touched(&mut world, |route| (route.stable, route.canary) = (80, Some(20)));
    world.hpa.as_mut().unwrap().min = 2;
    world.hpa_refused = true;
    world.spec.max_weight = 42;
    assert!(!world.until(10, |world| world.weight() > 20), "{}", world.code());
    assert_eq!(world.status.weight, 20, "what stands there is recorded");
}

#[test]
fn a_foreign_weight_is_lowered_without_raising_another_rule() {
    let mut world = World::with(|world| world.good_after = None);
    world.run_to_weight(5);
    touched(&mut world, |route| {
        (route.stable, route.canary) = (40, Some(60));
        route.late = Some((100, Some(0)));
    });
    world.pass();
    assert_eq!(world.route.as_ref().unwrap().percents(), [5.0, 0.0]);
}

#[test]
fn a_target_that_is_quarantined_meanwhile_gets_no_weight_back() {
    let mut world = going_back(PromotingStep::TemplateWritten);
    world.quarantined.insert(images(OLD)[0].digest.clone());
    world.broken.insert(images(OLD)[0].digest.clone());
    touched(&mut world, |route| (route.stable, route.canary) = (60, Some(40)));
    world.until(60, |world| world.weight() > 40);
    assert!(world.weight() <= 40, "{}", world.code());
}
