//! Rows of the Release table: verdicts, stages, what supersedes what.

use tidegate_pipelines::api::{ReleasePhase, RollbackScope, RolloutPhase, RolloutReason, Span, VerdictDecision, names};
use tidegate_pipelines::release::PipelineState;

use super::fleet::{Fleet, everywhere, image, pipeline};

#[test]
fn stages_pass_in_order_and_each_soaks_before_the_next() {
    let mut fleet = Fleet::new(pipeline());
    let name = fleet.release('1');
    fleet.settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::Shipping);
    assert!(fleet.rollout("staging").is_some() && fleet.rollout("prod-east").is_none());
    fleet.report("staging", RolloutPhase::Canary).settle().report("staging", RolloutPhase::Promoted).settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::Waiting);
    assert!(fleet.message(&name).contains("soaks"), "{}", fleet.message(&name));
    fleet.pass(4).settle();
    assert!(fleet.rollout("prod-east").is_none(), "not soaked yet");
    fleet.pass(1).settle();
    assert!(fleet.rollout("prod-east").is_some() && fleet.rollout("prod-west").is_none());
    fleet.promote("prod-east").promote("prod-west");
    assert_eq!(fleet.phase(&name), ReleasePhase::Promoted);
}

#[test]
fn once_promoted_nothing_is_written_any_more() {
    let mut fleet = Fleet::new(pipeline());
    fleet.release('1');
    fleet.settle().promote("staging").promote("prod-east").promote("prod-west");
    let writes = fleet.writes;
    for _ in 0..20 {
        fleet.pass(3600).settle();
    }
    assert_eq!(fleet.writes, writes);
}

#[test]
fn a_denied_image_writes_nothing_in_any_environment() {
    let mut fleet = Fleet::new(pipeline());
    let name = fleet.release('1');
    fleet.verdict(&name, "prod-west", VerdictDecision::Deny, false);
    fleet.settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::Denied);
    assert!(fleet.rollouts.is_empty());
    assert!(fleet.message(&name).contains("prod-west: signature"), "{}", fleet.message(&name));
    // Final until retry, though the verdict turns.
    fleet.verdict(&name, "prod-west", VerdictDecision::Allow, false);
    fleet.pass(60).settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::Denied);
    fleet.change(&name, |spec| spec.attempt = 2).settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::Shipping);
}

#[test]
fn evidence_that_comes_late_is_waited_for_until_the_deadline() {
    for (decision, retryable) in [(VerdictDecision::Error, true), (VerdictDecision::Deny, true)] {
        let mut fleet = Fleet::new(pipeline());
        let name = fleet.release('1');
        fleet.verdict(&name, "staging", decision, retryable);
        fleet.settle().pass(599).settle();
        assert_eq!(fleet.phase(&name), ReleasePhase::Verifying, "{decision:?}");
        fleet.pass(1).settle();
        assert_eq!(fleet.phase(&name), ReleasePhase::Denied, "{decision:?}");
        assert!(fleet.rollouts.is_empty());
    }
    let mut fleet = Fleet::new(pipeline());
    let name = fleet.release('1');
    fleet.verdict(&name, "staging", VerdictDecision::Error, true);
    fleet.settle().pass(300).settle();
    fleet.verdicts.clear();
    fleet.settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::Shipping);
}

#[test]
fn without_patience_missing_evidence_denies_at_once() {
    let mut pipeline = pipeline();
    pipeline.evidence_deadline = Span::ZERO;
    let mut fleet = Fleet::new(pipeline);
    let name = fleet.release('1');
    fleet.verdict(&name, "staging", VerdictDecision::Deny, true);
    fleet.settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::Denied);
}

#[test]
fn a_verdict_that_turns_stops_later_stages() {
    let mut fleet = Fleet::new(pipeline());
    let name = fleet.release('1');
    fleet.settle();
    fleet.verdict(&name, "prod-east", VerdictDecision::Deny, false);
    fleet.promote("staging");
    assert_eq!(fleet.phase(&name), ReleasePhase::Stopped);
    assert!(fleet.rollout("prod-east").is_none());
}

#[test]
fn a_registry_away_between_stages_holds_and_then_goes_on() {
    let mut fleet = Fleet::new(pipeline());
    let name = fleet.release('1');
    fleet.settle();
    fleet.verdict(&name, "prod-east", VerdictDecision::Error, true);
    fleet.promote("staging");
    assert_eq!(fleet.phase(&name), ReleasePhase::Waiting);
    assert!(fleet.rollout("prod-east").is_none());
    fleet.verdicts.clear();
    fleet.settle();
    assert!(fleet.rollout("prod-east").is_some());
}

