//! One evaluation: state and samples in, new state and a decision with its reasons out.
//! Never decides from missing data: no evidence is neither a failure nor a pass.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::config::{Batch, JudgeConfig, Scene, Watch};
use super::state::JudgeState;
use super::witness::{self, Heard, Members, Moment};
use super::{eprocess, guards};
use crate::api::BreachKind;

/// Fewer canary errors than this never roll back, whatever the ratio.
const LEAST_CANARY_ERRORS: u64 = 4;
/// More than this share of requests that the canary's pods never counted: nothing is certified from what they did count.
const MOST_LOST: f64 = 0.3;

/// What the samples say. Least times of steps, weights and deadlines are the planner's.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    RollBack {
        kind: BreachKind,
        /// One line with evidence against its threshold.
        why: String,
    },
    /// The present step is certified.
    Advance,
    Continue,
    /// The step's `maxTime` is over and nothing is decided.
    Inconclusive {
        /// How much more would decide.
        lacks: String,
    },
}

/// Evidence of one objective by one witness, against its thresholds.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// The objective's name, or `gateway`.
    pub name: String,
    /// E and E', each with the threshold.
    pub bad: f64,
    pub bad_threshold: f64,
    pub good: f64,
    pub good_threshold: f64,
    pub phi: f64,
    pub canary_requests: u64,
    pub canary_errors: u64,
    pub stable_requests: u64,
    pub stable_errors: u64,
    /// What was ignored or missing, and why.
    pub notes: Vec<String>,
}

/// When one witness last had a sample of each arm. Zero requests on a scraped pod is sight, and so is masked data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WitnessSight {
    pub stable: Option<Timestamp>,
    pub canary: Option<Timestamp>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    pub pods: WitnessSight,
    pub gateway: WitnessSight,
}

