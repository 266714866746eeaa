//! Rows of lifecycle.md section 3: breach, abort, supersession, denial, deletion, capacity, in every phase.

use super::world::*;
use crate::api::*;
use crate::rollout::*;

fn first_write_after(world: &mut World, change: impl FnOnce(&mut World)) -> Wrote {
    let writes = world.log.len();
    change(world);
    world.until(30, |world| world.log.len() > writes);
    world.log[writes].clone()
}

fn lowers(wrote: &Wrote) -> bool {
    matches!(wrote, Wrote::Did(Action::LowerToZero { .. }))
}

#[test]
fn breach_makes_weight_zero_the_next_write_and_quarantines() {
    for kind in [BreachKind::Judge, BreachKind::HardStop, BreachKind::BurnGuard] {
        for weight in [2, 5, 25, 50, 100] {
            let mut world = World::default();
            world.run_to_weight(weight);
            let wrote = first_write_after(&mut world, |world| world.bad = Some(kind));
            assert!(lowers(&wrote), "{kind:?} at {weight}: {wrote:?}");
            assert_eq!(world.weight(), 0);
            assert_eq!(world.run_to_end(), RolloutPhase::RolledBack);
            assert!(world.quarantined.contains(&images(NEW)[0].digest) && world.stable_runs(OLD));
            assert_eq!(world.status.breach.as_ref().map(|breach| breach.kind), Some(kind));
            world.is_clean();
        }
    }
}

#[test]
fn breach_in_a_pause_rolls_back() {
    let mut world = World::default();
    world.run_to_weight(25);
    world.spec.paused = true;
    world.until(20, |_| false);
    let wrote = first_write_after(&mut world, |world| world.bad = Some(BreachKind::Judge));
    assert!(lowers(&wrote), "{wrote:?}");
    assert_eq!(world.run_to_end(), RolloutPhase::RolledBack);
}

#[test]
fn breach_with_the_hub_away_rolls_back() {
    let mut world = World::default();
    world.run_to_weight(50);
    world.hub_away = Some(world.now - std::time::Duration::from_secs(20));
    world.until(120, |_| false);
    assert_eq!(world.weight(), 50);
    world.bad = Some(BreachKind::Judge);
    assert_eq!(world.run_to_end(), RolloutPhase::RolledBack);
}

#[test]
fn a_canary_in_a_crash_loop_is_a_breach_although_it_counts_no_errors() {
    let mut world = World::default();
    world.run_to_weight(25);
    let trouble = |world: &mut World| world.health.new = PodTrouble { pods: 1, crash_looping: 1, ..Default::default() };
    let wrote = first_write_after(&mut world, trouble);
    assert!(lowers(&wrote), "{wrote:?}");
    assert_eq!(world.run_to_end(), RolloutPhase::RolledBack);
    assert_eq!(world.status.breach.as_ref().map(|breach| breach.kind), Some(BreachKind::Health));
}

#[test]
fn trouble_that_stable_shares_is_no_breach() {
    let mut world = World::default();
    world.health = Health {
        new: PodTrouble { pods: 4, restarts: 4, oom_kills: 2, crash_looping: 1, lost_readiness: 1 },
        old: PodTrouble { pods: 4, restarts: 4, oom_kills: 2, crash_looping: 1, lost_readiness: 1 },
        unready_since: Some(world.now),
    };
    assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
}

#[test]
fn lost_readiness_is_a_breach_after_ten_seconds() {
    let mut world = World::default();
    world.run_to_weight(25);
    world.health.new = PodTrouble { pods: 1, lost_readiness: 1, ..Default::default() };
    world.health.unready_since = Some(world.now);
    assert!(!world.until(9, |world| world.status.breach.is_some()));
    assert!(world.until(5, |world| world.status.breach.is_some()));
}

