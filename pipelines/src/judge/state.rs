//! The judge's memory, kept in a Rollout's status: evidence vectors and the time they reach to.
//! Numbers are rounded to 1e-9 after every step, so that JSON gives back exactly what was written.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::dispersion::WITHOUT_HISTORY;

/// Stands for the logarithm of zero: JSON has no infinities.
pub const LOG_ZERO: f64 = -1.0e9;

/// What must outlive a restart of the spoke. Everything younger is read again from the metrics server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JudgeState {
    /// Samples up to here are in the evidence of every witness (the least of the processes' own watermarks).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<Time>,
    /// Over-dispersion by which evidence is divided, from the stable pods' own past; 1.5 while nothing was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phi: Option<f64>,
    /// Whether that past was read as a whole: if not, it is asked for again.
    #[serde(default)]
    pub past_known: bool,
    /// How phi came about, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub phi_note: Option<String>,
    /// How long a version as good as stable will need to be certified, told before any weight, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub expected: Option<String>,
    /// The step to which the evidence for going on belongs.
    #[serde(default)]
    pub step: u8,
    /// Unix milliseconds since which that step's weight was seen: a step entered again is judged anew.
    #[serde(default)]
    pub step_since_ms: i64,
    /// Whether the processes watch a promoted version against the service's own past.
    #[serde(default)]
    pub baking: bool,
    /// One per objective, and one for the gateway's counters.
    #[serde(default)]
    #[schemars(length(max = 9))]
    pub processes: Vec<ProcessState>,
}

impl JudgeState {
    pub fn watermark(&self) -> Option<Timestamp> {
        self.watermark.as_ref().map(|t| t.0)
    }

    /// The over-dispersion in force: without a measurement, or with one that cannot be, more than none is assumed.
    pub fn phi(&self) -> f64 {
        self.phi.filter(|phi| phi.is_finite() && *phi >= 1.0).unwrap_or(WITHOUT_HISTORY)
    }

    pub fn process(&self, name: &str) -> Option<&ProcessState> {
        self.processes.iter().find(|p| p.name == name)
    }
}

/// Evidence of one objective by one witness.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProcessState {
    /// The objective's name, or `gateway`.
    #[schemars(length(max = 63))]
    pub name: String,
    /// Unix milliseconds of the newest sample that is in.
    #[serde(default)]
    pub watermark_ms: i64,
    /// Unix milliseconds from which on it has looked: the counters may remember an earlier rollout.
    #[serde(default)]
    pub started_ms: i64,
    /// Scrapes with canary requests so far.
    #[serde(default)]
    pub scrapes: u32,
    /// Share of the onset prior that has been spent.
    #[serde(default)]
    pub prior_used: f64,
    /// ln S_j of the alternatives "r_j times as many errors".
    #[serde(default)]
    #[schemars(length(max = 6))]
    pub log_bad: Vec<f64>,
    /// ln of the alternatives to "at least twice as many errors"; starts anew at each step.
    #[serde(default)]
    #[schemars(length(max = 4))]
    pub log_good: Vec<f64>,
    #[serde(default)]
    pub canary_requests: u64,
    #[serde(default)]
    pub canary_errors: u64,
    #[serde(default)]
    pub stable_requests: u64,
    #[serde(default)]
    pub stable_errors: u64,
    /// Of which at the present step.
    #[serde(default)]
    pub step_canary_requests: u64,
    #[serde(default)]
    pub step_canary_errors: u64,
    /// Requests and errors of the service's own past, the control while baking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub past_requests: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub past_errors: Option<u64>,
}

impl ProcessState {
    pub fn new(name: &str, start_ms: i64) -> Self {
        ProcessState { name: name.to_owned(), watermark_ms: start_ms, started_ms: start_ms, ..Self::default() }
    }

    /// From now on the promoted version is compared with what stable did during the rollout.
    pub(crate) fn start_baking(&mut self, start_ms: i64) {
        *self = ProcessState {
            name: std::mem::take(&mut self.name),
            watermark_ms: start_ms,
            started_ms: start_ms,
            past_requests: Some(self.stable_requests),
            past_errors: Some(self.stable_errors),
            ..Self::default()
        };
    }
}

/// Rounds to 1e-9: exact through JSON (at most 15 significant digits below 1e6), and far below what matters.
pub fn rounded(value: f64) -> f64 {
    if !value.is_finite() {
        return LOG_ZERO;
    }
    (value.clamp(LOG_ZERO, 1.0e6) * 1.0e9).round() / 1.0e9
}
