//! The past of one rollout's stable pods, read beside the live evidence: it delays none, and its failure is none of
//! theirs. What cannot be read is asked for again, ever more seldom; until then the judge takes its careful default.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use tidegate_pipelines::judge::{JudgeState, LookBack, Watch, look_back};

use super::evidence::Question;
use crate::metrics::MetricsPort;

/// After the first failure; doubled up to the longest. An hour of samples that nobody can give is asked for seldom.
const FIRST_AGAIN: SignedDuration = SignedDuration::from_secs(10);
const LONGEST_AGAIN: SignedDuration = SignedDuration::from_secs(300);

pub(super) struct Past {
    port: Arc<dyn MetricsPort>,
    reading: Option<BoxFuture<'static, LookBack>>,
    /// All of it could be read, now or before a restart.
    known: bool,
    failures: u32,
    not_before: Option<Timestamp>,
}

impl Past {
    pub fn new(port: Arc<dyn MetricsPort>, state: &JudgeState) -> Self {
        Past { port, reading: None, known: state.past_known, failures: 0, not_before: None }
    }

    /// Begins to read if it is still to be read and the time has come.
    pub fn begin(&mut self, question: &Question, now: Timestamp) {
        let early = self.not_before.is_some_and(|then| now < then);
        // While baking, stable's pods are new ones: they have no past.
        let baking = matches!(question.scene.watch, Watch::Baking { .. });
        let wanted = question.request.history_until.is_some();
        if self.known || self.reading.is_some() || early || baking || !wanted {
            return;
        }
        let (port, question) = (self.port.clone(), question.clone());
        // Hours of samples are not kept: what they say is a few numbers.
        self.reading = Some(
            async move { look_back(&question.config, &question.scene, &port.past(&question.request).await) }.boxed(),
        );
    }

    /// Whether the first attempt is under way.
    pub fn is_new(&self) -> bool {
        self.reading.is_some() && self.failures == 0
    }

    /// Nobody polls it any more: it must not keep its place among the readings.
    pub fn stop(&mut self) {
        self.reading = None;
    }

    /// Until the attempt under way has ended, well or not; what it said goes into what is kept of the judge.
    pub async fn ended(&mut self, state: &mut JudgeState, now: impl Fn() -> Timestamp) {
        if let Some(reading) = &mut self.reading {
            let found = reading.await;
            self.heard(found, state, now());
        }
    }

