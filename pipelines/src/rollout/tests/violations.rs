//! The checker itself: each promise broken by hand is found.

use super::world::*;
use crate::api::*;
use crate::rollout::action::{Action, Order, Ordered, Plan};
use crate::rollout::invariants::{check, check_transition};
use crate::rollout::*;

fn at_25() -> World {
    let mut world = World::default();
    world.run_to_weight(25);
    world
}

/// Numbers of the invariants that a changed plan breaks.
fn broken(world: &World, change: impl FnOnce(&mut Plan, &Observed<'_>)) -> Vec<u8> {
    world.look(|seen| {
        let mut plan = plan(seen);
        change(&mut plan, seen);
        check(seen, &plan).into_iter().map(|found| found.invariant).collect()
    })
}

fn raise(plan: &mut Plan, seen: &Observed<'_>, percent: u8) {
    plan.next_status.weight = percent;
    plan.next_status.decision += 1;
    let route = seen.route.as_ref().unwrap();
    plan.actions.push(Ordered {
        order: Order::AfterStatus,
        action: Action::SetWeights {
            resource_version: route.resource_version.clone(),
            percent,
            rules: vec![RuleWeights { rule: 0, stable: u32::from(100 - percent), canary: percent.into() }],
            decision: RouteDecision { rollout: UID.into(), epoch: seen.epoch, n: plan.next_status.decision },
        },
    });
}

#[test]
fn what_keeps_the_promises_passes() {
    assert_eq!(broken(&at_25(), |_, _| {}), [] as [u8; 0]);
    let mut world = at_25();
    world.canary.as_mut().unwrap().updated_ready = 4;
    assert_eq!(broken(&world, |plan, seen| raise(plan, seen, 50)), [] as [u8; 0]);
}

#[test]
fn a_raise_without_pods_is_found() {
    assert!(broken(&at_25(), |plan, seen| raise(plan, seen, 100)).contains(&2));
}

#[test]
fn a_raise_without_an_allow_is_found() {
    let mut world = at_25();
    world.canary.as_mut().unwrap().updated_ready = 4;
    world.verdict(NEW, VerdictView::Pending);
    assert!(broken(&world, |plan, seen| raise(plan, seen, 50)).contains(&1));
}

#[test]
fn a_raise_above_the_ceiling_is_found() {
    let mut world = at_25();
    world.canary.as_mut().unwrap().updated_ready = 4;
    world.spec.max_weight = 25;
    assert!(broken(&world, |plan, seen| raise(plan, seen, 50)).contains(&7));
}

#[test]
fn a_raise_without_a_new_decision_or_before_its_record_is_found() {
    let mut world = at_25();
    world.canary.as_mut().unwrap().updated_ready = 4;
    let same = broken(&world, |plan, seen| {
        raise(plan, seen, 50);
        plan.next_status.decision -= 1;
        if let Some(Action::SetWeights { decision, .. }) = plan.actions.last_mut().map(|one| &mut one.action) {
            decision.n -= 1;
        }
    });
    assert!(same.contains(&6), "{same:?}");
    let early = broken(&world, |plan, seen| {
        raise(plan, seen, 50);
        plan.actions.last_mut().unwrap().order = Order::BeforeStatus;
    });
    assert!(early.contains(&6), "{early:?}");
}

#[test]
fn a_raise_without_evidence_is_found() {
    let mut world = at_25();
    world.canary.as_mut().unwrap().updated_ready = 4;
    world.metrics_away = true;
    assert!(broken(&world, |plan, seen| raise(plan, seen, 50)).contains(&9));
}

#[test]
fn a_breach_left_alone_is_found() {
    let mut world = at_25();
    world.bad = Some(BreachKind::Judge);
    let idle = broken(&world, |plan, seen| {
        plan.next_status = seen.status.clone();
        plan.actions.clear();
    });
    assert!(idle.contains(&4));
    let late = broken(&world, |plan, _| plan.actions.retain(|one| !matches!(one.action, Action::LowerToZero { .. })));
    assert!(late.contains(&4));
}

#[test]
fn blindness_left_alone_is_found() {
    let mut world = at_25();
    world.blind_from = Some(world.now - std::time::Duration::from_secs(20));
    let idle = |plan: &mut Plan, seen: &Observed<'_>| {
        plan.next_status = seen.status.clone();
        plan.actions.clear();
    };
    assert!(broken(&world, idle).contains(&9));
    // Something else that is written is no answer, nor is a lowering that is only recorded.
    let busy = broken(&world, |plan, seen| {
        idle(plan, seen);
        plan.actions.push(Ordered { order: Order::AfterStatus, action: Action::ScaleCanary { replicas: 2 } });
    });
    assert!(busy.contains(&9), "{busy:?}");
    let recorded = broken(&world, |plan, _| plan.actions.clear());
    assert!(recorded.contains(&9), "{recorded:?}");
    assert_eq!(broken(&world, |_, _| {}), [] as [u8; 0]);
    let mut world = at_25();
    world.canary.as_mut().unwrap().updated_ready = 4;
    world.blind_from = Some(world.now - std::time::Duration::from_secs(20));
    let raised = broken(&world, |plan, seen| {
        idle(plan, seen);
        raise(plan, seen, 50);
    });
    assert!(raised.contains(&9), "{raised:?}");
}

