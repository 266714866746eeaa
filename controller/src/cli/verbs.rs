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
    let rollouts = hub.rollouts_of(&release).await?;
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
        Err(CliError::Call { reason, .. }) if reason.code() == Some(403) => vec![],
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
    let rollouts = hub.rollouts_of(&release).await?;
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

    use crate::cli::Cli;

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
