//! Random lives of a fleet: whatever spokes, people and registries do, in whatever order, every
//! plan keeps the invariants and everything comes to rest.

use kube::ResourceExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidegate_pipelines::api::{RollbackScope, RolloutPhase, RolloutReason, Span, VerdictDecision};

use tidegate_pipelines::release::PipelineState;

use super::fleet::{Fleet, pipeline};

fn event(fleet: &mut Fleet, random: &mut StdRng) {
    let releases: Vec<String> = fleet.releases.iter().map(|r| r.name_any()).collect();
    let some = |random: &mut StdRng| releases[random.random_range(0..releases.len())].clone();
    let environments = ["staging", "prod-east", "prod-west"];
    let environment = environments[random.random_range(0..3)];
    match random.random_range(0..14) {
        0 if releases.len() < 5 => {
            let digit = char::from(b'1' + releases.len() as u8);
            fleet.release(digit);
        }
        1 if !releases.is_empty() => {
            let decision =
                [VerdictDecision::Allow, VerdictDecision::Deny, VerdictDecision::Error][random.random_range(0..3)];
            let (name, retryable) = (some(random), random.random_bool(0.5));
            fleet.verdict(&name, environment, decision, retryable);
        }
        2 if !releases.is_empty() => {
            let name = some(random);
            fleet.change(&name, |spec| spec.paused = !spec.paused);
        }
        3 if !releases.is_empty() && random.random_bool(0.3) => {
            let name = some(random);
            fleet.change(&name, |spec| spec.abort = true);
        }
        4 if !releases.is_empty() && random.random_bool(0.3) => {
            let name = some(random);
            fleet.change(&name, |spec| spec.undo = true);
        }
        5 if !releases.is_empty() && random.random_bool(0.3) => {
            let name = some(random);
            fleet.change(&name, |spec| (spec.attempt, spec.abort, spec.undo) = (spec.attempt + 1, false, false));
        }
        5 if !releases.is_empty() => {
            let name = some(random);
            let attempt = fleet.releases.iter().find(|r| r.name_any() == name).map_or(1, |r| r.spec.attempt);
            fleet.approve_attempt(&name, "east", random.random_range(1..=attempt));
        }
        6 if random.random_bool(0.2) => {
            let quick = fleet.pipeline.stages[0].soak == Span::ZERO;
            fleet.pipeline.stages[0].soak = if quick { Span::from_secs(5) } else { Span::ZERO };
        }
        6 => {
            if let Some(place) = fleet.environments.get_mut(environment) {
                place.spoke = if place.spoke.is_ok() { Err("silent".into()) } else { Ok(()) };
            }
        }
        7 => {
            fleet.pass(random.random_range(1..8));
        }
        _ => {
            use RolloutPhase::*;
            let open: Vec<usize> = (0..fleet.rollouts.len())
                .filter(|i| !fleet.rollouts[*i].status.as_ref().and_then(|s| s.phase).is_some_and(|p| p.is_terminal()))
                .collect();
            if open.is_empty() {
                return;
            }
            let rollout = &mut fleet.rollouts[open[random.random_range(0..open.len())]];
            let phase = match rollout.spec.reason {
                RolloutReason::Retire => Withdrawn,
                RolloutReason::Rollback => [RollingBack, RolledBack][random.random_range(0..2)],
                RolloutReason::Ship if rollout.spec.abort => Withdrawn,
                RolloutReason::Ship if rollout.spec.superseded_by.is_some() => Superseded,
                RolloutReason::Ship => {
                    [Waiting, Preparing, Canary, Promoting, Baking, Promoted, Promoted, Promoted, RolledBack, Blind]
                        [random.random_range(0..10)]
                }
            };
            let status = rollout.status.get_or_insert_default();
            status.phase = Some(phase);
            status.target = vec![super::fleet::image('0')];
        }
    }
}

#[test]
fn every_plan_of_a_random_life_keeps_the_invariants_and_comes_to_rest() {
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut pipeline = pipeline();
        pipeline.rollback = if seed % 2 == 0 { RollbackScope::Release } else { RollbackScope::Environment };
        pipeline.stages[1].require_approval = seed % 3 == 0;
        if seed % 5 == 0 {
            // One wide stage, in waves.
            pipeline.stages[0].environments = vec!["staging".into(), "prod-east".into()];
            pipeline.stages[0].max_concurrent = Some(1);
            pipeline.stages.remove(1);
        }
        let mut fleet = Fleet::new(pipeline);
        fleet.release('1');
        for _ in 0..120 {
            event(&mut fleet, &mut random);
            // Not always at once: views lag, and several things happen before anyone looks.
            if random.random_bool(0.6) {
                fleet.settle();
            }
        }
        fleet.settle();
        if seed % 4 == 0 {
            fleet.state = PipelineState::Going;
            fleet.settle();
        }
    }
}
