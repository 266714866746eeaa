//! What waits for a person in a release, and what letting it pass would write. Pure; where nothing waits for anybody it
//! says what is waited for instead.

use kube::ResourceExt;
use tidegate_pipelines::api::{Approval, Release, ReleasePhase, Rollout, RolloutPhase, RolloutReason};

use super::choose;
use super::hub::CliError;

/// One rollout whose steps may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steps {
    pub environment: String,
    pub rollout: String,
    /// Index of the last step that may pass, from 0.
    pub through: u8,
    pub of: u8,
}

/// The stage that asks for an Approval (`downgrade`: the release as a whole), by the hub's status.
pub fn stage_that_asks(release: &Release) -> Option<String> {
    let status = release.status.as_ref()?;
    match choose::phase(release)? {
        ReleasePhase::Downgrade => Some("downgrade".to_owned()),
        // While a stage soaks it is named here too: it has begun, so it asks for nothing any more.
        ReleasePhase::Waiting => {
            let name = status.stage.as_ref()?;
            let stage = release.spec.snapshot.stages.iter().find(|stage| stage.name == *name)?;
            let begun = |environment: &String| {
                status.environments.iter().any(|p| p.environment == *environment && p.rollout.is_some())
            };
            (stage.require_approval && !stage.environments.iter().any(begun)).then(|| name.clone())
        }
        _ => None,
    }
}

/// Whether the stage that asks is one that `environment` means; without one, any is.
pub fn concerns(release: &Release, stage: &str, environment: Option<&str>) -> bool {
    let Some(environment) = environment else { return true };
    let mut stages = release.spec.snapshot.stages.iter().filter(|of| of.name == stage);
    stages.any(|of| of.environments.iter().any(|e| e == environment))
}

/// Whether it has been given already: the hub is about to take it up.
pub fn is_given(release: &Release, stage: &str, approvals: &[Approval]) -> bool {
    let (name, attempt) = (release.name_any(), release.spec.attempt);
    approvals.iter().any(|a| a.spec.release == name && a.spec.stage == stage && a.spec.attempt == attempt)
}

/// The present step of every rollout on its way; with `full` all that remain, begun or not.
pub fn steps(
    release: &Release,
    rollouts: &[Rollout],
    environment: Option<&str>,
    full: bool,
) -> Result<Vec<Steps>, CliError> {
    let found: Vec<Steps> = rollouts
        .iter()
        .filter(|rollout| environment.is_none_or(|environment| rollout.spec.environment == environment))
        .filter(|rollout| rollout.spec.reason == RolloutReason::Ship)
        .filter_map(|rollout| {
            let status = rollout.status.clone().unwrap_or_default();
            let walks = match status.phase {
                Some(RolloutPhase::Canary) => status.ending.is_none(),
                None | Some(RolloutPhase::Waiting | RolloutPhase::Preparing) => full && status.ending.is_none(),
                Some(_) => false,
            };
            let of = u8::try_from(rollout.spec.strategy.steps.len()).unwrap_or(u8::MAX);
            let last = of.saturating_sub(1);
            let through = if full { last } else { status.step.min(last) };
            let environment = rollout.spec.environment.clone();
            walks.then(|| Steps { environment, rollout: rollout.name_any(), through, of })
        })
        .collect();
    if found.is_empty() { Err(nothing_waits(release, rollouts, environment)) } else { Ok(found) }
}