#[test]
fn a_newer_release_takes_over_and_waits_until_the_older_has_gone() {
    let mut fleet = Fleet::new(pipeline());
    let old = fleet.release('1');
    fleet.settle().report("staging", RolloutPhase::Canary).settle();
    fleet.pass(10);
    let new = fleet.release('2');
    fleet.settle();
    assert_eq!(fleet.rollout("staging").unwrap().spec.superseded_by.as_deref(), Some(new.as_str()));
    assert_eq!(fleet.rollouts.len(), 1, "one rollout at a time acts on a workload");
    assert!(fleet.told(&new, "staging").contains("WorkloadBusy"), "{}", fleet.told(&new, "staging"));
    fleet.report("staging", RolloutPhase::Superseded).settle();
    assert_eq!(fleet.phase(&old), ReleasePhase::Superseded);
    assert_eq!(fleet.rollout("staging").unwrap().spec.release, new);
}

#[test]
fn a_newer_release_without_allow_supersedes_nothing() {
    let mut fleet = Fleet::new(pipeline());
    let old = fleet.release('1');
    fleet.settle().report("staging", RolloutPhase::Canary).settle().pass(10);
    let new = fleet.release('2');
    fleet.verdict(&new, "prod-west", VerdictDecision::Deny, false);
    fleet.settle();
    assert_eq!(fleet.phase(&new), ReleasePhase::Denied);
    assert_eq!(fleet.phase(&old), ReleasePhase::Shipping);
    assert!(fleet.rollout("staging").unwrap().spec.superseded_by.is_none());
}

#[test]
fn stages_not_begun_are_never_begun_once_superseded() {
    let mut fleet = Fleet::new(pipeline());
    let old = fleet.release('1');
    fleet.settle().report("staging", RolloutPhase::Promoted).settle().pass(1);
    fleet.release('2');
    fleet.settle().pass(60).settle();
    assert_eq!(fleet.phase(&old), ReleasePhase::Superseded);
    assert!(fleet.rollout("prod-east").is_none());
}

#[test]
fn a_namespace_that_is_not_allowed_moves_nothing_there_and_says_so() {
    let mut fleet = Fleet::new(pipeline());
    let name = fleet.release('1');
    fleet.environments.get_mut("prod-east").unwrap().allowed = Err("no entry selects 'shop'".into());
    fleet.settle().promote("staging");
    assert!(fleet.rollout("prod-east").is_none());
    assert!(fleet.told(&name, "prod-east").contains("NamespaceNotAllowed"), "{}", fleet.told(&name, "prod-east"));
    assert!(fleet.notes.contains(&"NamespaceNotAllowed".to_owned()));
    fleet.environments.get_mut("prod-east").unwrap().allowed = Ok(());
    fleet.settle();
    assert!(fleet.rollout("prod-east").is_some());
}

#[test]
fn an_environment_that_is_missing_leaving_or_silent_is_told_and_waited_for() {
    for (reason, change) in [
        (
            "SpokeNotReady",
            (|f: &mut Fleet| f.environments.get_mut("prod-east").unwrap().spoke = Err("silent".into()))
                as fn(&mut Fleet),
        ),
        ("EnvironmentDeleting", |f| f.environments.get_mut("prod-east").unwrap().deleting = true),
        ("EnvironmentMissing", |f| drop(f.environments.remove("prod-east"))),
        ("PipelineRefused", |f| f.state = PipelineState::Refused("two pipelines claim it".into())),
    ] {
        let mut fleet = Fleet::new(pipeline());
        let name = fleet.release('1');
        fleet.settle();
        change(&mut fleet);
        fleet.promote("staging");
        assert!(fleet.rollout("prod-east").is_none(), "{reason}");
        assert_eq!(fleet.phase(&name), ReleasePhase::Waiting, "{reason}");
        assert!(fleet.told(&name, "prod-east").starts_with(reason), "{}", fleet.told(&name, "prod-east"));
    }
}

#[test]
fn a_spoke_that_falls_silent_in_mid_canary_is_told() {
    let mut fleet = Fleet::new(pipeline());
    let name = fleet.release('1');
    fleet.settle().report("staging", RolloutPhase::Canary).settle();
    let place = |fleet: &mut Fleet, spoke| fleet.environments.get_mut("staging").unwrap().spoke = spoke;
    place(&mut fleet, Err("its API server has not answered since 10:00".into()));
    fleet.settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::Shipping);
    let message = fleet.message(&name);
    assert!(message.contains("staging: its API server has not answered since 10:00"), "{message}");
    place(&mut fleet, Ok(()));
    fleet.settle();
    assert!(!fleet.message(&name).contains("API server"), "{}", fleet.message(&name));
}

