//! What the hub counts. Label values come from our own lists and from names of environments, never
//! from what senders or images say.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EnvironmentLabel {
    environment: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabel {
    step: &'static str,
}

#[derive(Clone, Debug, Default)]
pub struct Metrics {
    events: Family<ReasonLabel, Counter>,
    decisions: Family<ReasonLabel, Counter>,
    intents: Family<EnvironmentLabel, Counter>,
    errors: Family<StepLabel, Counter>,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Metrics::default();
        registry.register("hub_build_events", "Build events settled, by what became of them", metrics.events.clone());
        registry.register("hub_decisions", "Decisions about releases, by reason", metrics.decisions.clone());
        registry.register("hub_intents", "Rollout intents written, by environment", metrics.intents.clone());
        registry.register("hub_reconcile_errors", "Reconciles that failed, by step", metrics.errors.clone());
        metrics
    }

    pub fn event(&self, reason: &'static str) {
        self.events.get_or_create(&ReasonLabel { reason: reason.into() }).inc();
    }

    pub fn decision(&self, reason: &'static str) {
        self.decisions.get_or_create(&ReasonLabel { reason: reason.into() }).inc();
    }

    pub fn intent(&self, environment: &str) {
        self.intents.get_or_create(&EnvironmentLabel { environment: environment.to_owned() }).inc();
    }

    pub fn error(&self, step: &'static str) {
        self.errors.get_or_create(&StepLabel { step }).inc();
    }
}
