//! Rows of the Release table: what people ask for, and further attempts.

use tidegate_pipelines::api::{ReleasePhase, RolloutPhase, RolloutReason, VerdictDecision};

use super::fleet::{Fleet, everywhere, pipeline};

#[test]
fn a_stage_that_needs_approval_waits_for_the_one_that_names_it() {
    let mut pipeline = pipeline();
    pipeline.stages[1].require_approval = true;
    let mut fleet = Fleet::new(pipeline);
    let name = fleet.release('1');
    fleet.settle().promote("staging");
    assert_eq!(fleet.phase(&name), ReleasePhase::Waiting);
    assert_eq!(fleet.status(&name).stage.as_deref(), Some("east"));
    fleet.approve(&name, "west").approve("other", "east").settle();
    assert!(fleet.rollout("prod-east").is_none());
    fleet.approve(&name, "east").settle();
    assert!(fleet.rollout("prod-east").is_some());
}

#[test]
fn an_older_release_waits_for_an_approval_that_names_it() {
    let mut fleet = Fleet::new(pipeline());
    let old = fleet.now;
    fleet.pass(100);
    fleet.release('2');
    fleet.settle();
    let older = fleet.release_built('1', old);
    fleet.settle();
    assert_eq!(fleet.phase(&older), ReleasePhase::Downgrade);
    fleet.promote("staging").promote("prod-east").promote("prod-west");
    assert_eq!(fleet.phase(&older), ReleasePhase::Downgrade, "what is stable is newer as well");
    fleet.approve(&older, "downgrade").settle();
    assert_eq!(fleet.phase(&older), ReleasePhase::Shipping);
}

#[test]
fn an_abort_goes_back_without_quarantine_and_is_not_shipped_again_by_itself() {
    let mut fleet = Fleet::new(pipeline());
    let name = fleet.release('1');
    fleet.settle().promote("staging").report("prod-east", RolloutPhase::Canary);
    fleet.change(&name, |spec| spec.abort = true).settle();
    assert!(fleet.rollout("prod-east").unwrap().spec.abort);
    assert_eq!(fleet.phase(&name), ReleasePhase::RollingBack);
    fleet.report("prod-east", RolloutPhase::Withdrawn).settle().pass(60).settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::Withdrawn);
    assert!(fleet.quarantines.is_empty());
    fleet.change(&name, |spec| (spec.attempt, spec.abort) = (2, false)).settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::Shipping, "retry ships it again");
    assert!(fleet.rollout("staging").unwrap().metadata.name.as_deref().unwrap().ends_with("-2"));
}

#[test]
fn undo_takes_back_where_it_passed() {
    let mut fleet = Fleet::new(pipeline());
    let name = fleet.release('1');
    fleet.settle().promote("staging").promote("prod-east").promote("prod-west");
    fleet.change(&name, |spec| spec.undo = true).settle();
    for environment in ["staging", "prod-east", "prod-west"] {
        assert_eq!(fleet.rollout(environment).unwrap().spec.reason, RolloutReason::Rollback, "{environment}");
        fleet.report(environment, RolloutPhase::RolledBack);
    }
    fleet.settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::Withdrawn);
    assert!(fleet.quarantines.is_empty());
}

#[test]
fn undo_takes_back_what_runs_again_since_a_newer_release_went_back() {
    for end in [RolloutPhase::Withdrawn, RolloutPhase::RolledBack, RolloutPhase::Failed] {
        let mut fleet = Fleet::new(pipeline());
        let old = fleet.release('1');
        fleet.settle().promote("staging").promote("prod-east").promote("prod-west").pass(10);
        fleet.release('2');
        fleet.settle().report("staging", end).settle();
        fleet.change(&old, |spec| spec.undo = true).settle();
        let back = fleet.rollout("staging").unwrap();
        assert_eq!((back.spec.reason, &back.spec.release), (RolloutReason::Rollback, &old), "{end:?}");
    }
}

#[test]
fn undo_leaves_alone_what_a_newer_release_has_taken_over() {
    let mut fleet = Fleet::new(pipeline());
    let old = fleet.release('1');
    fleet.settle().promote("staging").promote("prod-east").promote("prod-west").pass(10);
    let new = fleet.release('2');
    fleet.settle().promote("staging");
    fleet.change(&old, |spec| spec.undo = true).settle();
    assert_eq!(fleet.rollout("staging").unwrap().spec.release, new);
    assert_eq!(fleet.rollout("prod-west").unwrap().spec.reason, RolloutReason::Rollback);
}

#[test]
fn a_paused_release_holds_its_intents_and_lets_go_of_those_it_held() {
    let mut fleet = Fleet::new(pipeline());
    let name = fleet.release('1');
    fleet.settle().report("staging", RolloutPhase::Canary);
    fleet.change(&name, |spec| spec.paused = true).settle();
    assert!(fleet.rollout("staging").unwrap().spec.paused);
    fleet.change(&name, |spec| spec.paused = false).settle();
    assert!(!fleet.rollout("staging").unwrap().spec.paused);
    // Held by a person there: not ours to let go.
    fleet.rollouts[0].spec.paused = true;
    fleet.settle();
    assert!(fleet.rollout("staging").unwrap().spec.paused);
    fleet.change(&name, |spec| spec.paused = true).promote("staging");
    assert!(fleet.rollout("prod-east").is_none(), "nothing starts while held");
}

