//! What each witness says in one evaluation: its rounds go into its process, the rest is told.
//! Never decides; a reading that failed leaves its process as it was.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::config::{Batch, JudgeConfig, ObjectiveSamples, Pod, RawSeries, Scene, Watch};
use super::eprocess::{self, Counts};
use super::guards;
use super::samples::{Arm, LARGEST_COUNT, Member, Tape};
use super::state::{JudgeState, ProcessState};

/// Name of the process over the gateway's counters.
pub const GATEWAY: &str = "gateway";
/// Beyond this the metrics server's clock and ours disagree.
const FUTURE_MS: i64 = 5_000;
/// Drift that the service's own past does not show: while baking the canary must be worse than this many times.
const BAKING_MARGIN: f64 = 1.5;

/// The times of one evaluation in Unix milliseconds.
pub(crate) struct Moment {
    pub now: i64,
    pub interval: i64,
    /// Where a process starts that has seen nothing yet.
    pub start: i64,
    /// Since when the present step is certified; `i64::MAX` while its weight has not been seen.
    pub step_since: i64,
    pub before: bool,
    pub baking: bool,
}

impl Moment {
    pub fn of(config: &JudgeConfig, state: &JudgeState, scene: &Scene, now: Timestamp) -> Self {
        let now = now.as_millisecond();
        let interval = (config.interval.signed().as_millis() as i64).max(100);
        let (start, step_since) = match scene.watch {
            Watch::Before => (now, i64::MAX),
            Watch::Canary { since, .. } => {
                let since = since.map(|t| t.as_millisecond());
                (since.unwrap_or(now), since.unwrap_or(i64::MAX))
            }
            Watch::Baking { since } => (since.as_millisecond(), i64::MAX),
        };
        // A process that starts late (a witness that was silent) starts where the others did.
        let started = state.processes.iter().map(|p| p.started_ms).min();
        let start = if matches!(scene.watch, Watch::Canary { .. }) { started.unwrap_or(start) } else { start };
        Moment {
            now,
            interval,
            start,
            step_since,
            before: scene.watch == Watch::Before,
            baking: matches!(scene.watch, Watch::Baking { .. }),
        }
    }
}

/// Who counts for which arm. Pods that the API server does not know are nobody.
pub(crate) struct Members {
    pods: BTreeMap<String, Member>,
    gateway_masked_until: i64,
    baking: bool,
}

impl Members {
    pub fn new(config: &JudgeConfig, scene: &Scene) -> Self {
        let mask = config.mask.signed().as_millis() as i64;
        let lag = config.gateway_lag.signed().as_millis() as i64;
        let baking = matches!(scene.watch, Watch::Baking { .. });
        let until = |pod: &Pod| pod.since.as_millisecond() + mask;
        // While baking, stable's pods are the version that is judged.
        let stable = if baking { Arm::Canary } else { Arm::Stable };
        let mut pods = BTreeMap::new();
        for pod in &scene.arms.stable {
            pods.insert(pod.name.clone(), Member { arm: stable, masked_until: until(pod) });
        }
        for pod in scene.arms.canary.iter().filter(|_| !baking) {
            pods.insert(pod.name.clone(), Member { arm: Arm::Canary, masked_until: until(pod) });
        }
        // The gateway cannot tell a canary's young pods from its old ones.
        let judged = if baking { &scene.arms.stable } else { &scene.arms.canary };
        let gateway_masked_until = judged.iter().map(until).max().map_or(i64::MIN, |t| t + lag);
        Members { pods, gateway_masked_until, baking }
    }

    fn pod(&self, name: &str) -> Option<Member> {
        self.pods.get(name).copied()
    }

    fn backend(&self, name: &str) -> Option<Member> {
        let arm = match (name, self.baking) {
            ("stable", false) => Arm::Stable,
            ("canary", false) | ("stable", true) => Arm::Canary,
            _ => return None,
        };
        Some(Member { arm, masked_until: self.gateway_masked_until })
    }
}

/// What one process heard.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub name: String,
    pub gateway: bool,
    pub notes: Vec<String>,
    pub stable_seen: Option<i64>,
    pub canary_seen: Option<i64>,
    pub canary_scraped: bool,
    pub total_matches_nothing: bool,
    pub hard_stop: Option<String>,
    pub burning: Option<String>,
    /// Both arms over the recent window, masked pods too.
    pub recent: Counts,
    /// The newest interval alone.
    pub newest: Counts,
    pub due: Option<i64>,
}

/// Every witness of every objective, in the config's order, the gateway last.
pub(crate) fn hear(
    config: &JudgeConfig,
    state: &mut JudgeState,
    members: &Members,
    batch: &Batch,
    moment: &Moment,
) -> Vec<Heard> {
    let nothing: Vec<RawSeries> = Vec::new();
    let up = batch.up.as_ref().unwrap_or(&nothing);
    let mut heard = Vec::new();
    for (index, (name, _)) in config.objectives.iter().enumerate() {
        let mut one = match batch.objectives.get(index) {
            Some(samples) => listen(config, state, name, samples, up, &|of| members.pod(of), moment, false),
            None => silent(name, false, "not read"),
        };
        if let Err(why) = &batch.up {
            one.notes.push(format!("up: {why}"));
        }
        heard.push(one);
    }
    if config.gateway {
        heard.push(match &batch.gateway {
            Some(samples) => listen(config, state, GATEWAY, samples, &[], &|of| members.backend(of), moment, true),
            None => silent(GATEWAY, true, "not read"),
        });
    }
    heard
}

fn silent(name: &str, gateway: bool, why: &str) -> Heard {
    Heard { name: name.to_owned(), gateway, notes: vec![why.to_owned()], ..Heard::default() }
}

