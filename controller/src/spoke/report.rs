//! Last step: tells each decision - DecisionRecord, Kubernetes Event, metrics. Never delays a rollout: Events go
//! through a bounded queue, and what does not fit is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use serde_json::json;
use tidegate_pipelines::api::{Breach, BreachKind, RolloutStatus};
use tidegate_pipelines::rollout::Plan;
use tokio::sync::mpsc;

use super::apply::Applied;
use super::observe::Seen;
use crate::connect::bounded;
use crate::ledger::{DecisionRecord, Ledger};

/// Events that wait for a slow API server; beyond it they are dropped and counted.
const QUEUE: usize = 256;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct PhaseLabel {
    phase: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ReasonLabel {
    reason: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct StepLabel {
    step: &'static str,
}

/// Metrics of the role; labels come from this program, never from objects.
#[derive(Clone)]
pub struct Metrics {
    pub rollouts: Family<PhaseLabel, Gauge<i64, AtomicI64>>,
    pub decisions: Family<ReasonLabel, Counter<u64, AtomicU64>>,
    pub errors: Family<StepLabel, Counter<u64, AtomicU64>>,
    pub writes: Counter<u64, AtomicU64>,
    pub reconciles: Counter<u64, AtomicU64>,
    pub breach_to_zero: Histogram,
    pub dropped_events: Counter<u64, AtomicU64>,
    pub pages: Counter<u64, AtomicU64>,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        // Around the target of 250 ms for the median and 1 s for the 99th percentile.
        let buckets = [0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 0.75, 1.0, 2.0, 5.0, 15.0];
        let metrics = Metrics {
            rollouts: Family::default(),
            decisions: Family::default(),
            errors: Family::default(),
            writes: Counter::default(),
            reconciles: Counter::default(),
            breach_to_zero: Histogram::new(buckets),
            dropped_events: Counter::default(),
            pages: Counter::default(),
        };
        registry.register("spoke_rollouts", "Rollouts of this environment by phase", metrics.rollouts.clone());
        registry.register("spoke_decisions", "Decisions by reason", metrics.decisions.clone());
        registry.register("spoke_errors", "Failed passes by step", metrics.errors.clone());
        registry.register("spoke_writes", "Writes of actions to the API server", metrics.writes.clone());
        registry.register("spoke_reconciles", "Passes over rollouts", metrics.reconciles.clone());
        registry.register(
            "spoke_breach_to_zero_seconds",
            "From the newest sample of the deciding evaluation to the acknowledged weight of 0",
            metrics.breach_to_zero.clone(),
        );
        registry.register("spoke_dropped_events", "Events not written", metrics.dropped_events.clone());
        registry.register("spoke_pages", "Situations that need a person", metrics.pages.clone());
        metrics
    }

    pub fn error(&self, step: &'static str) {
        self.errors.get_or_create(&StepLabel { step }).inc();
    }

    /// Replaces the gauge of every phase by these counts.
    pub fn set_phases(&self, counts: impl IntoIterator<Item = (String, i64)>) {
        self.rollouts.clear();
        for (phase, count) in counts {
            self.rollouts.get_or_create(&PhaseLabel { phase }).set(count);
        }
    }
}

/// Where decisions are told.
#[derive(Clone)]
pub struct Teller {
    pub ledger: Arc<dyn Ledger>,
    pub metrics: Metrics,
    /// `spoke/<environment>`.
    pub actor: String,
    events: mpsc::Sender<(Event, ObjectReference)>,
}

impl Teller {
    /// The teller, and the task that writes its Events; the wiring runs that.
    pub fn new(
        client: Client,
        ledger: Arc<dyn Ledger>,
        metrics: Metrics,
        environment: &str,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (events, mut queue) = mpsc::channel::<(Event, ObjectReference)>(QUEUE);
        let recorder = Recorder::new(client, Reporter { controller: "tidegate-spoke".into(), instance: None });
        let dropped = metrics.dropped_events.clone();
        let writer = async move {
            while let Some((event, about)) = queue.recv().await {
                if let Err(error) = bounded(recorder.publish(&event, &about)).await {
                    dropped.inc();
                    tracing::debug!(%error, reason = %event.reason, "event not written");
                }
            }
        };
        (Teller { ledger, metrics, actor: format!("spoke/{environment}"), events }, writer)
    }

    /// Tells what this pass decided. Called once the decision is on record in the status.
    pub fn report(&self, seen: &Seen, plan: &Plan, status: &RolloutStatus, applied: &Applied) {
        self.metrics.writes.inc_by(u64::from(applied.writes));
        if let Some((breach, took)) = lowered(&seen.status, status) {
            self.metrics.breach_to_zero.observe(took.as_secs_f64().max(0.0));
            tracing::info!(
                rollout = %seen.rollout.metadata.name.as_deref().unwrap_or_default(),
                kind = kind(breach.kind),
                breach_to_zero_ms = i64::try_from(took.as_millis()).unwrap_or(i64::MAX),
                "breach: weight 0 acknowledged"
            );
        }
        if let Some(page) = &plan.page {
            self.metrics.pages.inc();
            tracing::error!(reason = page.code, message = %page.message, "a person is needed");
        }
        for decision in &plan.decisions {
            self.decision(seen, plan, status, decision);
        }
    }

    fn decision(
        &self,
        seen: &Seen,
        plan: &Plan,
        status: &RolloutStatus,
        decision: &tidegate_pipelines::api::DecisionEntry,
    ) {
        self.metrics.decisions.get_or_create(&ReasonLabel { reason: decision.reason.clone() }).inc();
        let name = seen.rollout.metadata.name.as_deref().unwrap_or_default();
        let images: Vec<String> = seen.spec.images.iter().map(|i| i.reference()).collect();
        let reasons: Vec<String> = plan.report.iter().map(ToString::to_string).collect();
        self.ledger.record(&DecisionRecord {
            at: decision.at.0,
            actor: self.actor.clone(),
            subject: format!("Rollout {}/{name}", seen.namespace()),
            reason: decision.reason.clone(),
            message: decision.message.clone(),
            inputs: json!({
                "images": images,
                "weight": decision.weight,
                "step": status.step,
                "epoch": status.epoch,
                "decision": status.decision,
                "policyDigest": seen.in_force.as_ref().map(|f| &f.policy),
                "trustRootDigest": seen.in_force.as_ref().map(|f| &f.trust_root),
                "verdict": status.verdict,
                "because": reasons,
            }),
        });
        let warns = status.breach.is_some() || plan.page.is_some();
        let event = Event {
            type_: if warns { EventType::Warning } else { EventType::Normal },
            reason: decision.reason.clone(),
            note: Some(decision.message.chars().take(1000).collect()),
            action: "Rollout".into(),
            secondary: None,
        };
        if self.events.try_send((event, seen.rollout.object_ref(&()))).is_err() {
            self.metrics.dropped_events.inc();
        }
    }
}

/// A breach that this status answers by weight 0, and how long that took. The Rollback path is no such answer.
fn lowered<'s>(before: &RolloutStatus, status: &'s RolloutStatus) -> Option<(&'s Breach, SignedDuration)> {
    let breach = status.breach.as_ref().filter(|_| status.going_back.is_none())?;
    let first = before.breach.as_ref().is_none_or(|known| known.written_at.is_none());
    let at = breach.written_at.as_ref().filter(|_| first)?;
    Some((breach, at.0.duration_since(breach.sample_at.0)))
}

