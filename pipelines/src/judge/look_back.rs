//! What the stable pods' own past says before a rollout: how much more than chance their errors scatter, and how long
//! a good version will need. A past that cannot be read says nothing good: the careful default holds, and it is told.

use std::collections::BTreeSet;

use super::config::{JudgeConfig, ObjectiveSamples, Scene};
use super::dispersion::WITHOUT_HISTORY;
use super::state::{JudgeState, rounded};
use super::{dispersion, expected};

/// The schema's `maxLength` of the two lines.
const LONGEST_LINE: usize = 256;

#[derive(Clone, Debug, PartialEq)]
pub struct LookBack {
    /// Over-dispersion, at least 1, and at least 1.5 unless all of half an hour could be read.
    pub phi: f64,
    pub note: String,
    /// How long a version as good as stable will need, for people.
    pub expected: String,
    /// Whether all of it could be read. If not, it is worth another try.
    pub whole: bool,
    /// Whether no requests of these pods are in it: nothing was measured.
    pub empty: bool,
}

/// From the samples of the stable pods up to the rollout's start, one per objective.
pub fn look_back(config: &JudgeConfig, scene: &Scene, history: &[ObjectiveSamples]) -> LookBack {
    let pods: BTreeSet<String> = scene.arms.stable.iter().map(|p| p.name.clone()).collect();
    let found = dispersion::measure(history, &pods);
    let expected = match (&found.unread, found.paces.is_empty()) {
        (Some(why), true) => format!("no time can be told: the past could not be read ({why})"),
        _ => expected::told(&found.paces, config, found.phi),
    };
    let (whole, empty) = (found.unread.is_none(), found.paces.is_empty());
    LookBack { phi: found.phi, note: found.note, expected, whole, empty }
}

