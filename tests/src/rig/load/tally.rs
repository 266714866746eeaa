//! What a load counted. Pure: time comes in with each outcome.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;

const FAILURES_KEPT: usize = 500;
/// Upper edges in milliseconds; slower requests fall into a last bucket.
const EDGES: [u64; 13] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, u64::MAX];

/// How one request ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Answered,
    /// An error on purpose, in the background of every test.
    Deliberate,
    /// Anything else that is not a 2xx: status, reset, refused, too late.
    Failed(String),
}

/// A request that ought not to have failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    pub at: Timestamp,
    pub what: String,
    pub version: Option<String>,
}

/// What one version served.
#[derive(Debug, Clone, PartialEq)]
pub struct VersionCount {
    pub requests: u64,
    pub deliberate: u64,
    pub first_served: Timestamp,
    pub last_served: Timestamp,
}

/// Counts at one moment, or between two.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Of the later moment.
    pub at: Timestamp,
    pub seconds: f64,
    pub requests: u64,
    pub deliberate: u64,
    pub failed: u64,
    pub versions: BTreeMap<String, VersionCount>,
    /// The newest failures, at most 500, oldest first.
    pub failures: Vec<Failure>,
    latencies: [u64; EDGES.len()],
}

pub struct Tally {
    started: Timestamp,
    requests: u64,
    deliberate: u64,
    failed: u64,
    versions: BTreeMap<String, VersionCount>,
    failures: VecDeque<Failure>,
    latencies: [u64; EDGES.len()],
}

impl Tally {
    pub fn new(started: Timestamp) -> Self {
        Self {
            started,
            requests: 0,
            deliberate: 0,
            failed: 0,
            versions: BTreeMap::new(),
            failures: VecDeque::new(),
            latencies: [0; EDGES.len()],
        }
    }

    pub fn count(&mut self, at: Timestamp, took: Duration, version: Option<&str>, outcome: Outcome) {
        self.requests += 1;
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.latencies[EDGES.partition_point(|edge| *edge < millis).min(EDGES.len() - 1)] += 1;
        let deliberate = outcome == Outcome::Deliberate;
        self.deliberate += u64::from(deliberate);
        if let Outcome::Failed(what) = outcome {
            self.failed += 1;
            if self.failures.len() == FAILURES_KEPT {
                self.failures.pop_front();
            }
            self.failures.push_back(Failure { at, what, version: version.map(str::to_owned) });
        }
        let Some(version) = version else { return };
        match self.versions.get_mut(version) {
            Some(count) => {
                count.requests += 1;
                count.deliberate += u64::from(deliberate);
                count.last_served = count.last_served.max(at);
            }
            None => {
                let count =
                    VersionCount { requests: 1, deliberate: u64::from(deliberate), first_served: at, last_served: at };
                self.versions.insert(version.to_owned(), count);
            }
        }
    }

    pub fn snapshot(&self, at: Timestamp) -> Snapshot {
        Snapshot {
            at,
            seconds: seconds(self.started, at),
            requests: self.requests,
            deliberate: self.deliberate,
            failed: self.failed,
            versions: self.versions.clone(),
            failures: self.failures.iter().cloned().collect(),
            latencies: self.latencies,
        }
    }
}

impl Snapshot {
    /// What happened after `earlier`. A version that served nothing since is left out.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut versions = self.versions.clone();
        for (version, before) in &earlier.versions {
            if let Some(count) = versions.get_mut(version) {
                count.requests -= before.requests;
                count.deliberate -= before.deliberate;
                count.first_served = before.last_served;
            }
        }
        versions.retain(|_, count| count.requests > 0);
        let failed = self.failed - earlier.failed;
        let newest = usize::try_from(failed).unwrap_or(usize::MAX).min(self.failures.len());
        let mut latencies = self.latencies;
        for (now, before) in latencies.iter_mut().zip(earlier.latencies) {
            *now -= before;
        }
        Self {
            at: self.at,
            seconds: seconds(earlier.at, self.at),
            requests: self.requests - earlier.requests,
            deliberate: self.deliberate - earlier.deliberate,
            failed,
            versions,
            failures: self.failures[self.failures.len() - newest..].to_vec(),
            latencies,
        }
    }

    /// Requests that `version` served.
    pub fn served_by(&self, version: &str) -> u64 {
        self.versions.get(version).map_or(0, |count| count.requests)
    }

    /// Share of the requests whose version is known that `version` served; 0 when there were none.
    pub fn share_of(&self, version: &str) -> f64 {
        let all: u64 = self.versions.values().map(|count| count.requests).sum();
        if all == 0 { 0.0 } else { self.served_by(version) as f64 / all as f64 }
    }

    /// Upper edge in milliseconds of the bucket that holds this quantile (0.99).
    pub fn latency_ms(&self, quantile: f64) -> u64 {
        let all: u64 = self.latencies.iter().sum();
        let wanted = (quantile * all as f64).ceil() as u64;
        let mut seen = 0;
        for (count, edge) in self.latencies.iter().zip(EDGES) {
            seen += count;
            if seen >= wanted {
                return edge;
            }
        }
        u64::MAX
    }

    /// Failures by what went wrong: for a report of one line.
    pub fn failure_kinds(&self) -> BTreeMap<String, usize> {
        let mut kinds = BTreeMap::new();
        for failure in &self.failures {
            *kinds.entry(failure.what.clone()).or_default() += 1;
        }
        kinds
    }
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn phase_is_the_difference_of_two_moments() {
        let mut tally = Tally::new(at(0));
        let ms = Duration::from_millis;
        tally.count(at(1), ms(1), Some("v1"), Outcome::Answered);
        tally.count(at(2), ms(3), None, Outcome::Failed("status 502".into()));
        let before = tally.snapshot(at(10));
        tally.count(at(11), ms(2), Some("v2"), Outcome::Deliberate);
        tally.count(at(12), ms(2), Some("v2"), Outcome::Answered);
        tally.count(at(13), ms(90), None, Outcome::Failed("status 503".into()));
        let phase = tally.snapshot(at(20)).since(&before);
        assert_eq!((phase.requests, phase.deliberate, phase.failed), (3, 1, 1));
        assert_eq!(phase.failures[0].what, "status 503");
        assert_eq!(phase.served_by("v1"), 0);
        assert_eq!(phase.versions["v2"].last_served, at(12));
        assert!((phase.share_of("v2") - 1.0).abs() < f64::EPSILON);
        assert!((phase.seconds - 10.0).abs() < f64::EPSILON);
        assert_eq!((phase.latency_ms(0.5), phase.latency_ms(0.99)), (2, 100));
    }
}
