//! Promotion: with the route at the canary, stable's template takes the images and rolls without
//! traffic; then the route goes back. Every write of the route is guarded from here on.

use crate::api::{PromotingStep, RolloutPhase};

use super::action::Action;
use super::draft::Draft;
use super::steer::Route;
use super::{blind, canary, capacity, ending, first, interrupt, rollback};

/// From the hold at weight 100.
pub(super) fn enter(d: &mut Draft<'_>) {
    if let Some((code, why)) = interrupt::held(d) {
        return d.say(code, why);
    }
    if !d.seen.verdict.allows() {
        return d.say("VerdictMissing", format!("no promotion while the verdict is {}", d.seen.verdict));
    }
    if !canary::gate(d) {
        return;
    }
    let Some(route) = &d.seen.route else { return };
    if let Some((code, why)) = route.odd() {
        return d.say(code, why);
    }
    if d.status.weight != 100 || !route.stands_at(100) {
        return d.say("ForeignWriter", "the route is not at weight 100: no promotion");
    }
    if !capacity::prepare(d, 100) {
        return d.say("CapacityNotReady", "waiting for the canary's full capacity before promotion");
    }
    d.status.target_allowed = d.seen.target_verdict.allows();
    d.enter(RolloutPhase::Promoting);
    d.status.promoting = Some(PromotingStep::AtCanary);
    d.status.capacity_since = Some(d.now());
    d.decide("Promoting", "all steps are passed: stable takes the images behind the canary");
    mark(d);
}

/// The route says that lowering is no longer free.
pub(super) fn mark(d: &mut Draft<'_>) {
    let Some(route) = &d.seen.route else { return };
    let resource_version = route.resource_version.clone();
    let decision = d.stamp();
    d.after(Action::MarkPromoting { resource_version, decision });
}

pub(super) fn go(d: &mut Draft<'_>) {
    if d.status.first_release {
        return first::go(d);
    }
    if let Some(breach) = interrupt::breach(d) {
        let why = format!("{:?} breach: {}", breach.kind, breach.message);
        d.status.breach = Some(breach);
        return rollback::back(d, RolloutPhase::RolledBack, "Breach", &why, true);
    }
    if let Some((why, _)) = interrupt::denied(d) {
        return rollback::back(d, RolloutPhase::Denied, "Denied", &format!("the verdict turned: {why}"), false);
    }
    if d.status.promoting != Some(PromotingStep::Returning) {
        capacity::hold_stable(d);
    }
    if blind::is_blind(d) {
        let message = "no fresh sample while promoting: the route is frozen until samples are back";
        d.page("BlindWhilePromoting", message);
        return d.say("BlindWhilePromoting", message);
    }
    if d.steer() != Route::Settled {
        return late(d);
    }
    match d.status.promoting {
        Some(PromotingStep::TemplateWritten) => template(d),
        Some(PromotingStep::Returning) => returning(d),
        Some(PromotingStep::AtCanary | PromotingStep::PreparingCanary) | None => at_canary(d),
    }
}

/// What takes too long before the route returns goes back; on the way back there is only patience.
fn late(d: &mut Draft<'_>) {
    if d.status.promoting == Some(PromotingStep::Returning) || !capacity::overdue(d) {
        return;
    }
    let why = "CapacityNotReady: promotion did not come on in time";
    rollback::back(d, RolloutPhase::Failed, "CapacityNotReady", why, false);
}

fn paused(d: &mut Draft<'_>) -> bool {
    if d.seen.spec.paused {
        // The wait is the person's: it does not count towards the deadline.
        d.status.capacity_since = None;
        d.say("Paused", "paused after this sub-step of the promotion");
    }
    d.seen.spec.paused
}

fn at_canary(d: &mut Draft<'_>) {
    let Some(route) = &d.seen.route else { return };
    if !route.promoting {
        mark(d);
        d.say("MarkingRoute", "marking the route before stable's template changes");
        return late(d);
    }
    if !route.stands_at(100) {
        d.say("ForeignWriter", "the route is not at weight 100: stable's template stays");
        return late(d);
    }
    if paused(d) {
        return;
    }
    if !d.seen.verdict.allows() {
        d.say("VerdictMissing", format!("stable's template stays while the verdict is {}", d.seen.verdict));
        return late(d);
    }
    if !capacity::prepare(d, 100) {
        d.say("CapacityNotReady", "the canary must carry everything before stable's pods change");
        return late(d);
    }
    d.status.promoting = Some(PromotingStep::TemplateWritten);
    d.status.capacity_since = Some(d.now());
    d.status.step_since = None;
    d.decide("TemplateWritten", "stable's template takes the images; its pods roll without traffic");
    write_template(d);
}

fn write_template(d: &mut Draft<'_>) {
    let Some(stable) = &d.seen.stable else { return };
    d.after(Action::SetStableTemplate {
        images: d.seen.spec.images.clone(),
        uid: stable.uid.clone(),
        resource_version: stable.resource_version.clone(),
        stamp: d.seen.rollout.uid.clone(),
        release: Some(d.seen.spec.release.clone()),
    });
}

fn template(d: &mut Draft<'_>) {
    let stamp = d.seen.stable.as_ref().map(|stable| stable.stamp.clone());
    if stamp.is_some_and(|stamp| stamp.as_deref() != Some(d.seen.rollout.uid.as_str())) {
        let Some(route) = &d.seen.route else { return };
        if !route.promoting {
            mark(d);
        } else if route.stands_at(100) && d.seen.verdict.allows() {
            write_template(d);
        }
        d.say("WritingTemplate", "writing stable's template");
        return late(d);
    }
    if d.seen.route.as_ref().is_some_and(|route| !route.promoting) {
        mark(d);
    }
    if d.seen.stable.as_ref().is_some_and(|stable| !stable.carries(&d.seen.spec.images)) {
        d.foreign("someone else changed the images of stable's template; it is not written again");
    }
    if !capacity::stable_ready_with(d, &d.seen.spec.images) {
        d.status.step_since = None;
        d.say("AwaitingStable", "waiting for all of stable's pods to be ready with the images");
        return late(d);
    }
    if d.status.step_since.is_none() {
        d.status.step_since = Some(d.now());
    }
    let since = d.status.step_since.clone();
    // Endpoints reach the data plane after the pods are ready.
    if !d.passed(&since, d.seen.data_plane.lag) {
        return d.say("AwaitingDataPlane", "stable is ready; waiting for the data plane to know its pods");
    }
    if let Some((code, why)) = d.gateway_lacks() {
        if capacity::overdue(d) {
            d.page(code, why);
        }
        return d.say(code, why);
    }
    if paused(d) {
        return;
    }
    d.status.promoting = Some(PromotingStep::Returning);
    d.status.capacity_since = None;
    d.set_weight(0, "Returning", "stable is ready with the images: the route goes back to it");
}

fn returning(d: &mut Draft<'_>) {
    if paused(d) {
        return;
    }
    if !capacity::follows(d, true) {
        if d.seen.data_plane.share == super::observed::Share::Unknown {
            d.say("AwaitingShare", "the canary stays until the data plane has left it");
        }
        return;
    }
    ending::take_down(d);
    d.status.promoting = None;
    d.enter(RolloutPhase::Baking);
    d.decide("Baking", "all requests go to stable with the images; watching goes on");
}
