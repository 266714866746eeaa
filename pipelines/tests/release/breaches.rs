//! Rows of the Release table: breaches, the ways back, quarantines.

use tidegate_pipelines::api::{ImageIndex, ReleasePhase, RolloutPhase, RolloutReason};

use super::fleet::{Fleet, digest, everywhere, image, pipeline};

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