#[test]
fn a_deleted_pipeline_aborts_what_is_under_way() {
    let mut fleet = Fleet::new(pipeline());
    let name = fleet.release('1');
    fleet.settle().report("staging", RolloutPhase::Canary).settle();
    fleet.state = PipelineState::Going;
    fleet.settle();
    // Not `abort`: that would take back a version whose promotion has begun.
    let retired = |fleet: &Fleet| fleet.rollout("staging").unwrap().metadata.annotations.clone().unwrap_or_default();
    assert_eq!(retired(&fleet).get(names::RETIRE).map(String::as_str), Some("true"));
    assert!(!fleet.rollout("staging").unwrap().spec.abort);
    assert_eq!(fleet.phase(&name), ReleasePhase::RollingBack);
    fleet.report("staging", RolloutPhase::Withdrawn).settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::Withdrawn);
}

#[test]
fn a_stage_begins_in_no_more_environments_at_once_than_it_says() {
    let mut pipeline = pipeline();
    pipeline.stages.truncate(1);
    pipeline.stages[0].environments = ["a", "b", "c"].map(str::to_owned).to_vec();
    pipeline.stages[0].max_concurrent = Some(2);
    let mut fleet = Fleet::new(pipeline);
    let name = fleet.release('1');
    fleet.settle();
    assert!(fleet.rollout("a").is_some() && fleet.rollout("b").is_some() && fleet.rollout("c").is_none());
    assert!(fleet.told(&name, "c").starts_with("ConcurrencyReached"), "{}", fleet.told(&name, "c"));
    fleet.report("a", RolloutPhase::Promoted).settle();
    assert!(fleet.rollout("c").is_some());
    fleet.report("b", RolloutPhase::Promoted).report("c", RolloutPhase::Promoted).settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::Promoted);
}

#[test]
fn a_superseded_intent_that_nobody_answered_stays_until_its_spoke_ends_it() {
    let mut fleet = Fleet::new(pipeline());
    let old = fleet.release('1');
    fleet.settle().pass(10);
    let new = fleet.release('2');
    fleet.settle();
    // Never answered, perhaps just copied: marked, not deleted, and the newer one waits for the answer.
    let intent = fleet.rollout("staging").unwrap();
    assert_eq!((fleet.rollouts.len(), intent.spec.superseded_by.as_deref()), (1, Some(new.as_str())));
    assert!(!intent.spec.abort);
    fleet.report("staging", RolloutPhase::Superseded).settle();
    assert_eq!(fleet.phase(&old), ReleasePhase::Superseded);
    assert_eq!(fleet.rollout("staging").unwrap().spec.release, new);
}

#[test]
fn what_runs_in_one_environment_is_not_stepped_back_behind_unasked() {
    for scope in [RollbackScope::Environment, RollbackScope::Release] {
        let mut pipeline = pipeline();
        pipeline.rollback = scope;
        let mut fleet = Fleet::new(pipeline);
        let old = fleet.now;
        fleet.pass(100);
        fleet.release('3');
        fleet.settle().promote("staging").breach("prod-east", RolloutPhase::RolledBack).settle();
        if scope == RollbackScope::Release {
            fleet.report("staging", RolloutPhase::RolledBack).settle();
        }
        let late = fleet.release_built('2', old);
        fleet.settle();
        let expected = match scope {
            RollbackScope::Environment => ReleasePhase::Downgrade,
            RollbackScope::Release => ReleasePhase::Shipping,
        };
        assert_eq!(fleet.phase(&late), expected, "{scope:?}: {}", fleet.message(&late));
    }
}

#[test]
fn a_release_that_comes_back_has_overtaken_nobody_by_what_it_left_there_before() {
    let mut fleet = everywhere();
    let old = fleet.release('3');
    fleet.settle().promote("staging").report("prod-east", RolloutPhase::Failed).settle().pass(10);
    fleet.release('4');
    fleet.settle().promote("staging").report("prod-east", RolloutPhase::Canary).settle();
    fleet.environments.get_mut("staging").unwrap().spoke = Err("it does not report".into());
    fleet.change(&old, |spec| spec.attempt = 2).approve_attempt(&old, "downgrade", 2).settle().pass(10);
    assert!(fleet.told(&old, "staging").contains("SpokeNotReady"), "{}", fleet.told(&old, "staging"));
    fleet.breach("prod-east", RolloutPhase::RolledBack).settle();
    let back = fleet.rollout("staging").unwrap();
    assert_eq!((back.spec.reason, back.spec.images.clone()), (RolloutReason::Rollback, vec![image('0')]));
}
