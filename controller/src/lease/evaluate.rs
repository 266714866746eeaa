//! What a candidate for leadership does next: pure, over what it saw and when it first saw it on
//! its own monotonic clock. Never compares another process's wall clock with ours, and never
//! reads a clock.

use std::time::Duration;

use tokio::time::Instant;

/// Times of the election; client-go's proportions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long an unrenewed lease is respected by others.
    pub duration: Duration,
    /// A holder that could not renew for this long stops: it must be well below `duration`, so that
    /// it has stopped before anyone else may begin.
    pub renew_deadline: Duration,
    /// Pause between tries.
    pub retry: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Terms {
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// The lease as the API server last told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// None or empty: given up by its holder.
    pub holder: Option<String>,
    /// How long its holder asked others to respect it.
    pub duration: Duration,
    /// Changes with every write, so "the same record" needs no look at the holder's clock.
    pub version: String,
}

/// Under which names a candidate may find itself in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names<'a> {
    /// A fresh UUID for each candidacy.
    pub me: &'a str,
    /// The same process in a tenure that it has ended, with every task of it.
    pub former: Option<&'a str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write ourselves in as holder.
    Acquire,
    /// Write a new renew time.
    Renew,
    /// Look again after this long.
    Wait(Duration),
    /// Stop writing anything; says why.
    StepDown(&'static str),
}

/// `observed` is the record and when this very version of it was first seen; `renewed` is when the
/// last write of ours that succeeded was *sent* (none: we do not lead).
pub fn evaluate(
    observed: Option<(&Record, Instant)>,
    renewed: Option<Instant>,
    now: Instant,
    Names { me, former }: Names<'_>,
    terms: &Terms,
) -> Step {
    if renewed.is_some_and(|at| now.saturating_duration_since(at) >= terms.renew_deadline) {
        return Step::StepDown("the lease could not be renewed in time");
    }
    let leading = renewed.is_some();
    let Some((record, first_seen)) = observed else {
        // Whoever deleted it may have let another make it: on doubt we do not lead.
        return if leading { Step::StepDown("the lease is gone") } else { Step::Acquire };
    };
    match record.holder.as_deref().unwrap_or_default() {
        // Our identity is a fresh UUID, so a record that names us is from a write of ours whose answer was lost.
        holder if holder == me => Step::Renew,
        _ if leading => Step::StepDown("another process holds the lease"),
        "" => Step::Acquire,
        // Ours to give up, which did not arrive: nobody of that name writes any more.
        holder if Some(holder) == former => Step::Acquire,
        _ => {
            let respected = record.duration.max(terms.duration);
            let watched = now.saturating_duration_since(first_seen);
            match respected.checked_sub(watched) {
                None | Some(Duration::ZERO) => Step::Acquire,
                Some(left) => Step::Wait(left.min(terms.retry)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: &str) -> Record {
        Record { holder: Some(holder.into()), duration: Duration::from_secs(15), version: "1".into() }
    }

    #[test]
    fn a_foreign_lease_is_respected_until_it_went_unrenewed_for_its_whole_duration_on_our_clock() {
        let terms = Terms::default();
        let start = Instant::now();
        let other = held_by("other");
        for (after, expected) in [
            (0, Step::Wait(Duration::from_secs(2))),
            (14, Step::Wait(Duration::from_secs(1))),
            (15, Step::Acquire),
            (400, Step::Acquire),
        ] {
            let now = start + Duration::from_secs(after);
            assert_eq!(evaluate(Some((&other, start)), None, now, called("me"), &terms), expected, "{after} s");
        }
    }

    fn called(me: &str) -> Names<'_> {
        Names { me, former: None }
    }

    #[test]
    fn who_led_before_in_this_very_process_is_succeeded_at_once_and_nobody_else() {
        let (terms, start) = (Terms::default(), Instant::now());
        let heir = Names { me: "me", former: Some("before") };
        let taken = |holder: &str| evaluate(Some((&held_by(holder), start)), None, start, heir, &terms);
        assert_eq!(taken("before"), Step::Acquire);
        assert!(matches!(taken("other"), Step::Wait(_)), "another replica leads meanwhile");
        // Leading already, the old name in the record is somebody's restored backup: on doubt nobody leads.
        let leading = evaluate(Some((&held_by("before"), start)), Some(start), start, heir, &terms);
        assert!(matches!(leading, Step::StepDown(_)));
    }

    #[test]
    fn a_holder_that_asked_for_longer_gets_longer() {
        let start = Instant::now();
        let mut other = held_by("other");
        other.duration = Duration::from_secs(60);
        let now = start + Duration::from_secs(59);
        assert!(matches!(evaluate(Some((&other, start)), None, now, called("me"), &Terms::default()), Step::Wait(_)));
    }

    #[test]
    fn what_is_free_is_taken_and_what_is_ours_is_renewed() {
        let (now, terms) = (Instant::now(), Terms::default());
        assert_eq!(evaluate(None, None, now, called("me"), &terms), Step::Acquire);
        assert_eq!(evaluate(Some((&held_by(""), now)), None, now, called("me"), &terms), Step::Acquire);
        assert_eq!(evaluate(Some((&held_by("me"), now)), Some(now), now, called("me"), &terms), Step::Renew);
        // The answer to our acquiring write was lost.
        assert_eq!(evaluate(Some((&held_by("me"), now)), None, now, called("me"), &terms), Step::Renew);
    }

    #[test]
    fn a_leader_in_doubt_steps_down() {
        let (start, terms) = (Instant::now(), Terms::default());
        let late = start + Duration::from_secs(10);
        let cases = [
            (evaluate(Some((&held_by("me"), start)), Some(start), late, called("me"), &terms), "unrenewed for 10 s"),
            (evaluate(Some((&held_by("other"), start)), Some(start), start, called("me"), &terms), "taken by another"),
            (evaluate(Some((&held_by(""), start)), Some(start), start, called("me"), &terms), "emptied by another"),
            (evaluate(None, Some(start), start, called("me"), &terms), "deleted"),
        ];
        for (step, case) in cases {
            assert!(matches!(step, Step::StepDown(_)), "{case}: {step:?}");
        }
    }

    #[test]
    fn two_candidates_never_lead_at_once() {
        // The old leader's last successful write was sent at 0; it must have stopped before the other,
        // who saw that write at the earliest at 0 too, may acquire.
        let (start, terms) = (Instant::now(), Terms::default());
        let old = held_by("old");
        for tenths in 0..300 {
            let now = start + Duration::from_millis(tenths * 100);
            let stopped =
                matches!(evaluate(Some((&old, start)), Some(start), now, called("old"), &terms), Step::StepDown(_));
            let taken = evaluate(Some((&old, start)), None, now, called("new"), &terms) == Step::Acquire;
            assert!(stopped || !taken, "both lead after {tenths} tenths of a second");
        }
    }
}
