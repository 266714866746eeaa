//! Rows of the Release table.

use tidegate_pipelines::api::{
    ImageIndex, ReleasePhase, RollbackScope, RolloutPhase, RolloutReason, Span, VerdictDecision, names,
};
use tidegate_pipelines::release::PipelineState;

use super::fleet::{Fleet, digest, image, pipeline};

fn everywhere() -> Fleet {
    let mut pipeline = pipeline();
    pipeline.rollback = RollbackScope::Release;
    Fleet::new(pipeline)
}

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
fn a_breach_stops_later_stages_and_quarantines_for_its_environment() {
    let mut fleet = Fleet::new(pipeline());
    let name = fleet.release('1');
    fleet.settle().promote("staging").breach("prod-east", RolloutPhase::RolledBack).settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::RolledBack);
    let quarantine = &fleet.quarantines[0].spec;
    assert_eq!((&quarantine.digests, &quarantine.environments), (&vec![digest('1')], &vec!["prod-east".to_owned()]));
    fleet.pass(3600).settle();
    assert!(fleet.rollout("prod-west").is_none());
    assert_eq!(fleet.rollout("staging").unwrap().spec.reason, RolloutReason::Ship, "staging stays");
}

#[test]
fn a_breach_with_rollback_release_takes_back_what_had_passed() {
    let mut fleet = everywhere();
    let name = fleet.release('1');
    fleet.settle().promote("staging");
    let share = fleet.rollout("prod-east").unwrap().spec.alpha_share;
    assert!((share - 1.0 / 3.0).abs() < 1e-9, "one alpha over the release");
    // Told while the spoke still moves the weight: nobody waits for its end.
    fleet.breach("prod-east", RolloutPhase::Canary).settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::RollingBack);
    let back = fleet.rollout("staging").unwrap();
    assert_eq!((back.spec.reason, back.spec.images.clone()), (RolloutReason::Rollback, vec![image('0')]));
    assert!(fleet.quarantines[0].spec.environments.is_empty(), "everywhere");
    fleet.report("prod-east", RolloutPhase::RolledBack).settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::RollingBack, "staging is not back yet");
    fleet.report("staging", RolloutPhase::RolledBack).settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::RolledBack);
    assert!(fleet.rollout("prod-west").is_none());
}

#[test]
fn a_breach_while_paused_is_answered_too() {
    let mut fleet = everywhere();
    let name = fleet.release('1');
    fleet.settle().promote("staging").report("prod-east", RolloutPhase::Canary);
    fleet.change(&name, |spec| spec.paused = true).settle();
    fleet.breach("prod-east", RolloutPhase::RolledBack).settle();
    assert_eq!(fleet.rollout("staging").unwrap().spec.reason, RolloutReason::Rollback);
    assert_eq!(fleet.quarantines.len(), 1);
}

#[test]
fn a_rollback_in_progress_is_awaited_before_a_newer_release_starts() {
    let mut fleet = everywhere();
    fleet.release('1');
    fleet.settle().promote("staging").breach("prod-east", RolloutPhase::RolledBack).settle();
    fleet.pass(10);
    let new = fleet.release('2');
    fleet.settle();
    assert_eq!(fleet.rollout("staging").unwrap().spec.reason, RolloutReason::Rollback);
    fleet.report("staging", RolloutPhase::RolledBack).settle();
    assert_eq!(fleet.rollout("staging").unwrap().spec.release, new);
}

#[test]
fn where_nothing_ran_before_there_is_nothing_to_go_back_to_and_it_is_told() {
    let mut fleet = everywhere();
    let name = fleet.release('1');
    fleet.settle().report("staging", RolloutPhase::Promoted);
    fleet.rollouts[0].status.as_mut().unwrap().target.clear();
    fleet.settle().pass(6).settle().breach("prod-east", RolloutPhase::RolledBack).settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::RolledBack);
    assert!(fleet.message(&name).contains("NoRollbackTarget"), "{}", fleet.message(&name));
}

#[test]
fn only_digests_that_a_rollout_brought_are_quarantined() {
    let mut fleet = Fleet::new(pipeline());
    fleet.release('1');
    fleet.settle();
    let sidecar = |digit| tidegate_pipelines::api::ReleaseImage { container: "proxy".into(), ..image(digit) };
    fleet.rollouts[0].spec.images.push(sidecar('9'));
    fleet.breach("staging", RolloutPhase::RolledBack);
    fleet.rollouts[0].status.as_mut().unwrap().target = vec![image('0'), sidecar('9')];
    fleet.settle();
    assert_eq!(fleet.quarantines.iter().map(|q| q.spec.digests.clone()).collect::<Vec<_>>(), [vec![digest('1')]]);
}

#[test]
fn a_lifted_quarantine_stays_lifted_for_the_breach_it_was_lifted_after() {
    let mut fleet = everywhere();
    fleet.release('1');
    fleet.settle().promote("staging").breach("prod-east", RolloutPhase::RolledBack).settle();
    let lifted = tidegate_pipelines::api::Lifted { by: "anna".into(), reason: "a false alarm of ours".into() };
    fleet.quarantines[0].spec.lifted = Some(lifted);
    fleet.settle();
    assert!(fleet.quarantines[0].spec.lifted.is_some());
}

