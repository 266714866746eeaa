//! The Rollback path: the canary arm takes the target at full strength, the route goes to it, stable's
//! template takes the target and rolls, the route goes back. The route never moves to pods that are not ready.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use crate::api::{GoingBack, PromotingStep, RolloutPhase, RolloutReason};

use super::action::{Action, Order};
use super::draft::{Draft, clip};
use super::observed::RouteView;
use super::steer::{Lowering, Route};
use super::{capacity, ending, interrupt, promoting, target};

/// How often a weight that someone else lowered is decided anew; more would be a fight.
pub(super) const MOST_RAISES: u8 = 3;

/// A Ship rollout turns round after promotion began.
pub(super) fn back(d: &mut Draft<'_>, end: RolloutPhase, code: &'static str, why: &str, quarantine: bool) {
    let to = target::choose(d).unwrap_or_default();
    d.status.going_back = Some(GoingBack { end, why: clip(why.to_owned()), quarantine, to, raised_again: 0 });
    d.enter(RolloutPhase::RollingBack);
    d.status.promoting = Some(PromotingStep::PreparingCanary);
    d.status.capacity_since = Some(d.now());
    d.decide(code, why);
    if quarantine {
        ending::quarantine_images(d, Order::AfterStatus);
    }
}

/// A Rollout whose reason is Rollback.
pub(super) fn start(d: &mut Draft<'_>) {
    let to = target::choose(d).unwrap_or_default();
    d.status.target_allowed = d.seen.verdict.allows();
    let why = "the release is taken back here".to_owned();
    let end = RolloutPhase::RolledBack;
    d.status.going_back = Some(GoingBack { end, why, quarantine: false, to, raised_again: 0 });
    d.enter(RolloutPhase::RollingBack);
    d.status.promoting = Some(PromotingStep::PreparingCanary);
    d.status.capacity_since = Some(d.now());
    d.decide("RollingBack", "the target gets pods of its own before any request moves");
}

/// The first write that answers the breach is seen done: pods for the target, or weight 0 where stable still serves.
fn answered(d: &mut Draft<'_>) {
    let stamp = capacity::back_stamp(d);
    let pods = d.seen.canary.as_ref().is_some_and(|canary| canary.stamp.as_ref() == Some(&stamp));
    let returned = d.status.promoting == Some(PromotingStep::Returning)
        && d.seen.route.as_ref().is_some_and(|route| route.most() == 0.0);
    let now = MicroTime(d.seen.now);
    if let Some(breach) = d.status.breach.as_mut().filter(|breach| breach.written_at.is_none() && (pods || returned)) {
        breach.written_at = Some(now);
    }
}

pub(super) fn go(d: &mut Draft<'_>) {
    let Some(back) = d.status.going_back.clone() else { return };
    answered(d);
    if back.quarantine {
        ending::quarantine_images(d, Order::BeforeStatus);
    }
    if called_off(d, &back) {
        return;
    }
    if d.status.promoting != Some(PromotingStep::Returning) {
        capacity::hold_stable(d);
    }
    if already_there(d, &back) {
        return;
    }
    if d.status.promoting == Some(PromotingStep::PreparingCanary) && !retarget(d, &back) {
        return;
    }
    let Some(back) = d.status.going_back.clone() else { return };
    if !route_ours(d) {
        return;
    }
    match d.status.promoting {
        Some(PromotingStep::AtCanary) => at_canary(d, &back),
        Some(PromotingStep::TemplateWritten) => template(d, &back),
        Some(PromotingStep::Returning) => returning(d, &back),
        Some(PromotingStep::PreparingCanary) | None => prepare(d),
    }
}

/// Not an end: it goes on by itself when what it lacks is there.
fn blocked(d: &mut Draft<'_>, why: &str) {
    if d.status.phase != Some(RolloutPhase::RollbackBlocked) {
        d.status.phase = Some(RolloutPhase::RollbackBlocked);
        d.status.phase_since = Some(d.now());
        d.decide("RollbackBlocked", why);
    }
    d.page("RollbackBlocked", why);
    d.say("RollbackBlocked", why);
}

fn unblocked(d: &mut Draft<'_>) {
    if d.status.phase == Some(RolloutPhase::RollbackBlocked) {
        d.status.phase = Some(RolloutPhase::RollingBack);
        d.status.phase_since = Some(d.now());
    }
}

fn wait(d: &mut Draft<'_>, code: &'static str, why: &str) {
    if capacity::overdue(d) {
        return blocked(d, &format!("{code}: {why}; the route is not moved"));
    }
    d.say(code, why);
}