#[test]
fn before_promoting_every_wish_to_stop_lowers_first_and_ends_without_quarantine() {
    type Change = fn(&mut World);
    let table: [(&str, Change, RolloutPhase); 7] = [
        ("abort", |world| world.spec.abort = true, RolloutPhase::Withdrawn),
        ("deleted", |world| world.deleting = true, RolloutPhase::Withdrawn),
        ("withdrawn", |world| world.withdrawn = true, RolloutPhase::Withdrawn),
        ("pipeline gone", |world| world.retire = true, RolloutPhase::Withdrawn),
        ("superseded", |world| world.spec.superseded_by = Some("n".into()), RolloutPhase::Superseded),
        (
            "denied",
            |world| world.verdict(NEW, VerdictView::Deny { reason: "cve".into(), revoked: false }),
            RolloutPhase::Denied,
        ),
        ("namespace", |world| world.namespace_allowed = false, RolloutPhase::Failed),
    ];
    for (name, change, end) in table {
        for weight in [5, 50, 100] {
            let mut world = World::default();
            world.run_to_weight(weight);
            let wrote = first_write_after(&mut world, change);
            assert!(lowers(&wrote), "{name}: {wrote:?}");
            assert_eq!(world.run_to_end(), end, "{name}");
            assert!(world.quarantined.is_empty() && world.stable_runs(OLD), "{name}");
            world.is_clean();
        }
    }
}

#[test]
fn a_gone_pipeline_takes_our_objects_along() {
    let mut world = World::default();
    world.run_to_weight(5);
    world.retire = true;
    world.run_to_end();
    assert!(world.canary.is_none() && !world.canary_service && world.route.as_ref().unwrap().canary.is_none());
}

/// After a promotion: our backendRef at weight 0, a canary without pods, and nothing under way.
fn retiring() -> World {
    let mut world = World::default();
    world.run_to_end();
    world.status = RolloutStatus::default();
    world.spec.reason = RolloutReason::Retire;
    world.spec.max_weight = 0;
    world.log.clear();
    world
}

#[test]
fn a_pipeline_that_is_gone_leaves_the_users_objects_and_none_of_ours() {
    let mut world = retiring();
    let before = (world.stable.as_ref().unwrap().rv, world.route.as_ref().unwrap().stable);
    assert!(world.canary.is_some() && world.route.as_ref().unwrap().canary == Some(0), "something to take away");
    assert_eq!(world.run_to_end(), RolloutPhase::Withdrawn);
    assert_eq!(world.codes(), ["Retired"]);
    assert!(world.canary.is_none() && !world.canary_service && world.route.as_ref().unwrap().canary.is_none());
    assert_eq!((world.stable.as_ref().unwrap().rv, world.route.as_ref().unwrap().stable), before);
    assert_eq!(world.status.target, images(NEW), "what stable runs is on record");
    world.is_clean();
}

#[test]
fn a_retiring_rollout_waits_for_the_one_that_acts() {
    let mut world = retiring();
    let other = |started| OtherRollout {
        name: "portal-new-2".into(),
        reason: RolloutReason::Ship,
        phase: Some(RolloutPhase::Canary),
        started,
        newer: true,
    };
    world.others = vec![other(true)];
    world.until(30, |_| false);
    assert_eq!((world.code(), world.log.len()), ("WaitingForOther", 1), "its own status only: {:?}", world.log);
    world.others.clear();
    assert_eq!(world.run_to_end(), RolloutPhase::Withdrawn);
}

#[test]
fn weight_that_someone_gave_the_canary_by_hand_is_not_cut_off() {
    let mut world = retiring();
    world.route.as_mut().unwrap().canary = Some(30);
    world.until(30, |_| false);
    assert_eq!(world.code(), "RouteInUse");
    assert_eq!(world.run_to_end(), RolloutPhase::Failed);
    assert!(world.canary.is_some() && world.route.as_ref().unwrap().canary == Some(30));
    assert_eq!(world.status.target, images(NEW), "what stable runs is on record all the same");
}

#[test]
fn a_crash_at_any_write_of_a_retiring_rollout_comes_to_the_same_end() {
    for at in 0..4 {
        for reaches in [true, false] {
            let mut world = retiring();
            world.crash_at = Some((at, reaches));
            assert_eq!(world.run_to_end(), RolloutPhase::Withdrawn, "{at} {reaches}");
            assert!(world.canary.is_none() && world.route.as_ref().unwrap().canary.is_none(), "{at} {reaches}");
        }
    }
}

#[test]
fn a_superseded_intent_that_never_started_writes_nothing_but_its_end() {
    let mut world = World::with(|world| world.spec.superseded_by = Some("portal-newer".into()));
    assert_eq!(world.run_to_end(), RolloutPhase::Superseded);
    assert!(world.log.iter().all(|wrote| matches!(wrote, Wrote::Status(_))), "{:?}", world.log);
    assert!(world.stable_runs(OLD) && world.canary.is_none() && world.route.as_ref().unwrap().canary.is_none());
}