#[test]
fn an_end_without_a_breach_stops_without_quarantine() {
    use RolloutPhase::*;
    for (end, phase) in [
        (Inconclusive, ReleasePhase::Stopped),
        (Blind, ReleasePhase::Stopped),
        (Failed, ReleasePhase::Stopped),
        (Denied, ReleasePhase::Denied),
        (Withdrawn, ReleasePhase::Withdrawn),
    ] {
        let mut fleet = everywhere();
        let name = fleet.release('1');
        fleet.settle().promote("staging").report("prod-east", end).settle().pass(3600).settle();
        assert_eq!(fleet.phase(&name), phase, "{end:?}");
        assert!(fleet.quarantines.is_empty() && fleet.rollout("prod-west").is_none(), "{end:?}");
        assert_eq!(fleet.rollout("staging").unwrap().spec.reason, RolloutReason::Ship, "{end:?}");
    }
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
fn a_breach_in_a_wave_keeps_the_rest_of_its_stage_from_starting() {
    let mut pipeline = pipeline();
    pipeline.stages.truncate(1);
    pipeline.stages[0].environments = ["a", "b"].map(str::to_owned).to_vec();
    pipeline.stages[0].max_concurrent = Some(1);
    let mut fleet = Fleet::new(pipeline);
    let name = fleet.release('1');
    fleet.settle().breach("a", RolloutPhase::RolledBack).settle().pass(3600).settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::RolledBack);
    assert!(fleet.rollout("b").is_none());
}

#[test]
fn a_breach_quarantines_what_is_inside_its_index_but_not_what_stable_ran() {
    let mut fleet = Fleet::new(pipeline());
    fleet.release('0');
    fleet.releases[0].spec.indexes = vec![ImageIndex { digest: digest('0'), children: vec![digest('a'), digest('b')] }];
    fleet.settle().promote("staging").promote("prod-east").promote("prod-west").pass(10);
    fleet.release('1');
    fleet.releases[1].spec.indexes = vec![ImageIndex { digest: digest('1'), children: vec![digest('b'), digest('c')] }];
    fleet.settle().breach("staging", RolloutPhase::RolledBack).settle();
    let spec = &fleet.quarantines[0].spec;
    assert_eq!(spec.digests, [digest('1'), digest('c')]);
    assert_eq!(spec.repositories, ["reg:5000/shop/portal"]);
}

#[test]
fn a_wider_quarantine_keeps_the_digests_that_it_held() {
    let mut fleet = Fleet::new(pipeline());
    fleet.release('1');
    fleet.settle().promote("staging").breach("prod-east", RolloutPhase::RolledBack).settle();
    // A person added one; then the spoke of another environment tells of the same version.
    fleet.quarantines[0].spec.digests.push(digest('7'));
    fleet.releases[0].status.as_mut().unwrap().phase = Some(ReleasePhase::Shipping);
    fleet.quarantines[0].spec.environments = vec!["elsewhere".into()];
    fleet.settle();
    let spec = &fleet.quarantines[0].spec;
    assert_eq!(spec.environments, ["elsewhere", "prod-east"]);
    assert_eq!(spec.digests, [digest('1'), digest('7')]);
}

#[test]
fn another_build_of_a_quarantined_revision_is_denied() {
    let mut fleet = Fleet::new(pipeline());
    fleet.release('1');
    fleet.settle().breach("staging", RolloutPhase::RolledBack).settle().pass(10);
    let rebuilt = fleet.release('2');
    fleet.releases[1].spec.revision = fleet.releases[0].spec.revision.clone();
    fleet.settle();
    assert_eq!(fleet.phase(&rebuilt), ReleasePhase::Denied);
    assert!(fleet.message(&rebuilt).contains("source revision"), "{}", fleet.message(&rebuilt));
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
fn a_quarantined_digest_is_denied_even_by_retry() {
    let mut fleet = Fleet::new(pipeline());
    let name = fleet.release('1');
    fleet.settle().promote("staging").breach("prod-east", RolloutPhase::RolledBack).settle();
    let before = fleet.rollouts.len();
    fleet.change(&name, |spec| spec.attempt = 2).settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::Denied);
    assert!(fleet.message(&name).contains("quarantined"));
    assert_eq!(fleet.rollouts.len(), before);
}

#[test]
fn an_attempt_that_found_its_digests_running_goes_back_to_what_ran_before_them() {
    let mut fleet = everywhere();
    let name = fleet.release('1');
    fleet.settle().promote("staging").report("prod-east", RolloutPhase::Failed).settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::Stopped);
    fleet.change(&name, |spec| spec.attempt = 2).settle().report("staging", RolloutPhase::Promoted);
    // Stable runs these digests already: this attempt knows no target of its own.
    fleet.rollouts.last_mut().unwrap().status.as_mut().unwrap().target.clear();
    fleet.settle().pass(6).settle().breach("prod-east", RolloutPhase::RolledBack).settle();
    let back = fleet.rollout("staging").unwrap();
    assert_eq!((back.spec.reason, back.spec.attempt), (RolloutReason::Rollback, 2), "{}", fleet.message(&name));
    assert_eq!(back.spec.images, [image('0')]);
}

