//! A crash after, or just before, each write of a scenario: the same end as without it.

use super::world::*;
use crate::api::*;

type Scenario = fn(&mut World);

/// What a scenario must leave behind.
fn outcome(world: &World) -> (RolloutPhase, bool, u32, u32, usize, Option<u32>, bool, bool) {
    (
        world.phase(),
        world.stable_runs(NEW),
        world.weight(),
        world.canary.as_ref().map_or(0, |canary| canary.wanted),
        world.quarantined.len(),
        world.hpa.as_ref().map(|hpa| hpa.min),
        world.finalizer,
        world.status.breach.as_ref().is_some_and(|breach| breach.written_at.is_some()),
    )
}

fn bad_at_25(world: &mut World) {
    if world.weight() == 25 {
        world.bad = Some(BreachKind::Judge);
    }
}

fn bad_while_promoting(world: &mut World) {
    if world.status.promoting == Some(PromotingStep::TemplateWritten) {
        world.bad = Some(BreachKind::BurnGuard);
    }
}

fn bad_while_baking(world: &mut World) {
    if world.phase() == RolloutPhase::Baking {
        world.bad = Some(BreachKind::Judge);
    }
}

fn aborted_at_50(world: &mut World) {
    if world.weight() == 50 {
        world.spec.abort = true;
    }
}

fn run(scenario: Scenario, crash: Option<(usize, bool)>) -> World {
    let mut world = World::default();
    world.crash_at = crash;
    for _ in 0..1500 {
        scenario(&mut world);
        world.pass();
        if world.ended() {
            break;
        }
        world.tick(std::time::Duration::from_secs(1));
    }
    world.run_to_end();
    world
}

#[test]
fn a_crash_at_any_write_comes_to_the_same_end() {
    let scenarios: [(&str, Scenario); 5] = [
        ("good", |_| {}),
        ("bad at 25", bad_at_25),
        ("bad while promoting", bad_while_promoting),
        ("bad while baking", bad_while_baking),
        ("aborted at 50", aborted_at_50),
    ];
    for (name, scenario) in scenarios {
        let straight = run(scenario, None);
        for write in 0..straight.log.len() {
            for reached in [true, false] {
                let world = run(scenario, Some((write, reached)));
                assert_eq!(outcome(&world), outcome(&straight), "{name}, write {write} ({:?})", straight.log[write]);
            }
        }
    }
}

/// The process died with weight 0 on the route and nothing of it in the status.
fn died_lowering() -> World {
    let mut world = World::default();
    world.run_to_weight(25);
    world.bad = Some(BreachKind::Judge);
    world.crash_at = Some((world.log.len(), true));
    world.pass();
    world
}

/// Another takes over 20 s later.
#[test]
fn a_breach_whose_record_died_with_the_process_keeps_the_time_of_its_write() {
    for (judge_back, case) in [(true, "the judge sees it still"), (false, "the judge sees nothing any more")] {
        let mut world = died_lowering();
        let written = world.now;
        assert_eq!((world.weight(), world.status.weight, &world.status.breach), (0, 25, &None), "{case}");
        world.tick(std::time::Duration::from_secs(20));
        world.bad = judge_back.then_some(BreachKind::Judge);
        assert_eq!(world.run_to_end(), RolloutPhase::RolledBack, "{case}");
        let breach = world.status.breach.clone().unwrap();
        assert_eq!(breach.written_at.map(|at| at.0), Some(written), "{case}");
        assert!(breach.decided_at.0 <= written && breach.sample_at.0 <= written, "{case}");
    }
    // Written by a clock that runs ahead: never later than it is found.
    let mut world = died_lowering();
    let now = world.now;
    world.route.as_mut().unwrap().lowered.as_mut().unwrap().at = "2030-01-01T00:00:00Z".parse().ok();
    world.run_to_end();
    assert_eq!(world.status.breach.unwrap().written_at.map(|at| at.0), Some(now));
}

#[test]
fn a_breach_from_promoting_on_says_when_its_first_answer_was_there() {
    for (name, scenario) in [("promoting", bad_while_promoting as Scenario), ("baking", bad_while_baking)] {
        let mut world = World::default();
        while world.status.breach.is_none() {
            scenario(&mut world);
            world.pass();
            world.tick(std::time::Duration::from_secs(1));
        }
        assert_eq!(world.status.breach.as_ref().unwrap().written_at, None, "{name}: decided");
        let pods = |world: &World| world.canary.as_ref().is_some_and(|canary| canary.images == images(OLD));
        assert!(world.until(20, pods), "{name}: {}", world.code());
        world.pass();
        let answered = world.status.breach.as_ref().unwrap().written_at.clone();
        assert_eq!(answered.as_ref().map(|at| at.0), Some(world.now), "{name}: seen done");
        assert_eq!(world.run_to_end(), RolloutPhase::RolledBack);
        assert_eq!(world.status.breach.unwrap().written_at, answered, "{name}: and stays");
    }
    // Where stable was not touched, the first answer is weight 0.
    let mut world = World::default();
    world.run_to_promoting(PromotingStep::AtCanary);
    world.spec.paused = true;
    world.until(5, |_| false);
    world.bad = Some(BreachKind::BurnGuard);
    assert!(world.until(10, |world| world.weight() == 0), "{}", world.code());
    world.pass();
    assert_eq!(world.status.breach.as_ref().unwrap().written_at.as_ref().map(|at| at.0), Some(world.now));
    assert_eq!(world.run_to_end(), RolloutPhase::RolledBack);
}
