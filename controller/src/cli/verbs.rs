//! What people tell a release: promote, abort, pause, resume, retry, undo, and
//! `release IMAGE` itself. Each is one change of a spec, so that the API
//! server's audit log names who did it.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, PostParams};
use kube::{Resource, ResourceExt};
use serde_json::json;
use sha2::{Digest, Sha256};
use tidegate_pipelines::api::{
    Approval, ApprovalSpec, BuildEvent, BuildEventSpec, EventImage, Release, ReleasePhase, Rollout, names,
};
use tidegate_policies::image::ImageRef;

use super::hub::{CliError, Hub};
use crate::connect::bounded;

#[derive(clap::Args, Clone, Debug)]
pub struct Target {
    /// A release, or a pipeline (its newest release).
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

#[derive(clap::Args, Clone, Debug)]
pub struct ReleaseArgs {
    /// `registry/path:tag` or `registry/path@sha256:...`.
    pub image: String,
    /// Commit that the image was built from, where the policy asks for provenance of one.
    #[arg(long)]
    pub revision: Option<String>,
}

/// Ships an image without an event: stores a BuildEvent in the user's own name.
pub async fn release(hub: &Hub, args: &ReleaseArgs, now: Timestamp) -> Result<String, CliError> {
    let image: ImageRef = args.image.parse().map_err(|error| CliError::Usage(format!("'{}': {error}", args.image)))?;
    if image.tag.is_none() && image.digest.is_none() {
        return Err(CliError::Usage(format!("'{}' names no version: add a tag or a digest", args.image)));
    }
    let key = format!("{}@{}", args.image, now.as_millisecond());
    let name = format!("person-{}", &hex::encode(Sha256::digest(key.as_bytes()))[..24]);
    let spec = BuildEventSpec {
        source: names::PERSON_SOURCE.to_owned(),
        type_: "release".into(),
        key: key.chars().take(200).collect(),
        occurred_at: None,
        received_at: Time(now),
        repository: None,
        git_ref: None,
        revision: args.revision.clone(),
        images: vec![EventImage {
            repository: image.repository_path(),
            tag: image.tag.clone(),
            digest: image.digest.as_ref().map(ToString::to_string),
        }],
        nothing_to_ship: None,
    };
    let api: Api<BuildEvent> = Api::namespaced(hub.client.clone(), names::SYSTEM_NAMESPACE);
    bounded(api.create(&PostParams::default(), &BuildEvent::new(&name, spec)))
        .await
        .map_err(|reason| CliError::Call { what: "create BuildEvent".into(), reason })?;
    Ok(format!(
        "BuildEvent {name} stored; `kubectl get tbe -n {} {name}` tells what becomes of it",
        names::SYSTEM_NAMESPACE
    ))
}

/// Lets the present step (or, with `full`, all) pass, or gives the approval that is waited for.
pub async fn promote(hub: &Hub, args: &PromoteArgs, user: Option<String>) -> Result<String, CliError> {
    let release = hub.release(&args.target.name).await?;
    let name = release.name_any();
    let waits = release.status.as_ref().and_then(|status| status.phase);
    let asked = matches!(waits, Some(ReleasePhase::Waiting | ReleasePhase::Downgrade));
    let active = match active_rollouts(hub, &release, args.target.environment.as_deref()).await {
        // An approver need not see the environments; who does not cannot let their steps pass anyhow.
        Err(CliError::Call { reason, .. }) if asked && reason.code() == Some(403) => vec![],
        found => found?,
    };
    if active.is_empty() && asked {
        return approve(hub, &release, waits, args.comment.clone(), user).await;
    }
    let mut told = Vec::new();
    for rollout in &active {
        let last = rollout.spec.strategy.steps.len().saturating_sub(1) as u8;
        let step = rollout.status.as_ref().map_or(0, |status| status.step);
        let through = if args.full { last } else { step.min(last) };
        let api = hub.rollouts(&rollout.spec.environment);
        hub.patch_spec(&api, &rollout.name_any(), json!({ "promoteThrough": through })).await?;
        told.push(format!(
            "{}: steps through {} of {} may pass without evidence",
            rollout.spec.environment,
            through + 1,
            last + 1
        ));
    }
    if told.is_empty() {
        let environment = args.target.environment.clone().unwrap_or_else(|| "any environment".into());
        return Err(CliError::NoRollout { release: name, environment });
    }
    Ok(told.join("\n"))
}

async fn approve(
    hub: &Hub,
    release: &Release,
    waits: Option<ReleasePhase>,
    comment: Option<String>,
    user: Option<String>,
) -> Result<String, CliError> {
    let name = release.name_any();
    let status = release.status.clone().unwrap_or_default();
    let stage = match waits {
        Some(ReleasePhase::Downgrade) => "downgrade".to_owned(),
        _ => status.stage.ok_or_else(|| CliError::Usage(format!("{name} waits for no approval")))?,
    };
    let user = match user {
        Some(user) => user,
        None => whoami(hub).await?,
    };
    let attempt = release.spec.attempt;
    let spec = ApprovalSpec { release: name.clone(), stage: stage.clone(), attempt, user: user.clone(), comment };
    let mut approval = Approval::new(&format!("{name}-{attempt}-{stage}"), spec);
    approval.meta_mut().namespace = Some(hub.namespace.clone());
    let api: Api<Approval> = Api::namespaced(hub.client.clone(), &hub.namespace);
    bounded(api.create(&PostParams::default(), &approval))
        .await
        .map_err(|reason| CliError::Call { what: "create Approval".into(), reason })?;
    Ok(format!("{user} let {name} pass into {stage}"))
}

/// The user that the API server takes this connection for.
async fn whoami(hub: &Hub) -> Result<String, CliError> {
    use k8s_openapi::api::authentication::v1::SelfSubjectReview;
    let api: Api<SelfSubjectReview> = Api::all(hub.client.clone());
    let review = bounded(api.create(&PostParams::default(), &SelfSubjectReview::default()))
        .await
        .map_err(|reason| CliError::Call { what: "ask who I am".into(), reason })?;
    review
        .status
        .and_then(|status| status.user_info)
        .and_then(|info| info.username)
        .ok_or_else(|| CliError::Usage("the API server does not say who you are; give --user".into()))
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

/// Ships the release once more, after an end that was not good.
pub async fn retry(hub: &Hub, target: &Target) -> Result<String, CliError> {
    let release = hub.release(&target.name).await?;
    let moving = |phase: &ReleasePhase| phase.is_shipping() || *phase == ReleasePhase::RollingBack;
    if let Some(phase) = release.status.as_ref().and_then(|status| status.phase).filter(moving) {
        let name = release.name_any();
        return Err(CliError::Usage(format!("{name} is under way ({phase:?}): abort it or wait for its end first")));
    }
    let attempt = release.spec.attempt + 1;
    let change = json!({ "attempt": attempt, "abort": false, "undo": false, "paused": false });
    hub.patch_spec(&hub.releases(), &release.name_any(), change).await?;
    Ok(format!("{}: attempt {attempt}", release.name_any()))
}

/// Takes it back where it passed; no quarantine.
pub async fn undo(hub: &Hub, target: &Target) -> Result<String, CliError> {
    let release = hub.release(&target.name).await?;
    hub.patch_spec(&hub.releases(), &release.name_any(), json!({ "undo": true })).await?;
    Ok(format!("{}: goes back wherever it passed", release.name_any()))
}

async fn set(hub: &Hub, target: &Target, change: serde_json::Value, word: &str) -> Result<String, CliError> {
    let release = hub.release(&target.name).await?;
    let name = release.name_any();
    let Some(environment) = &target.environment else {
        hub.patch_spec(&hub.releases(), &name, change).await?;
        return Ok(format!("{name}: {word}"));
    };
    let active = active_rollouts(hub, &release, Some(environment)).await?;
    let Some(rollout) = active.first() else {
        return Err(CliError::NoRollout { release: name, environment: environment.clone() });
    };
    hub.patch_spec(&hub.rollouts(environment), &rollout.name_any(), change).await?;
    Ok(format!("{name} in {environment}: {word}"))
}

async fn active_rollouts(hub: &Hub, release: &Release, environment: Option<&str>) -> Result<Vec<Rollout>, CliError> {
    let mut rollouts = hub.rollouts_of(release).await?;
    rollouts.retain(|rollout| {
        let here = environment.is_none_or(|environment| rollout.spec.environment == environment);
        let phase = rollout.status.as_ref().and_then(|status| status.phase);
        here && !phase.is_some_and(|phase| phase.is_terminal())
    });
    Ok(rollouts)
}
