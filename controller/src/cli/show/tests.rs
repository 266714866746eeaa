//! What is shown of a release, and with which exit code its end is told.

use serde_json::json;

use super::super::choose::samples::{release, rollout};
use super::*;
use crate::cli::fake::{self, Answer};

#[test]
fn ends_have_exit_codes_and_the_rest_has_none() {
    assert_eq!(end(ReleasePhase::Promoted), Some(0));
    assert_eq!(end(ReleasePhase::Denied), Some(1));
    assert_eq!(end(ReleasePhase::RolledBack), Some(1));
    assert_eq!(end(ReleasePhase::Shipping), None);
}

#[test]
fn a_frame_never_wraps_and_leaves_the_terminal_as_it_was() {
    let drawn = in_place("", "a line\n");
    assert!(drawn.starts_with("\x1b[?7l") && drawn.ends_with("\n\x1b[?7h"), "{drawn:?}");
}

#[test]
fn long_messages_are_cut_to_one_line() {
    assert_eq!(one_line("a\n  b", 10), "a b");
    assert_eq!(one_line("abcdefghij", 8), "abcde...");
}

#[test]
fn a_name_in_a_message_is_never_cut() {
    assert_eq!(whole_words("superseded by\n portal-c48d1f0e22", 15), "superseded by portal-c48d1f0e22");
    assert_eq!(whole_words("superseded by portal-c48d1f0e22 and so on", 15), "superseded by portal-c48d1f0e22 ...");
}

#[test]
fn an_overview_of_all_namespaces_keeps_them_apart() {
    let pipeline = |namespace: &str| -> Pipeline {
        let spec = release("x", 1, json!({})).spec.snapshot;
        let mut pipeline = Pipeline::new("portal", spec);
        pipeline.metadata.namespace = Some(namespace.into());
        pipeline
    };
    let pipelines = [pipeline("idle"), pipeline("portal")];
    let releases = [release("portal-c48", 1, json!({"phase": "Shipping"}))];
    let text = overview(&pipelines, &releases, true, Timestamp::UNIX_EPOCH);
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..2], ["NAMESPACE", "PIPELINE"]);
    assert_eq!(rows[1][..3], ["idle", "portal", "-"]);
    assert_eq!(rows[2][..4], ["portal", "portal", "portal-c48", "Shipping"]);
}

#[test]
fn another_attempt_is_not_told_with_the_end_of_the_one_before() {
    let mut retried = release("p", 1, json!({"phase": "RolledBack", "message": "errors"}));
    assert_eq!(summary(&retried), "p: RolledBack errors");
    retried.spec.attempt = 2;
    assert_eq!(summary(&retried), "p: Verifying");
    assert_eq!(choose::phase(&retried).and_then(end), None);
}

/// A hub with one release, whose rollouts may be read in `staging` alone.
fn half_blind(status: &serde_json::Value) -> Hub {
    let status = status.clone();
    fake::hub("portal", move |call| match call.uri.split_once("/namespaces/").map(|(_, place)| place) {
        Some("portal/releases/p") => Answer::Say(200, serde_json::to_value(release("p", 1, status.clone())).unwrap()),
        Some("env-staging/rollouts") => {
            let there = rollout("p", "staging", "Ship", json!({"phase": "Promoted", "message": "all is new"}));
            Answer::list(&[serde_json::to_value(there).unwrap()])
        }
        Some("env-prod-east/rollouts" | "env-prod-west/rollouts") => Answer::refusal(403, "User 'ava' cannot list"),
        other => panic!("{other:?}"),
    })
    .0
}

