//! From what was seen to what is done: one function, no side effects.

use std::time::Duration;

use super::action::Plan;
use super::observed::Observed;

/// The next plan. Planning an unchanged situation again gives no actions and an unchanged status.
pub fn plan(seen: &Observed<'_>) -> Plan {
    Plan {
        next_status: seen.status.clone(),
        actions: Vec::new(),
        report: Vec::new(),
        decisions: Vec::new(),
        page: None,
        wake_after: Duration::from_secs(10),
    }
}
