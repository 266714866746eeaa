//! The walk: weight after weight, each entered with pods ready and left on evidence.

use std::time::Duration;

use crate::api::{OnHubLost, OnInconclusive, RolloutPhase, Span};

use super::draft::{Draft, moved};
use super::observed::{JudgeSays, RouteView};
use super::preparing::judge_lacks;
use super::steer::{Lowering, Route, Stage, fits, no_higher, stages, unfit};
use super::target::Gate;
use super::{blind, capacity, ending, interrupt, promoting, target};

/// The first step's weight while its pods are warming up (`mask`): enough to warm, little to harm.
const WARM_WEIGHT: u8 = 2;

pub(super) fn go(d: &mut Draft<'_>) {
    if interrupt::before_promoting(d) || past_deadline(d) {
        return;
    }
    let held = capacity::hold_stable(d);
    // A weight that goes back waits for nothing that the route still lacks.
    if !d.stale_view() && blind::retreats(d) {
        return;
    }
    match d.steer() {
        Route::Settled => {}
        Route::Unsettled => {
            if d.status.weight > 0 && !capacity::ready_for(d, d.status.weight) {
                capacity::prepare(d, d.status.weight);
                overdue(d, "CapacityNotReady", "canary pods were not ready in time");
            }
            return;
        }
        Route::Missing => return overdue(d, "RouteMissing", "the route did not come back in time"),
    }
    if blind::go(d) {
        return;
    }
    if hub_retreat(d) {
        return;
    }
    if let Some((code, why)) = d.seen.route.as_ref().and_then(RouteView::odd) {
        d.say(code, format!("no step is taken: {why}"));
        return overdue(d, code, "the route was not mended in time");
    }
    if d.status.weight > 0 {
        // Stable may have grown: the canary keeps its share of it.
        capacity::prepare(d, d.status.weight);
    }
    let stages = stages(d.seen.spec);
    let index = usize::from(d.status.step);
    match stages.get(index) {
        Some(Stage::Weight(weight)) => {
            let first = !stages[..index].iter().any(|stage| matches!(stage, Stage::Weight(_)));
            at_weight(d, *weight, first, held);
        }
        Some(Stage::Pause(span)) => pause(d, *span),
        None => promoting::enter(d),
    }
}

fn overdue(d: &mut Draft<'_>, code: &'static str, message: &str) {
    if capacity::overdue(d) {
        ending::begin(d, RolloutPhase::Failed, code, Lowering::Failed, false, format!("{code}: {message}"));
    }
}

/// `progressDeadlineSeconds`; pauses do not count.
fn past_deadline(d: &mut Draft<'_>) -> bool {
    let stages = stages(d.seen.spec);
    let pausing = matches!(stages.get(usize::from(d.status.step)), Some(Stage::Pause(_)));
    let limit = Duration::from_secs(d.strategy().progress_deadline_seconds.into());
    let from = d.status.deadline_from.clone();
    if pausing || d.seen.spec.paused || !d.passed(&from, limit) {
        return false;
    }
    if d.status.blind_retreat_at.is_some() {
        blind::give_up(d);
    } else {
        inconclusive(d, "progressDeadlineSeconds is over and nothing is decided");
    }
    true
}

fn inconclusive(d: &mut Draft<'_>, why: &str) {
    ending::begin(d, RolloutPhase::Inconclusive, "Inconclusive", Lowering::Inconclusive, false, why);
}

/// `onHubLost: retreat`: weight 0 until the hub is back, then once more from step 1.
fn hub_retreat(d: &mut Draft<'_>) -> bool {
    if d.strategy().on_hub_lost != OnHubLost::Retreat || !interrupt::hub_lost(d) {
        return false;
    }
    if d.status.weight > 0 {
        d.lower(Lowering::HubLost);
        d.status.step = 0;
        d.status.certified_weight = 0;
        d.status.step_since = None;
        d.decide("HubLost", "the hub is away: weight 0 until it is back (onHubLost: retreat)");
    } else {
        d.say("HubLost", "the hub is away: weight 0 until it is back (onHubLost: retreat)");
    }
    true
}

fn by_person(d: &Draft<'_>) -> bool {
    d.seen.spec.promote_through.is_some_and(|through| through >= d.status.step)
}

fn advance(d: &mut Draft<'_>, code: &'static str, why: String) {
    d.status.step += 1;
    d.status.step_since = None;
    d.decide(code, why);
}

fn pause(d: &mut Draft<'_>, span: Option<Span>) {
    if d.status.step_since.is_none() {
        d.status.step_since = Some(d.now());
    }
    let since = d.status.step_since.clone();
    let over = match span {
        Some(span) => d.passed(&since, span.as_duration()),
        None => false,
    };
    if !over && !by_person(d) {
        let text = match span {
            Some(span) => format!("a pause of {span}; a breach still rolls back"),
            None => "a pause until a person promotes; a breach still rolls back".into(),
        };
        return d.say("PauseStep", text);
    }
    if let Some((code, why)) = interrupt::held(d) {
        return d.say(code, why);
    }
    if let Some(since) = since {
        d.status.deadline_from = moved(&d.status.deadline_from, since.0, d.seen.now);
    }
    advance(d, "PauseOver", "the pause step is over".into());
}