#[tokio::test]
async fn an_environment_that_may_not_be_read_hides_no_other_one() {
    let east = json!({"environment": "prod-east", "verdict": "Allow", "phase": "Canary"});
    let staging = json!({"environment": "staging", "verdict": "Allow", "phase": "Promoted"});
    let hub = half_blind(&json!({"phase": "Shipping", "environments": [staging, east]}));
    let text = describe(&hub, "p").await.unwrap();
    assert!(text.contains("rollout p-1 (Ship): Promoted") && text.contains("all is new"), "{text}");
    for place in ["env-prod-east", "env-prod-west"] {
        let line = format!("\n{place}: not readable by you: User 'ava' cannot list (403)\n");
        assert!(text.contains(&line), "{text}");
    }
    assert!(text.contains("prod-east: Allow, Canary"), "the hub's word stays: {text}");
    let seen = hub.seen(&hub.release("p").await.unwrap()).await.unwrap();
    let drawn = frame(&hub.release("p").await.unwrap(), &seen, Timestamp::UNIX_EPOCH);
    let lines: Vec<&str> = drawn.lines().skip(1).map(str::trim).collect();
    assert!(lines[0].starts_with("staging      [...."), "{drawn}");
    assert_eq!(lines[1], "prod-east    env-prod-east: not readable by you; the hub says: Canary");
    assert_eq!(lines[2], "prod-west    env-prod-west: not readable by you; the hub says: not begun");
}

#[tokio::test]
async fn the_end_that_watch_tells_is_the_releases_own() {
    let now = crate::clock::wall();
    for (phase, code) in [("Promoted", 0), ("RolledBack", 1)] {
        let hub = half_blind(&json!({"phase": phase}));
        assert_eq!(watch(&hub, "p", now.clone(), |_| ()).await.unwrap(), ExitCode::from(code));
    }
    // Under way as far as was seen: that staging is promoted is no end, and no right is no answer.
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let (hub, _calls) = fake::hub("portal", move |call| match call.uri.ends_with("/releases/p") {
        true if asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 0 => Answer::refusal(403, "no more"),
        true => Answer::Say(200, serde_json::to_value(release("p", 1, json!({"phase": "Shipping"}))).unwrap()),
        false => Answer::refusal(403, "User 'ava' cannot list"),
    });
    assert_eq!(watch(&hub, "p", now, |_| ()).await.unwrap_err().code(), 3);
}

#[tokio::test]
async fn an_environment_that_does_not_answer_is_not_called_unreadable() {
    let (hub, _calls) = fake::hub("portal", |call| match call.uri.ends_with("/releases/p") {
        true => Answer::Say(200, serde_json::to_value(release("p", 1, json!({"phase": "Promoted"}))).unwrap()),
        false => Answer::Lost,
    });
    assert!(matches!(describe(&hub, "p").await, Err(CliError::Unreachable { .. })));
}

#[tokio::test]
async fn status_follows_the_release_under_way_to_its_own_end_whatever_was_made_later() {
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let (hub, _calls) = fake::hub("portal", move |call| {
        let looks = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let phase = if looks < 3 { "Shipping" } else { "RolledBack" };
        let old = serde_json::to_value(release("old", 1, json!({"phase": phase}))).unwrap();
        let new = serde_json::to_value(release("new", 2, json!({"phase": "Promoted"}))).unwrap();
        match call.uri.rsplit('/').next() {
            Some("portal") => Answer::refusal(404, "no release of that name"),
            Some("releases") => Answer::list(&[old, new]),
            // One call of many is lost.
            Some("old") if looks == 2 => Answer::Lost,
            Some("old") => Answer::Say(200, old),
            other => panic!("{other:?}"),
        }
    });
    let mut told = String::new();
    let args = StatusArgs { name: "portal".into(), timeout: tidegate_pipelines::api::Span::from_secs(60) };
    let code = status(&hub, &args, |line| told.push_str(line)).await.unwrap();
    assert_eq!((code, told.as_str()), (ExitCode::from(1), "old: Shipping\nold: RolledBack\n"));
}

#[test]
fn columns_line_up() {
    let rows = [["A", "B"], ["long", "x"]].map(|row| row.map(str::to_owned).to_vec());
    assert_eq!(table(&rows), "A     B\nlong  x\n");
}