/// A person may stop what has not moved a request, or what is blocked.
fn called_off(d: &mut Draft<'_>, back: &GoingBack) -> bool {
    let own = d.seen.spec.reason == RolloutReason::Rollback;
    let still = d.status.weight == 0 && d.seen.route.as_ref().is_none_or(|route| route.most() == 0.0);
    let early = own && still && d.status.promoting == Some(PromotingStep::PreparingCanary);
    if early && let Some(why) = interrupt::unwanted(d) {
        ending::begin(d, RolloutPhase::Withdrawn, "Aborted", Lowering::Aborted, false, why);
        return true;
    }
    let resolved = d.status.phase == Some(RolloutPhase::RollbackBlocked)
        && (d.seen.rollout.deleting || d.seen.spec.superseded_by.is_some() || (own && d.seen.spec.abort));
    if !resolved {
        return false;
    }
    let message = format!("a person resolved the blocked rollback ({}): stable keeps what it runs", back.why);
    if still {
        ending::begin(d, back.end, "RollbackResolved", Lowering::Aborted, false, message);
        return true;
    }
    let strong = d.seen.stable.as_ref().is_some_and(|stable| stable.settled_ready() >= capacity::whole(d));
    let settled = strong && d.status.promoting != Some(PromotingStep::Returning) && d.status.weight > 0;
    if settled && let Some((code, why)) = d.gateway_lacks() {
        d.say(code, why);
        return true;
    }
    if settled && d.steer() == Route::Settled {
        unblocked(d);
        d.status.promoting = Some(PromotingStep::Returning);
        d.set_weight(0, "RollbackResolved", message);
    }
    settled
}

/// The target must still be allowed to run; else another is chosen. False: there is none.
fn retarget(d: &mut Draft<'_>, back: &GoingBack) -> bool {
    match target::choose(d) {
        Some(to) => {
            if to != back.to {
                d.status.going_back = Some(GoingBack { to, ..back.clone() });
                d.status.capacity_since = Some(d.now());
                d.decide("TargetChosen", "the newest older images that may run here are the target");
            }
            true
        }
        None => {
            blocked(d, "NoRollbackTarget: nothing that ran here before may run now");
            false
        }
    }
}

/// Stable still runs what it ran at the start: its template was never written. No pod changes, so no verdict
/// is asked for, as before `Promoting`.
fn untouched(d: &Draft<'_>) -> bool {
    let Some(stable) = d.seen.stable.as_ref().filter(|_| d.seen.spec.reason == RolloutReason::Ship) else {
        return false;
    };
    let written = [d.seen.rollout.uid.clone(), capacity::back_stamp(d)];
    let stamped = stable.stamp.as_ref().is_some_and(|stamp| written.contains(stamp));
    let same = stable.carries(&d.status.target) && !stable.carries(&d.seen.spec.images);
    !stamped && same && stable.settled_ready() >= capacity::whole(d)
}

/// Stable runs the target (or what it ran all the time) at full strength: requests may go (or stay) there.
fn already_there(d: &mut Draft<'_>, back: &GoingBack) -> bool {
    let preparing = d.status.promoting == Some(PromotingStep::PreparingCanary);
    let target = !back.to.is_empty() && capacity::stable_ready_with(d, &back.to);
    let untouched = untouched(d);
    if !preparing || !(untouched || target && !target::quarantined(d, &back.to)) {
        return false;
    }
    let empty = d.seen.route.as_ref().is_none_or(|route| route.most() == 0.0);
    if d.status.weight == 0 && empty {
        ending::close(d, back.end, back.why.clone());
        return true;
    }
    if !untouched && let Some((code, why)) = d.gateway_lacks() {
        wait(d, code, why);
        return true;
    }
    if marked(d) && d.status.weight > 0 {
        unblocked(d);
        d.status.promoting = Some(PromotingStep::Returning);
        d.set_weight(0, "Returning", "stable still runs the target at full strength: the route goes back to it");
    }
    true
}

/// The route carries our mark and stands at its record.
fn marked(d: &mut Draft<'_>) -> bool {
    let Some(route) = &d.seen.route else {
        wait(d, "RouteMissing", "the route is not there");
        return false;
    };
    if !d.owns_route() {
        d.adopt(route, "the route gets our mark");
        wait(d, "AdoptingRoute", "waiting to see our mark on the route");
        return false;
    }
    let settled = d.steer() == Route::Settled;
    if !settled {
        wait(d, "RouteNotReady", "the route is being brought to its record");
    }
    settled
}

/// The same, and the mark of a guarded phase.
fn route_ours(d: &mut Draft<'_>) -> bool {
    if !marked(d) {
        return false;
    }
    if d.seen.route.as_ref().is_some_and(|route| !route.promoting) {
        promoting::mark(d);
        wait(d, "MarkingRoute", "marking the route before requests move");
        return false;
    }
    true
}

