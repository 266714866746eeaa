//! Reasons: what a plan does or waits for, and why; conditions and headline of the status.
//! Decides nothing.

use std::fmt;

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::api::{RolloutPhase, RolloutStatus};

use super::observed::Observed;
use super::steer::{Stage, stages};

/// How often evidence alone is written; its interval is read again from the metrics after a restart.
const EVIDENCE_EVERY: SignedDuration = SignedDuration::from_secs(10);

/// `code` is also the Event's reason and the metric's label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    pub code: &'static str,
    pub message: String,
}

impl Reason {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Reason { code, message: message.into() }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// Headline, step text, verdict, generation and conditions.
pub(super) fn tell(
    status: &mut RolloutStatus,
    seen: &Observed<'_>,
    report: &[Reason],
    foreign: Option<&str>,
    page: Option<&Reason>,
) {
    status.observed_generation = Some(seen.rollout.generation);
    status.verdict = Some(seen.verdict.word().into());
    status.step_text = Some(step_text(status, seen));
    let watched = matches!(
        status.phase,
        Some(RolloutPhase::Preparing | RolloutPhase::Canary | RolloutPhase::Promoting | RolloutPhase::Baking)
    );
    if let Some(judge) = seen.judge.as_ref().filter(|_| watched && status.ending.is_none()) {
        status.judge = Some(judge.state.clone());
    }
    let Some(head) = report.first() else { return };
    status.message = Some(head.message.clone());
    let phase = status.phase.unwrap_or(RolloutPhase::Waiting);
    let blocked = page.or_else(|| (phase == RolloutPhase::RollbackBlocked).then_some(head));
    let bad_end = phase.is_terminal() && !matches!(phase, RolloutPhase::Promoted | RolloutPhase::Superseded);
    let well = status.breach.is_none() && status.going_back.is_none() && !bad_end;
    set(status, seen, "Progressing", !phase.is_terminal() && blocked.is_none(), head.code, &head.message);
    let ill = status.breach.as_ref().map(|breach| breach.message.clone()).unwrap_or_else(|| head.message.clone());
    if well {
        set(status, seen, "Healthy", true, "NoBreach", "nothing speaks against the new version");
    } else {
        set(status, seen, "Healthy", false, head.code, &ill);
    }
    told(status, seen, "Blocked", blocked.map(|reason| (reason.code, reason.message.as_str())));
    told(status, seen, "ForeignWriter", foreign.map(|message| ("ForeignWriter", message)));
    let paused = seen.spec.paused && !phase.is_terminal();
    told(status, seen, "Paused", paused.then_some(("Paused", "spec.paused is set")));
}

/// A condition that is only there once it has been true.
fn told(status: &mut RolloutStatus, seen: &Observed<'_>, kind: &str, now: Option<(&str, &str)>) {
    match now {
        Some((reason, message)) => set(status, seen, kind, true, reason, message),
        None if status.conditions.iter().any(|condition| condition.type_ == kind) => {
            set(status, seen, kind, false, "Over", "no longer so");
        }
        None => {}
    }
}

fn set(status: &mut RolloutStatus, seen: &Observed<'_>, kind: &str, value: bool, reason: &str, message: &str) {
    let value = if value { "True" } else { "False" };
    let old = status.conditions.iter_mut().find(|condition| condition.type_ == kind);
    let since = match &old {
        Some(old) if old.status == value => old.last_transition_time.clone(),
        _ => Time(seen.now),
    };
    let new = Condition {
        type_: kind.into(),
        status: value.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: since,
        observed_generation: Some(seen.rollout.generation),
    };
    match old {
        Some(old) => *old = new,
        None => status.conditions.push(new),
    }
}

fn step_text(status: &RolloutStatus, seen: &Observed<'_>) -> String {
    if let Some(end) = &status.ending
        && status.phase != Some(end.end)
    {
        return format!("ending as {:?}", end.end);
    }
    let phase = status.phase.unwrap_or(RolloutPhase::Waiting);
    match (phase, status.promoting) {
        (RolloutPhase::Canary, _) => {
            let stages = stages(seen.spec);
            let text = match stages.get(usize::from(status.step)) {
                Some(Stage::Weight(weight)) => format!("setWeight {weight}"),
                Some(Stage::Pause(Some(span))) => format!("pause {span}"),
                Some(Stage::Pause(None)) => "pause until promoted".into(),
                None => "done".into(),
            };
            format!("{}/{} {text}", u16::from(status.step) + 1, stages.len())
        }
        (RolloutPhase::Promoting | RolloutPhase::RollingBack | RolloutPhase::RollbackBlocked, Some(step)) => {
            format!("{phase:?} {step:?}")
        }
        _ => format!("{phase:?}"),
    }
}

/// Evidence that moved on, and texts that follow it, are no reason to write before [`EVIDENCE_EVERY`].
pub(super) fn keep_quiet(status: &mut RolloutStatus, seen: &Observed<'_>) {
    let old = seen.status;
    let head = |status: &RolloutStatus| {
        let mut kept: Vec<_> = status.conditions.clone();
        kept.iter_mut().for_each(|condition| condition.message.clear());
        kept
    };
    let mut calm = status.clone();
    calm.message.clone_from(&old.message);
    calm.judge.clone_from(&old.judge);
    if head(status) == head(old) {
        calm.conditions.clone_from(&old.conditions);
    }
    if calm != *old || status.judge.is_none() || status.judge == old.judge {
        return;
    }
    let mark = |status: &RolloutStatus| status.judge.as_ref().and_then(|judge| judge.watermark.clone());
    let due = match (mark(old), mark(status)) {
        (Some(Time(before)), Some(Time(after))) => after.duration_since(before) >= EVIDENCE_EVERY,
        (None, Some(_)) => true,
        _ => false,
    };
    if !due {
        *status = calm;
    }
}
