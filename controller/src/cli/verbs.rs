//! What people tell a release: promote, abort, pause, resume, retry, undo. Each is one change of a spec, so that the
//! API server's audit log names who did it. What cannot be done is refused and leaves nothing in a spec.

use kube::api::{Api, PostParams};
use kube::{Resource, ResourceExt};
use serde_json::json;
use tidegate_pipelines::api::{Approval, ApprovalSpec, Release, ReleasePhase, Rollout};

use super::choose;
use super::hub::{CliError, Hub};
use super::promotion;
use crate::connect::bounded;

/// For what acts on a release as a whole.
#[derive(clap::Args, Clone, Debug)]
pub struct Whole {
    /// A release, or a pipeline (the one under way, else what runs or began last).
    pub name: String,
}

#[derive(clap::Args, Clone, Debug)]
pub struct Target {
    /// A release, or a pipeline (its release under way).
    pub name: String,
    /// Only in this environment; else the whole release.
    #[arg(long, short)]
    pub environment: Option<String>,
}

#[derive(clap::Args, Clone, Debug)]
pub struct PromoteArgs {
    #[command(flatten)]
    pub target: Target,
    /// Let every remaining step pass, not just the present one. A breach still rolls back.
    #[arg(long)]
    pub full: bool,
    /// Why; kept with the Approval, where one is given.
    #[arg(long)]
    pub comment: Option<String>,
}

/// Gives the approval that is waited for, or lets the present step (or, with `full`, all) pass.
pub async fn promote(hub: &Hub, args: &PromoteArgs) -> Result<String, CliError> {
    let release = hub.under_way(&args.target.name).await?;
    let environment = args.target.environment.as_deref();
    choose::environment_of(&release, environment)?;
    let asked = promotion::stage_that_asks(&release);
    if let Some(stage) = asked.filter(|stage| promotion::concerns(&release, stage, environment)) {
        return approve(hub, &release, stage, args.comment.clone()).await;
    }
    let rollouts = hub.rollouts_of(&release, environment).await?;
    let mut told = Vec::new();
    for step in promotion::steps(&release, &rollouts, environment, args.full)? {
        let change = json!({ "promoteThrough": step.through });
        hub.patch_spec(&hub.rollouts(&step.environment), &step.rollout, change).await?;
        let (environment, through, of) = (step.environment, step.through + 1, step.of);
        told.push(format!("{environment}: steps through {through} of {of} may pass without evidence"));
    }
    Ok(told.join("\n"))
}

async fn approve(hub: &Hub, release: &Release, stage: String, comment: Option<String>) -> Result<String, CliError> {
    let (name, attempt) = (release.name_any(), release.spec.attempt);
    let api: Api<Approval> = Api::namespaced(hub.client.clone(), &hub.namespace);
    let given = match hub.list(&api).await {
        // Who may not look may perhaps not write either: the API server says so of what was asked for.
        Err(error) if error.forbidden().is_some() => vec![],
        found => found?,
    };
    if promotion::is_given(release, &stage, &given) {
        let told = release.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default();
        return Err(CliError::Refused(format!("{name}: '{stage}' is approved already for attempt {attempt}; {told}")));
    }
    let user = whoami(hub).await?;
    let spec = ApprovalSpec { release: name.clone(), stage: stage.clone(), attempt, user: user.clone(), comment };
    let mut approval = Approval::new(&format!("{name}-{attempt}-{stage}"), spec);
    approval.meta_mut().namespace = Some(hub.namespace.clone());
    bounded(api.create(&PostParams::default(), &approval)).await.map_err(hub.failed("create Approval"))?;
    Ok(format!("{user} let {name} pass into {stage}"))
}

/// The user that the API server takes this connection for.
async fn whoami(hub: &Hub) -> Result<String, CliError> {
    use k8s_openapi::api::authentication::v1::SelfSubjectReview;
    let api: Api<SelfSubjectReview> = Api::all(hub.client.clone());
    let review = bounded(api.create(&PostParams::default(), &SelfSubjectReview::default()))
        .await
        .map_err(hub.failed("ask who I am"))?;
    review.status.and_then(|status| status.user_info).and_then(|info| info.username).ok_or(CliError::Nobody)
}

/// Stops it: weight 0 and `Withdrawn`. Without an environment, everywhere.
pub async fn abort(hub: &Hub, target: &Target) -> Result<String, CliError> {
    set(hub, target, json!({ "abort": true }), "aborted").await
}

