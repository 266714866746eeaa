//! Invariants that every plan of a Release keeps; run beside the planner after every step of every
//! simulated run. Written from the rules, not from the planner, and never plans.

use kube::ResourceExt;

use super::order::{admitted_at, built_at, phase};
use super::plan::{Plan, Write};
use super::world::{PipelineState, World};
use super::{DOWNGRADE_STAGE, Version, quarantined, rollout_name};
use crate::api::{
    ReleaseImage, ReleasePhase, RollbackScope, Rollout, RolloutPhase, RolloutReason, RolloutSpec, RolloutStatus,
    VerdictDecision,
};

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
                let mine = |r: &&&Rollout| r.spec.release == world.release.name_any();
                if !world.rollouts.iter().filter(mine).any(|r| breached(r)) {
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
    let late = |w: &Write| matches!(w, Write::Abort { .. }) && before != Some(ReleasePhase::Promoted);
    let after_the_end = plan.writes.iter().any(|w| !late(w));
    if before.is_some_and(ReleasePhase::is_terminal) && !world.release.spec.undo && after_the_end {
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
    let mine = rollout_name(&world.release.name_any(), spec.attempt);
    let shipped = world.rollouts.iter().find(|r| r.spec.environment == spec.environment && r.name_any() == mine);
    if shipped.and_then(|r| ended(r)) != Some(RolloutPhase::Promoted) {
        found.push(format!("{name} goes back where nothing had passed"));
    }
    if ran_before(world, shipped.copied()).is_none_or(|images| images != spec.images) {
        found.push(format!("{name} goes back to something that did not run there"));
    }
}

/// What ran where `ship` passed before its release came, as the newest attempt tells that knows of anything.
fn ran_before<'a>(world: &World<'a>, ship: Option<&'a Rollout>) -> Option<&'a [ReleaseImage]> {
    let ship = ship.filter(|ship| ship.status.as_ref().is_some_and(|s| !s.first_release))?;
    let mut attempts: Vec<&Rollout> = world.rollouts.clone();
    attempts.retain(|r| {
        r.spec.environment == ship.spec.environment
            && r.spec.release == ship.spec.release
            && r.spec.reason == RolloutReason::Ship
            && r.spec.attempt <= ship.spec.attempt
            && ended(r) == Some(RolloutPhase::Promoted)
    });
    attempts.sort_by_key(|r| std::cmp::Reverse(r.spec.attempt));
    attempts.into_iter().filter_map(|r| r.status.as_ref()).map(|s| s.target.as_slice()).find(|t| !t.is_empty())
}

/// What a first release tells of itself is no breach: there was nothing to compare it with.
fn breached(rollout: &Rollout) -> bool {
    let told = |s: &RolloutStatus| s.breach.is_some() || s.phase == Some(RolloutPhase::RolledBack);
    rollout.spec.reason == RolloutReason::Ship
        && rollout.status.as_ref().is_some_and(|s| !s.first_release && s.phase != Some(RolloutPhase::Failed) && told(s))
}

/// What is left undone once every plan has come to rest with nothing hidden from view; empty if all is well.
pub fn unanswered(world: &World<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let Some(status) = world.release.status.as_ref() else { return found };
    let name = world.release.name_any();
    let mine: Vec<&Rollout> = world.rollouts.iter().copied().filter(|r| r.spec.release == name).collect();
    let shipped = || mine.iter().copied().filter(|r| r.spec.reason == RolloutReason::Ship);
    let over = status.phase.is_some_and(ReleasePhase::is_terminal);
    let lives =
        |r: &Rollout| (r.spec.attempt == status.attempt && !over) || status.phase == Some(ReleasePhase::Promoted);
    for rollout in shipped().filter(|r| ended(r).is_none() && !lives(r)) {
        if !rollout.spec.abort && rollout.spec.superseded_by.is_none() {
            found.push(format!("{} is in flight although its attempt has ended", rollout.name_any()));
        }
    }
    for ship in shipped().filter(|r| breached(r)) {
        let (environment, place) = (&ship.spec.environment, ship.name_any());
        let held = world.quarantines.iter().any(|q| {
            let here = q.spec.environments.is_empty() || q.spec.environments.contains(environment);
            // Lifted afterwards is an answer as well, a person's.
            let answered = here || q.spec.lifted.is_some() || ship.spec.attempt < status.attempt;
            answered && ship.spec.images.iter().any(|i| q.spec.digests.contains(&i.digest))
        });
        if !held {
            found.push(format!("the breach of {place} in {environment} quarantined nothing"));
        }
        if ship.spec.attempt != status.attempt || world.release.spec.snapshot.rollback != RollbackScope::Release {
            continue;
        }
        for passed in shipped().filter(|r| r.spec.attempt == ship.spec.attempt) {
            let elsewhere = &passed.spec.environment;
            let back = mine.iter().any(|r| {
                (r.spec.reason, r.spec.attempt, &r.spec.environment)
                    == (RolloutReason::Rollback, passed.spec.attempt, elsewhere)
            });
            let admitted = status.admitted_at.as_ref().map(|t| t.0);
            let overtaken = world.others.iter().any(|o| {
                let came = |r: &Rollout| r.spec.release == o.name_any() && r.spec.environment == *elsewhere;
                admitted_at(o) > admitted && world.rollouts.iter().any(|r| came(r) && r.spec.attempt == o.spec.attempt)
            });
            let target = ran_before(world, Some(passed)).is_some();
            if ended(passed) == Some(RolloutPhase::Promoted) && target && !back && !overtaken {
                found.push(format!("{elsewhere} keeps what breached in {environment}"));
            }
            if ended(passed).is_none() && !breached(passed) && !passed.spec.abort {
                found.push(format!("{elsewhere} goes on with what breached in {environment}"));
            }
        }
    }
    found
}
