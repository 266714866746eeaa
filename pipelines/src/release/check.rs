//! Invariants that every plan of a Release keeps; run beside the planner after every step of every
//! simulated run. Written from the rules, not from the planner, and never plans.

use kube::ResourceExt;

use super::order::{admitted_at, built_at, phase};
use super::plan::{Plan, Write};
use super::world::{PipelineState, World};
use super::{DOWNGRADE_STAGE, Version, quarantined, rollout_name};
use crate::api::{ReleasePhase, Rollout, RolloutPhase, RolloutReason, RolloutSpec, VerdictDecision};

fn ended(rollout: &Rollout) -> Option<RolloutPhase> {
    rollout.status.as_ref()?.phase.filter(|p| p.is_terminal())
}

/// What `plan` does that it must not; empty if all is well.
pub fn violations(world: &World<'_>, plan: &Plan) -> Vec<String> {
    let mut found = Vec::new();
    for write in &plan.writes {
        match write {
            Write::Create { name, spec } if spec.reason == RolloutReason::Ship => {
                ship(world, plan, name, spec, &mut found)
            }
            Write::Create { name, spec } => rollback(world, name, spec, &mut found),
            Write::Supersede { by, name, .. } => {
                let later = world.others.iter().find(|o| o.name_any() == *by);
                if later.is_none_or(|o| admitted_at(o) <= admitted_at(world.release)) {
                    found.push(format!("{name} is superseded by {by}, which was not admitted later"));
                }
            }
            Write::Quarantine { name, .. } => {
                let breached = |r: &Rollout| {
                    r.spec.release == world.release.name_any()
                        && r.status
                            .as_ref()
                            .is_some_and(|s| s.breach.is_some() || s.phase == Some(RolloutPhase::RolledBack))
                };
                if !world.rollouts.iter().any(|r| breached(r)) {
                    found.push(format!("{name} is quarantined without a breach"));
                }
            }
            Write::Retire { name, .. } if world.pipeline != PipelineState::Going => {
                found.push(format!("{name} is retired although its pipeline is there"));
            }
            Write::Snapshot { .. } => {
                let status = world.release.status.as_ref().filter(|s| s.attempt == world.release.spec.attempt);
                let admitted = status.is_some_and(|s| s.admitted_at.is_some());
                if admitted || world.release.spec.attempt < 2 || plan.writes.len() > 1 {
                    found.push("the pipeline's snapshot changes under what ships by it".into());
                }
            }
            Write::Remove { environment, name } if world.environments.contains_key(environment) => {
                found.push(format!("the intent {name} is removed although {environment} may have copied it"));
            }
            _ => {}
        }
    }
    let before = phase(world.release);
    if before.is_some_and(ReleasePhase::is_terminal) && !world.release.spec.undo && !plan.writes.is_empty() {
        found.push(format!("writes after the end ({before:?})"));
    }
    let mut places: Vec<(&String, &String)> = plan
        .writes
        .iter()
        .filter_map(|w| match w {
            Write::Create { name, spec } => Some((name, &spec.environment)),
            _ => None,
        })
        .collect();
    let all = places.len();
    places.sort();
    places.dedup();
    if places.len() != all {
        found.push("the same intent is created twice".into());
    }
    found
}

fn ship(world: &World<'_>, plan: &Plan, name: &str, spec: &RolloutSpec, found: &mut Vec<String>) {
    let release = &world.release;
    let environment = spec.environment.as_str();
    let mut refuse = |why: String| found.push(format!("{name} starts in {environment} although {why}"));
    if world.verdicts.values().any(|f| f.decision == VerdictDecision::Deny)
        && release.status.as_ref().is_none_or(|s| s.admitted_at.is_none())
    {
        refuse("an environment of its pipeline denies it".into());
    }
    if world.verdicts.get(environment).is_none_or(|f| f.decision != VerdictDecision::Allow) {
        refuse("there is no Allow for it there".into());
    }
    if quarantined(world.quarantines.iter().copied(), &Version::from(&release.spec), &[environment]).is_some() {
        refuse("its digest or revision is quarantined there".into());
    }
    match world.environments.get(environment) {
        Some(place) if place.allowed.is_ok() && !place.deleting && place.spoke.is_ok() => {}
        place => refuse(format!("the environment does not take it: {place:?}")),
    }
    if release.spec.abort || release.spec.undo || release.spec.paused || world.pipeline != PipelineState::Present {
        refuse("it is stopped or held".into());
    }
    if let Some(other) = world.rollouts.iter().find(|r| r.spec.environment == environment && ended(r).is_none()) {
        refuse(format!("{} still acts there", other.name_any()));
    }
    let approved = |stage: &str| {
        let names = |a: &&&crate::api::Approval| {
            let spec = &a.spec;
            spec.release == release.name_any() && spec.stage == stage && spec.attempt == release.spec.attempt
        };
        world.approvals.iter().any(|a| names(&a))
    };
    let newer =
        world.others.iter().any(|o| built_at(o) > built_at(release) && phase(o).is_some_and(|p| p.is_shipping()));
    if newer && !approved(DOWNGRADE_STAGE) && release.status.as_ref().is_none_or(|s| s.admitted_at.is_none()) {
        refuse("a newer release is in flight and nobody approved".into());
    }
    let mine = rollout_name(&release.name_any(), release.spec.attempt);
    for (index, stage) in release.spec.snapshot.stages.iter().enumerate() {
        let here = stage.environments.iter().any(|e| e == environment);
        if here {
            if stage.require_approval && !approved(&stage.name) {
                refuse(format!("nobody approved stage '{}'", stage.name));
            }
            let begun = |environment: &String| {
                let acts = |r: &&&Rollout| r.spec.environment == *environment && r.name_any() == mine;
                let starts = |w: &Write| matches!(w, Write::Create { name, spec } if spec.environment == *environment && *name == mine);
                world.rollouts.iter().any(|r| acts(&r) && ended(r).is_none()) || plan.writes.iter().any(starts)
            };
            let under_way = stage.environments.iter().filter(|e| begun(e)).count();
            if stage.max_concurrent.is_some_and(|most| under_way > most as usize) {
                refuse(format!("stage '{}' then has {under_way} under way", stage.name));
            }
            return;
        }
        for earlier in &stage.environments {
            let rollout = world.rollouts.iter().find(|r| r.spec.environment == *earlier && r.name_any() == mine);
            if rollout.and_then(|r| ended(r)) != Some(RolloutPhase::Promoted) {
                refuse(format!("{earlier} of stage {index} is not promoted"));
            }
            let since = plan
                .status
                .environments
                .iter()
                .find(|e| e.environment == *earlier)
                .and_then(|e| e.promoted_at.as_ref());
            if since.is_none_or(|at| world.now.duration_since(at.0) < stage.soak.signed()) {
                refuse(format!("{earlier} of stage {index} has not soaked"));
            }
        }
    }
}

fn rollback(world: &World<'_>, name: &str, spec: &RolloutSpec, found: &mut Vec<String>) {
    let mine = rollout_name(&world.release.name_any(), world.release.spec.attempt);
    let shipped = world.rollouts.iter().find(|r| r.spec.environment == spec.environment && r.name_any() == mine);
    let target = shipped.and_then(|r| r.status.as_ref()).map(|s| s.target.clone()).unwrap_or_default();
    if shipped.and_then(|r| ended(r)) != Some(RolloutPhase::Promoted) {
        found.push(format!("{name} goes back where nothing had passed"));
    }
    if target.is_empty() || target != spec.images {
        found.push(format!("{name} goes back to something that did not run there"));
    }
}
