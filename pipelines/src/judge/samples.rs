//! Raw counter samples of one objective and one witness -> differences between scrapes, grouped into rounds.
//! Raw counters only, never `rate()` or `increase()`: those are extrapolated and no integers.
//!
//! A round ends with the newest sample of the targets that answered in the round before, so that evidence is judged
//! the moment it is complete and not at a tick of ours. What a round holds follows from the samples and the watermark
//! alone: read again after a restart, the same samples give the same rounds.

use std::collections::{BTreeMap, BTreeSet};

use super::config::RawSeries;
use super::eprocess::Counts;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Arm {
    Stable,
    Canary,
}

/// To which arm samples belong, and until when (Unix milliseconds) they are masked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    pub arm: Arm,
    pub masked_until: i64,
}

/// A difference of one series between two scrapes.
#[derive(Clone, Copy, Debug)]
struct Delta {
    at: i64,
    from: i64,
    member: Member,
    error: bool,
    amount: f64,
}

/// Requests and errors between two watermarks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Round {
    pub from: i64,
    pub to: i64,
    /// Without masked pods.
    pub counts: Counts,
}

/// All that one witness says of one objective, in order of time.
#[derive(Debug, Default)]
pub(crate) struct Tape {
    deltas: Vec<Delta>,
    /// Scrape times with the target's index.
    ticks: Vec<(i64, usize)>,
    /// Newest successful scrape of each arm.
    pub stable_seen: Option<i64>,
    pub canary_seen: Option<i64>,
    /// Whether any total series of a stable member is there.
    pub stable_matches: bool,
    pub notes: Vec<String>,
}

/// Above it a double no longer tells one request from the next.
pub const LARGEST_COUNT: u64 = 1 << 53;

/// Why samples were left out, counted so that a note is one line.
#[derive(Default)]
struct Rejected {
    not_finite: usize,
    negative: usize,
    huge: usize,
    doubled: usize,
    future: usize,
    backwards: usize,
}

impl Rejected {
    fn notes(&self) -> Vec<String> {
        [
            (self.not_finite, "samples are NaN or infinite"),
            (self.negative, "samples of a counter are negative"),
            (self.huge, "samples are too large to be counts"),
            (self.doubled, "samples have the time of another"),
            (self.future, "samples are from the future: the clocks disagree"),
            (self.backwards, "samples are out of order"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("ignored: {count} {what}"))
        .collect()
    }

    fn clean(&mut self, samples: &[(i64, f64)], newest_allowed: i64) -> Vec<(i64, f64)> {
        let mut kept: Vec<(i64, f64)> = Vec::with_capacity(samples.len());
        for &(t, value) in samples {
            let previous = kept.last().map(|(t, _)| *t);
            if !value.is_finite() {
                self.not_finite += 1;
            } else if value < 0.0 {
                self.negative += 1;
            } else if value > LARGEST_COUNT as f64 {
                self.huge += 1;
            } else if t > newest_allowed {
                self.future += 1;
            } else if previous == Some(t) {
                self.doubled += 1;
            } else if previous.is_some_and(|p| t < p) {
                self.backwards += 1;
            } else {
                kept.push((t, value));
            }
        }
        kept
    }
}

/// One target's successful scrapes.
#[derive(Default)]
struct Target {
    index: usize,
    scrapes: BTreeSet<i64>,
    /// Also those that failed (`up` is 0): the round need not wait for them.
    answered: BTreeSet<i64>,
    has_total: bool,
    of: String,
}

impl Tape {
    /// `member` says who counts; samples of others are not looked at. `newest_allowed`: anything later is a lie.
    pub fn new(
        total: &[RawSeries],
        errors: &[RawSeries],
        up: &[RawSeries],
        member: impl Fn(&str) -> Option<Member>,
        newest_allowed: i64,
    ) -> Tape {
        let mut tape = Tape::default();
        let mut rejected = Rejected::default();
        let mut targets: BTreeMap<&str, Target> = BTreeMap::new();
        let mut series = Vec::new();
        for (list, error) in [(total, false), (errors, true)] {
            for one in list {
                let Some(member) = member(&one.of) else { continue };
                let samples = rejected.clean(&one.samples, newest_allowed);
                let target = targets.entry(&one.source).or_default();
                target.of.clone_from(&one.of);
                if !error {
                    target.has_total = true;
                    target.scrapes.extend(samples.iter().map(|(t, _)| *t));
                    target.answered.extend(samples.iter().map(|(t, _)| *t));
                    tape.stable_matches |= member.arm == Arm::Stable;
                }
                series.push((one, member, error, samples));
            }
        }
        for one in up {
            if member(&one.of).is_none() {
                continue;
            }
            let samples = rejected.clean(&one.samples, newest_allowed);
            let target = targets.entry(&one.source).or_default();
            target.of.clone_from(&one.of);
            target.answered.extend(samples.iter().map(|(t, _)| *t));
            target.scrapes.extend(samples.iter().filter(|(_, v)| *v > 0.0).map(|(t, _)| *t));
        }
        for (one, member, error, samples) in &series {
            let scrapes = targets.get(one.source.as_str()).map(|t| &t.scrapes);
            tape.difference(samples, *member, *error, scrapes);
        }
        tape.deltas.sort_by_key(|d| d.at);
        tape.watch(targets, member);
        tape.notes = rejected.notes();
        tape
    }

