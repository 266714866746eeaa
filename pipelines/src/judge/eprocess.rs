//! The conditional-binomial mixture e-process, and its mirror image for going on.
//! Numbers in, numbers out: knows nothing of pods, time or where the counts come from.
//!
//! Given the m errors of both arms in one scrape, y_c of them fall on the canary as Bin(m, theta(r)) with
//! theta(r) = rho r / (rho r + 1 - rho), rho being the measured share of requests and r the ratio of error rates.
//! The common error rate has cancelled: shared outages, drift and changing weights need no reset. Under r <= r0 each
//! likelihood ratio has mean <= 1, hence (Ville) P(ever E >= 1/alpha) <= alpha whatever the stopping rule.

use super::state::{LOG_ZERO, ProcessState, rounded};

/// Alternatives "the canary has r times as many errors": from a slight worsening to a collapse.
pub const BAD_RATIOS: [f64; 6] = [1.5, 2.0, 3.0, 5.0, 10.0, 30.0];
/// Null of the mirror test: at least twice as many errors.
pub const GOOD_NULL: f64 = 2.0;
/// Its alternatives: about as good as stable.
pub const GOOD_RATIOS: [f64; 4] = [0.5, 0.8, 1.0, 1.2];

/// Requests and errors of both arms between two scrapes. The past as control (baking) has fractions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    pub canary_requests: f64,
    pub canary_errors: f64,
    pub stable_requests: f64,
    pub stable_errors: f64,
}

impl Counts {
    /// An errors selector that is no part of the total would give infinite evidence from nothing.
    fn bounded(self) -> Self {
        Counts {
            canary_errors: self.canary_errors.min(self.canary_requests),
            stable_errors: self.stable_errors.min(self.stable_requests),
            ..self
        }
    }
}

/// ln of the likelihood ratio of "r" against "null", from one scrape.
pub fn log_likelihood(counts: Counts, ratio: f64, null: f64) -> f64 {
    let counts = counts.bounded();
    let requests = counts.canary_requests + counts.stable_requests;
    if requests <= 0.0 {
        return 0.0;
    }
    let rho = counts.canary_requests / requests;
    let errors = counts.canary_errors + counts.stable_errors;
    let mix = |r: f64| rho * r + 1.0 - rho;
    counts.canary_errors * (ratio / null).ln() - errors * (mix(ratio) / mix(null)).ln()
}

/// ln(e^a + e^b).
fn log_add(a: f64, b: f64) -> f64 {
    let (high, low) = if a >= b { (a, b) } else { (b, a) };
    high + (low - high).exp().ln_1p()
}

fn log_sum(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().fold(LOG_ZERO, log_add)
}

/// Prior of the onset at scrape k = 1, 2, ...: half at the first, a quarter over the planned time, and a quarter
/// that never ends, so that a late onset or an unbounded pause is covered too.
fn onset_prior(k: u32, planned: u32) -> f64 {
    let k_float = f64::from(k);
    let first = if k == 1 { 0.5 } else { 0.0 };
    let planned = if k <= planned { 0.25 / f64::from(planned) } else { 0.0 };
    first + planned + 0.25 / (k_float * (k_float + 1.0))
}

/// S_j <- L(r_j)^(1/phi) (S_j + pi_k). Only for scrapes with canary requests: before any, nothing can set in.
pub fn step_bad(process: &mut ProcessState, counts: Counts, null: f64, phi: f64, planned: u32) {
    process.log_bad.resize(BAD_RATIOS.len(), LOG_ZERO);
    process.scrapes = process.scrapes.saturating_add(1);
    let prior = onset_prior(process.scrapes, planned.max(1));
    for (log_s, ratio) in process.log_bad.iter_mut().zip(BAD_RATIOS) {
        // At a margin above 1.5 the first alternative is inside the null; it then just stays a constant bet.
        let step = if ratio > null { log_likelihood(counts, ratio, null) / phi } else { 0.0 };
        *log_s = rounded(log_add(*log_s, prior.ln()) + step);
    }
    process.prior_used = rounded((process.prior_used + prior).min(1.0));
}

/// ln E: the mean over alternatives, and the part of the prior that waits for a later onset.
pub fn log_bad(process: &ProcessState) -> f64 {
    let weight = -(BAD_RATIOS.len() as f64).ln();
    let waiting = if process.prior_used < 1.0 { (1.0 - process.prior_used).ln() } else { LOG_ZERO };
    log_add(log_sum(process.log_bad.iter().map(|s| s + weight)), waiting)
}

pub fn step_good(process: &mut ProcessState, counts: Counts, phi: f64) {
    process.log_good.resize(GOOD_RATIOS.len(), 0.0);
    for (log_s, ratio) in process.log_good.iter_mut().zip(GOOD_RATIOS) {
        *log_s = rounded(*log_s + log_likelihood(counts, ratio, GOOD_NULL) / phi);
    }
}