#[test]
fn a_move_while_blind_and_promoting_is_found() {
    let mut world = World::default();
    world.run_to_promoting(PromotingStep::TemplateWritten);
    world.blind_from = Some(world.now - std::time::Duration::from_secs(20));
    assert_eq!(broken(&world, |_, _| {}), [] as [u8; 0]);
    let moved = broken(&world, |plan, seen| {
        plan.next_status.promoting = Some(PromotingStep::Returning);
        raise(plan, seen, 0);
    });
    assert!(moved.contains(&9), "{moved:?}");
}

#[test]
fn requests_moved_to_pods_that_the_gateway_may_not_know_are_found() {
    let mut world = at_25();
    world.canary.as_mut().unwrap().updated_ready = 4;
    world.catching_up_until = Some(world.now + std::time::Duration::from_secs(40));
    assert_eq!(broken(&world, |plan, seen| raise(plan, seen, 50)), [2]);
    let mut world = World::default();
    world.run_to_promoting(PromotingStep::TemplateWritten);
    world.until(900, |world| world.stable.as_ref().is_some_and(|stable| stable.updated_ready == 4));
    world.catching_up_until = Some(world.now + std::time::Duration::from_secs(40));
    assert_eq!(broken(&world, |_, _| {}), [] as [u8; 0]);
    let returned = broken(&world, |plan, seen| {
        plan.next_status.promoting = Some(PromotingStep::Returning);
        raise(plan, seen, 0);
    });
    assert_eq!(returned, [2]);
}

#[test]
fn pods_taken_from_a_canary_that_the_route_names_are_found() {
    for action in [
        Action::ScaleCanary { replicas: 0 },
        Action::RemoveCanary,
        Action::EnsureCanary { images: images(NEW), replicas: 0, stamp: UID.into() },
    ] {
        let taken = broken(&at_25(), |plan, _| plan.actions.push(Ordered { order: Order::BeforeStatus, action }));
        assert!(taken.contains(&2), "{taken:?}");
    }
}

#[test]
fn an_autoscaler_that_is_not_held_is_found() {
    let mut world = at_25();
    world.hpa.as_mut().unwrap().min = 2;
    let not_held = broken(&world, |plan, _| plan.actions.clear());
    assert_eq!(not_held, [2]);
    let mut world = at_25();
    let now = world.now;
    world.stable.as_mut().unwrap().scale(8, now);
    let forgotten = broken(&world, |plan, seen| plan.next_status.stable_replicas = seen.status.stable_replicas);
    assert!(forgotten.contains(&2), "{forgotten:?}");
    let mut world = at_25();
    world.canary.as_mut().unwrap().updated_ready = 4;
    world.hpa.as_mut().unwrap().min = 2;
    let raised = broken(&world, |plan, seen| raise(plan, seen, 50));
    assert!(raised.contains(&2), "{raised:?}");
}

#[test]
fn a_raise_without_our_decision_on_the_route_or_in_an_odd_rule_is_found() {
    for stripped in [true, false] {
        let mut world = at_25();
        world.canary.as_mut().unwrap().updated_ready = 4;
        let route = world.route.as_mut().unwrap();
        if stripped {
            route.strip();
        } else {
            route.twice = Some(1);
        }
        let raised = broken(&world, |plan, seen| raise(plan, seen, 50));
        assert!(raised.contains(if stripped { &6 } else { &8 }), "{raised:?}");
    }
}

