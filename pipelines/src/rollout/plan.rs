//! From what was seen to what is done: one function, no side effects.

use crate::api::{RolloutPhase, RolloutReason};

use super::action::{Action, Plan};
use super::draft::{Draft, moved};
use super::observed::Observed;
use super::{baking, canary, ending, preparing, promoting, retire, rollback, waiting};

/// The next plan. Planning an unchanged situation again gives no actions and an unchanged status.
pub fn plan(seen: &Observed<'_>) -> Plan {
    let mut d = Draft::new(seen);
    let phase = seen.status.phase.unwrap_or(RolloutPhase::Waiting);
    if phase.is_terminal() {
        return ended(seen);
    }
    if seen.epoch < seen.status.epoch {
        return deposed(seen);
    }
    d.status.epoch = seen.epoch;
    if d.status.phase.is_none() {
        d.enter(RolloutPhase::Waiting);
    }
    if seen.spec.reason == RolloutReason::Retire {
        retire::go(&mut d);
        return d.finish();
    }
    pause_clocks(&mut d, phase);
    if d.status.ending.is_some() {
        ending::go(&mut d);
        return d.finish();
    }
    match phase {
        RolloutPhase::Waiting => waiting::go(&mut d),
        RolloutPhase::Preparing => preparing::go(&mut d),
        RolloutPhase::Canary => canary::go(&mut d),
        RolloutPhase::Promoting => promoting::go(&mut d),
        RolloutPhase::Baking => baking::go(&mut d),
        RolloutPhase::RollingBack | RolloutPhase::RollbackBlocked => rollback::go(&mut d),
        _ => {}
    }
    d.finish()
}

/// Nothing is written any more; only a finalizer that a crash left goes.
fn ended(seen: &Observed<'_>) -> Plan {
    let mut d = Draft::new(seen);
    if seen.rollout.finalizer {
        d.after(Action::ReleaseFinalizer);
    }
    d.quiet()
}

/// A newer leader has written: this process must not.
fn deposed(seen: &Observed<'_>) -> Plan {
    let mut d = Draft::new(seen);
    d.say("Deposed", format!("epoch {} is over: another leader wrote {}", seen.epoch, seen.status.epoch));
    d.quiet()
}

/// A person's pause stops the clocks that would end the rollout, not the watching.
fn pause_clocks(d: &mut Draft<'_>, phase: RolloutPhase) {
    let now = d.seen.now;
    let counts = matches!(phase, RolloutPhase::Preparing | RolloutPhase::Canary | RolloutPhase::Baking);
    if d.seen.spec.paused && counts {
        if d.status.paused_since.is_none() {
            d.status.paused_since = Some(d.now());
            d.decide("Paused", "a person paused the rollout: the weight stays, a breach still rolls back");
        }
        return;
    }
    if let Some(since) = d.status.paused_since.take() {
        d.status.step_since = moved(&d.status.step_since, since.0, now);
        d.status.deadline_from = moved(&d.status.deadline_from, since.0, now);
        d.status.capacity_since = moved(&d.status.capacity_since, since.0, now);
        if phase == RolloutPhase::Baking {
            d.status.phase_since = moved(&d.status.phase_since, since.0, now);
        }
        d.decide("Resumed", "the pause is over; it did not count towards any deadline");
    }
}