fn at_weight(d: &mut Draft<'_>, weight: u8, first: bool, held: bool) {
    let target = weight.min(d.seen.spec.max_weight);
    let caps = first
        && d.strategy().mask > Span::ZERO
        && d.status.blind_restarts == 0
        && target > WARM_WEIGHT
        && d.seen.route.as_ref().is_some_and(|route| fits(route, WARM_WEIGHT));
    let warming = caps && d.status.weight == WARM_WEIGHT;
    if d.status.weight != target && !warming {
        return approach(d, if caps { WARM_WEIGHT } else { target }, target, held);
    }
    if target == 0 {
        return d.say("CeilingReached", "the hub's ceiling is 0: waiting for it to rise");
    }
    if d.status.step_since.is_none() {
        if !capacity::follows(d, true) {
            return overdue(d, "ShareNotSeen", "the weight was not seen in the data plane in time");
        }
        d.status.step_since = Some(d.now());
        d.status.capacity_since = None;
    }
    let since = d.status.step_since.clone();
    if warming {
        let mask = d.strategy().mask;
        if d.passed(&since, mask.as_duration()) {
            return approach(d, target, target, held);
        }
        return d.say("WarmingUp", format!("weight {WARM_WEIGHT} for {mask} while the pods warm up; then {target}"));
    }
    // The weight stands: what was awaited before is over.
    d.status.capacity_since = None;
    if d.status.weight < weight {
        return d.say(
            "CeilingReached",
            format!("step {weight} is above the hub's ceiling {target}: waiting for it to rise"),
        );
    }
    if let Some((code, why)) = interrupt::held(d) {
        return d.say(code, why);
    }
    let person = by_person(d);
    if !person && !d.passed(&since, d.strategy().step_min_time.as_duration()) {
        return d.say("StepMinTime", format!("weight {weight} for at least {}", d.strategy().step_min_time));
    }
    if weight == 100 {
        return promoting::enter(d);
    }
    if person {
        return advance(d, "PromotedByPerson", format!("a person let step {} pass", d.status.step + 1));
    }
    judged(d, weight);
}

fn judged(d: &mut Draft<'_>, weight: u8) {
    let lacks = match d.seen.judge.as_ref().map(|judge| &judge.says) {
        Some(JudgeSays::Advance { why }) => {
            d.status.certified_weight = weight;
            return advance(d, "StepCertified", format!("weight {weight} is certified: {why}"));
        }
        Some(JudgeSays::Continue { lacks }) => lacks.clone(),
        Some(JudgeSays::Inconclusive { why }) => why.clone(),
        Some(JudgeSays::RollBack { why, .. }) => why.clone(),
        None => "the metrics source does not answer".into(),
    };
    let strategy = d.strategy();
    let times = if strategy.on_inconclusive == OnInconclusive::Longer { 2 } else { 1 };
    let since = d.status.step_since.clone();
    if !d.passed(&since, strategy.step_max_time.as_duration().saturating_mul(times)) {
        return d.say("NotDecided", format!("weight {weight}, nothing decided yet: {lacks}"));
    }
    match strategy.on_inconclusive {
        OnInconclusive::Hold => {
            d.say(
                "Undecided",
                format!("stepMaxTime is over; holding at {weight} until progressDeadlineSeconds: {lacks}"),
            );
        }
        OnInconclusive::Longer | OnInconclusive::Rollback => {
            inconclusive(d, &format!("stepMaxTime is over at weight {weight}: {lacks}"));
        }
    }
}

/// To `weight` on the way to the step's `target`: down at once, up with everything that a raise needs.
fn approach(d: &mut Draft<'_>, weight: u8, target: u8, held: bool) {
    if weight < d.status.weight {
        let weight = d.seen.route.as_ref().map_or(weight, |route| no_higher(route, weight));
        return d.set_weight(weight, "WeightLowered", format!("weight {weight}: the step's or the hub's ceiling"));
    }
    if weight == 0 {
        return d.say("CeilingReached", "the hub's ceiling is 0: waiting for it to rise");
    }
    if let Some((code, why)) = interrupt::held(d) {
        return d.say(code, why);
    }
    if !d.seen.verdict.allows() {
        return d.say("VerdictMissing", format!("no weight is raised while the verdict is {}", d.seen.verdict));
    }
    if let Some((code, why)) = judge_lacks(d) {
        return d.say(code, why);
    }
    if let Some(rule) = d.seen.route.as_ref().and_then(|route| unfit(route, weight)) {
        let why = format!(
            "stable's weight beside another backend (rule {rule} of the route) cannot be cut to {weight} percent: raise all weights of the rule"
        );
        d.say("WeightTooCoarse", why);
        return overdue(
            d,
            "WeightTooCoarse",
            "the weights of a rule that another backend shares were not raised in time",
        );
    }
    if target == 100 && !gate(d) {
        return;
    }
    if let Some((code, why)) = d.gateway_lacks() {
        return d.say(code, why);
    }
    if !held {
        d.say("StableCapacity", "stable's capacity is not held against its autoscaler yet");
        return overdue(d, "StableCapacity", "stable's capacity could not be held in time");
    }
    if !capacity::prepare(d, target) {
        let pods = capacity::pods_for(capacity::whole(d), target);
        d.say("CapacityNotReady", format!("waiting for {pods} ready canary pods before weight {weight}"));
        return overdue(d, "CapacityNotReady", "canary pods were not ready in time");
    }
    d.status.capacity_since = None;
    d.set_weight(weight, "WeightRaised", format!("weight {weight}: its pods are ready"));
}

/// Whether there is something to go back to once stable's template changes.
pub(super) fn gate(d: &mut Draft<'_>) -> bool {
    match target::gate(d) {
        Gate::Open => true,
        Gate::Wait(why) => {
            d.say("TargetVerdictMissing", why);
            false
        }
        Gate::Refused(why) => {
            let message = format!("NoRollbackTarget: {why}");
            ending::begin(d, RolloutPhase::Failed, "NoRollbackTarget", Lowering::Failed, false, message);
            false
        }
    }
}