#[test]
fn breach_while_promoting_takes_the_rollback_path() {
    for step in [PromotingStep::AtCanary, PromotingStep::TemplateWritten, PromotingStep::Returning] {
        let mut world = World::default();
        world.run_to_promoting(step);
        world.bad = Some(BreachKind::BurnGuard);
        assert_eq!(world.run_to_end(), RolloutPhase::RolledBack, "{step:?}");
        assert!(world.stable_runs(OLD), "{step:?}");
        assert!(world.quarantined.contains(&images(NEW)[0].digest));
        world.is_clean();
    }
}

#[test]
fn breach_while_baking_takes_the_rollback_path() {
    let mut world = World::default();
    world.until(900, |world| world.phase() == RolloutPhase::Baking);
    world.until(3, |_| false);
    world.bad = Some(BreachKind::Judge);
    assert_eq!(world.run_to_end(), RolloutPhase::RolledBack);
    assert!(world.stable_runs(OLD) && world.quarantined.contains(&images(NEW)[0].digest));
    world.is_clean();
}

#[test]
fn abort_while_promoting_finishes_and_then_goes_back() {
    let mut world = World::default();
    world.run_to_promoting(PromotingStep::TemplateWritten);
    world.spec.abort = true;
    assert!(world.until(200, |world| world.phase() == RolloutPhase::RollingBack));
    assert!(world.codes().contains(&"Baking".into()));
    assert_eq!(world.run_to_end(), RolloutPhase::Withdrawn);
    assert!(world.stable_runs(OLD) && world.quarantined.is_empty());
}

#[test]
fn superseded_while_promoting_finishes_and_cuts_the_bake_short() {
    let mut world = World::with(|world| world.spec.strategy.bake = Span::from_secs(5000));
    world.run_to_promoting(PromotingStep::AtCanary);
    world.spec.superseded_by = Some("portal-newer".into());
    assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
    assert!(world.stable_runs(NEW));
}

#[test]
fn a_denial_while_promoting_goes_back_and_while_baking_only_a_revocation_does() {
    let deny = |revoked| VerdictView::Deny { reason: "turned".into(), revoked };
    let mut world = World::default();
    world.run_to_promoting(PromotingStep::TemplateWritten);
    world.verdict(NEW, deny(false));
    assert_eq!(world.run_to_end(), RolloutPhase::Denied);
    assert!(world.stable_runs(OLD));
    for (revoked, end) in [(false, RolloutPhase::Promoted), (true, RolloutPhase::Denied)] {
        let mut world = World::default();
        world.until(900, |world| world.phase() == RolloutPhase::Baking);
        world.verdict(NEW, deny(revoked));
        assert_eq!(world.run_to_end(), end);
        assert_eq!(world.stable_runs(OLD), revoked);
    }
}

#[test]
fn deletion_from_promoting_on_finishes_and_takes_nothing_back() {
    for baking in [false, true] {
        let mut world = World::default();
        world.run_to_promoting(PromotingStep::AtCanary);
        world.until(900, |world| !baking || world.phase() == RolloutPhase::Baking);
        world.deleting = true;
        assert!(world.until(900, |world| world.gone));
        assert!(world.stable_runs(NEW));
        assert_eq!(world.phase(), RolloutPhase::Promoted);
        world.is_clean();
    }
}

#[test]
fn stables_pods_not_ready_in_time_go_back() {
    let mut world = World::default();
    world.run_to_promoting(PromotingStep::AtCanary);
    world.until(600, |world| world.route.as_ref().unwrap().promoting);
    world.pod_latency = std::time::Duration::from_secs(100_000);
    assert!(world.until(300, |world| world.phase() == RolloutPhase::RollingBack), "{}", world.code());
    world.pod_latency = std::time::Duration::from_secs(3);
    assert_eq!(world.run_to_end(), RolloutPhase::Failed);
    assert!(world.stable_runs(OLD) && world.quarantined.is_empty());
}

