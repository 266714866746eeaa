//! How a rollout ends: weight 0 first, then the last request is awaited, then what was ours goes,
//! then the phase is terminal and nothing is written any more.

use crate::api::{Ending, RolloutPhase};

use super::action::{Action, Order};
use super::capacity;
use super::draft::{Draft, clip};
use super::steer::Lowering;

/// The end is decided: weight 0 is the next write, before the record of it.
pub(super) fn begin(
    d: &mut Draft<'_>,
    end: RolloutPhase,
    code: &'static str,
    lowering: Lowering,
    quarantine: bool,
    message: impl Into<String>,
) {
    let message = clip(message.into());
    d.lower(lowering);
    d.status.step_since = None;
    d.status.capacity_since = None;
    d.status.ending = Some(Ending { end, reason: code.into(), message: message.clone(), quarantine });
    d.decide(code, message);
    if quarantine {
        quarantine_images(d, Order::AfterStatus);
    }
}

/// Again and again until the environment knows of it: the write may have been lost in a crash. A breach's
/// own record goes first; a repeat goes before the record of the end.
pub(super) fn quarantine_images(d: &mut Draft<'_>, order: Order) {
    let images = &d.seen.spec.images;
    if images.iter().all(|image| d.seen.quarantined.contains(&image.digest)) {
        return;
    }
    // Only what is new may be bad: a sidecar that stable runs too is not.
    let digests: Vec<String> = images
        .iter()
        .filter(|image| !d.status.target.iter().any(|old| old.digest == image.digest))
        .map(|image| image.digest.clone())
        .filter(|digest| !d.seen.quarantined.contains(digest))
        .collect();
    if digests.is_empty() {
        return;
    }
    let message = d.status.breach.as_ref().map_or_else(|| "breach".to_owned(), |breach| breach.message.clone());
    d.order(order, Action::Quarantine { digests, revision: d.seen.spec.revision.clone(), message });
}

pub(super) fn go(d: &mut Draft<'_>) {
    let Some(ending) = d.status.ending.clone() else { return };
    if ending.quarantine {
        quarantine_images(d, Order::BeforeStatus);
    }
    // Whoever put the weight there: the canary's pods stay as long as a request may come to them.
    if d.seen.route.as_ref().is_some_and(|route| route.most() > 0.0) {
        d.lower(Lowering::Foreign);
        d.say("Lowering", format!("weight 0 before anything else; then {:?}: {}", ending.end, ending.message));
        return;
    }
    let drained = capacity::drained(d);
    if !drained {
        d.say("Draining", format!("weight 0; the canary's pods stay until the last request: {}", ending.message));
        return;
    }
    close(d, ending.end, ending.message);
}

/// Takes down what is ours and ends, in one pass: what fails keeps the phase from being written.
pub(super) fn close(d: &mut Draft<'_>, end: RolloutPhase, message: impl Into<String>) {
    d.nothing_later();
    let touched = d.status.started_at.is_some();
    if touched && !d.status.first_release {
        take_down(d);
        if let Some(min) = d.status.hpa_min {
            d.before(Action::RestoreHpaMin { min });
        }
    }
    d.enter(end);
    d.status.weight = 0;
    d.status.promoting = None;
    d.status.finished_at = Some(d.now());
    d.status.paused_since = None;
    d.status.ending = None;
    d.decide(word(end), message);
    if touched || d.seen.rollout.finalizer {
        d.after(Action::ReleaseFinalizer);
    }
}

/// Canary to nothing, the route without our marks. Ordered whatever the view says of the canary:
/// a stale view must not leave pods behind.
pub(super) fn take_down(d: &mut Draft<'_>) {
    let own = d.owns_route();
    // Weight that a person gave the canary after the bake: told by the retirement, not cut off here.
    let unused = d.seen.route.as_ref().is_none_or(|route| route.most() == 0.0);
    let retire = d.seen.retire && unused;
    if let Some(why) = d.keeps_ours() {
        d.decide("WeightKept", why);
    }
    if let Some(route) = &d.seen.route
        // Our backendRef goes with the pipeline although the marks are off (the bake is over).
        && (own || retire && route.rollout.is_none())
    {
        let resource_version = route.resource_version.clone();
        d.before(Action::ClearRoute { resource_version, remove_canary_ref: retire });
    }
    d.before(if retire { Action::RemoveCanary } else { Action::ScaleCanary { replicas: 0 } });
}

fn word(end: RolloutPhase) -> &'static str {
    match end {
        RolloutPhase::Promoted => "Promoted",
        RolloutPhase::RolledBack => "RolledBack",
        RolloutPhase::Superseded => "Superseded",
        RolloutPhase::Withdrawn => "Withdrawn",
        RolloutPhase::Inconclusive => "Inconclusive",
        RolloutPhase::Blind => "Blind",
        RolloutPhase::Denied => "Denied",
        _ => "Failed",
    }
}
