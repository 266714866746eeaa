//! The judge beside a rollout: reads counters as samples arrive, keeps the evidence in memory and tells
//! the newest assessment. A metrics server that hangs delays nobody but itself; decides nothing.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tidegate_pipelines::judge::{
    Assessment, Batch, Decision, JudgeConfig, JudgeState, Pod, RawSeries, Scene, Watch, assess,
};
use tidegate_pipelines::rollout::{JudgeSays, JudgeView, Share};
use tokio::sync::watch;

use super::past::Past;
use crate::clock::{Clock, SharedClock};
use crate::metrics::{MetricsPort, ReadRequest, Taken};

/// Prometheus hands targets that it discovered to its scrapers once in five seconds.
const DISCOVERY: Duration = Duration::from_secs(5);

/// What the rollout tells its judge; a change takes effect at the next reading.
#[derive(Clone, Debug)]
pub struct Question {
    pub config: JudgeConfig,
    pub scene: Scene,
    pub request: ReadRequest,
}

/// What the judge tells its rollout.
#[derive(Clone, Debug)]
pub struct Answer {
    pub watch: Watch,
    pub assessment: Assessment,
    pub state: JudgeState,
    pub share: Share,
    /// Newest moment up to which both arms were seen.
    pub sight: Timestamp,
}

impl Answer {
    /// As the planner takes it, for the step that it is at now: an answer about another step certifies nothing.
    /// `canary`: its pods as they are now.
    pub fn view(&self, watch: Watch, interval: Duration, canary: &[Pod], now: Timestamp) -> JudgeView {
        let same = self.watch == watch;
        let reasons = self.assessment.reasons().join("; ");
        let says = match &self.assessment.decision {
            Decision::RollBack { kind, why } => JudgeSays::RollBack { kind: *kind, why: why.clone() },
            Decision::Advance if same => JudgeSays::Advance { why: reasons },
            Decision::Inconclusive { lacks } if same => JudgeSays::Inconclusive { why: lacks.clone() },
            _ => JudgeSays::Continue { lacks: reasons },
        };
        let age = Duration::try_from(now.duration_since(self.sight)).unwrap_or_default();
        JudgeView {
            says,
            newest_sample_at: self.assessment.newest_sample_at,
            // One sample an interval is all there can be.
            blind_for: if age <= interval * 2 { Duration::ZERO } else { age },
            canary_scraped: self.assessment.canary_scraped,
            canary_young: young(canary, interval, now),
            config_errors: self.assessment.config_errors.clone(),
            state: self.state.clone(),
        }
    }
}

/// Whether even the oldest of these pods may still wait for its first scrape: discovered, and then two intervals.
fn young(pods: &[Pod], interval: Duration, now: Timestamp) -> bool {
    let oldest = pods.iter().map(|pod| pod.since).min();
    let age = oldest.map(|since| Duration::try_from(now.duration_since(since)).unwrap_or_default());
    age.is_none_or(|age| age < DISCOVERY + interval * 2)
}

/// Asks as long as somebody listens. `state` is what the status keeps; what lies between its watermark and
/// now is read again.
pub async fn judge(
    port: Arc<dyn MetricsPort>,
    clock: SharedClock,
    mut questions: watch::Receiver<Option<Question>>,
    answers: watch::Sender<Option<Answer>>,
    state: JudgeState,
) {
    let mut state = state;
    let mut sight = state.watermark().unwrap_or_else(|| clock.now());
    let mut past = Past::new(port.clone(), &state);
    let mut large = false;
    let now = || clock.now();
    loop {
        let question = questions.borrow_and_update().clone();
        let Some(question) = question else {
            past.stop();
            if questions.changed().await.is_err() {
                return;
            }
            continue;
        };
        past.begin(&question, now());
        if question.scene.watch == Watch::Before && past.is_new() {
            // Nothing is at stake yet, and the first evidence shall know how far errors scatter. Later live evidence
            // waits for no past.
            past.ended(&mut state, now).await;
            continue;
        }
        let request = ReadRequest { watermark: state.watermark(), large, ..question.request.clone() };
        let assessed = |state: &JudgeState, taken: &Taken| {
            assess(&question.config, state, &question.scene, &taken.batch, taken.at)
        };
        let mut taken = past.beside(take(&*port, &request, question.scene.watch, &*clock), &mut state, now).await;
        let (mut next, mut assessment) = assessed(&state, &taken);
        // A breach that shows already, by the gateway's word alone, waits for no room for the rest.
        if taken.large && !matches!(assessment.decision, Decision::RollBack { .. }) {
            taken = past.beside(port.rest(&request, taken, &*clock), &mut state, now).await;
            (next, assessment) = assessed(&state, &taken);
        }
        state = next;
        large = taken.large;
        let batch = taken.batch;
        if let Some(seen) = assessment.sight.both_arms() {
            sight = sight.max(seen);
        }
        let pause = pause(assessment.next_read_at, now(), &question.config);
        let share = share(&batch, &question);
        // Not kept over the pause: with many rollouts that is most of the memory.
        drop(batch);
        let answer = Answer { watch: question.scene.watch, assessment, state: state.clone(), share, sight };
        if answers.send(Some(answer)).is_err() {
            return;
        }
        // A new question (the step moved, pods came) is asked at the next sample: nothing new is known before.
        past.beside(tokio::time::sleep(pause), &mut state, now).await;
        if questions.has_changed().is_err() {
            return;
        }
    }
}

