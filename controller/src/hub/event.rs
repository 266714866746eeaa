//! One BuildEvent, until it is settled.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use tidegate_pipelines::api::{BuildEvent, BuildEventPhase, BuildEventStatus, names};
use tidegate_pipelines::release::{Outcome, ReleaseAction, wanted};

use super::observe::ObservedEvent;
use super::{Hub, ReconcileError, apply, observe, plan, report, status, validate};

/// What the status of a BuildEvent has places for.
const MAX_RELEASES: usize = 32;
const MAX_RESOLVED: usize = 64;

pub async fn reconcile(hub: &Hub, name: &str) -> Result<Option<Duration>, ReconcileError> {
    let Some(observed) = observe::event(hub, name) else { return Ok(None) };
    let source = observed.source.as_ref().map(|s| &s.spec);
    let views = validate::views(&hub.index, &observed.pipelines, &observed.event.spec, source)?;
    let asked = wanted(&observed.event.spec, source, &views).unwrap_or_default();
    let mut lookups = observe::lookups(hub, &observed.event, &views, &asked).await;
    let indexes = observe::indexes(hub, &views, &asked, &mut lookups).await;
    let outcome = plan::event(&observed, &views, &lookups, &indexes);
    apply::event(hub, &observed.event, &observed.pipelines, &outcome).await?;
    let api: Api<BuildEvent> = Api::namespaced(hub.client.clone(), names::SYSTEM_NAMESPACE);
    let before = observed.event.status.as_ref();
    let after = told(before, &outcome);
    let changed =
        status::write(&api, &observed.event, before, &after, |event, status| event.status = Some(status)).await?;
    if changed {
        report::event(hub, &observed.event, &outcome);
    }
    Ok((outcome.phase == BuildEventPhase::Waiting).then(|| pause(&observed)))
}

fn told(before: Option<&BuildEventStatus>, outcome: &Outcome) -> BuildEventStatus {
    let mut releases = before.map(|b| b.releases.clone()).unwrap_or_default();
    for name in outcome.actions.iter().map(ReleaseAction::full_name) {
        if !releases.contains(&name) {
            releases.push(name);
        }
    }
    // Any number of pipelines may name one image; a status that is refused for its length would be tried for ever.
    releases.truncate(MAX_RELEASES);
    let resolved = outcome.resolved.iter().take(MAX_RESOLVED).cloned().collect();
    BuildEventStatus {
        phase: Some(outcome.phase),
        message: Some(outcome.message.clone()),
        releases,
        waiting_until: outcome.waiting_until.map(Time),
        resolved,
        conditions: before.map(|b| b.conditions.clone()).unwrap_or_default(),
    }
}

/// An image usually follows its push within a minute; after that nobody is in a hurry.
fn pause(observed: &ObservedEvent) -> Duration {
    let age = observed.now.duration_since(observed.event.spec.received_at.0).as_secs();
    if age < 120 { Duration::from_secs(1) } else { Duration::from_secs(10) }
}

#[cfg(test)]
mod tests {
    use tidegate_pipelines::api::EventImage;
    use tidegate_pipelines::release::Known;

    use super::*;

    #[test]
    fn a_status_has_room_for_an_image_that_many_pipelines_name() {
        let image = |n: usize| EventImage { repository: format!("r.example/{n}"), tag: None, digest: None };
        let known = |n: usize| ReleaseAction::Known(Known { namespace: format!("team-{n}"), name: "r".into() });
        let outcome = Outcome {
            phase: BuildEventPhase::Released,
            reason: "Released",
            message: "released".into(),
            waiting_until: None,
            resolved: (0..100).map(image).collect(),
            actions: (0..100).map(known).collect(),
        };
        let status = told(None, &outcome);
        assert_eq!((status.releases.len(), status.resolved.len()), (32, 64));
        assert_eq!(status.releases[0], "team-0/r");
    }
}
