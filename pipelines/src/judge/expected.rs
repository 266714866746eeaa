//! How long a good version will need, told before its rollout starts.
//! An estimate for people; decides nothing.

use super::config::JudgeConfig;
use super::dispersion::Pace;
use super::eprocess::{Counts, GOOD_NULL, log_likelihood};

/// Nats that the mixture needs beyond ln(1/beta), and the share that whole scrapes add: from simulation.
const MIXTURE_NATS: f64 = 0.1;

/// Seconds of evidence at a weight of `weight` percent until a version as good as stable is certified.
/// `None`: never, for want of errors to compare or of an arm.
pub fn seconds_to_certify(
    requests_per_s: f64,
    error_rate: f64,
    weight: u8,
    phi: f64,
    beta: f64,
    interval_s: f64,
) -> Option<f64> {
    let rho = f64::from(weight.min(100)) / 100.0;
    let counts = Counts {
        canary_requests: requests_per_s * rho,
        canary_errors: requests_per_s * rho * error_rate,
        stable_requests: requests_per_s * (1.0 - rho),
        stable_errors: requests_per_s * (1.0 - rho) * error_rate,
    };
    // Mean gain per second of "as good as stable" over "twice as bad".
    let gain = log_likelihood(counts, 1.0, GOOD_NULL) / phi;
    (gain > 0.0 && gain.is_finite()).then(|| ((1.0 / beta).ln() + MIXTURE_NATS) / gain + interval_s / 2.0)
}

/// The sum over the judged steps (those below 100 %).
pub fn expected_time(
    requests_per_s: f64,
    error_rate: f64,
    weights: &[u8],
    phi: f64,
    beta: f64,
    interval_s: f64,
) -> Option<f64> {
    weights
        .iter()
        .filter(|w| **w < 100)
        .map(|w| seconds_to_certify(requests_per_s, error_rate, *w, phi, beta, interval_s))
        .sum()
}

/// One line for people; the slowest objective decides.
pub fn told(paces: &[Pace], config: &JudgeConfig, phi: f64) -> String {
    if paces.is_empty() {
        return "no time can be told: no requests were counted before the rollout".to_owned();
    }
    let interval_s = config.interval.as_secs_f64();
    let mut slowest: Option<(f64, Pace)> = None;
    for pace in paces {
        let seconds =
            expected_time(pace.requests_per_s, pace.error_rate, &config.judged_weights, phi, config.beta, interval_s);
        let (requests, errors) = (pace.requests_per_s, pace.error_rate * 100.0);
        let Some(seconds) = seconds else {
            return format!(
                "no time can be told: at {requests:.1} requests/s and {errors:.3} % errors nothing would certify a step"
            );
        };
        if slowest.is_none_or(|(most, _)| seconds > most) {
            slowest = Some((seconds, *pace));
        }
    }
    let Some((seconds, pace)) = slowest else { return String::new() };
    format!(
        "some {seconds:.0} s of evidence over {} judged steps at {:.1} requests/s and {:.3} % errors, if it is as good as stable",
        config.judged_weights.len(),
        pace.requests_per_s,
        pace.error_rate * 100.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Objective, Span, Strategy};

    #[test]
    fn the_slowest_objective_is_told_and_an_errorless_one_promises_nothing() {
        let strategy: Strategy = serde_json::from_value(serde_json::json!({
            "steps": [{"setWeight": 5}, {"setWeight": 25}, {"setWeight": 50}, {"setWeight": 100}]
        }))
        .unwrap();
        let config = JudgeConfig::new(&strategy, &Vec::<Objective>::new(), 1.0, Span::from_secs(1), None);
        let pace = |error_rate| Pace { requests_per_s: 600.0, error_rate };
        let line = told(&[pace(0.04), pace(0.01)], &config, 1.5);
        let alone = told(&[pace(0.01)], &config, 1.5);
        assert_eq!(line, alone);
        assert!(line.contains("over 3 judged steps at 600.0 requests/s and 1.000 % errors"), "{line}");
        assert!(told(&[pace(0.04), pace(0.0)], &config, 1.5).starts_with("no time can be told: at 600.0"));
        assert!(told(&[], &config, 1.5).starts_with("no time can be told"));
    }

    #[test]
    fn the_designs_figures_come_out_within_a_factor_of_1_5() {
        let steps = [5, 25, 50, 100];
        for (rps, p, phi, simulated) in
            [(300.0, 0.001, 1.0, 950.0), (300.0, 0.01, 1.0, 110.0), (300.0, 0.02, 1.0, 50.0), (600.0, 0.04, 1.5, 26.0)]
        {
            let told = expected_time(rps, p, &steps, phi, 0.05, 1.0).unwrap();
            assert!(told / simulated < 1.5 && simulated / told < 1.5, "{rps} {p}: {told} against {simulated}");
        }
    }

    #[test]
    fn without_errors_or_traffic_no_time_is_promised() {
        assert_eq!(expected_time(300.0, 0.0, &[5], 1.0, 0.05, 1.0), None);
        assert_eq!(expected_time(0.0, 0.01, &[5], 1.0, 0.05, 1.0), None);
        assert_eq!(expected_time(300.0, 0.01, &[100], 1.0, 0.05, 1.0), Some(0.0));
    }
}