/// Holds it at its present weight; a breach still rolls back.
pub async fn pause(hub: &Hub, target: &Target) -> Result<String, CliError> {
    set(hub, target, json!({ "paused": true }), "paused").await
}

pub async fn resume(hub: &Hub, target: &Target) -> Result<String, CliError> {
    set(hub, target, json!({ "paused": false }), "resumed").await
}

/// Ships the release once more, everywhere, after an end that was not good.
pub async fn retry(hub: &Hub, target: &Whole) -> Result<String, CliError> {
    let release = hub.chosen(&target.name, choose::to_retry).await?;
    let name = release.name_any();
    let moving = |phase: &ReleasePhase| phase.is_shipping() || *phase == ReleasePhase::RollingBack;
    if let Some(phase) = choose::phase(&release).filter(moving) {
        return Err(CliError::Refused(format!("{name} is under way ({phase:?}): abort it or wait for its end first")));
    }
    let attempt = release.spec.attempt + 1;
    let change = json!({ "attempt": attempt, "abort": false, "undo": false, "paused": false });
    hub.patch_spec(&hub.releases(), &name, change).await?;
    Ok(format!("{name}: attempt {attempt}"))
}

/// Takes it back everywhere where it passed; no quarantine.
pub async fn undo(hub: &Hub, target: &Whole) -> Result<String, CliError> {
    let release = hub.chosen(&target.name, choose::to_undo).await?;
    choose::undoable(&release)?;
    hub.patch_spec(&hub.releases(), &release.name_any(), json!({ "undo": true })).await?;
    Ok(format!("{}: goes back wherever it passed", release.name_any()))
}

async fn set(hub: &Hub, target: &Target, change: serde_json::Value, word: &str) -> Result<String, CliError> {
    let Some(environment) = &target.environment else {
        let name = hub.under_way(&target.name).await?.name_any();
        hub.patch_spec(&hub.releases(), &name, change).await?;
        return Ok(format!("{name}: {word}"));
    };
    // A rollout may be under way although its release has ended: by its own name it can be reached then, too.
    let release = hub.chosen(&target.name, choose::to_act).await?;
    choose::environment_of(&release, Some(environment))?;
    let name = release.name_any();
    let rollouts = hub.rollouts_of(&release, Some(environment)).await?;
    let Some(rollout) = rollouts.iter().find(|rollout| acts_in(rollout, environment)) else {
        return Err(CliError::NoRollout { release: name, environment: environment.clone() });
    };
    hub.patch_spec(&hub.rollouts(environment), &rollout.name_any(), change).await?;
    Ok(format!("{name} in {environment}: {word}"))
}

