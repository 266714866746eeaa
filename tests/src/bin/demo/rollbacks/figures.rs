//! What a rollback cost, and what many did: quantiles over all that were measured, beside all that were not and why.
//! Pure but for writing the outcome's file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use tidegate_pipelines::api::RolloutStatus;
use tidegate_tests::rig::{Snapshot, now};
use tidegate_tests::stage::DELIBERATE;

use super::BAD;
use super::watch::Life;

/// One rollback. Times in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    environment: String,
    version: String,
    /// The door's 202 to the first answer of a canary pod.
    event_to_first_canary_request_ms: f64,
    /// Of which: to the environment's rollout preparing pods (resolved, verified twice, mirrored).
    event_to_preparing_ms: Option<f64>,
    /// Of which: until its pods are ready and scraped.
    preparing_to_canary_ms: Option<f64>,
    /// Newest sample used to the acknowledged write.
    breach_to_zero_ms: f64,
    /// Of which: until the plan was made.
    breach_to_decision_ms: f64,
    /// Newest sample used to the last request that the canary served.
    breach_to_last_request_ms: f64,
    kind: String,
    weight: u8,
    canary_requests: u64,
    /// Errors beyond those that the stable version would have made.
    excess_errors: f64,
    floor: f64,
    /// Requests that failed otherwise: resets, time-outs, 502.
    failed: u64,
    failed_as: Vec<String>,
}

/// A turn that gave no figure, and why.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    environment: String,
    turn: usize,
    why: String,
}

impl Failure {
    pub fn of(environment: &str, turn: usize, error: &anyhow::Error) -> Self {
        Self { environment: environment.to_owned(), turn, why: format!("{error:#}") }
    }
}

fn ms(from: Timestamp, to: Timestamp) -> f64 {
    (to.duration_since(from).as_secs_f64() * 10_000.0).round() / 10.0
}

/// # Errors
/// Whatever is not on record: a figure is measured or it is none.
pub fn measure(
    environment: &str,
    version: &str,
    accepted: Timestamp,
    life: &Life,
    status: &RolloutStatus,
    load: &Snapshot,
) -> Result<Measured> {
    let breach = status.breach.as_ref().context("no breach is recorded")?;
    let (newest, decided) = (breach.sample_at.0, breach.decided_at.0);
    let served = load.versions.get(version).with_context(|| {
        format!("the canary served no request before its breach ({:?}: {})", breach.kind, breach.message)
    })?;
    let written = breach.written_at.as_ref().map(|at| at.0);
    let written = written.with_context(|| format!("no write is recorded ({:?}: {})", breach.kind, breach.message))?;
    let weight = status.history.iter().map(|entry| entry.weight).max().unwrap_or(0);
    Ok(Measured {
        environment: environment.to_owned(),
        version: version.to_owned(),
        event_to_first_canary_request_ms: ms(accepted, served.first_served),
        event_to_preparing_ms: life.preparing.map(|at| ms(accepted, at)),
        preparing_to_canary_ms: life.preparing.zip(life.canary).map(|(from, to)| ms(from, to)),
        breach_to_zero_ms: ms(newest, written),
        breach_to_decision_ms: ms(newest, decided),
        breach_to_last_request_ms: ms(newest, served.last_served),
        kind: format!("{:?}", breach.kind),
        weight,
        canary_requests: served.requests,
        excess_errors: served.deliberate as f64 - DELIBERATE * served.requests as f64,
        floor: floor(f64::from(weight.max(1)) / 100.0, BAD / DELIBERATE, 0.01),
        failed: load.failed,
        failed_as: load.failure_kinds().into_iter().map(|(kind, count)| format!("{count} x {kind}")).collect(),
    })
}

/// Least expected excess errors before evidence of strength 1/alpha at canary share `w` and risk ratio `r`:
/// (r - 1) w ln(1/alpha) / ((1 - w + w r) KL(theta1 || theta0)).
fn floor(w: f64, r: f64, alpha: f64) -> f64 {
    let theta = w * r / (1.0 - w + w * r);
    let kl = theta * (theta / w).ln() + (1.0 - theta) * ((1.0 - theta) / (1.0 - w)).ln();
    (r - 1.0) * w * (1.0 / alpha).ln() / ((1.0 - w + w * r) * kl)
}

/// All turns so far.
pub struct Ledger {
    path: PathBuf,
    began: Timestamp,
    under_way: usize,
    pub samples: Vec<Measured>,
    failures: Vec<Failure>,
}

