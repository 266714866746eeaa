//! What the judge is told: settings fixed for a rollout, what the caller knows at one moment, and what was read.
//! Plain data; the rules are elsewhere.

use jiff::Timestamp;

use crate::api::{Objective, Span, Strategy};

/// Settings of one rollout in one environment, resolved from its strategy. Does not change while it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgeConfig {
    /// Names and targets, in the order of the batch's readings.
    pub objectives: Vec<(String, f64)>,
    pub alpha: f64,
    /// This environment's share of alpha (1 unless `rollback: release`).
    pub alpha_share: f64,
    pub beta: f64,
    /// r0: error-rate ratio up to which the canary is no worse.
    pub margin: f64,
    pub mask: Span,
    /// Scrape interval of the metrics server.
    pub interval: Span,
    pub step_max_time: Span,
    /// Over how many scrapes a quarter of the onset prior is spread.
    pub planned_scrapes: u32,
    /// Weights of the steps that are judged (those below 100), in percent.
    pub judged_weights: Vec<u8>,
    /// Whether the gateway's counters are read as the second witness.
    pub gateway: bool,
    /// How far those are behind the traffic.
    pub gateway_lag: Span,
    pub bake: Span,
}

impl JudgeConfig {
    /// `gateway`: lag of the gateway's counters, where the environment has them.
    pub fn new(
        strategy: &Strategy,
        objectives: &[Objective],
        alpha_share: f64,
        interval: Span,
        gateway: Option<Span>,
    ) -> Self {
        let judged_weights: Vec<u8> = strategy.steps.iter().filter_map(|s| s.set_weight).filter(|w| *w < 100).collect();
        let judged = judged_weights.len().max(1);
        let interval_s = interval.as_secs_f64().max(0.1);
        // A step seldom gives its evidence in less than some twenty scrapes, however short its least time is.
        let per_step = (strategy.step_min_time.as_secs_f64() / interval_s).ceil().clamp(20.0, 10_000.0);
        JudgeConfig {
            objectives: objectives.iter().map(|o| (o.name.clone(), o.target)).collect(),
            alpha: strategy.alpha,
            alpha_share,
            beta: strategy.beta,
            margin: strategy.margin,
            mask: strategy.mask,
            interval,
            step_max_time: strategy.step_max_time,
            planned_scrapes: (judged as f64 * per_step) as u32,
            judged_weights,
            gateway: gateway.is_some(),
            gateway_lag: gateway.unwrap_or_default(),
            bake: strategy.bake,
        }
    }

    /// E at which the canary is rolled back.
    pub fn threshold_bad(&self) -> f64 {
        1.0 / (self.alpha * self.alpha_share)
    }

    /// E' at which a step is certified.
    pub fn threshold_good(&self) -> f64 {
        1.0 / self.beta
    }
}

/// Shares of one alpha over `n` environments of a release: equal, with sum 1.
pub fn alpha_shares(n: usize) -> Vec<f64> {
    vec![1.0 / n.max(1) as f64; n]
}

/// A pod that the API server knows. Samples of others are not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub name: String,
    /// `status.startTime`: not reset by restarts or a lost readiness, or a flapping pod would stay masked for ever.
    pub since: Timestamp,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arms {
    pub stable: Vec<Pod>,
    pub canary: Vec<Pod>,
}

/// What the caller knows at the moment of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    pub arms: Arms,
    pub watch: Watch,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Watch {
    /// Before any weight: only `canary_scraped`, `config_errors` and the over-dispersion are of use.
    Before,
    /// Canary against stable. `since`: when this step's weight was seen in the data plane (`status.stepSince`).
    Canary { step: u8, since: Option<Timestamp> },
    /// After promotion: `arms.stable` runs the new version and is compared with the service's own past.
    Baking { since: Timestamp },
}

/// One series with its raw samples, oldest first, as the metrics server gave them.
#[derive(Clone, Debug, PartialEq)]
pub struct RawSeries {
    /// Pod name; for the gateway's counters `stable` or `canary` (the backend).
    pub of: String,
    /// The scrape target (job and instance). Only series of one target share their scrape times: a pod may have
    /// several targets, and "scraped before" is a fact about one of them.
    pub source: String,
    /// What tells it from its siblings: the other labels, in a fixed order.
    pub key: String,
    /// Unix milliseconds and value.
    pub samples: Vec<(i64, f64)>,
}

/// An answer of the metrics server, or the one line why there is none.
pub type Reading = Result<Vec<RawSeries>, String>;

/// Samples of one objective.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectiveSamples {
    pub total: Reading,
    pub errors: Reading,
}

/// Everything that one evaluation looks at.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// In the order of [`JudgeConfig::objectives`].
    pub objectives: Vec<ObjectiveSamples>,
    /// `up` of both arms' pods.
    pub up: Reading,
    /// Total and 5xx of the gateway, where the environment has them.
    pub gateway: Option<ObjectiveSamples>,
    /// Objectives whose selectors cannot match: one line each.
    pub config_errors: Vec<String>,
}
