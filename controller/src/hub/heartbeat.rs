//! Whether a spoke is alive, by the renewals of its Lease as seen on our own monotonic clock: the
//! time that it writes into it is never compared with ours.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Four heartbeats of 5 s: one lost call of ours or theirs is not silence.
pub const SILENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// Renewed within [`SILENCE`].
    Alive,
    Silent,
    /// Seen once since we started, and not long ago: whether it is renewed is not known yet.
    Unknown,
}

#[derive(Clone, Debug)]
struct Seen {
    renewal: String,
    at: Instant,
    renewed: bool,
}

#[derive(Default)]
pub struct Heartbeats {
    seen: Mutex<HashMap<String, Seen>>,
}

impl Heartbeats {
    pub async fn pulse(&self, environment: &str, lease: Option<&Lease>, now: Instant) -> Pulse {
        let renewal = lease.and_then(|l| l.spec.as_ref()?.renew_time.as_ref()).map(|t| t.0.to_string());
        let mut seen = self.seen.lock().await;
        let Some(renewal) = renewal else {
            seen.remove(environment);
            return Pulse::Silent;
        };
        let entry = seen.entry(environment.to_owned()).or_insert_with(|| Seen {
            renewal: renewal.clone(),
            at: now,
            renewed: false,
        });
        if entry.renewal != renewal {
            *entry = Seen { renewal, at: now, renewed: true };
        }
        match (now.saturating_duration_since(entry.at) < SILENCE, entry.renewed) {
            (false, _) => Pulse::Silent,
            (true, true) => Pulse::Alive,
            (true, false) => Pulse::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    use super::*;

    fn lease(second: i64) -> Lease {
        let renew_time = Timestamp::from_second(second).ok().map(MicroTime);
        Lease { spec: Some(LeaseSpec { renew_time, ..LeaseSpec::default() }), ..Lease::default() }
    }

    #[tokio::test]
    async fn a_spoke_lives_by_renewals_that_we_saw_and_not_by_the_time_it_writes() {
        let (beats, start) = (Heartbeats::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(beats.pulse("east", None, start).await, Pulse::Silent);
        // Its clock is a year ahead or behind: no matter.
        assert_eq!(beats.pulse("east", Some(&lease(99_999_999_999)), start).await, Pulse::Unknown);
        assert_eq!(beats.pulse("east", Some(&lease(1)), after(5)).await, Pulse::Alive);
        assert_eq!(beats.pulse("east", Some(&lease(1)), after(24)).await, Pulse::Alive);
        assert_eq!(beats.pulse("east", Some(&lease(1)), after(25)).await, Pulse::Silent);
        assert_eq!(beats.pulse("east", Some(&lease(2)), after(26)).await, Pulse::Alive);
    }

    #[tokio::test]
    async fn a_lease_that_was_there_before_us_and_is_never_renewed_is_silent() {
        let (beats, start) = (Heartbeats::default(), Instant::now());
        assert_eq!(beats.pulse("east", Some(&lease(7)), start).await, Pulse::Unknown);
        assert_eq!(beats.pulse("east", Some(&lease(7)), start + SILENCE).await, Pulse::Silent);
    }
}
