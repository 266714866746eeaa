//! Objects and capacity before the first request moves. Never moves weight up.

use crate::api::RolloutPhase;

use super::action::Action;
use super::draft::Draft;
use super::steer::{Lowering, Route, Stage, fits, stages, weights};
use super::{capacity, ending, interrupt};

pub(super) fn go(d: &mut Draft<'_>) {
    if interrupt::before_promoting(d) {
        return;
    }
    if let Some(wait) = route_lacks(d) {
        return settle(d, Some(wait));
    }
    if d.status.ending.is_some() {
        return;
    }
    let held = capacity::hold_stable(d);
    let percent = first_weight(d);
    let pods = capacity::prepare(d, percent);
    let lacks = if !held {
        Some(("StableCapacity", "stable's capacity is not held against its autoscaler yet".to_owned()))
    } else if !pods {
        let wanted = capacity::pods_for(capacity::whole(d), percent);
        Some(("CapacityNotReady", format!("waiting for {wanted} ready canary pods and their Service")))
    } else {
        judge_lacks(d)
    };
    settle(d, lacks);
}

/// Starts the walk, or waits with a reason until the deadline.
fn settle(d: &mut Draft<'_>, lacks: Option<(&'static str, String)>) {
    let Some((code, why)) = lacks else {
        if !d.owns_route() {
            return d.say("AdoptingRoute", "waiting to see our mark on the route");
        }
        if let Some((code, why)) = interrupt::held(d) {
            return d.say(code, why);
        }
        d.enter(RolloutPhase::Canary);
        d.status.step = 0;
        d.status.deadline_from = Some(d.now());
        return d.decide("CanaryStarted", "pods are ready and scraped: the first step begins");
    };
    d.say(code, why.clone());
    if capacity::overdue(d) {
        ending::begin(d, RolloutPhase::Failed, code, Lowering::Failed, false, format!("{code}: {why}, in time"));
    }
}

/// Adopts the route; what it lacks for that.
fn route_lacks(d: &mut Draft<'_>) -> Option<(&'static str, String)> {
    let Some(route) = &d.seen.route else {
        return Some(("RouteMissing", format!("HTTPRoute {} is not there", d.seen.spec.route.http_route)));
    };
    if route.rules.is_empty() {
        return Some(("RouteNamesNoService", format!("no rule of the route names Service {}", d.seen.spec.service)));
    }
    let coarse = stages(d.seen.spec).into_iter().find_map(|stage| match stage {
        Stage::Weight(weight) if !fits(route, weight) => Some(weight),
        _ => None,
    });
    if let Some(weight) = coarse {
        let message = format!(
            "beside foreign backends our two share stable's weight, which cannot be cut to {weight} percent: raise all weights of the rule"
        );
        ending::begin(d, RolloutPhase::Failed, "WeightTooCoarse", Lowering::Failed, false, message);
        return None;
    }
    if d.owns_route() && !route.promoting && route.odd().is_none() {
        return match d.steer() {
            Route::Settled => None,
            _ => Some(("RouteNotReady", "the route is being brought to its record".into())),
        };
    }
    if route.most() > 0.0 {
        // Requests go to a canary of nobody: only stable at full strength may take them back.
        let strong = d.seen.stable.as_ref().is_some_and(|stable| stable.settled_ready() >= stable.wanted);
        if strong {
            d.before(Action::SetWeights {
                resource_version: route.resource_version.clone(),
                percent: 0,
                rules: weights(route, 0),
                decision: d.stamp(),
            });
        }
        return Some((
            "RouteLeftOver",
            "an earlier rollout left weight on the canary: it goes back to stable first".into(),
        ));
    }
    if let Some(odd) = route.odd() {
        return Some(odd);
    }
    if route.promoting {
        d.after(Action::ClearRoute { resource_version: route.resource_version.clone(), remove_canary_ref: false });
        return Some(("RouteLeftOver", "an earlier rollout's mark is taken off the route".into()));
    }
    d.adopt(route, "the route gets our mark and our backend at weight 0");
    None
}

/// Weight of the first step.
fn first_weight(d: &Draft<'_>) -> u8 {
    let first = stages(d.seen.spec).into_iter().find_map(|stage| match stage {
        Stage::Weight(weight) => Some(weight),
        Stage::Pause(_) => None,
    });
    first.unwrap_or(1).min(d.seen.spec.max_weight).max(1)
}

/// What is missing for a judgement; nothing moves before it is there.
pub(super) fn judge_lacks(d: &Draft<'_>) -> Option<(&'static str, String)> {
    let Some(judge) = &d.seen.judge else {
        return Some(("MetricsUnavailable", "the metrics source does not answer".into()));
    };
    if let Some(error) = judge.config_errors.first() {
        return Some(("ObjectiveInvalid", error.clone()));
    }
    if !judge.canary_scraped {
        let why = if judge.canary_young {
            "waiting for the first scrape of the canary's pods"
        } else {
            "no `up` sample of the canary's pods: do monitors select its labels?"
        };
        return Some(("CanaryNotScraped", why.into()));
    }
    if judge.blind_for >= d.strategy().blind_limit.as_duration() {
        return Some(("NoFreshSamples", "no fresh sample of either arm".into()));
    }
    None
}