#[test]
fn a_first_release_that_fails_is_no_breach_and_quarantines_nothing() {
    let mut fleet = everywhere();
    let name = fleet.release('1');
    fleet.settle().promote("staging").breach("prod-east", RolloutPhase::Failed);
    let status = fleet.rollouts.last_mut().unwrap().status.as_mut().unwrap();
    (status.first_release, status.target) = (true, vec![]);
    fleet.settle();
    assert_eq!(fleet.phase(&name), ReleasePhase::Stopped, "{}", fleet.message(&name));
    assert!(fleet.quarantines.is_empty());
    assert_eq!(fleet.rollout("staging").unwrap().spec.reason, RolloutReason::Ship, "what passed elsewhere stays");
}

#[test]
fn a_blocked_rollback_holds_up_its_own_environment_alone_and_gives_way_to_something_newer() {
    let mut fleet = everywhere();
    let old = fleet.release('1');
    fleet.settle().promote("staging").breach("prod-east", RolloutPhase::RollbackBlocked).settle();
    assert_eq!(fleet.phase(&old), ReleasePhase::RollingBack);
    fleet.report("staging", RolloutPhase::RolledBack).settle().pass(10);
    let new = fleet.release('2');
    fleet.settle();
    assert_eq!(fleet.rollout("staging").unwrap().spec.release, new, "{}", fleet.told(&new, "staging"));
    let blocked = fleet.rollout("prod-east").unwrap();
    assert_eq!(blocked.spec.superseded_by.as_deref(), Some(new.as_str()), "the documented way out");
    fleet.promote("staging");
    assert_eq!(fleet.rollout("prod-east").unwrap().spec.release, old, "one at a time");
    fleet.report("prod-east", RolloutPhase::RolledBack).settle();
    assert_eq!(fleet.phase(&old), ReleasePhase::RolledBack);
    assert_eq!(fleet.rollout("prod-east").unwrap().spec.release, new);
}

#[test]
fn a_rollback_that_goes_on_is_awaited_and_not_called_off() {
    let mut fleet = everywhere();
    fleet.release('1');
    fleet.settle().promote("staging").breach("prod-east", RolloutPhase::RollingBack).settle().pass(10);
    fleet.release('2');
    fleet.settle();
    for environment in ["staging", "prod-east"] {
        assert_eq!(fleet.rollout(environment).unwrap().spec.superseded_by, None, "{environment}");
    }
}

#[test]
fn nothing_newer_starts_where_a_rollback_is_about_to_be_written() {
    let mut fleet = everywhere();
    let old = fleet.release('1');
    fleet.settle().promote("staging").breach("prod-east", RolloutPhase::RolledBack).pass(10);
    let new = fleet.release('2');
    // The newer one is planned first: its own look must tell it.
    fleet.step(&new);
    assert_eq!(fleet.rollout("staging").unwrap().spec.release, old);
    assert!(fleet.told(&new, "staging").contains("RollbackAwaited"), "{}", fleet.told(&new, "staging"));
    fleet.settle();
    assert_eq!(fleet.rollout("staging").unwrap().spec.reason, RolloutReason::Rollback);
}

#[test]
fn an_abort_calls_a_blocked_way_back_off() {
    let mut fleet = Fleet::new(pipeline());
    let name = fleet.release('1');
    fleet.settle().promote("staging").promote("prod-east").promote("prod-west");
    fleet.change(&name, |spec| spec.undo = true).settle();
    fleet.report("staging", RolloutPhase::RollbackBlocked).report("prod-east", RolloutPhase::RollingBack);
    fleet.change(&name, |spec| spec.abort = true).settle();
    assert!(fleet.rollout("staging").unwrap().spec.abort);
    assert!(!fleet.rollout("prod-east").unwrap().spec.abort, "what goes on is not stopped half-way");
}

#[test]
fn a_breach_after_an_abort_is_answered_as_well() {
    let mut fleet = everywhere();
    let name = fleet.release('1');
    fleet.settle().promote("staging").report("prod-east", RolloutPhase::Canary);
    fleet.change(&name, |spec| spec.abort = true).settle();
    fleet.breach("prod-east", RolloutPhase::RolledBack).settle();
    assert_eq!(fleet.rollout("staging").unwrap().spec.reason, RolloutReason::Rollback);
    assert_eq!(fleet.quarantines.len(), 1);
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
fn an_undo_says_where_nothing_is_left_to_take_back() {
    let mut fleet = Fleet::new(pipeline());
    let name = fleet.release('1');
    fleet.settle().promote("staging").promote("prod-east").promote("prod-west");
    fleet.rollouts.clear();
    fleet.change(&name, |spec| spec.undo = true).settle();
    assert!(fleet.message(&name).contains("prod-west stays"), "{}", fleet.message(&name));
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
