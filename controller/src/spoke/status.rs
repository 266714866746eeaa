//! Fifth step: the plan's status, written to the environment's Rollout. Only when it differs, and evidence
//! that changes with each scrape only now and then; never without the resourceVersion that the plan was made from.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::PostParams;
use tidegate_pipelines::api::{Breach, Rollout, RolloutStatus};
use tokio::time::Instant;

use super::apply::{Applied, Hand};
use super::cache::version_of;
use super::observe::Seen;
use crate::connect::{CallError, bounded};

/// The judge's numbers change with each scrape; more often is of use to nobody, and what lies between is read
/// again after a restart (judgement.md, section 4).
const JUDGE_EVERY: Duration = Duration::from_secs(10);
/// What people read while they watch.
const MESSAGE_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    #[error("write the Rollout's status: {0}")]
    Call(#[from] CallError),
}

impl StatusError {
    pub fn is_conflict(&self) -> bool {
        let StatusError::Call(error) = self;
        error.is_conflict()
    }
}

/// When what was last written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    judge: Option<Instant>,
    any: Option<Instant>,
}

/// What of a difference is worth a write now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Difference {
    None,
    JudgeOnly,
    MessageOnly,
    Real,
}

fn difference(old: &RolloutStatus, new: &RolloutStatus) -> Difference {
    if old == new {
        return Difference::None;
    }
    let mut same = old.clone();
    same.judge.clone_from(&new.judge);
    if &same == new {
        return Difference::JudgeOnly;
    }
    same.message.clone_from(&new.message);
    same.step_text.clone_from(&new.step_text);
    same.conditions.clone_from(&new.conditions);
    if &same == new { Difference::MessageOnly } else { Difference::Real }
}

fn due(difference: Difference, written: &Written, now: Instant) -> bool {
    let waited = |since: Option<Instant>, least: Duration| since.is_none_or(|at| now.duration_since(at) >= least);
    match difference {
        Difference::None => false,
        Difference::Real => true,
        Difference::MessageOnly => waited(written.any, MESSAGE_EVERY),
        Difference::JudgeOnly => waited(written.judge, JUDGE_EVERY),
    }
}

/// Adds what only the executor knows: when weight 0 was acknowledged. A breach whose record was refused (a conflict) after
/// the route was lowered is kept in `unrecorded` and recorded as it was: what is found a pass later is of another moment.
pub fn complete(
    mut status: RolloutStatus,
    recorded: &RolloutStatus,
    applied: &Applied,
    unrecorded: &mut Option<Breach>,
) -> RolloutStatus {
    if let (Some(breach), Some(at)) = (&mut status.breach, applied.zero_at)
        && breach.written_at.is_none()
    {
        breach.written_at = Some(MicroTime(at));
    }
    match &mut status.breach {
        Some(breach) if recorded.breach.is_none() => match unrecorded {
            Some(first) => breach.clone_from(first),
            None if breach.written_at.is_some() => *unrecorded = Some(breach.clone()),
            None => {}
        },
        _ => *unrecorded = None,
    }
    status
}

/// True when something was written.
pub async fn write(
    hand: &Hand<'_>,
    seen: &Seen,
    status: RolloutStatus,
    written: &mut Written,
) -> Result<bool, StatusError> {
    let now = Instant::now();
    if !due(difference(&seen.status, &status), written, now) {
        return Ok(false);
    }
    let api: Api<Rollout> = hand.api(seen);
    let name = seen.rollout.metadata.name.as_deref().unwrap_or_default();
    let mut object = seen.rollout.as_ref().clone();
    // A finalizer of this very pass raised the version; whatever else did is a conflict.
    if let Some(current) = hand.world.rollouts.get(Some(seen.namespace()), name)
        && current.metadata.uid == object.metadata.uid
        && current.status == seen.rollout.status
        && current.metadata.generation == object.metadata.generation
        && version_of(current.metadata.resource_version.as_deref())
            > version_of(object.metadata.resource_version.as_deref())
    {
        object.metadata.resource_version.clone_from(&current.metadata.resource_version);
    }
    let judge_changed = seen.status.judge != status.judge;
    object.status = Some(status);
    let answer = bounded(api.replace_status(name, &PostParams::default(), &object)).await?;
    hand.world.rollouts.wrote(answer);
    written.any = Some(now);
    if judge_changed {
        written.judge = Some(now);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use tidegate_pipelines::api::BreachKind;
    use tidegate_pipelines::judge::JudgeState;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    fn breach(sample: i64) -> RolloutStatus {
        let (sample_at, decided_at) = (MicroTime(at(sample)), MicroTime(at(sample + 60)));
        let breach = Breach { kind: BreachKind::Judge, message: "E".into(), sample_at, decided_at, written_at: None };
        RolloutStatus { breach: Some(breach), ..Default::default() }
    }

    #[test]
    fn a_breach_whose_record_was_refused_is_recorded_as_it_was() {
        let (before, lowered, nothing) =
            (RolloutStatus::default(), Applied { zero_at: Some(at(1_080)), writes: 1 }, Applied::default());
        let mut unrecorded = None;
        let first = complete(breach(1_000), &before, &lowered, &mut unrecorded);
        assert_eq!(first.breach.as_ref().unwrap().written_at, Some(MicroTime(at(1_080))));
        // The status write met a conflict: the next pass finds the route lowered and a newer sample.
        let second = complete(breach(2_000), &before, &nothing, &mut unrecorded);
        assert_eq!(second.breach, first.breach);
        // On record; nothing is added to it any more.
        let third = complete(second.clone(), &second, &nothing, &mut unrecorded);
        assert_eq!((third.breach, unrecorded), (first.breach, None));
    }

    #[test]
    fn a_breach_before_any_weight_has_no_time_of_a_write() {
        let mut unrecorded = None;
        let status = complete(breach(1_000), &RolloutStatus::default(), &Applied::default(), &mut unrecorded);
        assert_eq!((status.breach.unwrap().written_at, unrecorded), (None, None));
    }

    #[test]
    fn evidence_is_written_now_and_then_and_decisions_at_once() {
        let old = RolloutStatus { weight: 5, ..Default::default() };
        let evidence = RolloutStatus { judge: Some(JudgeState { step: 1, ..Default::default() }), ..old.clone() };
        let decision = RolloutStatus { weight: 25, ..evidence.clone() };
        let start = Instant::now();
        let written = Written { judge: Some(start), any: Some(start) };
        for (new, after, expected, case) in [
            (&old, 60, false, "nothing changed"),
            (&evidence, 1, false, "evidence, a second later"),
            (&evidence, 10, true, "evidence, ten seconds later"),
            (&decision, 0, true, "a decision"),
        ] {
            let now = start + Duration::from_secs(after);
            assert_eq!(due(difference(&old, new), &written, now), expected, "{case}");
        }
    }
}