/// ln E'.
pub fn log_good(process: &ProcessState) -> f64 {
    if process.log_good.is_empty() {
        return 0.0;
    }
    log_sum(process.log_good.iter().copied()) - (process.log_good.len() as f64).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(n_c: f64, y_c: f64, n_b: f64, y_b: f64) -> Counts {
        Counts { canary_requests: n_c, canary_errors: y_c, stable_requests: n_b, stable_errors: y_b }
    }

    fn binomial(m: u32, y: u32, theta: f64) -> f64 {
        let choose = (0..y).fold(1.0, |c, i| c * f64::from(m - i) / f64::from(i + 1));
        choose * theta.powi(y as i32) * (1.0 - theta).powi((m - y) as i32)
    }

    #[test]
    fn one_step_has_mean_at_most_one_under_every_null_ratio() {
        for rho in [0.01, 0.05, 0.25, 0.5, 0.9] {
            for m in [0u32, 1, 2, 5, 20] {
                for true_ratio in [0.1, 0.5, 1.0, 1.1] {
                    let theta = rho * true_ratio / (rho * true_ratio + 1.0 - rho);
                    for (alternative, null, phi) in
                        [(1.5, 1.1, 1.0), (3.0, 1.1, 1.0), (30.0, 1.1, 1.0), (3.0, 1.1, 2.5)]
                    {
                        let mean: f64 = (0..=m)
                            .map(|y| {
                                let c = counts(rho * 1e4, y.into(), (1.0 - rho) * 1e4, (m - y).into());
                                binomial(m, y, theta) * (log_likelihood(c, alternative, null) / phi).exp()
                            })
                            .sum();
                        assert!(mean <= 1.0 + 1e-9, "rho {rho} m {m} r {true_ratio} alt {alternative}: {mean}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_mirror_step_has_mean_at_most_one_when_twice_as_bad_or_worse() {
        for rho in [0.05, 0.25, 0.5] {
            for m in [1u32, 3, 12] {
                for true_ratio in [2.0, 3.0, 10.0] {
                    let theta = rho * true_ratio / (rho * true_ratio + 1.0 - rho);
                    for alternative in GOOD_RATIOS {
                        let mean: f64 = (0..=m)
                            .map(|y| {
                                let c = counts(rho * 1e4, y.into(), (1.0 - rho) * 1e4, (m - y).into());
                                binomial(m, y, theta) * log_likelihood(c, alternative, GOOD_NULL).exp()
                            })
                            .sum();
                        assert!(mean <= 1.0 + 1e-9, "rho {rho} m {m} r {true_ratio} alt {alternative}: {mean}");
                    }
                }
            }
        }
    }

    /// Every path of three scrapes with up to two errors each, weighed by its chance at the edge of the null.
    #[test]
    fn the_mixture_with_onset_prior_is_a_supermartingale_by_enumeration() {
        fn walk(process: &ProcessState, depth: u32, rho: f64, theta: f64) -> f64 {
            if depth == 0 {
                return log_bad(process).exp();
            }
            let m = 2;
            let mean: f64 = (0..=m)
                .map(|y| {
                    let mut next = process.clone();
                    let c = counts(rho * 100.0, y.into(), (1.0 - rho) * 100.0, (m - y).into());
                    step_bad(&mut next, c, 1.1, 1.0, 3);
                    binomial(m, y, theta) * walk(&next, depth - 1, rho, theta)
                })
                .sum();
            // The state is rounded to 1e-9, hence the relative slack.
            assert!(mean <= log_bad(process).exp() * (1.0 + 1e-8), "{mean} from {}", log_bad(process).exp());
            mean
        }
        for rho in [0.05, 0.5] {
            let theta = rho * 1.1 / (rho * 1.1 + 1.0 - rho);
            let mean = walk(&ProcessState::default(), 4, rho, theta);
            assert!(mean <= 1.0 + 1e-6 && mean > 0.5, "{mean}");
        }
    }

    #[test]
    fn the_onset_prior_sums_to_one() {
        let sum: f64 = (1..=100_000).map(|k| onset_prior(k, 60)).sum();
        assert!((sum - 1.0).abs() < 1e-4, "{sum}");
    }

    #[test]
    fn without_a_control_arm_nothing_is_learnt() {
        for (r, null) in [(3.0, 1.1), (1.0, 2.0)] {
            assert!(log_likelihood(counts(500.0, 80.0, 0.0, 0.0), r, null).abs() < 1e-9);
            assert!(log_likelihood(counts(0.0, 0.0, 500.0, 80.0), r, null).abs() < 1e-9);
        }
        assert_eq!(log_likelihood(Counts::default(), 3.0, 1.1), 0.0);
    }

    #[test]
    fn errors_that_no_total_knows_are_not_evidence() {
        assert_eq!(log_likelihood(counts(0.0, 50.0, 100.0, 1.0), 30.0, 1.1), 0.0);
    }
}