    fn difference(&mut self, samples: &[(i64, f64)], member: Member, error: bool, scrapes: Option<&BTreeSet<i64>>) {
        let mut push = |from: i64, at: i64, amount: f64| {
            let amount = amount.round();
            if amount > 0.0 {
                self.deltas.push(Delta { at, from, member, error, amount });
            }
        };
        // A series that appears on a target already scraped starts from 0; a target never scraped gives no delta.
        if let Some(&(at, value)) = samples.first()
            && let Some(&before) = scrapes.and_then(|s| s.range(..at).next_back())
        {
            push(before, at, value);
        }
        for pair in samples.windows(2) {
            let [(from, before), (at, value)] = [pair[0], pair[1]];
            // A counter that fell was reset: what it shows was counted since.
            push(from, at, if value >= before { value - before } else { value });
        }
    }

    fn watch(&mut self, targets: BTreeMap<&str, Target>, member: impl Fn(&str) -> Option<Member>) {
        let with_total: BTreeSet<String> = targets.values().filter(|t| t.has_total).map(|t| t.of.clone()).collect();
        for (index, mut target) in targets.into_values().enumerate() {
            target.index = index;
            let Some(member) = member(&target.of) else { continue };
            let seen = match member.arm {
                Arm::Stable => &mut self.stable_seen,
                Arm::Canary => &mut self.canary_seen,
            };
            *seen = (*seen).max(target.scrapes.last().copied());
            // A sidecar's target says nothing of requests: waiting for it would only delay the round.
            if target.has_total || !with_total.contains(&target.of) {
                self.ticks.extend(target.answered.iter().map(|t| (*t, target.index)));
            }
        }
        self.ticks.sort_unstable();
    }

    /// Complete rounds after `watermark`, and when the next one can be complete (Unix milliseconds).
    pub fn rounds(&self, watermark: i64, now: i64, interval: i64) -> (Vec<Round>, Option<i64>) {
        let patience = interval + interval / 2;
        // Scrapes carry the time of their start: one that is slow may still come.
        let settle = (interval / 2).min(1_000);
        let mut rounds = Vec::new();
        let mut from = watermark;
        loop {
            let expected: BTreeSet<usize> = self.between(from - patience, from).map(|(_, target)| *target).collect();
            let mut seen: BTreeSet<usize> = BTreeSet::new();
            let mut last = None;
            let mut close = None;
            let mut deadline = from + patience;
            for &(t, target) in self.between(from, i64::MAX) {
                if last.is_none() {
                    // After a gap, or at the start, the first sample opens the round.
                    deadline = if t > deadline || expected.is_empty() { t + interval - 1 } else { deadline };
                } else if t > deadline {
                    close = last;
                    break;
                }
                // All samples of one time belong to one round.
                if close.is_some_and(|c| t > c) {
                    break;
                }
                last = Some(t);
                seen.insert(target);
                if !expected.is_empty() && expected.is_subset(&seen) {
                    close = last;
                }
            }
            if close.is_none() && last.is_some() && now >= deadline + settle {
                close = last;
            }
            let Some(to) = close else {
                let due = expected.iter().filter(|e| !seen.contains(e)).filter_map(|e| self.last_tick(*e)).max();
                let due = due.or_else(|| self.ticks.last().map(|(t, _)| *t)).map(|t| t + interval);
                return (rounds, due);
            };
            rounds.push(Round { from, to, counts: self.counts(from, to, false) });
            from = to;
        }
    }

    fn between(&self, after: i64, until: i64) -> impl Iterator<Item = &(i64, usize)> {
        let start = self.ticks.partition_point(|(t, _)| *t <= after);
        self.ticks[start..].iter().take_while(move |(t, _)| *t <= until)
    }

    fn last_tick(&self, target: usize) -> Option<i64> {
        self.ticks.iter().rev().find(|(_, index)| *index == target).map(|(t, _)| *t)
    }

    pub fn newest(&self) -> Option<i64> {
        self.ticks.last().map(|(t, _)| *t)
    }

    pub fn oldest(&self) -> Option<i64> {
        self.ticks.first().map(|(t, _)| *t)
    }

    /// Sums of the differences in (from, to].
    pub fn counts(&self, from: i64, to: i64, with_masked: bool) -> Counts {
        let mut counts = Counts::default();
        let start = self.deltas.partition_point(|d| d.at <= from);
        for delta in self.deltas[start..].iter().take_while(|d| d.at <= to) {
            if !with_masked && delta.from < delta.member.masked_until {
                continue;
            }
            let sum = match (delta.member.arm, delta.error) {
                (Arm::Stable, false) => &mut counts.stable_requests,
                (Arm::Stable, true) => &mut counts.stable_errors,
                (Arm::Canary, false) => &mut counts.canary_requests,
                (Arm::Canary, true) => &mut counts.canary_errors,
            };
            *sum += delta.amount;
        }
        counts
    }

    /// Requests of the canary that the mask left out in (from, to].
    pub fn masked(&self, from: i64, to: i64) -> f64 {
        self.counts(from, to, true).canary_requests - self.counts(from, to, false).canary_requests
    }
}
