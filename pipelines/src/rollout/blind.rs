//! Blind is not safe: with weight and no fresh sample the weight goes back to the last certified step,
//! then to 0, without quarantine. Zero requests and masked data are sight.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::RolloutPhase;

use super::draft::{Draft, signed};
use super::ending;
use super::steer::Lowering;

/// Samples must be back for this long before it starts again (lifecycle.md section 3).
const SIGHT: Duration = Duration::from_secs(30);
/// How often it starts again from step 1.
const RESTARTS: u8 = 2;

/// Whether no witness has spoken for `blindLimit`.
pub(super) fn is_blind(d: &mut Draft<'_>) -> bool {
    let limit = d.strategy().blind_limit.as_duration();
    match &d.seen.judge {
        Some(judge) => {
            let blind = judge.blind_for >= limit;
            if blind && d.status.blind_since.is_none() {
                let since = d.seen.now.saturating_sub(signed(judge.blind_for)).unwrap_or(Timestamp::MIN);
                d.status.blind_since = Some(Time(since));
            }
            if !blind && judge.blind_for < limit / 2 && d.status.blind_retreat_at.is_none() {
                d.status.blind_since = None;
            }
            if !blind {
                d.wake_in((limit - judge.blind_for).max(Duration::from_millis(100)));
            }
            blind
        }
        None => {
            if d.status.blind_since.is_none() {
                d.status.blind_since = Some(d.now());
            }
            let since = d.status.blind_since.clone();
            d.passed(&since, limit)
        }
    }
}

/// The moves of a blind rollout with weight: they need neither a settled route nor anything else that is awaited.
pub(super) fn retreats(d: &mut Draft<'_>) -> bool {
    if d.status.weight == 0 || !is_blind(d) {
        return false;
    }
    if d.status.blind_retreat_at.is_none() {
        retreat(d);
        return true;
    }
    let since = d.status.blind_retreat_at.clone();
    let due = d.passed(&since, d.strategy().blind_limit.as_duration());
    if due {
        to_zero(d);
    }
    due
}

/// True: blindness or the return of sight is what this look is about.
pub(super) fn go(d: &mut Draft<'_>) -> bool {
    let blind = is_blind(d);
    if d.status.blind_retreat_at.is_none() {
        if blind {
            d.say("NoFreshSamples", "no fresh sample of either arm: no weight is raised");
        }
        return blind;
    }
    if blind || d.seen.judge.is_none() {
        d.status.sight_since = None;
        d.say("Blind", "no fresh sample of either arm: gone back, waiting for samples");
        return true;
    }
    if d.status.sight_since.is_none() {
        d.status.sight_since = Some(d.now());
    }
    let since = d.status.sight_since.clone();
    if d.passed(&since, SIGHT) {
        again(d);
    } else {
        d.say("SightReturning", "samples are back: waiting for 30 s of them");
    }
    true
}

fn retreat(d: &mut Draft<'_>) {
    d.status.blind_retreat_at = Some(d.now());
    d.status.sight_since = None;
    let certified = d.status.certified_weight;
    if certified == 0 {
        to_zero(d);
    } else if d.seen.route.as_ref().is_some_and(|route| route.least() + 0.5 < f64::from(certified)) {
        // Part of the route is below it already, by another's hand: nothing is raised without sight.
        to_zero(d);
    } else if certified < d.status.weight {
        d.set_weight(
            certified,
            "BlindRetreat",
            format!("no fresh sample: back to the last certified weight {certified}"),
        );
    } else {
        d.decide("BlindRetreat", "no fresh sample: at the last certified weight; 0 is next");
    }
}

fn to_zero(d: &mut Draft<'_>) {
    if d.status.blind_restarts >= RESTARTS {
        return give_up(d);
    }
    d.lower(Lowering::Blind);
    d.status.step_since = None;
    d.decide("BlindToZero", "no fresh sample: weight 0, without quarantine");
}

fn again(d: &mut Draft<'_>) {
    if d.status.blind_restarts >= RESTARTS {
        return give_up(d);
    }
    d.status.blind_restarts += 1;
    d.status.blind_retreat_at = None;
    d.status.blind_since = None;
    d.status.sight_since = None;
    d.status.step = 0;
    d.status.step_since = None;
    d.status.certified_weight = 0;
    let count = d.status.blind_restarts;
    d.decide("BlindRestart", format!("samples are back: once more from step 1 ({count} of {RESTARTS})"));
}

/// Also at the progress deadline of a rollout that has gone back.
pub(super) fn give_up(d: &mut Draft<'_>) {
    let message = "no samples could be had for a judgement, again and again";
    ending::begin(d, RolloutPhase::Blind, "GaveUpBlind", Lowering::GaveUpBlind, false, message);
}
