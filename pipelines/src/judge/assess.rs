//! One evaluation: state and samples in, new state and a decision with its reasons out.
//! Never decides from missing data: no evidence is neither a failure nor a pass.

use jiff::Timestamp;

use super::config::{Batch, JudgeConfig, Scene};
use super::state::JudgeState;
use crate::api::BreachKind;

/// What the samples say. Least times of steps, weights and deadlines are the planner's.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    RollBack {
        kind: BreachKind,
        /// One line with evidence against its threshold.
        why: String,
    },
    /// The present step is certified.
    Advance,
    Continue,
    /// The step's `maxTime` is over and nothing is decided.
    Inconclusive {
        /// How much more would decide.
        lacks: String,
    },
}

/// Evidence of one objective by one witness, against its thresholds.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// The objective's name, or `gateway`.
    pub name: String,
    /// E and E', each with the threshold.
    pub bad: f64,
    pub bad_threshold: f64,
    pub good: f64,
    pub good_threshold: f64,
    pub phi: f64,
    pub canary_requests: u64,
    pub canary_errors: u64,
    pub stable_requests: u64,
    pub stable_errors: u64,
    /// What was ignored or missing, and why.
    pub notes: Vec<String>,
}

/// When one witness last had a sample of each arm. Zero requests on a scraped pod is sight, and so is masked data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WitnessSight {
    pub stable: Option<Timestamp>,
    pub canary: Option<Timestamp>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    pub pods: WitnessSight,
    pub gateway: WitnessSight,
}

impl Sight {
    /// Until when both arms were seen by at least one witness. `None`: never in this batch.
    pub fn both_arms(&self) -> Option<Timestamp> {
        let stable = self.pods.stable.max(self.gateway.stable)?;
        let canary = self.pods.canary.max(self.gateway.canary)?;
        Some(stable.min(canary))
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Assessment {
    pub decision: Decision,
    pub evidence: Vec<Evidence>,
    /// The combined E (one alpha over objectives and witnesses) against `evidence[..].bad_threshold`.
    pub combined_bad: f64,
    /// Newest sample that is in the evidence.
    pub newest_sample_at: Option<Timestamp>,
    pub sight: Sight,
    /// An `up` sample of a canary pod says that it is scraped.
    pub canary_scraped: bool,
    /// Refuse before any traffic moves: one line each.
    pub config_errors: Vec<String>,
    /// Share of the canary's requests at the gateway that its pods never counted.
    pub lost_share: Option<f64>,
    /// The canary's share of requests as the gateway counted it lately.
    pub observed_share: Option<f64>,
    /// When the next sample can be there: last sample + interval + 50 ms.
    pub next_read_at: Timestamp,
}

impl Assessment {
    /// One line per objective and witness, e.g. `errors: E=3.1 of 100; E'=12 of 20; phi 1.5; 4 canary errors`.
    pub fn reasons(&self) -> Vec<String> {
        self.evidence.iter().map(Evidence::line).collect()
    }
}

impl Evidence {
    pub fn line(&self) -> String {
        let mut line = format!(
            "{}: E={} of {}; E'={} of {}; phi {:.2}; {} canary errors in {} requests (stable {} in {})",
            self.name,
            short(self.bad),
            short(self.bad_threshold),
            short(self.good),
            short(self.good_threshold),
            self.phi,
            self.canary_errors,
            self.canary_requests,
            self.stable_errors,
            self.stable_requests,
        );
        for note in &self.notes {
            line.push_str("; ");
            line.push_str(note);
        }
        line
    }
}

fn short(value: f64) -> String {
    match value {
        v if v >= 1.0e6 => format!("{v:.1e}"),
        v if v >= 100.0 => format!("{v:.0}"),
        v => format!("{v:.1}"),
    }
}

/// Takes the samples after the state's watermark into the evidence and decides.
pub fn assess(
    config: &JudgeConfig,
    state: &JudgeState,
    _scene: &Scene,
    _batch: &Batch,
    now: Timestamp,
) -> (JudgeState, Assessment) {
    let assessment = Assessment {
        decision: Decision::Continue,
        evidence: vec![],
        combined_bad: 0.0,
        newest_sample_at: None,
        sight: Sight::default(),
        canary_scraped: false,
        config_errors: vec![],
        lost_share: None,
        observed_share: None,
        next_read_at: now + config.interval.signed(),
    };
    (state.clone(), assessment)
}