#[test]
fn a_rollback_rollout_brings_the_target_and_restores_everything() {
    let mut world = World::with(|world| {
        world.spec.reason = RolloutReason::Rollback;
        world.spec.images = images(OLD);
        world.stable.as_mut().unwrap().images = images(NEW);
    });
    world.spec.paused = true;
    world.spec.superseded_by = Some("portal-newer".into());
    assert_eq!(world.run_to_end(), RolloutPhase::RolledBack);
    assert!(world.stable_runs(OLD) && world.quarantined.is_empty());
    world.is_clean();
}

#[test]
fn without_the_targets_pods_the_route_is_not_moved() {
    let mut world = World::default();
    world.until(900, |world| world.phase() == RolloutPhase::Baking);
    world.until(2, |_| false);
    world.broken.insert(images(OLD)[0].digest.clone());
    world.bad = Some(BreachKind::Judge);
    assert!(world.until(300, |world| world.phase() == RolloutPhase::RollbackBlocked));
    assert_eq!(world.weight(), 0);
    assert!(world.last.as_ref().unwrap().page.is_some());
    world.broken.clear();
    world.tick(std::time::Duration::from_secs(5));
    assert_eq!(world.run_to_end(), RolloutPhase::RolledBack);
    assert!(world.stable_runs(OLD));
}

#[test]
fn a_quarantined_target_gives_way_to_the_newest_older_one_allowed() {
    let candidate =
        |of: &str, verdict| TargetCandidate { release: format!("portal-{of}"), images: images(of), verdict };
    let mut world = World::with(|world| {
        world.candidates = vec![
            candidate("dd", VerdictView::Error { reason: "registry away".into() }),
            candidate(OLDER, VerdictView::Allow),
        ];
    });
    world.until(900, |world| world.phase() == RolloutPhase::Baking);
    world.quarantined.insert(images(OLD)[0].digest.clone());
    world.bad = Some(BreachKind::Judge);
    assert_eq!(world.run_to_end(), RolloutPhase::RolledBack);
    assert!(world.stable_runs(OLDER));
}

#[test]
fn with_no_target_left_it_holds_and_pages_until_a_person_resolves_it() {
    let mut world = World::default();
    world.until(900, |world| world.phase() == RolloutPhase::Baking);
    world.verdict(OLD, VerdictView::Deny { reason: "revoked".into(), revoked: true });
    world.bad = Some(BreachKind::Judge);
    assert!(world.until(30, |world| world.phase() == RolloutPhase::RollbackBlocked));
    assert!(!world.until(900, World::ended));
    assert!(world.last.as_ref().unwrap().page.is_some() && world.stable_runs(NEW));
    world.spec.superseded_by = Some("portal-fixed".into());
    assert_eq!(world.run_to_end(), RolloutPhase::RolledBack);
    world.is_clean();
}

#[test]
fn an_error_of_the_verifier_does_not_block_the_way_back() {
    let mut world = World::default();
    world.until(900, |world| world.phase() == RolloutPhase::Baking);
    world.verdict(OLD, VerdictView::Error { reason: "registry away".into() });
    world.bad = Some(BreachKind::Judge);
    assert_eq!(world.run_to_end(), RolloutPhase::RolledBack);
    assert!(world.stable_runs(OLD));
}

#[test]
fn a_rollback_whose_target_has_no_verdict_is_paged_and_goes_on_when_it_has() {
    let mut world = World::with(|world| {
        world.spec.reason = RolloutReason::Rollback;
        world.spec.images = images(OLD);
        world.stable.as_mut().unwrap().images = images(NEW);
        world.verdict(OLD, VerdictView::Error { reason: "registry away".into() });
    });
    assert!(world.until(100, |world| world.phase() == RolloutPhase::RollbackBlocked));
    world.pass();
    assert!(world.last.as_ref().unwrap().page.is_some());
    world.verdict(OLD, VerdictView::Allow);
    assert_eq!(world.run_to_end(), RolloutPhase::RolledBack);
    assert!(world.stable_runs(OLD));
}

#[test]
fn stables_template_takes_nothing_without_an_allow() {
    let mut world = World::default();
    world.run_to_promoting(PromotingStep::AtCanary);
    world.verdict(NEW, VerdictView::Error { reason: "registry away".into() });
    assert!(!world.until(30, |world| world.stable_runs(NEW)));
    world.verdict(NEW, VerdictView::Allow);
    assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
}
