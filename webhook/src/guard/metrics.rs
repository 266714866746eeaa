//! What the guard counts. Labels are bounded: outcomes and reasons, never names or digests.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Labels {
    /// `allowed`, `refused` or `audited` (allowed though something was found).
    pub outcome: &'static str,
    /// The first finding's reason, or `None`.
    pub reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ExceptionLabels {
    /// `BreakGlass`, `RestartGrace` or `QuarantineGrace`.
    pub reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UnfinishedLabels {
    /// `waits` for its turn, `dropped` since too many wait, or `rests` since it took long for nothing.
    pub outcome: &'static str,
}

#[derive(Clone)]
pub struct Metrics {
    pub reviews: Family<Labels, Counter>,
    pub seconds: Histogram,
    pub exceptions: Family<ExceptionLabels, Counter>,
    pub unfinished: Family<UnfinishedLabels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            reviews: Family::default(),
            seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 14)),
            exceptions: Family::default(),
            unfinished: Family::default(),
        }
    }
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register("admission_reviews", "Admission reviews answered", self.reviews.clone());
        registry.register("admission_seconds", "Time to answer an admission review", self.seconds.clone());
        registry.register(
            "admission_exceptions",
            "Images let in by break-glass or restart grace",
            self.exceptions.clone(),
        );
        registry.register(
            "admission_unfinished",
            "Images whose verification outlasted a request, or was not tried again yet",
            self.unfinished.clone(),
        );
    }
}