impl LookBack {
    /// A scatter that was measured is never forgotten for a smaller one: a later attempt may see less, or other pods.
    pub fn remember(self, state: &mut JudgeState) {
        let line = |text: String| Some(text.chars().take(LONGEST_LINE).collect());
        let found = rounded(self.phi);
        // What is not the careful default was measured.
        let measured = state.phi.filter(|phi| phi.is_finite() && *phi >= 1.0 && *phi != WITHOUT_HISTORY);
        // After a measurement silence is that of other pods, which were not there: their past is not the one.
        state.past_known |= self.whole && !(self.empty && measured.is_some());
        match measured.filter(|phi| *phi > found) {
            Some(phi) => {
                state.phi_note = line(format!("phi {phi:.2} was measured before, and stands; since: {}", self.note))
            }
            None => {
                state.phi = Some(found);
                state.phi_note = line(self.note);
                state.expected = line(self.expected);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::api::{Objective, Strategy};
    use crate::judge::config::{Arms, Pod, RawSeries, Reading, Watch};

    fn scene() -> Scene {
        let pod = |name: &str| Pod { name: name.into(), since: Timestamp::UNIX_EPOCH };
        Scene { arms: Arms { stable: vec![pod("a"), pod("b")], canary: vec![] }, watch: Watch::Before }
    }

    fn config() -> JudgeConfig {
        let strategy: Strategy = serde_json::from_value(serde_json::json!({})).unwrap();
        let objectives: Vec<Objective> = serde_json::from_value(
            serde_json::json!([{"name": "errors", "target": 0.9, "ratio": {"total": "x_total", "errors": "y_total"}}]),
        )
        .unwrap();
        JudgeConfig::new(&strategy, &objectives, 1.0, serde_json::from_value("5s".into()).unwrap(), None)
    }

    /// `each(pod, step)` more at every 5 s of 40 minutes.
    fn counted(each: impl Fn(usize, i64) -> f64) -> Reading {
        let of = |(index, name): (usize, &&str)| {
            let mut sum = 0.0;
            let samples = (0..480).map(|k| {
                sum += each(index, k);
                (k * 5_000, sum)
            });
            RawSeries { of: (*name).into(), source: (*name).into(), key: String::new(), samples: samples.collect() }
        };
        Ok(["a", "b"].iter().enumerate().map(of).collect())
    }

    fn away() -> Reading {
        Err("metrics: no turn to read within 20000 ms".into())
    }

    #[test]
    fn a_past_that_cannot_be_read_leaves_the_careful_default_and_says_so() {
        let history = |total, errors| vec![ObjectiveSamples { total, errors }];
        let table = [
            ("both failed", history(away(), away()), false),
            ("errors alone failed", history(counted(|_, _| 500.0), away()), false),
            ("the total alone failed", history(away(), counted(|_, _| 0.0)), false),
            ("nothing was there", history(Ok(vec![]), Ok(vec![])), true),
            ("nothing was asked", vec![], true),
        ];
        for (case, history, whole) in table {
            let found = look_back(&config(), &scene(), &history);
            assert_eq!((found.phi, found.whole), (1.5, whole), "{case}: {found:?}");
            if !whole {
                assert!(
                    found.note.contains("no turn to read") && found.expected.contains("could not be read"),
                    "{found:?}"
                );
            }
            let mut state = JudgeState::default();
            found.remember(&mut state);
            assert_eq!(state.phi(), 1.5, "{case}");
        }
    }

    #[test]
    fn what_one_objective_shows_holds_although_another_could_not_be_read() {
        let burst = |pod: usize, k: i64| if (k as usize + pod).is_multiple_of(20) { 60.0 } else { 0.0 };
        let read = ObjectiveSamples { total: counted(|_, _| 500.0), errors: counted(burst) };
        let unread = ObjectiveSamples { total: away(), errors: away() };
        let found = look_back(&config(), &scene(), &[read, unread]);
        assert!(found.phi > 5.0 && !found.whole, "{found:?}");
    }

    fn found(phi: f64, whole: bool, empty: bool) -> LookBack {
        LookBack { phi, note: format!("phi {phi:.2}"), expected: String::new(), whole, empty }
    }

    #[test]
    fn a_scatter_that_was_measured_outlives_attempts_that_see_less() {
        let (failed, nothing) = (found(1.5, false, true), found(1.5, true, true));
        let table: [(&str, &[LookBack], f64, bool); 8] = [
            ("a failure is the default", std::slice::from_ref(&failed), 1.5, false),
            ("which a whole past replaces", &[failed.clone(), found(1.0, true, false)], 1.0, true),
            ("what one objective showed stays over a failure", &[found(7.0, false, false), failed.clone()], 7.0, false),
            ("and over other pods that have no past", &[found(7.0, false, false), nothing.clone()], 7.0, false),
            ("and over a whole past that shows less", &[found(7.0, false, false), found(2.0, true, false)], 7.0, true),
            ("more is more", &[found(7.0, false, false), found(9.0, false, false)], 9.0, false),
            ("pods without any past have none that could be read", std::slice::from_ref(&nothing), 1.5, true),
            ("as after a failure", &[failed.clone(), nothing.clone()], 1.5, true),
        ];
        for (case, attempts, phi, known) in table {
            let mut state = JudgeState::default();
            for attempt in attempts {
                attempt.clone().remember(&mut state);
            }
            assert_eq!((state.phi(), state.past_known), (phi, known), "{case}: {state:?}");
            assert!(state.phi_note.as_ref().unwrap().starts_with(&format!("phi {phi:.2}")), "{case}: {state:?}");
        }
    }

    #[test]
    fn a_scatter_that_cannot_be_counts_as_not_measured() {
        for (kept, counts) in
            [(None, 1.5), (Some(f64::NAN), 1.5), (Some(-1.0e9), 1.5), (Some(0.2), 1.5), (Some(7.0), 7.0)]
        {
            let state = JudgeState { phi: kept, ..JudgeState::default() };
            assert_eq!(state.phi(), counts, "{kept:?}");
        }
        let odd = found(f64::INFINITY, true, false);
        let mut state = JudgeState::default();
        odd.remember(&mut state);
        assert_eq!(state.phi(), 1.5);
    }
}
