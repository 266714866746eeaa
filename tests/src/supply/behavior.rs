//! What a test program does, carried as JSON in a label of its image's config:
//! written when an image is pushed, obeyed by the test kubelet that pulls it, so
//! that the digest really decides what runs. It never says what ought to happen.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Label of the image config under which the behaviour stands.
pub const LABEL: &str = "tidegate.test/behavior";

/// A misspelt key is an error: a behaviour that is silently not obeyed would
/// make an act pass for the wrong reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Behavior {
    /// Shown in answers, so that a request tells which version served it.
    pub version: String,
    /// Share of requests answered with a deliberate 5xx, everywhere.
    pub error_rate: f64,
    /// The same for one environment; wins over `error_rate` there.
    pub error_rate_in: BTreeMap<String, f64>,
    pub latency_ms: u64,
    /// From start to the first successful readiness probe.
    pub warm_up_ms: u64,
    /// Closes its sockets this long after it became ready.
    pub refuse_after_ready_ms: Option<u64>,
    /// Closes its sockets this long after the first request came.
    pub refuse_after_request_ms: Option<u64>,
    /// Ends with a failure this long after its start.
    pub crash_after_ms: Option<u64>,
    /// Serves no `/metrics`.
    pub no_metrics: bool,
    /// Turns bad this long after it became ready: `sick_error_rate` from then on.
    pub sick_after_s: Option<f64>,
    pub sick_error_rate: f64,
}

impl Default for Behavior {
    fn default() -> Self {
        Self {
            version: String::new(),
            error_rate: 0.0,
            error_rate_in: BTreeMap::new(),
            latency_ms: 2,
            warm_up_ms: 300,
            refuse_after_ready_ms: None,
            refuse_after_request_ms: None,
            crash_after_ms: None,
            no_metrics: false,
            sick_after_s: None,
            sick_error_rate: 0.5,
        }
    }
}

impl Behavior {
    pub fn version(version: impl Into<String>) -> Self {
        Self { version: version.into(), ..Self::default() }
    }

    pub fn errors(mut self, rate: f64) -> Self {
        self.error_rate = rate;
        self
    }

    pub fn errors_in(mut self, environment: &str, rate: f64) -> Self {
        self.error_rate_in.insert(environment.to_owned(), rate);
        self
    }

    pub fn latency(mut self, latency: Duration) -> Self {
        self.latency_ms = millis(latency);
        self
    }

    pub fn warm_up(mut self, warm_up: Duration) -> Self {
        self.warm_up_ms = millis(warm_up);
        self
    }

    pub fn refuses_after_ready(mut self, after: Duration) -> Self {
        self.refuse_after_ready_ms = Some(millis(after));
        self
    }

    /// Whenever its traffic comes, it serves some of it.
    pub fn refuses_after_request(mut self, after: Duration) -> Self {
        self.refuse_after_request_ms = Some(millis(after));
        self
    }

    pub fn crashes_after(mut self, after: Duration) -> Self {
        self.crash_after_ms = Some(millis(after));
        self
    }

    pub fn without_metrics(mut self) -> Self {
        self.no_metrics = true;
        self
    }

    pub fn sick_after(mut self, after: Duration, rate: f64) -> Self {
        self.sick_after_s = Some(after.as_secs_f64());
        self.sick_error_rate = rate;
        self
    }

    /// Share of requests to fail deliberately in `environment`, this long after
    /// the program became ready there.
    pub fn error_rate_at(&self, environment: &str, since_ready: Duration) -> f64 {
        if self.sick_after_s.is_some_and(|after| since_ready.as_secs_f64() >= after) {
            return self.sick_error_rate;
        }
        self.error_rate_in.get(environment).copied().unwrap_or(self.error_rate)
    }

    /// The label's value.
    pub fn to_label(&self) -> String {
        serde_json::to_string(self).expect("numbers, strings and maps keyed by strings")
    }

    /// Reads the label's value.
    pub fn from_label(value: &str) -> serde_json::Result<Self> {
        serde_json::from_str(value)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_round_trips() {
        let behavior = Behavior::version("v2")
            .errors(0.04)
            .errors_in("prod-east", 0.15)
            .refuses_after_ready(Duration::from_secs(3))
            .sick_after(Duration::from_secs(20), 0.5);
        assert_eq!(Behavior::from_label(&behavior.to_label()).unwrap(), behavior);
    }

    #[test]
    fn misspelt_key_is_refused() {
        assert!(Behavior::from_label(r#"{"version":"v1","eror_rate":0.1}"#).is_err());
    }

    #[test]
    fn environment_and_sickness_win_over_the_base_rate() {
        let behavior =
            Behavior::version("v1").errors(0.04).errors_in("prod-east", 0.15).sick_after(Duration::from_secs(10), 0.6);
        let rates = [("staging", 0, 0.04), ("prod-east", 9, 0.15), ("prod-east", 10, 0.6)];
        for (environment, seconds, rate) in rates {
            let got = behavior.error_rate_at(environment, Duration::from_secs(seconds));
            assert!((got - rate).abs() < 1e-9, "{environment} {seconds}: {got}");
        }
    }
}
