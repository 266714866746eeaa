//! Over-dispersion: how much more the error counts of equal pods differ than a binomial says.
//! Looks at the stable pods' own past only; without it half of all good versions would fall under bursts.

use std::collections::BTreeSet;

use super::config::ObjectiveSamples;
use super::samples::{Arm, Member, Tape};

/// Used, at least, while less than this much history is there.
const ENOUGH_HISTORY_MS: i64 = 30 * 60_000;
/// The careful default, which stands where nothing was measured.
pub const WITHOUT_HISTORY: f64 = 1.5;
/// Pods are compared inside blocks, so that drift that they share cancels; bursts show at one of these lengths.
const BLOCKS_MS: [i64; 4] = [5_000, 30_000, 60_000, 300_000];
/// Fewer blocks than this say nothing.
const LEAST_BLOCKS: u32 = 5;
/// Standard deviations above chi2's mean that count as significant (some 1 %).
const SIGNIFICANT: f64 = 2.33;
/// A measured excess is an estimate of one length of block: it is taken half as much again.
const CAUTION: f64 = 1.5;

#[derive(Clone, Debug, PartialEq)]
pub struct Dispersion {
    /// What evidence is divided by, at least 1.
    pub phi: f64,
    pub note: String,
    /// What the pods counted together, one per objective that could be read.
    pub paces: Vec<Pace>,
    /// Why some of it, or all, could not be read.
    pub unread: Option<String>,
}

/// Traffic before the rollout.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    pub requests_per_s: f64,
    /// Errors per request.
    pub error_rate: f64,
}

/// phi over all objectives, from the samples of `pods` up to the rollout's start.
pub fn measure(history: &[ObjectiveSamples], pods: &BTreeSet<String>) -> Dispersion {
    let mut worst: f64 = 1.0;
    let mut length = 0;
    let mut compared = 0;
    let mut unread = None;
    let mut paces = vec![];
    for objective in history {
        match (&objective.total, &objective.errors) {
            (Ok(total), Ok(errors)) => {
                let tapes = per_pod(total, errors, pods);
                let (Some(first), Some(last)) =
                    (tapes.iter().filter_map(Tape::oldest).min(), tapes.iter().filter_map(Tape::newest).max())
                else {
                    continue;
                };
                length = length.max(last - first);
                compared = compared.max(tapes.len());
                paces.extend(pace(&tapes, first, last));
                if let Some(excess) = excess(&tapes, first, last) {
                    worst = worst.max(excess);
                }
            }
            (Err(why), _) | (_, Err(why)) => unread = Some(why.clone()),
        }
    }
    let measured = 1.0 + CAUTION * (worst - 1.0);
    let minutes = length as f64 / 60_000.0;
    let mut lacks = None;
    if let Some(why) = &unread {
        lacks = Some(format!("the past could not be read ({why})"));
    } else if compared < 2 {
        lacks = Some("fewer than 2 stable pods to compare".to_owned());
    } else if length < ENOUGH_HISTORY_MS {
        lacks = Some(format!("only {minutes:.1} min of history"));
    }
    match lacks {
        Some(lacks) => {
            let phi = measured.max(WITHOUT_HISTORY);
            Dispersion {
                phi,
                note: format!("phi {phi:.2}: {lacks}; measured {measured:.2}, at least {WITHOUT_HISTORY} is used"),
                paces,
                unread,
            }
        }
        None => Dispersion {
            phi: measured,
            note: format!("phi {measured:.2}: measured between {compared} stable pods over {minutes:.0} min"),
            paces,
            unread,
        },
    }
}

fn pace(pods: &[Tape], first: i64, last: i64) -> Option<Pace> {
    let (requests, errors) = pods
        .iter()
        .map(|pod| pod.counts(first, last, true))
        .fold((0.0, 0.0), |(n, y), c| (n + c.stable_requests, y + c.stable_errors.min(c.stable_requests)));
    let seconds = (last - first) as f64 / 1000.0;
    (seconds > 0.0 && requests > 0.0)
        .then(|| Pace { requests_per_s: requests / seconds, error_rate: errors / requests })
}

fn per_pod(
    total: &[super::config::RawSeries],
    errors: &[super::config::RawSeries],
    pods: &BTreeSet<String>,
) -> Vec<Tape> {
    pods.iter()
        .map(|pod| {
            let member = |of: &str| (of == pod).then_some(Member { arm: Arm::Stable, masked_until: i64::MIN });
            Tape::new(total, errors, &[], member, i64::MAX)
        })
        .filter(|tape| tape.newest().is_some())
        .collect()
}

/// The largest significant Pearson chi2 per degree of freedom over the block lengths.
fn excess(pods: &[Tape], first: i64, last: i64) -> Option<f64> {
    BLOCKS_MS
        .iter()
        .filter_map(|block| excess_in(pods, first, last, *block))
        .fold(None, |worst, x| Some(worst.map_or(x, |w: f64| w.max(x))))
}

