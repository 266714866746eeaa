//! After promotion: the route is the user's again, watching goes on against the service's own past.
//! Writes nothing until the bake is over or something turns.

use crate::api::RolloutPhase;

use super::draft::Draft;
use super::{ending, first, interrupt, rollback};

pub(super) fn go(d: &mut Draft<'_>) {
    if d.status.first_release {
        if first::interrupted(d) {
            return;
        }
    } else if turned(d) {
        return;
    }
    if let Some(newer) = d.seen.spec.superseded_by.clone() {
        return ending::close(d, RolloutPhase::Promoted, format!("promoted; the bake is cut short for {newer}"));
    }
    if d.seen.retire || d.seen.rollout.deleting {
        return ending::close(d, RolloutPhase::Promoted, "promoted; the bake is cut short, its object goes");
    }
    if d.seen.spec.paused {
        return d.say("Paused", "a person paused it: watching goes on, it does not end");
    }
    let since = d.status.phase_since.clone();
    let bake = d.strategy().bake;
    if d.passed(&since, bake.as_duration()) {
        return ending::close(d, RolloutPhase::Promoted, format!("ran well for {bake}"));
    }
    let blind = d.seen.judge.as_ref().is_none_or(|judge| judge.blind_for >= d.strategy().blind_limit.as_duration());
    if blind {
        d.say("BakingBlind", format!("baking for {bake} without fresh samples"));
    } else if let Some((why, _)) = interrupt::denied(d) {
        d.say("BakingDenied", format!("baking for {bake}; the verdict turned ({why}), its restart grace holds"));
    } else {
        d.say("Baking", format!("watching for {bake}; without a control arm this is weaker"));
    }
}

/// What takes the Rollback path from here.
fn turned(d: &mut Draft<'_>) -> bool {
    if let Some(breach) = interrupt::breach(d) {
        let why = format!("{:?} breach while baking: {}", breach.kind, breach.message);
        d.status.breach = Some(breach);
        rollback::back(d, RolloutPhase::RolledBack, "Breach", &why, true);
        return true;
    }
    if let Some((why, true)) = interrupt::denied(d) {
        rollback::back(d, RolloutPhase::Denied, "Denied", &format!("revoked while baking: {why}"), false);
        return true;
    }
    if let Some(why) = interrupt::called_back(d) {
        rollback::back(d, RolloutPhase::Withdrawn, "Aborted", why, false);
        return true;
    }
    false
}
