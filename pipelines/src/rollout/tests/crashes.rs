//! A crash after, or just before, each write of a scenario: the same end as without it.

use super::world::*;
use crate::api::*;

type Scenario = fn(&mut World);

/// What a scenario must leave behind.
fn outcome(world: &World) -> (RolloutPhase, bool, u32, u32, usize, Option<u32>, bool) {
    (
        world.phase(),
        world.stable_runs(NEW),
        world.weight(),
        world.canary.as_ref().map_or(0, |canary| canary.wanted),
        world.quarantined.len(),
        world.hpa.as_ref().map(|hpa| hpa.min),
        world.finalizer,
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
