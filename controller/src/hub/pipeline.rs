//! One Pipeline: whether it is sound, what it ships, and its deletion.

use std::time::Duration;

use kube::{Api, ResourceExt};
use tidegate_pipelines::api::Pipeline;

use super::{Hub, ReconcileError, apply, plan, report, status, validate};

pub async fn reconcile(hub: &Hub, namespace: &str, name: &str) -> Result<Option<Duration>, ReconcileError> {
    let Some(pipeline) = hub.index.pipeline(namespace, name) else { return Ok(None) };
    let uid = pipeline.uid().ok_or_else(|| validate::ValidateError::NoUid(name.to_owned()))?;
    let standing = validate::standing(&hub.index, &pipeline)?;
    let releases = hub.index.releases.state_filter(|r| r.spec.pipeline_uid == uid);
    let rollouts =
        hub.index.rollouts.state_filter(|r| r.spec.pipeline_namespace == namespace && r.spec.pipeline == name);
    let places = validate::spots(&hub.index);
    let plan = plan::pipeline(&pipeline, &standing, &releases, &rollouts, &places, hub.clock.now());
    apply::intents(hub, &plan.writes).await?;
    let api: Api<Pipeline> = Api::namespaced(hub.client.clone(), namespace);
    status::write(&api, &pipeline, pipeline.status.as_ref(), &plan.status, |p, s| p.status = Some(s)).await?;
    if plan.finalizer != plan::Finalizer::Keep {
        // The status write moved its resourceVersion; over the newer object, at the next look.
        let fresh = crate::connect::bounded(api.get_opt(name)).await;
        if let Ok(Some(fresh)) = fresh {
            apply::finalizer(&api, &fresh, plan.finalizer).await?;
            if plan.finalizer == plan::Finalizer::Remove {
                report::retired(hub, &pipeline, &plan.left);
            }
        }
    }
    Ok(plan.wake_after)
}
