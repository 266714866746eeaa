//! One Environment at the hub: is its spoke alive, which policy holds there, and its deletion.

use std::time::Duration;

use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use tidegate_pipelines::api::{Environment, names};
use tokio::time::Instant;

use super::index::SPOKE_LEASE;
use super::{Hub, ReconcileError, apply, plan, status};

pub async fn reconcile(hub: &Hub, name: &str) -> Result<Option<Duration>, ReconcileError> {
    let Some(environment) = hub.index.environments.get(&ObjectRef::new(name)) else { return Ok(None) };
    let lease = hub.index.leases.get(&ObjectRef::new(SPOKE_LEASE).within(&names::environment_namespace(name)));
    let pulse = hub.heartbeats.pulse(name, lease.as_deref(), Instant::now()).await;
    let rollouts = hub.index.rollouts.state_filter(|r| r.spec.environment == name);
    let notes = lease.map(|l| l.annotations().clone()).unwrap_or_default();
    let plan = plan::environment(&environment, pulse, &notes, &rollouts, hub.clock.now());
    apply::abort_all(hub, name, &plan.abort).await?;
    let api: Api<Environment> = Api::all(hub.client.clone());
    status::write(&api, &environment, environment.status.as_ref(), &plan.status, |e, s| e.status = Some(s)).await?;
    if plan.finalizer != plan::Finalizer::Keep {
        let fresh = crate::connect::bounded(api.get_opt(name)).await;
        if let Ok(Some(fresh)) = fresh {
            apply::finalizer(&api, &fresh, plan.finalizer).await?;
        }
    }
    Ok(plan.wake_after)
}
