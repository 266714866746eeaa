//! Random lives of a fleet: whatever spokes, people and registries do, in whatever order, every
//! plan keeps the invariants and everything comes to rest.

use kube::ResourceExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidegate_pipelines::api::{
    Lifted, Release, ReleasePhase, RollbackScope, Rollout, RolloutPhase, RolloutReason, Span, VerdictDecision,
};
use tidegate_pipelines::release::PipelineState;

use super::fleet::{Fleet, pipeline};

fn event(fleet: &mut Fleet, random: &mut StdRng) {
    let releases: Vec<String> = fleet.releases.iter().map(|r| r.name_any()).collect();
    let some = |random: &mut StdRng| releases[random.random_range(0..releases.len())].clone();
    let environments = ["staging", "prod-east", "prod-west"];
    let environment = environments[random.random_range(0..3)];
    match random.random_range(0..24) {
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
        7 => drop(fleet.pass(random.random_range(1..8))),
        8 => fleet.lags = true,
        9 => drop(fleet.catch_up()),
        10 if random.random_bool(0.5) => {
            let lifted = Lifted { by: "anna".into(), reason: "a false alarm".into() };
            if let Some(quarantine) = fleet.quarantines.first_mut() {
                quarantine.spec.lifted.get_or_insert(lifted);
            }
        }
        11 => {
            // What people do after a bad end; the stages that had passed find their digests running.
            let ended = |r: &&Release| fleet.phase(&r.name_any()) == ReleasePhase::Stopped;
            let stopped = fleet.releases.iter().find(ended).map(|r| r.name_any());
            if let Some(name) = stopped {
                fleet.change(&name, |spec| (spec.attempt, spec.abort, spec.undo) = (spec.attempt + 1, false, false));
            }
        }
        _ => spoke(fleet, environment, random),
    }
}

/// What a spoke does next with the intent that it works on: one at a time, whether or not the hub sees it yet.
fn spoke(fleet: &mut Fleet, environment: &str, random: &mut StdRng) {
    use RolloutPhase::*;
    let phase = |r: &Rollout| r.status.as_ref().and_then(|s| s.phase);
    let open = |r: &&mut Rollout| r.spec.environment == environment && !phase(r).is_some_and(RolloutPhase::is_terminal);
    let mut open: Vec<&mut Rollout> = fleet.rollouts.iter_mut().filter(open).collect();
    open.sort_by_key(|r| (phase(r).is_none(), r.metadata.creation_timestamp.clone()));
    let Some(rollout) = open.into_iter().next() else { return };
    let stable = fleet.stable.entry(environment.to_owned()).or_default();
    let seen = !fleet.hidden.contains(&(rollout.name_any(), environment.to_owned()));
    let spec = &rollout.spec;
    let begun = rollout.status.is_some();
    let status = rollout.status.get_or_insert_default();
    let ship = spec.reason == RolloutReason::Ship;
    let unwanted = spec.abort || spec.superseded_by.is_some();
    let blocked = status.phase == Some(RollbackBlocked);
    let back = [RollingBack, RollbackBlocked, RolledBack][random.random_range(0..3)];
    let next = match status.phase {
        _ if blocked && spec.superseded_by.is_some() || (blocked && !ship && spec.abort) => RolledBack,
        Some(RollingBack | RollbackBlocked) => back,
        _ if !ship => RollingBack,
        _ if status.breach.is_some() => [RollingBack, RolledBack][random.random_range(0..2)],
        _ if spec.abort => Withdrawn,
        _ if unwanted => Superseded,
        _ if !begun && *stable == spec.images => Promoted,
        _ if !begun => {
            status.first_release = stable.is_empty();
            status.target = stable.clone();
            Preparing
        }
        _ => [Canary, Canary, Promoting, Baking, Promoted, Promoted, Promoted, Blind, RolledBack, RolledBack]
            [random.random_range(0..10)],
    };
    // A breach is told while the weight still moves; a first release only fails of it.
    let fails = ship && next == RolledBack && !blocked;
    if fails && !seen {
        return;
    }
    if fails && status.breach.is_none() && status.phase != Some(RollingBack) {
        status.breach = Some(super::fleet::judged(fleet.now));
        status.phase = Some(if status.first_release { Failed } else { Canary });
        return;
    }
    status.phase = Some(next);
    if next == Promoted || (next == RolledBack && !ship && !blocked) || status.first_release {
        stable.clone_from(&spec.images);
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
        if seed % 4 == 0 {
            // Nothing ran there before.
            fleet.stable.clear();
        }
        fleet.release('1');
        for _ in 0..200 {
            event(&mut fleet, &mut random);
            // Not always at once: views lag, and several things happen before anyone looks.
            if random.random_bool(0.6) {
                fleet.settle();
                if fleet.hidden.is_empty() {
                    assert_eq!(fleet.unanswered(), Vec::<String>::new(), "seed {seed} at {}", fleet.now);
                }
            }
        }
        fleet.catch_up();
        assert_eq!(fleet.unanswered(), Vec::<String>::new(), "seed {seed} at its end");
        if seed % 4 == 0 {
            fleet.state = PipelineState::Going;
            fleet.settle();
        }
    }
}