fn prepare(d: &mut Draft<'_>) {
    if !capacity::prepare(d, 100) {
        return wait(d, "CapacityNotReady", "waiting for the target's pods");
    }
    if let Some((code, why)) = d.seen.route.as_ref().and_then(RouteView::odd) {
        return wait(d, code, &why);
    }
    if d.status.weight < 100
        && let Some((code, why)) = d.gateway_lacks()
    {
        return wait(d, code, why);
    }
    unblocked(d);
    d.status.promoting = Some(PromotingStep::AtCanary);
    d.status.capacity_since = Some(d.now());
    if d.status.weight == 100 {
        d.decide("TargetReady", "the pods that get the requests run the target now");
    } else {
        d.set_weight(100, "TargetReady", "the target's pods are ready: all requests go to them");
    }
}

/// Who lowers the weight of the target's pods sends requests to what is being taken back: it is decided anew, as a
/// decision of its own, and not for ever against a writer that insists.
fn raise_again(d: &mut Draft<'_>, back: &GoingBack) -> bool {
    let Some(route) = &d.seen.route else { return false };
    let lowered = d.status.weight == 100 && route.least() < 99.5;
    if !lowered || back.raised_again >= MOST_RAISES || route.odd().is_some() || route.lacks_ref() {
        return false;
    }
    if target::quarantined(d, &back.to) {
        return false;
    }
    let (since, lag, found) = (d.status.weight_since.clone(), d.seen.data_plane.lag, route.least().round());
    if !d.passed(&since, lag) || !capacity::prepare(d, 100) || d.gateway_lacks().is_some() {
        return false;
    }
    d.status.going_back = Some(GoingBack { raised_again: back.raised_again + 1, ..back.clone() });
    d.status.capacity_since = Some(d.now());
    d.set_weight(
        100,
        "RaisedAgain",
        format!("someone else lowered the weight of the target's pods to {found}: all requests go to them again"),
    );
    true
}

fn at_canary(d: &mut Draft<'_>, back: &GoingBack) {
    if raise_again(d, back) {
        return;
    }
    let stands = d.seen.route.as_ref().is_some_and(|route| route.stands_at(100));
    if !stands || !capacity::follows(d, true) {
        let why = "waiting to see all requests at the target's pods (a weight that someone else lowers again and again is left to a person: set it)";
        return wait(d, "AwaitingShare", why);
    }
    unblocked(d);
    d.status.promoting = Some(PromotingStep::TemplateWritten);
    d.status.capacity_since = Some(d.now());
    d.status.step_since = None;
    d.decide("TemplateWritten", "stable's template takes the target; its pods roll without traffic");
    write_template(d, back);
}

fn write_template(d: &mut Draft<'_>, back: &GoingBack) {
    let Some(stable) = &d.seen.stable else { return };
    d.after(Action::SetStableTemplate {
        images: back.to.clone(),
        uid: stable.uid.clone(),
        resource_version: stable.resource_version.clone(),
        stamp: capacity::back_stamp(d),
        release: target::release_of(d, &back.to),
    });
}

fn template(d: &mut Draft<'_>, back: &GoingBack) {
    let stamp = d.seen.stable.as_ref().map(|stable| stable.stamp.clone());
    if stamp.is_some_and(|stamp| stamp != Some(capacity::back_stamp(d))) {
        if d.seen.route.as_ref().is_some_and(|route| route.stands_at(100)) {
            write_template(d, back);
        } else if raise_again(d, back) {
            return;
        }
        return wait(d, "WritingTemplate", "writing stable's template, once all requests go to the target's pods");
    }
    if d.seen.stable.as_ref().is_some_and(|stable| !stable.carries(&back.to)) {
        d.foreign("someone else changed the images of stable's template; it is not written again");
    }
    if !capacity::stable_ready_with(d, &back.to) {
        // Stable's pods roll: no request is to meet that.
        if raise_again(d, back) {
            return;
        }
        d.status.step_since = None;
        return wait(d, "AwaitingStable", "waiting for all of stable's pods to be ready with the target");
    }
    if d.status.step_since.is_none() {
        d.status.step_since = Some(d.now());
    }
    let since = d.status.step_since.clone();
    if !d.passed(&since, d.seen.data_plane.lag) {
        return d.say("AwaitingDataPlane", "stable is ready; waiting for the data plane to know its pods");
    }
    if let Some((code, why)) = d.gateway_lacks() {
        return wait(d, code, why);
    }
    unblocked(d);
    d.status.promoting = Some(PromotingStep::Returning);
    d.status.capacity_since = None;
    d.set_weight(0, "Returning", "stable runs the target: the route goes back to it");
}

fn returning(d: &mut Draft<'_>, back: &GoingBack) {
    if !capacity::follows(d, true) {
        return;
    }
    ending::close(d, back.end, back.why.clone());
}
