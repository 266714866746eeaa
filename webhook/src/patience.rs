//! How long a broken watch waits before it is opened again: longer each time, but never so long that an API server
//! which is back goes unnoticed. Decides nothing.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use kube::runtime::utils::Backoff;
use kube::runtime::watcher;

const FIRST: Duration = Duration::from_millis(500);
/// The client library's own goes up to a minute: after an outage of 20 s a rollout would stand still for as long again.
const LONGEST: Duration = Duration::from_secs(4);

/// Pauses between tries: doubled up to the longest, each shortened by up to half at random, so that those who lost
/// the same server do not all come back at the same moment.
#[derive(Debug, Default)]
pub struct Patience {
    tries: u32,
}

/// Nobody answered, so every other watch says the same: worth a line for all of them, not one for each.
pub fn unanswered(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => {
            matches!(error, kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::ReadEvents(_))
        }
        _ => false,
    }
}

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let whole = FIRST.saturating_mul(1_u32.checked_shl(self.tries.min(16)).unwrap_or(u32::MAX)).min(LONGEST);
        self.tries = self.tries.saturating_add(1);
        // Seeded by the system for each state; good enough to spread pauses, and nothing secret hangs on it.
        let share = (RandomState::new().build_hasher().finish() % 1000) as f64 / 1000.0;
        Some(whole.mul_f64(1.0 - share / 2.0))
    }
}

impl Backoff for Patience {
    fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_few_seconds_and_no_further() {
        let mut patience = Patience::default();
        for whole in [500, 1000, 2000, 4000, 4000, 4000] {
            let pause = patience.next().unwrap();
            let range = Duration::from_millis(whole / 2)..=Duration::from_millis(whole);
            assert!(range.contains(&pause), "{pause:?} is not within {range:?}");
        }
        for _ in 0..100 {
            assert!(patience.next().unwrap() <= LONGEST, "an outage of any length is noticed to be over in time");
        }
        patience.reset();
        assert!(patience.next().unwrap() <= FIRST);
    }

    #[test]
    fn no_two_come_back_at_the_same_moment() {
        let pauses: std::collections::BTreeSet<Duration> =
            (0..50).filter_map(|_| Patience { tries: 10 }.next()).collect();
        assert!(pauses.len() > 20, "{pauses:?}");
    }
}
