//! One Release, from verification to its end.

use std::time::Duration;

use kube::{Api, ResourceExt};
use tidegate_pipelines::api::Release;
use tidegate_pipelines::release::{Plan, Write};

use super::observe::ObservedRelease;
use super::{Hub, ReconcileError, apply, observe, plan, report, status, validate};

pub async fn reconcile(hub: &Hub, namespace: &str, name: &str) -> Result<Option<Duration>, ReconcileError> {
    let Some(observed) = observe::release(hub, namespace, name).await else { return Ok(None) };
    let surroundings = validate::release(&hub.index, &observed)?;
    let plan = plan::release(&observed, &surroundings);
    let admitted = |plan: &Plan| plan.status.admitted_at.is_some() && known_admission(&observed).is_none();
    if !admitted(&plan) {
        return carry_out(hub, &observed, &plan).await;
    }
    // Which of two is newer is decided one at a time, over what the API server has now.
    let _turn = hub.admission.lock().await;
    let observed = observe::freshened(hub, observed).await?;
    let plan = plan::release(&observed, &surroundings);
    carry_out(hub, &observed, &plan).await
}

fn known_admission(observed: &ObservedRelease) -> Option<jiff::Timestamp> {
    let status = observed.release.status.as_ref()?;
    let current = status.attempt == observed.release.spec.attempt;
    status.admitted_at.as_ref().filter(|_| current).map(|t| t.0)
}

/// Whether this process has not looked at the release before.
async fn first_look(hub: &Hub, release: &Release) -> bool {
    let mut looked_at = hub.looked_at.lock().await;
    if looked_at.len() > 16 * 1024 {
        // A memory of what need not be told again: GitHub takes a repeat as well.
        looked_at.clear();
    }
    looked_at.insert(release.metadata.uid.clone().unwrap_or_default())
}

async fn carry_out(hub: &Hub, observed: &ObservedRelease, plan: &Plan) -> Result<Option<Duration>, ReconcileError> {
    apply::release(hub, &observed.release, &plan.writes).await?;
    let namespace = observed.release.metadata.namespace.clone().unwrap_or_default();
    apply::leading(hub, &observed.release.name_any())?;
    let api: Api<Release> = Api::namespaced(hub.client.clone(), &namespace);
    let before = observed.release.status.as_ref();
    let changed = status::write(&api, &observed.release, before, &plan.status, |r, s| r.status = Some(s)).await?;
    // A pipeline taken anew, or a late intent called off, is a decision although no status tells of it.
    if changed || plan.writes.iter().any(|write| matches!(write, Write::Snapshot { .. } | Write::Abort { .. })) {
        report::release(hub, observed, plan);
    }
    if first_look(hub, &observed.release).await {
        report::again(hub, observed, plan);
    }
    let planned = plan.wake_after.map(|d| d.unsigned_abs());
    let verifying = observed.findings.again_after.filter(|_| !plan.status.phase.is_some_and(|p| p.is_terminal()));
    Ok(planned.into_iter().chain(verifying).min())
}