fn kind(kind: BreachKind) -> &'static str {
    match kind {
        BreachKind::Judge => "Judge",
        BreachKind::Health => "Health",
        BreachKind::HardStop => "HardStop",
        BreachKind::BurnGuard => "BurnGuard",
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
    use tidegate_pipelines::api::{GoingBack, RolloutPhase};

    use super::*;

    #[test]
    fn only_a_breach_answered_by_weight_0_counts_as_lowered_and_only_once() {
        let at = |ms: i64| MicroTime(jiff::Timestamp::from_millisecond(ms).unwrap());
        let breach = |written_at: Option<MicroTime>| {
            let (sample_at, decided_at) = (at(1_000), at(1_050));
            Breach { kind: BreachKind::Judge, message: "E".into(), sample_at, decided_at, written_at }
        };
        let status =
            |written: Option<i64>| RolloutStatus { breach: Some(breach(written.map(at))), ..RolloutStatus::default() };
        let to = vec![];
        let back = GoingBack { end: RolloutPhase::RolledBack, why: "E".into(), quarantine: true, to, raised_again: 0 };
        let going_back = RolloutStatus { going_back: Some(back), ..status(Some(9_000)) };
        let (none, decided, zero) = (RolloutStatus::default(), status(None), status(Some(1_080)));
        for (before, after, expected, case) in [
            (&none, &zero, Some(80), "decided and written in one pass"),
            (&decided, &zero, Some(80), "written a pass later"),
            (&zero, &zero, None, "counted already"),
            (&none, &decided, None, "not written yet"),
            (&decided, &going_back, None, "the Rollback path"),
        ] {
            let took = lowered(before, after).map(|(_, took)| took.as_millis());
            assert_eq!(took, expected, "{case}");
        }
    }
}
