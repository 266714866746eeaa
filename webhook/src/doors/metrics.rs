//! What the doors count. Labels are bounded: kinds and outcomes, never names.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Labels {
    pub kind: &'static str,
    pub outcome: &'static str,
}

#[derive(Clone, Default)]
pub struct Metrics {
    pub deliveries: Family<Labels, Counter>,
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register("deliveries", "Deliveries at the doors, by what became of them", self.deliveries.clone());
    }

    pub fn count(&self, kind: &'static str, outcome: &'static str) {
        self.deliveries.get_or_create(&Labels { kind, outcome }).inc();
    }
}
