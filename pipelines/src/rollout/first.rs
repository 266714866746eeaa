//! A first release: stable has no ready pods, so there is nothing to compare with or to go back to.
//! The template is written and its pods are awaited; nothing is quarantined.

use crate::api::{PromotingStep, RolloutPhase};

use super::action::Action;
use super::draft::Draft;
use super::observed::Arm;
use super::{capacity, ending, interrupt};

pub(super) fn start(d: &mut Draft<'_>, stable: &Arm) {
    d.status.first_release = true;
    d.enter(RolloutPhase::Promoting);
    d.status.promoting = Some(PromotingStep::TemplateWritten);
    d.status.capacity_since = Some(d.now());
    d.decide(
        "FirstRelease",
        "stable has no ready pods of another version: its template takes the images, without a canary",
    );
    write(d, stable);
}

fn write(d: &mut Draft<'_>, stable: &Arm) {
    d.after(Action::SetStableTemplate {
        images: d.seen.spec.images.clone(),
        uid: stable.uid.clone(),
        resource_version: stable.resource_version.clone(),
        stamp: d.seen.rollout.uid.clone(),
        release: Some(d.seen.spec.release.clone()),
    });
}

/// What ends a first release early. True: it has ended.
pub(super) fn interrupted(d: &mut Draft<'_>) -> bool {
    let failed = match interrupt::breach(d) {
        Some(breach) => {
            let message = breach.message.clone();
            d.status.breach = Some(breach);
            Some(message)
        }
        None => interrupt::denied(d).map(|(why, _)| why),
    };
    if let Some(why) = failed {
        fail(d, &why);
        return true;
    }
    let baking = d.status.phase == Some(RolloutPhase::Baking);
    let unwanted = if baking { interrupt::called_back(d) } else { interrupt::unwanted(d) };
    if let Some(why) = unwanted {
        ending::close(d, RolloutPhase::Withdrawn, format!("{why}; its pods are left, there is nothing to go back to"));
        return true;
    }
    false
}

fn fail(d: &mut Draft<'_>, why: &str) {
    ending::close(d, RolloutPhase::Failed, format!("NoRollbackTarget: {why}; a first release's pods are left"));
}

pub(super) fn go(d: &mut Draft<'_>) {
    if interrupted(d) {
        return;
    }
    let ready = match d.seen.stable.clone() {
        None => false,
        Some(stable) if stable.stamp.as_deref() != Some(d.seen.rollout.uid.as_str()) => {
            if d.seen.verdict.allows() {
                write(d, &stable);
            }
            false
        }
        Some(stable) => {
            if !stable.carries(&d.seen.spec.images) {
                d.foreign("someone else changed the images of stable's template");
            }
            stable.carries(&d.seen.spec.images)
                && stable.observed_generation >= stable.generation
                && stable.settled_ready() >= stable.wanted
        }
    };
    if ready {
        d.status.promoting = None;
        d.enter(RolloutPhase::Baking);
        return d.decide("Baking", "the first pods are ready");
    }
    d.say("AwaitingStable", "waiting for the first pods to be ready");
    if capacity::overdue(d) {
        fail(d, "pods were not ready in time");
    }
}