/// The live evidence; before any traffic moves, also whether its questions can be right.
async fn take(port: &dyn MetricsPort, request: &ReadRequest, watch: Watch, clock: &dyn Clock) -> Taken {
    let wrong = match watch {
        Watch::Before => port.preflight(request, clock).await.unwrap_or_else(|error| vec![error.to_string()]),
        // Traffic moves already: nobody waits for what cannot be mended any more.
        _ => vec![],
    };
    let mut taken = port.read(request, clock).await;
    for error in wrong {
        if !taken.batch.config_errors.contains(&error) {
            taken.batch.config_errors.push(error);
        }
    }
    taken
}

/// Until the next sample can be there: never a busy loop, never longer than an interval and a bit.
fn pause(next: Timestamp, now: Timestamp, config: &JudgeConfig) -> Duration {
    let wait = Duration::try_from(next.duration_since(now)).unwrap_or_default();
    wait.clamp(Duration::from_millis(20), config.interval.as_duration() + Duration::from_millis(100))
}

/// The canary's share of requests over the last interval: by the gateway's counters where they are, else by
/// the pods' own.
fn share(batch: &Batch, question: &Question) -> Share {
    let (reading, canary) = match &batch.gateway {
        Some(gateway) => (&gateway.total, vec!["canary"]),
        None => match batch.objectives.first() {
            Some(samples) => (&samples.total, question.scene.arms.canary.iter().map(|pod| pod.name.as_str()).collect()),
            None => return Share::Unknown,
        },
    };
    match reading {
        Ok(series) => share_of(series, &canary),
        Err(_) => Share::Unknown,
    }
}

fn share_of(series: &[RawSeries], canary: &[&str]) -> Share {
    let newest = series.iter().filter_map(|s| s.samples.last()).map(|(at, _)| *at).max();
    let Some(newest) = newest else { return Share::Unknown };
    // The sample before the newest one, whichever series has it.
    let base = series.iter().flat_map(|s| &s.samples).map(|(at, _)| *at).filter(|at| *at < newest).max();
    let (Some(base), Ok(at)) = (base, Timestamp::from_millisecond(newest)) else { return Share::Unknown };
    let Ok(from) = Timestamp::from_millisecond(base) else { return Share::Unknown };
    let (mut ours, mut all) = (0.0, 0.0);
    for one in series {
        let grown = growth(&one.samples, base);
        all += grown;
        if canary.contains(&one.of.as_str()) {
            ours += grown;
        }
    }
    if all > 0.0 { Share::Seen { canary: ours / all, from, at } } else { Share::NoTraffic { from } }
}

/// What a counter grew by after `base`; a smaller value is a reset and counts whole.
fn growth(samples: &[(i64, f64)], base: i64) -> f64 {
    let mut grown = 0.0;
    for pair in samples.windows(2) {
        let ((_, before), (at, after)) = (pair[0], pair[1]);
        if at > base && after.is_finite() && before.is_finite() {
            grown += if after >= before { after - before } else { after };
        }
    }
    grown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(of: &str, samples: &[(i64, f64)]) -> RawSeries {
        RawSeries { of: of.into(), source: String::new(), key: String::new(), samples: samples.to_vec() }
    }

    #[test]
    fn pods_are_young_until_discovered_and_twice_an_interval_old() {
        let at = |seconds: i64| Timestamp::from_second(1_000 + seconds).unwrap();
        let pods = |since: &[i64]| -> Vec<Pod> {
            since.iter().map(|since| Pod { name: format!("p{since}"), since: at(*since) }).collect()
        };
        let interval = Duration::from_secs(15);
        assert!(young(&[], interval, at(0)));
        assert!(young(&pods(&[0]), interval, at(34)));
        assert!(!young(&pods(&[0]), interval, at(35)));
        assert!(!young(&pods(&[34, 0]), interval, at(35)), "one that could have been scraped is enough");
    }

    #[test]
    fn the_share_is_that_of_the_newest_interval() {
        let all = [
            series("stable", &[(1000, 100.0), (2000, 190.0), (3000, 265.0)]),
            series("canary", &[(1000, 0.0), (2000, 10.0), (3000, 35.0)]),
        ];
        let seen = share_of(&all, &["canary"]);
        let Share::Seen { canary, from, at } = seen else { panic!("{seen:?}") };
        assert_eq!((canary, from.as_millisecond(), at.as_millisecond()), (0.25, 2000, 3000));
    }

    #[test]
    fn silence_and_no_requests_are_told_apart() {
        assert_eq!(share_of(&[], &["canary"]), Share::Unknown);
        let still = [series("stable", &[(1000, 5.0), (2000, 5.0)])];
        assert!(matches!(share_of(&still, &["canary"]), Share::NoTraffic { .. }));
    }

    #[test]
    fn a_counter_that_began_again_counts_from_zero() {
        assert_eq!(growth(&[(1000, 50.0), (2000, 3.0)], 1000), 3.0);
    }
}