#[test]
fn an_early_template_or_a_foreign_weight_is_found() {
    let template = broken(&at_25(), |plan, seen| {
        plan.actions.push(Ordered {
            order: Order::AfterStatus,
            action: Action::SetStableTemplate {
                images: seen.spec.images.clone(),
                uid: "stable".into(),
                resource_version: "1".into(),
                stamp: UID.into(),
                release: None,
            },
        });
    });
    assert!(template.contains(&2) && template.contains(&4), "{template:?}");
    let mut world = at_25();
    world.canary.as_mut().unwrap().updated_ready = 4;
    world.route.as_mut().unwrap().foreign = true;
    let weights = broken(&world, |plan, seen| {
        raise(plan, seen, 50);
        if let Some(Action::SetWeights { rules, .. }) = plan.actions.last_mut().map(|one| &mut one.action) {
            rules[0].stable = 10;
        }
    });
    assert!(weights.contains(&8), "{weights:?}");
}

#[test]
fn a_rule_that_sends_more_to_the_canary_than_was_decided_is_found() {
    let mut world = at_25();
    world.canary.as_mut().unwrap().updated_ready = 4;
    let route = world.route.as_mut().unwrap();
    (route.stable, route.canary, route.foreign) = (1, Some(0), true);
    let all = broken(&world, |plan, seen| {
        raise(plan, seen, 50);
        if let Some(Action::SetWeights { rules, .. }) = plan.actions.last_mut().map(|one| &mut one.action) {
            (rules[0].stable, rules[0].canary) = (0, 1);
        }
    });
    assert!(all.contains(&2), "{all:?}");
}

#[test]
fn a_start_beside_another_and_a_write_after_the_end_are_found() {
    let mut world = World::default();
    let other = OtherRollout {
        name: "other".into(),
        reason: RolloutReason::Ship,
        phase: Some(RolloutPhase::Canary),
        started: true,
        newer: false,
    };
    world.others = vec![other];
    let started = broken(&world, |plan, seen| {
        plan.next_status.started_at = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(seen.now));
    });
    assert_eq!(started, [3]);
    let mut world = World::default();
    world.run_to_end();
    let written = broken(&world, |plan, _| {
        plan.next_status.message = Some("one more word".into());
        plan.actions.push(Ordered { order: Order::AfterStatus, action: Action::ScaleCanary { replicas: 0 } });
    });
    assert!(written.iter().filter(|number| **number == 7).count() >= 2, "{written:?}");
}

#[test]
fn what_a_status_must_not_forget_is_found() {
    let before = at_25().status;
    let mut after = before.clone();
    (after.decision, after.epoch) = (0, 0);
    assert_eq!(check_transition(&before, &after).len(), 2);
    let mut after = before.clone();
    after.weight += 1;
    assert_eq!(check_transition(&before, &after).len(), 1);
}

#[test]
fn a_weight_decided_anew_without_count_or_without_end_is_found() {
    let mut world = World::default();
    world.until(900, |world| world.phase() == RolloutPhase::Baking);
    world.bad = Some(BreachKind::Judge);
    world.run_to_promoting(PromotingStep::AtCanary);
    let before = world.status;
    let with = |decision: u64, raised_again: u8| {
        let mut after = before.clone();
        after.decision += decision;
        after.going_back.as_mut().unwrap().raised_again = raised_again;
        check_transition(&before, &after).into_iter().map(|found| found.invariant).collect::<Vec<_>>()
    };
    assert_eq!((with(1, 1), with(1, 0), with(1, 4)), (vec![], vec![6], vec![6, 7]));
}

#[test]
fn a_canary_arm_removed_under_requests_or_under_a_living_pipeline_is_found() {
    let remove = |plan: &mut Plan, _: &Observed<'_>| {
        plan.actions.push(Ordered { order: Order::BeforeStatus, action: Action::RemoveCanary });
    };
    let found = broken(&at_25(), remove);
    assert!(found.contains(&8) && found.contains(&2), "{found:?}");
}