impl Ledger {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), began: now(), under_way: 0, samples: Vec::new(), failures: Vec::new() }
    }

    /// Whether another turn is needed: what is under way counts as measured until it fails.
    pub fn begin(&mut self, wanted: usize, most: usize) -> bool {
        let (measured, failed) = (self.samples.len(), self.failures.len());
        let needed = measured + self.under_way < wanted && measured + failed + self.under_way < most;
        self.under_way += usize::from(needed);
        needed
    }

    pub fn measured(&mut self, one: Measured) {
        self.under_way = self.under_way.saturating_sub(1);
        println!(
            "{:>4}  {:<10} first request {:>6.0} ms, weight 0 {:>5.0} ms, last request {:>5.0} ms, {} failed",
            self.samples.len() + 1,
            one.environment,
            one.event_to_first_canary_request_ms,
            one.breach_to_zero_ms,
            one.breach_to_last_request_ms,
            one.failed
        );
        self.samples.push(one);
    }

    pub fn failed(&mut self, failure: Failure) {
        self.under_way = self.under_way.saturating_sub(1);
        println!("      {:<10} NOT MEASURED: {}", failure.environment, failure.why);
        self.failures.push(failure);
    }

    pub fn write(&self) -> Result<()> {
        let mut report = self.figures();
        report["failures"] = json!(self.failures);
        report["samples"] = json!(self.samples);
        // Readers of a run that goes on never see half a file.
        let unfinished = self.path.with_extension("part");
        std::fs::write(&unfinished, serde_json::to_string_pretty(&report)? + "\n")?;
        Ok(std::fs::rename(&unfinished, &self.path)?)
    }

    pub fn text(&self) -> String {
        let mut text = serde_json::to_string_pretty(&self.figures()).unwrap_or_default();
        for failure in &self.failures {
            text += &format!("\n{} turn {}: {}", failure.environment, failure.turn, failure.why);
        }
        text
    }

    fn figures(&self) -> Value {
        let of = |of: &dyn Fn(&Measured) -> Option<f64>| quantiles(self.samples.iter().filter_map(of).collect());
        json!({
            "began": self.began.to_string(),
            "seconds": (now().duration_since(self.began).as_secs_f64()).round(),
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "turns": self.samples.len() + self.failures.len(),
            "rollbacks": self.samples.len(),
            "not_measured": self.failures.len(),
            "event_to_first_canary_request_ms": of(&|s| Some(s.event_to_first_canary_request_ms)),
            "event_to_preparing_ms": of(&|s| s.event_to_preparing_ms),
            "preparing_to_canary_ms": of(&|s| s.preparing_to_canary_ms),
            "breach_to_zero_ms": of(&|s| Some(s.breach_to_zero_ms)),
            "breach_to_decision_ms": of(&|s| Some(s.breach_to_decision_ms)),
            "breach_to_last_request_ms": of(&|s| Some(s.breach_to_last_request_ms)),
            "canary_requests": of(&|s| Some(s.canary_requests as f64)),
            "excess_errors": of(&|s| Some(s.excess_errors)),
            "floor_of_excess_errors": of(&|s| Some(s.floor)),
            "otherwise_failed_requests": of(&|s| Some(s.failed as f64)),
            "otherwise_failed_requests_in_all": self.samples.iter().map(|s| s.failed).sum::<u64>(),
        })
    }
}

/// By nearest rank: each is a value that was measured.
fn quantiles(mut values: Vec<f64>) -> Value {
    values.sort_by(f64::total_cmp);
    let at = |q: f64| {
        let rank = (q * values.len() as f64).ceil() as usize;
        values.get(rank.saturating_sub(1)).copied()
    };
    json!({"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": at(1.0)})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let expected = json!({"p50": 100.0, "p90": 180.0, "p99": 198.0, "max": 200.0});
        assert_eq!(quantiles(values), expected);
        assert_eq!(quantiles(vec![7.0]), json!({"p50": 7.0, "p90": 7.0, "p99": 7.0, "max": 7.0}));
        assert_eq!(quantiles(vec![])["p99"], Value::Null);
    }

    #[test]
    fn a_failed_turn_is_played_again_but_not_for_ever() {
        let mut ledger = Ledger::new(Path::new("unused"));
        assert!(ledger.begin(1, 2));
        assert!(!ledger.begin(1, 2), "the one under way may be the last");
        ledger.failed(Failure::of("staging", 0, &anyhow::anyhow!("hung")));
        assert!(ledger.begin(1, 2));
        ledger.failed(Failure::of("staging", 1, &anyhow::anyhow!("hung")));
        assert!(!ledger.begin(1, 2), "no more than two turns");
    }

    #[test]
    fn failures_are_counted_beside_what_was_measured() {
        let mut ledger = Ledger::new(Path::new("unused"));
        ledger.failed(Failure::of("staging", 3, &anyhow::anyhow!("it ended as Promoted")));
        let figures = ledger.figures();
        assert_eq!(
            (&figures["turns"], &figures["not_measured"], &figures["rollbacks"]),
            (&json!(1), &json!(1), &json!(0))
        );
        assert!(ledger.text().contains("staging turn 3: it ended as Promoted"));
    }
}