/// Why there is nothing to let pass: what is waited for, in the hub's and the spokes' own words.
pub fn nothing_waits(release: &Release, rollouts: &[Rollout], environment: Option<&str>) -> CliError {
    let here = |rollout: &&Rollout| environment.is_none_or(|environment| rollout.spec.environment == environment);
    let mut lines: Vec<String> = Vec::new();
    for rollout in rollouts.iter().filter(here) {
        let status = rollout.status.clone().unwrap_or_default();
        let (Some(phase), Some(message)) = (status.phase, status.message) else { continue };
        if !phase.is_terminal() {
            lines.push(format!("{} is {phase:?}: {message}", rollout.spec.environment));
        }
    }
    if let Some(stage) = stage_that_asks(release).filter(|stage| !concerns(release, stage, environment)) {
        lines.push(match stage.as_str() {
            "downgrade" => "the release as a whole asks for an Approval: promote it without --environment".to_owned(),
            stage => format!("stage '{stage}' asks for an Approval first"),
        });
    }
    if lines.is_empty() {
        let message = release.status.as_ref().and_then(|status| status.message.clone());
        lines.push(format!("{} {}", choose::word(release), message.unwrap_or_default()).trim_end().to_owned());
    }
    let what = environment.map_or_else(|| release.name_any(), str::to_owned);
    CliError::Refused(format!("{what}: nothing waits for you; {}", lines.join("; ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::choose::samples::{release, rollout};
    use super::*;

    const SOAK: &str = "stage 'staging' soaks for 10m (until 2026-01-01T00:10:00Z)";

    #[test]
    fn only_a_stage_that_has_not_begun_and_wants_an_approval_asks_for_one() {
        let begun = json!([{"environment": "prod-east", "rollout": "p-1"}]);
        for (status, asks) in [
            (json!({"phase": "Waiting", "stage": "prod"}), Some("prod")),
            (json!({"phase": "Waiting", "stage": "staging", "message": SOAK}), None),
            (json!({"phase": "Waiting", "stage": "prod", "environments": begun}), None),
            (json!({"phase": "Shipping", "stage": "prod"}), None),
            (json!({"phase": "Downgrade"}), Some("downgrade")),
            (json!({"phase": "Promoted"}), None),
        ] {
            assert_eq!(stage_that_asks(&release("p", 1, status.clone())).as_deref(), asks, "{status}");
        }
    }

    #[test]
    fn one_environment_takes_no_other_stages_approval() {
        let waits = release("p", 1, json!({"phase": "Waiting", "stage": "prod"}));
        assert!(concerns(&waits, "prod", None) && concerns(&waits, "prod", Some("prod-west")));
        assert!(!concerns(&waits, "prod", Some("staging")));
        let told = nothing_waits(&waits, &[], Some("staging")).to_string();
        assert_eq!(told, "staging: nothing waits for you; stage 'prod' asks for an Approval first");
        let older = release("p", 1, json!({"phase": "Downgrade"}));
        assert!(!concerns(&older, "downgrade", Some("staging")) && concerns(&older, "downgrade", None));
    }

    #[test]
    fn a_soak_is_told_with_its_end() {
        let soaks = release("p", 1, json!({"phase": "Waiting", "stage": "staging", "message": SOAK}));
        for (environment, who) in [(None, "p"), (Some("prod-west"), "prod-west")] {
            let told = steps(&soaks, &[], environment, false).unwrap_err();
            assert_eq!(told.to_string(), format!("{who}: nothing waits for you; Waiting {SOAK}"));
            assert_eq!(told.code(), 1);
        }
    }

    #[test]
    fn an_approval_of_an_earlier_attempt_is_not_this_ones() {
        let waits = release("p", 1, json!({"phase": "Waiting", "stage": "prod"}));
        let given = |attempt: u32| {
            let spec = json!({"release": "p", "stage": "prod", "attempt": attempt, "user": "ava"});
            Approval::new("a", serde_json::from_value(spec).unwrap())
        };
        assert!(is_given(&waits, "prod", &[given(1)]));
        assert!(!is_given(&waits, "prod", &[given(2)]) && !is_given(&waits, "downgrade", &[given(1)]));
    }

    #[test]
    fn the_present_step_passes_where_it_was_asked_for_and_nothing_else() {
        let ships = release("p", 1, json!({"phase": "Shipping", "stage": "prod"}));
        let walks = |environment| rollout("p", environment, "Ship", json!({"phase": "Canary", "step": 1}));
        let rollouts = [walks("prod-east"), walks("prod-west")];
        let through = |environment, full| -> Vec<(String, u8)> {
            let found = steps(&ships, &rollouts, environment, full).unwrap();
            found.into_iter().map(|step| (step.environment, step.through)).collect()
        };
        assert_eq!(through(Some("prod-west"), false), [("prod-west".to_owned(), 1)]);
        assert_eq!(through(Some("prod-west"), true), [("prod-west".to_owned(), 2)]);
        assert_eq!(through(None, false).len(), 2);
    }

    #[test]
    fn what_walks_no_steps_waits_for_nobody() {
        let ships = release("p", 1, json!({"phase": "Shipping", "stage": "prod"}));
        let ending = json!({"end": "RolledBack", "reason": "Breach", "message": "m"});
        for (reason, status) in [
            ("Ship", json!({"phase": "Promoting", "message": "stable rolls"})),
            ("Ship", json!({"phase": "Preparing", "message": "pods start"})),
            ("Ship", json!({"phase": "Canary", "message": "goes back", "ending": ending})),
            ("Rollback", json!({"phase": "Canary", "message": "goes back"})),
        ] {
            let one = [rollout("p", "prod-west", reason, status.clone())];
            let told = steps(&ships, &one, Some("prod-west"), false).unwrap_err().to_string();
            let message = status["message"].as_str().unwrap();
            assert!(told.starts_with("prod-west: nothing waits for you") && told.contains(message), "{told}");
        }
        let preparing = [rollout("p", "prod-west", "Ship", json!({"phase": "Preparing"}))];
        assert_eq!(steps(&ships, &preparing, None, true).unwrap()[0].through, 2);
    }
}
