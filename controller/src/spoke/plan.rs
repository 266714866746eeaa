//! Third step: hands what was seen to the planner. Makes no decision of its own, but that a rollout which
//! `validate` refuses ends before anything moved.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tidegate_pipelines::api::{DecisionEntry, RolloutPhase};
use tidegate_pipelines::rollout::{self, Action, Order, Ordered, Plan, Reason};

use super::observe::Seen;

/// Most that a status keeps; the schema says so too.
const HISTORY: usize = 30;

pub fn plan(seen: &Seen, refusal: Option<Reason>) -> Plan {
    match refusal {
        Some(reason) => refused(seen, reason),
        None => rollout::plan(&seen.observed()),
    }
}

fn refused(seen: &Seen, reason: Reason) -> Plan {
    let mut status = seen.status.clone();
    let entry = DecisionEntry {
        at: Time(seen.now),
        reason: reason.code.to_owned(),
        message: reason.message.clone(),
        weight: 0,
    };
    status.phase = Some(RolloutPhase::Failed);
    status.finished_at = Some(Time(seen.now));
    status.phase_since = Some(Time(seen.now));
    status.observed_generation = seen.rollout.metadata.generation;
    status.message = Some(reason.to_string().chars().take(1024).collect());
    status.history.push(entry.clone());
    let surplus = status.history.len().saturating_sub(HISTORY);
    status.history.drain(..surplus);
    Plan {
        next_status: status,
        actions: vec![Ordered { order: Order::AfterStatus, action: Action::ReleaseFinalizer }],
        report: vec![reason],
        decisions: vec![entry],
        page: None,
        wake_after: Duration::from_secs(60),
    }
}