fn acts_in(rollout: &Rollout, environment: &str) -> bool {
    let phase = rollout.status.as_ref().and_then(|status| status.phase);
    rollout.spec.environment == environment && !phase.is_some_and(|phase| phase.is_terminal())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::Value;

    use super::choose::samples;
    use super::*;
    use crate::cli::Cli;
    use crate::cli::fake::{self, Answer};

    /// What a verb came to, and its writes: where, and what.
    async fn said(releases: Vec<Release>, line: &[&str]) -> (Result<String, CliError>, Vec<(String, Value)>) {
        let releases: Vec<Value> = releases.iter().map(|r| serde_json::to_value(r).unwrap()).collect();
        let (hub, calls) = fake::hub("portal", move |call| {
            let place = call.uri.split("/namespaces/").nth(1).unwrap().to_owned();
            let shown = |rollout: Rollout| serde_json::to_value(rollout).unwrap();
            match (call.method.as_str(), place.as_str()) {
                ("PATCH", _) if place.contains("/rollouts/") => {
                    Answer::Say(200, shown(samples::rollout("r", "prod-west", "Ship", json!({}))))
                }
                ("PATCH", _) => Answer::Say(200, releases[0].clone()),
                (_, "portal/releases") => Answer::list(&releases),
                (_, "env-prod-west/rollouts") => {
                    let walks = samples::rollout("old", "prod-west", "Ship", json!({"phase": "Canary", "step": 1}));
                    Answer::list(&[shown(walks)])
                }
                (_, place) if place.starts_with("env-") => Answer::refusal(403, "no eyes there"),
                (_, place) => {
                    let named = releases.iter().find(|r| place.ends_with(r["metadata"]["name"].as_str().unwrap()));
                    named.map_or_else(|| Answer::refusal(404, "not found"), |found| Answer::Say(200, found.clone()))
                }
            }
        });
        let command = Cli::try_parse_from([&["tidegate"], line].concat()).unwrap().command;
        use crate::cli::Command;
        let result = match command {
            Command::Abort(c) => abort(&hub, &c.args).await,
            Command::Pause(c) => pause(&hub, &c.args).await,
            Command::Resume(c) => resume(&hub, &c.args).await,
            Command::Retry(c) => retry(&hub, &c.args).await,
            Command::Undo(c) => undo(&hub, &c.args).await,
            Command::Promote(c) => promote(&hub, &c.args).await,
            other => panic!("{other:?}"),
        };
        let writes = fake::all(calls).into_iter().filter(|call| call.method != "GET");
        let place = |uri: &str| uri.split("/namespaces/").nth(1).unwrap().split('?').next().unwrap().to_owned();
        (result, writes.map(|call| (place(&call.uri), call.body["spec"].clone())).collect())
    }

    fn under_way_and_newer() -> Vec<Release> {
        let stages = json!({"phase": "Shipping", "stage": "prod"});
        vec![samples::release("old", 1, stages), samples::release("new", 2, json!({"phase": "Promoted"}))]
    }

    #[tokio::test]
    async fn a_verb_writes_one_change_where_something_is_under_way() {
        let release = "portal/releases/old";
        let rollout = "env-prod-west/rollouts/old-1";
        for (line, place, change) in [
            (vec!["abort", "portal"], release, json!({"abort": true})),
            (vec!["pause", "portal"], release, json!({"paused": true})),
            (vec!["resume", "portal"], release, json!({"paused": false})),
            (vec!["undo", "portal"], release, json!({"undo": true})),
            // Who has no eyes elsewhere acts where they have.
            (vec!["abort", "portal", "-e", "prod-west"], rollout, json!({"abort": true})),
            (vec!["pause", "old", "-e", "prod-west"], rollout, json!({"paused": true})),
            (vec!["promote", "portal", "-e", "prod-west"], rollout, json!({"promoteThrough": 1})),
        ] {
            let (result, writes) = said(under_way_and_newer(), &line).await;
            assert!(result.is_ok(), "{line:?}: {result:?}");
            assert_eq!(writes, [(place.to_owned(), change)], "{line:?}");
        }
    }

    #[tokio::test]
    async fn another_attempt_takes_back_what_ended_the_one_before() {
        let ended = vec![samples::release("old", 1, json!({"phase": "Withdrawn"}))];
        let (result, writes) = said(ended, &["retry", "portal"]).await;
        assert_eq!(result.unwrap(), "old: attempt 2");
        let change = json!({"attempt": 2, "abort": false, "undo": false, "paused": false});
        assert_eq!(writes, [("portal/releases/old".to_owned(), change)]);
    }

    #[tokio::test]
    async fn a_refused_verb_writes_nothing_and_says_what_can_be_done() {
        let one = |phase: &str| vec![samples::release("old", 1, json!({ "phase": phase }))];
        let two = vec![samples::release("a", 1, json!({"phase": "Shipping"})), samples::release("b", 2, json!({}))];
        for (releases, line, part) in [
            (one("Promoted"), vec!["abort", "portal"], "already Promoted; `tidegate undo`"),
            (one("Withdrawn"), vec!["abort", "old"], "already Withdrawn; `tidegate retry`"),
            (one("Promoted"), vec!["pause", "portal"], "already Promoted"),
            (one("Denied"), vec!["promote", "portal"], "already Denied"),
            (one("Denied"), vec!["undo", "portal"], "nothing of it to take back"),
            (one("Shipping"), vec!["retry", "portal"], "is under way (Shipping)"),
            (one("RollingBack"), vec!["retry", "portal"], "is under way (RollingBack)"),
            (two, vec!["abort", "portal"], "several releases are under way"),
            (one("Shipping"), vec!["abort", "portal", "-e", "prod-wets"], "is no environment of old"),
        ] {
            let (result, writes) = said(releases, &line).await;
            let told = result.unwrap_err();
            assert!(told.to_string().contains(part), "{line:?}: {told}");
            assert_eq!((told.code(), writes), (1, vec![]), "{line:?}");
        }
    }

    #[test]
    fn what_is_release_wide_takes_no_environment() {
        for (verb, takes) in
            [("undo", false), ("retry", false), ("abort", true), ("pause", true), ("resume", true), ("promote", true)]
        {
            assert!(Cli::try_parse_from(["tidegate", verb, "portal"]).is_ok(), "{verb}");
            let with = Cli::try_parse_from(["tidegate", verb, "portal", "-e", "prod-west"]);
            assert_eq!(with.is_ok(), takes, "{verb}");
        }
    }
}
