//! A plan while it is being made: the next status, actions in order, reasons.
//! Knows how to record a decision; makes none.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::{DecisionEntry, RolloutPhase, RolloutStatus, Strategy};

use super::action::{Action, Order, Ordered, Plan};
use super::marks::RouteDecision;
use super::observed::Observed;
use super::report::{self, Reason};

/// Entries of `status.history`; the schema's `maxItems`.
const HISTORY: usize = 30;
/// Text limits of the schema: a longer text would make the API server refuse the whole status.
const MESSAGE: usize = 1000;

pub(super) struct Draft<'a> {
    pub seen: &'a Observed<'a>,
    pub status: RolloutStatus,
    actions: Vec<Ordered>,
    report: Vec<Reason>,
    decisions: Vec<DecisionEntry>,
    page: Option<Reason>,
    foreign: Option<String>,
    wake: Duration,
}

impl<'a> Draft<'a> {
    pub fn new(seen: &'a Observed<'a>) -> Self {
        Draft {
            seen,
            status: seen.status.clone(),
            actions: Vec::new(),
            report: Vec::new(),
            decisions: Vec::new(),
            page: None,
            foreign: None,
            // The watches wake us; this only bounds what a missed event costs.
            wake: Duration::from_secs(5),
        }
    }

    pub fn strategy(&self) -> &'a Strategy {
        &self.seen.spec.strategy
    }

    pub fn now(&self) -> Time {
        Time(self.seen.now)
    }

    pub fn order(&mut self, order: Order, action: Action) {
        self.actions.push(Ordered { order, action });
    }

    pub fn before(&mut self, action: Action) {
        self.order(Order::BeforeStatus, action);
    }

    pub fn after(&mut self, action: Action) {
        self.order(Order::AfterStatus, action);
    }

    /// What was to follow the status does not follow an end.
    pub fn nothing_later(&mut self) {
        self.actions.retain(|one| one.order == Order::BeforeStatus);
    }

    /// What it does or waits for, without a decision.
    pub fn say(&mut self, code: &'static str, message: impl Into<String>) {
        self.report.push(Reason::new(code, clip(message.into())));
    }

    /// A decision: in the report, the history and the ledger. The next look follows at once.
    pub fn decide(&mut self, code: &'static str, message: impl Into<String>) {
        let message = clip(message.into());
        let entry =
            DecisionEntry { at: self.now(), reason: code.into(), message: message.clone(), weight: self.status.weight };
        self.decisions.push(entry.clone());
        self.status.history.push(entry);
        let surplus = self.status.history.len().saturating_sub(HISTORY);
        self.status.history.drain(..surplus);
        self.report.insert(0, Reason::new(code, message));
        self.wake_in(Duration::ZERO);
    }

    pub fn page(&mut self, code: &'static str, message: impl Into<String>) {
        self.page = Some(Reason::new(code, clip(message.into())));
    }

    pub fn foreign(&mut self, message: impl Into<String>) {
        self.foreign = Some(clip(message.into()));
    }

    pub fn wake_in(&mut self, after: Duration) {
        self.wake = self.wake.min(after);
    }

    /// Whether `span` has passed since; if not, it is looked at again when it has.
    pub fn passed(&mut self, since: &Option<Time>, span: Duration) -> bool {
        let Some(Time(since)) = since else { return false };
        let left = signed(span) - self.seen.now.duration_since(*since);
        if left <= SignedDuration::ZERO {
            return true;
        }
        self.wake_in(left.unsigned_abs().max(Duration::from_millis(50)));
        false
    }

    /// Why no request is moved yet: the gateway may not know the pods of now, and would send requests to pods that are
    /// gone. Looked at again when it should know them.
    pub fn gateway_lacks(&mut self) -> Option<(&'static str, &'static str)> {
        let left = self.seen.data_plane.catching_up;
        if left.is_zero() {
            return None;
        }
        self.wake_in(left.max(Duration::from_millis(50)));
        let why = "the API server was away: no request is moved before the gateway's watches had time to start over";
        Some(("GatewayCatchingUp", why))
    }

    /// A new phase starts now.
    pub fn enter(&mut self, phase: RolloutPhase) {
        self.status.phase = Some(phase);
        self.status.phase_since = Some(self.now());
        self.status.capacity_since = None;
        self.status.step_since = None;
    }

    /// The recorded decision as it stands on the route.
    pub fn stamp(&self) -> RouteDecision {
        RouteDecision { rollout: self.seen.rollout.uid.clone(), epoch: self.status.epoch, n: self.status.decision }
    }

    pub fn finish(mut self) -> Plan {
        if let Some(also) = self.keeps_ours() {
            self.foreign(self.foreign.as_ref().map_or(also.clone(), |first| format!("{first}; {also}")));
        }
        report::tell(&mut self.status, self.seen, &self.report, self.foreign.as_deref(), self.page.as_ref());
        report::keep_quiet(&mut self.status, self.seen);
        if self.status != *self.seen.status || !self.actions.is_empty() {
            self.wake = self.wake.min(Duration::from_secs(1));
        }
        // The first failure ends a pass: an autoscaler that cannot be written must not hold up the route.
        self.actions.sort_by_key(|one| (one.order, matches!(one.action, Action::RaiseHpaMin { .. })));
        self.bare()
    }

    /// Without headline and conditions: for a rollout whose status is not ours to write any more.
    pub fn quiet(mut self) -> Plan {
        self.wake = Duration::from_secs(300);
        self.status.clone_from(self.seen.status);
        self.bare()
    }

    fn bare(self) -> Plan {
        Plan {
            next_status: self.status,
            actions: self.actions,
            report: self.report,
            decisions: self.decisions,
            page: self.page,
            wake_after: self.wake,
        }
    }
}

pub(super) fn signed(span: Duration) -> SignedDuration {
    SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX)
}

/// `since` moved on by the time between `from` and `to`.
pub(super) fn moved(since: &Option<Time>, from: Timestamp, to: Timestamp) -> Option<Time> {
    since.as_ref().map(|Time(at)| Time(at.saturating_add(to.duration_since(from)).unwrap_or(*at)))
}

pub(super) fn clip(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MESSAGE));
    text
}
