//! The pipeline is gone and nothing of it is under way: our backendRef, canary Deployment and Service go, the user's
//! route, Deployment and Service stay as they are. Moves no request: whoever has given the canary weight by hand
//! is told, not cut off.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::RolloutPhase;

use super::action::Action;
use super::draft::Draft;
use super::observed::RouteView;
use super::{capacity, interrupt, waiting};

pub(super) fn go(d: &mut Draft<'_>) {
    if !d.seen.namespace_allowed {
        let namespace = d.seen.spec.namespace.clone();
        return end(
            d,
            RolloutPhase::Failed,
            "NamespaceNotAllowed",
            format!("the environment does not allow namespace {namespace}: what is ours there is left"),
        );
    }
    if let Some(why) = interrupt::unwanted(d) {
        return end(d, RolloutPhase::Withdrawn, "Aborted", format!("{why}: what is ours is left"));
    }
    if let Some(other) = waiting::other_first(d) {
        d.status.capacity_since = None;
        return d.say("WaitingForOther", format!("{other} acts on this workload: one rollout at a time"));
    }
    if d.seen.spec.paused {
        d.status.capacity_since = None;
        return d.say("Paused", "a person paused it: what is ours stays");
    }
    if d.seen.route.as_ref().is_some_and(|route| route.most() > 0.0) {
        let message = "someone gave the canary's backendRef weight: it is taken out once it has none";
        d.say("RouteInUse", message);
        if capacity::overdue(d) {
            end(d, RolloutPhase::Failed, "RouteInUse", format!("{message}; what is ours is left"));
        }
        return;
    }
    d.status.started_at = Some(Time(d.seen.now));
    if let Some(route) = d.seen.route.as_ref().filter(|route| marked(route)) {
        let resource_version = route.resource_version.clone();
        d.before(Action::ClearRoute { resource_version, remove_canary_ref: true });
    }
    d.before(Action::RemoveCanary);
    end(
        d,
        RolloutPhase::Withdrawn,
        "Retired",
        "the pipeline is gone: our backendRef, canary Deployment and Service too",
    );
}

/// Whether anything of ours is on the route.
fn marked(route: &RouteView) -> bool {
    let annotated = route.rollout.is_some() || route.decision.is_some() || route.promoting || route.lowered.is_some();
    annotated || route.rules.iter().any(|rule| rule.canary_weight.is_some())
}

fn end(d: &mut Draft<'_>, phase: RolloutPhase, code: &'static str, message: impl Into<String>) {
    // The guard reads from the latest rollout, however it ended, what stable is made of.
    let stable = d.seen.stable.as_ref();
    d.status.target = stable.map_or_else(Vec::new, |stable| waiting::running_images(stable, &d.seen.spec.images));
    d.enter(phase);
    d.status.finished_at = Some(d.now());
    d.decide(code, message);
    if d.seen.rollout.finalizer {
        d.after(Action::ReleaseFinalizer);
    }
}