#[test]
fn an_approval_lets_one_attempt_pass_and_is_asked_for_again_by_a_retry() {
    let mut pipeline = pipeline();
    pipeline.stages[0].require_approval = true;
    let mut fleet = Fleet::new(pipeline);
    let name = fleet.release('1');
    fleet.settle().approve(&name, "staging").settle();
    fleet.report("staging", RolloutPhase::Failed).settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::Stopped);
    fleet.change(&name, |spec| spec.attempt = 2).settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::Waiting, "{}", fleet.message(&name));
    assert!(fleet.message(&name).contains("attempt 2"), "{}", fleet.message(&name));
    assert_eq!(fleet.rollouts.len(), 1, "nothing started on the old yes");
    fleet.approve_attempt(&name, "staging", 2).settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::Shipping);
}

#[test]
fn a_downgrade_is_approved_for_one_attempt_too() {
    let mut fleet = Fleet::new(pipeline());
    let old = fleet.now;
    fleet.pass(100);
    fleet.release('2');
    fleet.settle().promote("staging").promote("prod-east").promote("prod-west");
    let older = fleet.release_built('1', old);
    fleet.approve(&older, "downgrade").settle().report("staging", RolloutPhase::Failed).settle();
    fleet.change(&older, |spec| spec.attempt = 2).settle();
    assert_eq!(fleet.phase(&older), ReleasePhase::Downgrade);
}

#[test]
fn a_retry_verifies_anew_and_ships_by_the_pipeline_as_it_is_now() {
    let mut fleet = Fleet::new(pipeline());
    let name = fleet.release('1');
    fleet.settle().report("staging", RolloutPhase::Failed).settle();
    // Whoever mends the pipeline and retries means the mended one.
    fleet.pipeline.service = "portal-http".into();
    fleet.pipeline.stages.remove(2);
    fleet.settle();
    assert_eq!(fleet.releases[0].spec.snapshot.service, "portal", "an attempt that has ended keeps what it shipped by");
    fleet.verdict(&name, "prod-east", VerdictDecision::Deny, false);
    fleet.change(&name, |spec| spec.attempt = 2).settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::Denied, "the policy in force is asked again");
    fleet.verdicts.clear();
    fleet.change(&name, |spec| spec.attempt = 3).settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::Shipping);
    assert_eq!(fleet.rollout("staging").unwrap().spec.service, "portal-http");
    assert_eq!(fleet.status(&name).environments.len(), 2);
    // From here on it stays what it is.
    fleet.pipeline.service = "portal-other".into();
    fleet.settle().promote("staging");
    assert_eq!(fleet.rollout("prod-east").unwrap().spec.service, "portal-http");
}

#[test]
fn a_first_attempt_ships_by_the_pipeline_of_its_event() {
    let mut fleet = Fleet::new(pipeline());
    let name = fleet.release('1');
    fleet.verdict(&name, "staging", VerdictDecision::Error, true);
    fleet.settle();
    fleet.pipeline.service = "portal-http".into();
    fleet.verdicts.clear();
    fleet.settle();
    assert_eq!(fleet.rollout("staging").unwrap().spec.service, "portal");
}

#[test]
fn an_intent_that_comes_into_sight_after_the_end_goes_back() {
    let mut fleet = Fleet::new(pipeline());
    let name = fleet.release('1');
    fleet.lags = true;
    fleet.settle();
    assert_eq!((fleet.rollouts.len(), fleet.hidden.len()), (1, 1));
    fleet.change(&name, |spec| spec.abort = true).settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::Withdrawn, "nothing of it is to be seen");
    fleet.catch_up();
    assert!(fleet.rollout("staging").unwrap().spec.abort);
    assert_eq!(fleet.phase(&name), ReleasePhase::Withdrawn);
    fleet.report("staging", RolloutPhase::Withdrawn).settle();
}

#[test]
fn another_attempt_in_mid_flight_begins_once_the_one_under_way_has_ended() {
    let mut fleet = everywhere();
    let name = fleet.release('1');
    fleet.settle().promote("staging").report("prod-east", RolloutPhase::Canary).settle();
    fleet.change(&name, |spec| spec.attempt = 2).settle();
    assert!(fleet.rollout("prod-east").unwrap().spec.abort, "what is under way goes back first");
    assert_eq!(fleet.status(&name).attempt, 1);
    assert_eq!(fleet.rollouts.len(), 2);
    fleet.report("prod-east", RolloutPhase::Withdrawn).settle();
    assert_eq!((fleet.status(&name).attempt, fleet.phase(&name)), (2, ReleasePhase::Shipping));
}

#[test]
fn a_breach_of_the_attempt_under_way_is_answered_although_another_was_asked_for() {
    let mut fleet = everywhere();
    let name = fleet.release('1');
    fleet.settle().promote("staging").report("prod-east", RolloutPhase::Canary).settle();
    fleet.breach("prod-east", RolloutPhase::RolledBack).change(&name, |spec| spec.attempt = 2).settle();
    let back = fleet.rollout("staging").unwrap();
    assert_eq!((back.spec.reason, back.spec.attempt), (RolloutReason::Rollback, 1));
    assert_eq!(fleet.quarantines.len(), 1);
    fleet.report("staging", RolloutPhase::RolledBack).settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::Denied, "the next attempt meets the quarantine");
}

#[test]
fn an_undo_says_where_nothing_is_left_to_take_back() {
    let mut fleet = Fleet::new(pipeline());
    let name = fleet.release('1');
    fleet.settle().promote("staging").promote("prod-east").promote("prod-west");
    fleet.rollouts.clear();
    fleet.change(&name, |spec| spec.undo = true).settle();
    assert!(fleet.message(&name).contains("prod-west stays"), "{}", fleet.message(&name));
}