fn excess_in(pods: &[Tape], first: i64, last: i64, block: i64) -> Option<f64> {
    let (mut chi2, mut freedom, mut variance, mut blocks) = (0.0, 0.0, 0.0, 0);
    let mut from = first;
    while from + block <= last {
        let counts: Vec<(f64, f64)> = pods
            .iter()
            .map(|pod| pod.counts(from, from + block, true))
            .map(|c| (c.stable_requests, c.stable_errors.min(c.stable_requests)))
            .filter(|(requests, _)| *requests > 0.0)
            .collect();
        from += block;
        let (requests, errors) = counts.iter().fold((0.0, 0.0), |(n, y), c| (n + c.0, y + c.1));
        let p = errors / requests;
        if counts.len() < 2 || errors <= 0.0 || p >= 1.0 {
            continue;
        }
        for (n, y) in &counts {
            chi2 += (y - n * p).powi(2) / (n * p * (1.0 - p));
            // A squared deviation of a count with a small mean scatters more than chi2 does.
            variance += 2.0 + 1.0 / (n * p);
        }
        freedom += counts.len() as f64 - 1.0;
        blocks += 1;
    }
    let significant = blocks >= LEAST_BLOCKS && chi2 > freedom + SIGNIFICANT * f64::sqrt(variance);
    significant.then(|| chi2 / freedom)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::judge::config::RawSeries;

    /// `errors_at(pod, second)` errors of 150 requests a second and pod.
    fn history(
        pods: usize,
        seconds: i64,
        mut errors_at: impl FnMut(usize, i64) -> f64,
    ) -> (Vec<ObjectiveSamples>, BTreeSet<String>) {
        let mut total = vec![];
        let mut errors = vec![];
        for pod in 0..pods {
            let name = format!("p{pod}");
            let (mut sum, mut ok, mut bad) = (0.0, vec![], vec![]);
            for second in 0..=seconds {
                ok.push((second * 1000 + pod as i64, 150.0 * second as f64));
                bad.push((second * 1000 + pod as i64, sum));
                sum += errors_at(pod, second);
            }
            let series = |samples| RawSeries { of: name.clone(), source: name.clone(), key: String::new(), samples };
            total.push(series(ok));
            errors.push(series(bad));
        }
        let names = (0..pods).map(|p| format!("p{p}")).collect();
        (vec![ObjectiveSamples { total: Ok(total), errors: Ok(errors) }], names)
    }

    fn binomial(rng: &mut StdRng, n: u32, p: f64) -> f64 {
        (0..n).filter(|_| rng.random::<f64>() < p).count() as f64
    }

    #[test]
    fn pods_that_differ_by_chance_only_have_phi_one() {
        let mut rng = StdRng::seed_from_u64(1);
        let (samples, pods) = history(4, 1900, |_, _| binomial(&mut rng, 150, 0.04));
        let found = measure(&samples, &pods);
        assert!(found.phi < 1.15, "{found:?}");
        assert!(found.note.contains("4 stable pods"), "{found:?}");
    }

    #[test]
    fn drift_that_all_pods_share_cancels() {
        let mut rng = StdRng::seed_from_u64(2);
        let (samples, pods) = history(4, 1900, |_, t| {
            let p = if (t / 200) % 2 == 0 { 0.01 } else { 0.2 };
            binomial(&mut rng, 150, p)
        });
        assert!(measure(&samples, &pods).phi < 1.2);
    }

    #[test]
    fn bursts_of_single_pods_raise_phi() {
        let mut rng = StdRng::seed_from_u64(3);
        let (samples, pods) = history(4, 1900, |_, _| if rng.random::<f64>() < 0.1 { 20.0 } else { 0.0 });
        let found = measure(&samples, &pods);
        assert!(found.phi > 10.0, "{found:?}");
    }

    #[test]
    fn little_history_or_one_pod_is_told_and_counts_as_dispersed() {
        let mut rng = StdRng::seed_from_u64(4);
        let (samples, pods) = history(4, 120, |_, _| binomial(&mut rng, 150, 0.04));
        let found = measure(&samples, &pods);
        assert!((found.phi - 1.5).abs() < 1e-9 && found.note.contains("only 2.0 min of history"), "{found:?}");
        let (samples, pods) = history(1, 1900, |_, _| 3.0);
        let found = measure(&samples, &pods);
        assert!(found.phi >= 1.5 && found.note.contains("fewer than 2"), "{found:?}");
        let broken = [ObjectiveSamples { total: Err("metrics: HTTP 503".into()), errors: Ok(vec![]) }];
        assert!(measure(&broken, &pods).note.contains("HTTP 503"));
    }
}