    /// Does `work`, and goes on reading while that takes.
    pub async fn beside<T>(
        &mut self,
        work: impl Future<Output = T>,
        state: &mut JudgeState,
        now: impl Fn() -> Timestamp,
    ) -> T {
        let mut work = std::pin::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = self.ended(state, now), if self.reading.is_some() => {}
        }
        work.await
    }

    fn heard(&mut self, found: LookBack, state: &mut JudgeState, now: Timestamp) {
        self.reading = None;
        found.remember(state);
        self.known = state.past_known;
        if !self.known {
            let again = FIRST_AGAIN.saturating_mul(1 << self.failures.min(5)).min(LONGEST_AGAIN);
            self.not_before = now.checked_add(again).ok();
            self.failures += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicI64, Ordering};

    use async_trait::async_trait;
    use tidegate_pipelines::judge::{
        Arms, Batch, Decision, JudgeConfig, ObjectiveSamples, Pod, RawSeries, Reading, Scene,
    };
    use tokio::sync::{Mutex, watch};

    use super::*;
    use crate::clock::Clock;
    use crate::metrics::{MetricsError, ReadRequest, Taken};
    use crate::spoke::evidence::{Answer, judge};

    const NOW: i64 = 1_700_000_000;

    struct Hand(AtomicI64);

    impl Clock for Hand {
        fn now(&self) -> Timestamp {
            at(self.0.load(Ordering::Relaxed))
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(NOW + seconds).unwrap()
    }

    /// Pasts in the order in which they are given; none any more: it hangs. A live reading takes `slow` seconds.
    struct Port {
        pasts: Mutex<VecDeque<Reading>>,
        clock: Arc<Hand>,
        slow: i64,
    }

    #[async_trait]
    impl MetricsPort for Port {
        async fn read(&self, _: &ReadRequest, clock: &dyn Clock) -> Taken {
            let at = clock.now();
            let ms = at.as_millisecond();
            let up = |pod: &str| RawSeries {
                of: pod.into(),
                source: pod.into(),
                key: String::new(),
                samples: vec![(ms - 1_000, 1.0), (ms, 1.0)],
            };
            self.clock.0.fetch_add(self.slow, Ordering::Relaxed);
            let objectives = vec![ObjectiveSamples { total: Ok(vec![]), errors: Ok(vec![]) }];
            let batch = Batch { objectives, up: Ok(vec![up("s"), up("c")]), gateway: None, config_errors: vec![] };
            Taken { batch, at, large: false }
        }

        async fn past(&self, _: &ReadRequest) -> Vec<ObjectiveSamples> {
            let Some(total) = self.pasts.lock().await.pop_front() else { return std::future::pending().await };
            vec![ObjectiveSamples { total, errors: Ok(vec![]) }]
        }

        async fn preflight(&self, _: &ReadRequest, _: &dyn Clock) -> Result<Vec<String>, MetricsError> {
            Ok(vec![])
        }
    }

    fn port(pasts: impl IntoIterator<Item = Reading>, slow: i64) -> Arc<Port> {
        let clock = Arc::new(Hand(AtomicI64::new(0)));
        Arc::new(Port { pasts: Mutex::new(pasts.into_iter().collect()), clock, slow })
    }

    fn question(watch: Watch) -> Question {
        let source: tidegate_pipelines::api::MetricsSource =
            serde_json::from_value(serde_json::json!({"prometheus": "http://p", "scrapeInterval": "1s"})).unwrap();
        let objectives: Vec<tidegate_pipelines::api::Objective> = serde_json::from_value(
            serde_json::json!([{"name": "errors", "target": 0.9, "ratio": {"total": "x_total", "errors": "y_total"}}]),
        )
        .unwrap();
        let strategy = serde_json::from_value(serde_json::json!({})).unwrap();
        let pod = |name: &str| Pod { name: name.into(), since: at(-600) };
        let arms = Arms { stable: vec![pod("s")], canary: vec![pod("c")] };
        Question {
            config: JudgeConfig::new(&strategy, &objectives, 1.0, source.scrape_interval, None),
            scene: Scene { arms: arms.clone(), watch },
            request: ReadRequest {
                source,
                namespace: "portal".into(),
                objectives,
                arms,
                stable_service: "portal".into(),
                canary_service: "portal-canary".into(),
                service_port: 80,
                watermark: None,
                large: false,
                history_until: Some(at(0)),
            },
        }
    }

    fn canary() -> Watch {
        Watch::Canary { step: 1, since: Some(at(-60)) }
    }

    /// The judge's first answer about `watch`.
    async fn answered(port: Arc<Port>, watch: Watch) -> Answer {
        let (_asks, asked) = watch::channel(Some(question(watch)));
        let (answers, mut answered) = watch::channel(None);
        tokio::select! {
            () = judge(port.clone(), port.clock.clone(), asked, answers, JudgeState::default()) => unreachable!(),
            _ = answered.changed() => {}
        }
        answered.borrow().clone().unwrap()
    }

    #[tokio::test]
    async fn a_past_that_could_not_be_read_is_asked_for_again_and_ever_more_seldom() {
        let away = || Err("metrics: HTTP 503: away".to_owned());
        let port = port([away(), away(), Ok(vec![])], 0);
        let (question, mut state) = (question(canary()), JudgeState::default());
        let mut past = Past::new(port, &state);
        for (begins, too_early) in [(0, 9), (10, 29)] {
            past.begin(&question, at(begins));
            assert!(past.reading.is_some(), "{begins}");
            past.ended(&mut state, || at(begins)).await;
            assert_eq!(state.phi, Some(1.5));
            assert!(state.phi_note.as_ref().unwrap().contains("HTTP 503"), "{state:?}");
            past.begin(&question, at(too_early));
            assert!(past.reading.is_none(), "{too_early}");
        }
        past.begin(&question, at(30));
        past.ended(&mut state, || at(30)).await;
        assert!(!state.phi_note.as_ref().unwrap().contains("HTTP 503"), "{state:?}");
        past.begin(&question, at(9_999));
        assert!(past.reading.is_none(), "once it was read, it is known");
    }

    #[tokio::test]
    async fn what_is_remembered_of_a_failure_is_read_again_after_a_restart_and_a_known_past_is_not() {
        let away = || Err("metrics: HTTP 503: away".to_owned());
        let (question, mut state) = (question(canary()), JudgeState::default());
        for (told, read_again) in [(away(), true), (Ok(vec![]), true), (Ok(vec![]), false)] {
            let restored = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
            let mut past = Past::new(port([told], 0), &restored);
            past.begin(&question, at(0));
            assert_eq!(past.reading.is_some(), read_again, "{restored:?}");
            if read_again {
                past.ended(&mut state, || at(0)).await;
            }
            assert_eq!(state.phi, Some(1.5));
        }
    }

    #[tokio::test]
    async fn a_scatter_measured_in_part_stays_and_pods_without_a_past_are_not_that_past() {
        let measured = JudgeState { phi: Some(7.0), ..JudgeState::default() };
        let (question, mut state) = (question(canary()), measured.clone());
        let mut past = Past::new(port([Err("metrics: HTTP 503: away".into()), Ok(vec![])], 0), &state);
        for begins in [0, 10] {
            past.begin(&question, at(begins));
            past.ended(&mut state, || at(begins)).await;
            assert_eq!(state.phi, Some(7.0), "{state:?}");
        }
        past.begin(&question, at(30));
        assert!(past.reading.is_some(), "stable rolled meanwhile: its new pods' silence says nothing");
    }

    #[tokio::test]
    async fn a_past_is_read_beside_other_work_and_delays_none() {
        let mut past = Past::new(port([], 0), &JudgeState::default());
        past.begin(&question(canary()), at(0));
        assert_eq!(past.beside(async { 7 }, &mut JudgeState::default(), || at(0)).now_or_never(), Some(7));
        assert!(past.reading.is_some(), "it goes on");
        past.stop();
        past.begin(&question(Watch::Baking { since: at(-1) }), at(0));
        assert!(past.reading.is_none(), "new pods have no past");
    }

    #[tokio::test]
    async fn before_any_weight_the_past_is_awaited_and_then_it_is_not() {
        let told = answered(port([Err("metrics: HTTP 503: away".into())], 0), Watch::Before).await;
        assert_eq!(told.state.phi, Some(1.5), "it ended, if badly");
        let told = answered(port([], 0), canary()).await;
        assert_eq!((told.state.phi, told.state.phi()), (None, 1.5), "it hangs, and the careful default holds");
    }

    #[tokio::test]
    async fn samples_are_as_fresh_as_when_they_were_asked_for() {
        let port = port([], 60);
        let told = answered(port.clone(), canary()).await;
        assert_eq!(port.clock.now(), at(60), "the reading took a minute");
        assert!(told.assessment.canary_scraped, "{:?}", told.assessment);
        assert_eq!(told.assessment.decision, Decision::Continue);
        let view = told.view(canary(), std::time::Duration::from_secs(1), &[], port.clock.now());
        assert_eq!(view.blind_for.as_secs(), 60, "and yet nothing newer is known");
    }
}