#[allow(clippy::too_many_arguments)] // the two witnesses differ in exactly these
fn listen(
    config: &JudgeConfig,
    state: &mut JudgeState,
    name: &str,
    samples: &ObjectiveSamples,
    up: &[RawSeries],
    member: &dyn Fn(&str) -> Option<Member>,
    moment: &Moment,
    gateway: bool,
) -> Heard {
    let (total, errors) = match (&samples.total, &samples.errors) {
        (Ok(total), Ok(errors)) => (total, errors),
        // No data is no evidence. Yet `up` still tells whether the arms are seen.
        (Err(why), _) | (_, Err(why)) => {
            let tape = Tape::new(&[], &[], up, member, moment.now + FUTURE_MS);
            let mut heard = silent(name, gateway, why);
            tell(&mut heard, &tape, up, moment);
            return heard;
        }
    };
    let tape = Tape::new(total, errors, up, member, moment.now + FUTURE_MS);
    let mut heard = Heard { name: name.to_owned(), gateway, notes: tape.notes.clone(), ..Heard::default() };
    tell(&mut heard, &tape, up, moment);
    heard.total_matches_nothing = moment.before && !gateway && !tape.stable_matches && tape.stable_seen.is_some();
    if moment.before {
        return heard;
    }
    let phi = state.phi();
    let baking = state.baking;
    let process = slot(&mut state.processes, name, moment.start);
    if process.watermark_ms > moment.now + FUTURE_MS {
        heard.notes.push("the clock jumped back: waiting until it reaches the last sample again".to_owned());
        return heard;
    }
    let (rounds, due) = tape.rounds(process.watermark_ms, moment.now, moment.interval);
    heard.due = due;
    for round in rounds {
        let counts = if baking { against_past(process, round.counts) } else { round.counts };
        if counts.canary_requests > 0.0 {
            let margin = if baking { config.margin.max(BAKING_MARGIN) } else { config.margin };
            eprocess::step_bad(process, counts, margin, phi, config.planned_scrapes);
            if !baking && round.from >= moment.step_since {
                eprocess::step_good(process, counts, phi);
                add(&mut process.step_canary_requests, counts.canary_requests);
                add(&mut process.step_canary_errors, counts.canary_errors);
            }
        }
        add(&mut process.canary_requests, round.counts.canary_requests);
        add(&mut process.canary_errors, round.counts.canary_errors);
        add(&mut process.stable_requests, round.counts.stable_requests);
        add(&mut process.stable_errors, round.counts.stable_errors);
        process.watermark_ms = round.to;
    }
    let window = (process.watermark_ms - guards::window_ms(moment.interval)).max(process.started_ms);
    heard.recent = tape.counts(window, process.watermark_ms, true);
    heard.hard_stop = guards::hard_stop(name, heard.recent, process);
    let target = config.objectives.iter().find(|(n, _)| n == name).map(|(_, target)| *target);
    heard.burning = target.and_then(|t| guards::burn_guard(name, t, heard.recent, heard.newest, process));
    let masked = tape.masked(window, process.watermark_ms);
    if masked > 0.0 {
        heard.notes.push(format!("{masked:.0} requests of young pods masked"));
    }
    heard
}

fn tell(heard: &mut Heard, tape: &Tape, up: &[RawSeries], moment: &Moment) {
    heard.stable_seen = tape.stable_seen;
    heard.canary_seen = tape.canary_seen;
    let fresh = moment.now - 3 * moment.interval - FUTURE_MS;
    heard.canary_scraped = tape.canary_seen.is_some_and(|t| t >= fresh);
    if heard.gateway || moment.baking {
        // One gateway counts for both arms: a backend without requests has no series, yet is seen.
        // While baking there is one arm.
        let seen = tape.stable_seen.max(tape.canary_seen);
        (heard.stable_seen, heard.canary_seen) = (seen, seen);
    }
    if !heard.gateway && up.is_empty() && tape.newest().is_none() {
        heard.notes.push("no samples of any pod of ours".to_owned());
    }
    if let Some(newest) = tape.newest() {
        heard.newest = tape.counts(newest - moment.interval - moment.interval / 2, newest, true);
    }
}

/// What is kept is told in a status, whose numbers end where a double's do.
fn add(sum: &mut u64, amount: f64) {
    *sum = sum.saturating_add(amount as u64).min(LARGEST_COUNT);
}

/// The service's own past as a control with as many requests as this round, its error rate taken at the upper end of
/// what it may have been. A known rate in place of a second arm keeps each step's mean at most one.
fn against_past(process: &ProcessState, now: Counts) -> Counts {
    let (requests, errors) =
        (process.past_requests.unwrap_or_default() as f64, process.past_errors.unwrap_or_default() as f64);
    if requests <= 0.0 {
        return Counts { stable_requests: 0.0, stable_errors: 0.0, ..now };
    }
    let rate = ((errors + 2.0 * (errors + 1.0).sqrt()) / requests).min(1.0);
    Counts { stable_requests: now.canary_requests, stable_errors: now.canary_requests * rate, ..now }
}

fn slot<'a>(processes: &'a mut Vec<ProcessState>, name: &str, start: i64) -> &'a mut ProcessState {
    let index = processes.iter().position(|p| p.name == name).unwrap_or_else(|| {
        processes.push(ProcessState::new(name, start));
        processes.len() - 1
    });
    &mut processes[index]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_end_where_a_status_can_hold_them() {
        let mut sum = LARGEST_COUNT - 1;
        add(&mut sum, 5e15);
        add(&mut sum, 1e300);
        assert_eq!(sum, LARGEST_COUNT);
    }
}