impl Sight {
    /// Until when both arms were seen by at least one witness. `None`: never in this batch.
    pub fn both_arms(&self) -> Option<Timestamp> {
        let stable = self.pods.stable.max(self.gateway.stable)?;
        let canary = self.pods.canary.max(self.gateway.canary)?;
        Some(stable.min(canary))
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Assessment {
    pub decision: Decision,
    pub evidence: Vec<Evidence>,
    /// The combined E (one alpha over objectives and witnesses) against `evidence[..].bad_threshold`.
    pub combined_bad: f64,
    /// Newest sample that is in the evidence.
    pub newest_sample_at: Option<Timestamp>,
    pub sight: Sight,
    /// An `up` sample of a canary pod says that it is scraped.
    pub canary_scraped: bool,
    /// Refuse before any traffic moves: one line each.
    pub config_errors: Vec<String>,
    /// Share of the canary's requests at the gateway that its pods never counted.
    pub lost_share: Option<f64>,
    /// The canary's share of requests as the gateway counted it lately.
    pub observed_share: Option<f64>,
    /// When the next sample can be there: last sample + interval + 50 ms.
    pub next_read_at: Timestamp,
}

impl Assessment {
    /// One line per objective and witness, e.g. `errors: E=3.1 of 100; E'=12 of 20; phi 1.5; 4 canary errors`.
    pub fn reasons(&self) -> Vec<String> {
        self.evidence.iter().map(Evidence::line).collect()
    }
}

impl Evidence {
    pub fn line(&self) -> String {
        let mut line = format!(
            "{}: E={} of {}; E'={} of {}; phi {:.2}; {} canary errors in {} requests (stable {} in {})",
            self.name,
            short(self.bad),
            short(self.bad_threshold),
            short(self.good),
            short(self.good_threshold),
            self.phi,
            self.canary_errors,
            self.canary_requests,
            self.stable_errors,
            self.stable_requests,
        );
        for note in &self.notes {
            line.push_str("; ");
            line.push_str(note);
        }
        line
    }
}

fn short(value: f64) -> String {
    match value {
        v if v >= 1.0e6 => format!("{v:.1e}"),
        v if v >= 100.0 => format!("{v:.0}"),
        v => format!("{v:.1}"),
    }
}

/// Takes the samples after the state's watermarks into the evidence and decides. `now`: up to when the batch was asked
/// for; what was spent on reading it is no time in which samples failed to come.
pub fn assess(
    config: &JudgeConfig,
    state: &JudgeState,
    scene: &Scene,
    batch: &Batch,
    now: Timestamp,
) -> (JudgeState, Assessment) {
    let mut state = state.clone();
    let moment = Moment::of(config, &state, scene, now);
    enter(&mut state, scene, &moment);
    let members = Members::new(config, scene);
    let heard = witness::hear(config, &mut state, &members, batch, &moment);
    let evidence: Vec<Evidence> = heard.iter().map(|h| evidence_of(config, &state, h)).collect();
    // A weighted mean of e-values is an e-value: one alpha over objectives and witnesses.
    let combined_bad = evidence.iter().map(|e| e.bad).sum::<f64>() / evidence.len().max(1) as f64;
    let sight = sight_of(&heard);
    let (lost_share, observed_share) = (guards::lost_share(&heard), guards::observed_share(&heard));
    let decision = match scene.watch {
        Watch::Before => Decision::Continue,
        _ => decide(config, scene, &state, &evidence, combined_bad, &heard, lost_share, now),
    };
    let newest = state.processes.iter().map(|p| p.watermark_ms).filter(|ms| *ms > moment.start).max();
    state.watermark = state.processes.iter().map(|p| p.watermark_ms).min().and_then(at).map(Time);
    let assessment = Assessment {
        decision,
        evidence,
        combined_bad,
        newest_sample_at: newest.and_then(at),
        canary_scraped: heard.iter().any(|h| !h.gateway && h.canary_scraped),
        sight,
        config_errors: config_errors(batch, &heard),
        lost_share,
        observed_share,
        next_read_at: next_read(config, &heard, now),
    };
    (state, assessment)
}

fn at(ms: i64) -> Option<Timestamp> {
    Timestamp::from_millisecond(ms).ok()
}

/// What starts anew: the evidence for going on at each step, everything when baking begins.
fn enter(state: &mut JudgeState, scene: &Scene, moment: &Moment) {
    match scene.watch {
        Watch::Before => {}
        Watch::Canary { step, .. } => {
            if state.step != step || state.step_since_ms != moment.step_since || state.baking {
                state.step = step;
                state.step_since_ms = moment.step_since;
                state.baking = false;
                for process in &mut state.processes {
                    process.log_good.clear();
                    process.step_canary_requests = 0;
                    process.step_canary_errors = 0;
                }
            }
        }
        Watch::Baking { .. } if !state.baking => {
            state.baking = true;
            state.processes.iter_mut().for_each(|p| p.start_baking(moment.start));
        }
        Watch::Baking { .. } => {}
    }
}

fn evidence_of(config: &JudgeConfig, state: &JudgeState, heard: &Heard) -> Evidence {
    let process = state.process(&heard.name).cloned().unwrap_or_default();
    let cap = |log: f64| log.min(690.0).exp();
    Evidence {
        name: heard.name.clone(),
        bad: cap(eprocess::log_bad(&process)),
        bad_threshold: config.threshold_bad(),
        good: cap(eprocess::log_good(&process)),
        good_threshold: config.threshold_good(),
        phi: state.phi(),
        canary_requests: process.canary_requests,
        canary_errors: process.canary_errors,
        stable_requests: process.stable_requests,
        stable_errors: process.stable_errors,
        notes: heard.notes.clone(),
    }
}

#[allow(clippy::too_many_arguments)] // one step of `assess`, split off to be read
fn decide(
    config: &JudgeConfig,
    scene: &Scene,
    state: &JudgeState,
    evidence: &[Evidence],
    combined_bad: f64,
    heard: &[Heard],
    lost_share: Option<f64>,
    now: Timestamp,
) -> Decision {
    if let Some(why) = heard.iter().find_map(|h| h.hard_stop.clone()) {
        return Decision::RollBack { kind: BreachKind::HardStop, why };
    }
    if let Some(why) = heard.iter().find_map(|h| h.burning.clone()) {
        return Decision::RollBack { kind: BreachKind::BurnGuard, why };
    }
    let worst = evidence.iter().max_by(|a, b| a.bad.total_cmp(&b.bad));
    if let Some(worst) = worst
        && combined_bad >= config.threshold_bad()
        && worst.canary_errors >= LEAST_CANARY_ERRORS
    {
        let control = if state.baking { ", against the service's own past (weaker than a canary)" } else { "" };
        let why = format!(
            "combined E={} of {}{control}; {}",
            short(combined_bad),
            short(config.threshold_bad()),
            worst.line()
        );
        return Decision::RollBack { kind: BreachKind::Judge, why };
    }
    let Watch::Canary { since: Some(since), .. } = scene.watch else { return Decision::Continue };
    // Going on is certified by every objective's own counters; the gateway's can only speak against it.
    let lost = lost_share.is_some_and(|share| share > MOST_LOST);
    let objectives: Vec<&Evidence> = heard.iter().zip(evidence).filter(|(h, _)| !h.gateway).map(|(_, e)| e).collect();
    if !objectives.is_empty() && !lost && objectives.iter().all(|e| e.good >= e.good_threshold) {
        return Decision::Advance;
    }
    if since + config.step_max_time.signed() > now {
        return Decision::Continue;
    }
    let mut lacks: Vec<String> = Vec::new();
    if lost {
        let share = lost_share.unwrap_or_default() * 100.0;
        lacks.push(format!("the canary's pods never counted {share:.0} % of the requests that the gateway sent them"));
    }
    for one in objectives.iter().filter(|e| e.good < e.good_threshold) {
        lacks.push(guards::lacks(state, one, since, now));
    }
    Decision::Inconclusive { lacks: lacks.join("; ") }
}

fn sight_of(heard: &[Heard]) -> Sight {
    let newest = |gateway: bool| {
        let of = |pick: fn(&Heard) -> Option<i64>| {
            heard.iter().filter(|h| h.gateway == gateway).filter_map(pick).max().and_then(at)
        };
        WitnessSight { stable: of(|h| h.stable_seen), canary: of(|h| h.canary_seen) }
    };
    Sight { pods: newest(false), gateway: newest(true) }
}

fn config_errors(batch: &Batch, heard: &[Heard]) -> Vec<String> {
    let silent = heard.iter().filter(|h| h.total_matches_nothing).map(|h| {
        format!(
            "objective {}: ratio.total matches no series of the stable pods, though they are scraped: is the metric's name right?",
            h.name
        )
    });
    let mut lines = batch.config_errors.clone();
    lines.extend(silent.filter(|line| !batch.config_errors.contains(line)));
    lines
}

/// Right after the next sample can be there: breach to weight 0 is counted from that sample.
fn next_read(config: &JudgeConfig, heard: &[Heard], now: Timestamp) -> Timestamp {
    const AFTER_SAMPLE_MS: i64 = 50;
    let now_ms = now.as_millisecond();
    let interval = config.interval.signed().as_millis() as i64;
    let soon = now_ms + (interval / 10).clamp(50, 1_000);
    let due = heard.iter().filter_map(|h| h.due).map(|due| due + AFTER_SAMPLE_MS);
    let next = due.map(|due| if due <= now_ms { soon } else { due }).min().unwrap_or(now_ms + interval);
    // However odd the sample times are, it looks at least once an interval.
    at(next.clamp(now_ms + 20, now_ms + interval + AFTER_SAMPLE_MS)).unwrap_or(now)
}
