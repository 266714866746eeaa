//! Fourth step: does what the plan orders, without a choice of its own. Each write is guarded as its action
//! says; what the API server answers is remembered, so that the next look is never older.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::json;
use tidegate_pipelines::api::{Rollout, names};
use tidegate_pipelines::rollout::{Action, Order, Plan, RuleWeights};

use super::canary::CanaryError;
use super::httproute::{HttpRoute, Route, RouteError, add, remove, test};
use super::lower::{self, Lowering};
use super::observe::Seen;
use super::world::World;
use crate::clock::SharedClock;
use crate::connect::{CallError, bounded};
use crate::lease::Permit;

#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("{what}: {source}")]
    Call { what: &'static str, source: CallError },
    #[error("{what}: the view is out of date")]
    Stale { what: &'static str },
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error(transparent)]
    Canary(#[from] CanaryError),
    #[error("this process no longer leads: nothing is written")]
    NotLeading,
}

impl ApplyError {
    /// Looking again at once may well help.
    pub fn is_conflict(&self) -> bool {
        match self {
            ApplyError::Call { source, .. } => source.is_conflict(),
            ApplyError::Stale { .. } | ApplyError::Route(_) => true,
            ApplyError::Canary(_) | ApplyError::NotLeading => false,
        }
    }
}

pub(super) fn called(what: &'static str) -> impl FnOnce(CallError) -> ApplyError {
    move |source| ApplyError::Call { what, source }
}

/// What the actions of one pass left behind.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// When the API server acknowledged a weight of 0.
    pub zero_at: Option<Timestamp>,
    pub writes: u32,
}

/// Carries actions out with this cluster's clients.
pub struct Hand<'a> {
    pub world: &'a World,
    pub clock: &'a SharedClock,
    pub permit: &'a Permit,
    pub environment: &'a str,
}

impl Hand<'_> {
    /// The actions of one order, in turn; the first failure ends it.
    pub async fn apply(&self, plan: &Plan, order: Order, seen: &Seen, applied: &mut Applied) -> Result<(), ApplyError> {
        for ordered in plan.actions.iter().filter(|o| o.order == order) {
            if !self.permit.held() {
                return Err(ApplyError::NotLeading);
            }
            self.act(&ordered.action, seen, applied).await?;
            applied.writes += 1;
        }
        Ok(())
    }

    async fn act(&self, action: &Action, seen: &Seen, applied: &mut Applied) -> Result<(), ApplyError> {
        match action {
            Action::EnsureFinalizer => self.ensure_finalizer(seen).await,
            Action::ReleaseFinalizer => self.release_finalizer(seen).await,
            Action::EnsureCanaryService => self.ensure_canary_service(seen).await,
            Action::EnsureCanary { images, replicas, stamp } => {
                self.ensure_canary(seen, images, *replicas, stamp).await
            }
            Action::ScaleCanary { replicas } => self.scale_canary(seen, *replicas).await,
            Action::RemoveCanary => self.remove_canary(seen).await,
            Action::AdoptRoute { resource_version, decision, add_canary_ref } => {
                let patch = self.route(seen, resource_version)?.adopt(resource_version, decision, add_canary_ref);
                self.patch_route(seen, "adopt the route", patch).await.map(drop)
            }
            Action::SetWeights { resource_version, percent, rules, decision } => {
                let patch = self.route(seen, resource_version)?.set_weights(resource_version, decision, rules)?;
                self.patch_route(seen, "set the route's weights", patch).await?;
                if *percent == 0 {
                    applied.zero_at = Some(self.clock.now());
                }
                Ok(())
            }
            Action::LowerToZero { rollout, reason, rules } => {
                self.lower_to_zero(seen, rollout, reason, rules).await?;
                applied.zero_at = Some(self.clock.now());
                Ok(())
            }
            Action::MarkPromoting { resource_version, decision } => {
                let patch = self.route(seen, resource_version)?.mark_promoting(resource_version, decision);
                self.patch_route(seen, "mark the route as promoting", patch).await.map(drop)
            }
            Action::ClearRoute { resource_version, remove_canary_ref } => {
                let patch = self.route(seen, resource_version)?.clear(resource_version, *remove_canary_ref);
                self.patch_route(seen, "clear the route", patch).await.map(drop)
            }
            Action::SetStableTemplate { images, uid, resource_version, stamp, release } => {
                let arm = seen.stable.as_ref().filter(|arm| &arm.uid == uid);
                let arm = arm.ok_or(ApplyError::Stale { what: "write stable's template" })?;
                // Server-side apply would add a container that does not exist.
                if let Some(image) = images.iter().find(|i| !arm.images.contains_key(&i.container)) {
                    let workload = seen.spec.workload.name.clone();
                    return Err(CanaryError::NoContainer { workload, container: image.container.clone() }.into());
                }
                let containers: Vec<_> =
                    images.iter().map(|i| json!({"name": i.container, "image": i.reference()})).collect();
                let mut annotations = json!({ names::CANARY_ROLLOUT: stamp });
                if let Some(release) = release {
                    annotations[names::RELEASE_ANNOTATION] = json!(release);
                }
                let body = json!({
                    "apiVersion": "apps/v1", "kind": "Deployment",
                    "metadata": {
                        "name": seen.spec.workload.name, "namespace": seen.namespace(),
                        "uid": uid, "resourceVersion": resource_version, "annotations": annotations,
                    },
                    "spec": {"template": {"spec": {"containers": containers}}},
                });
                let params = PatchParams::apply(names::FIELD_MANAGER).force();
                let api: Api<Deployment> = self.api(seen);
                let written = bounded(api.patch(&seen.spec.workload.name, &params, &Patch::Apply(&body))).await;
                self.world.deployments.wrote(written.map_err(called("write stable's template"))?);
                Ok(())
            }
            Action::RaiseHpaMin { min } => self.set_hpa_min(seen, *min, true).await,
            Action::RestoreHpaMin { min } => self.set_hpa_min(seen, *min, false).await,
            Action::Quarantine { digests, revision, message } => {
                super::quarantine::create(self, seen, digests, revision.as_deref(), message).await
            }
        }
    }

    pub(super) fn api<K>(&self, seen: &Seen) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.world.client.clone(), seen.namespace())
    }

    /// The route as the plan saw it.
    fn route<'s>(&self, seen: &'s Seen, version: &str) -> Result<&'s Route, ApplyError> {
        let route = seen.route.as_ref();
        route.filter(|r| r.view.resource_version == version).ok_or(ApplyError::Stale { what: "write the route" })
    }

    async fn patch_route(&self, seen: &Seen, what: &'static str, patch: json_patch::Patch) -> Result<(), ApplyError> {
        let api: Api<HttpRoute> = self.api(seen);
        let params = PatchParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PatchParams::default() };
        let written = bounded(api.patch(&seen.spec.route.http_route, &params, &Patch::Json::<()>(patch))).await;
        self.world.routes.wrote(written.map_err(called(what))?);
        Ok(())
    }

    async fn lower_to_zero(
        &self,
        seen: &Seen,
        rollout: &str,
        reason: &str,
        rules: &[RuleWeights],
    ) -> Result<(), ApplyError> {
        let wanted = Lowering {
            route: seen.route.as_ref().ok_or(ApplyError::Stale { what: "lower the canary's weight to 0" })?,
            name: &seen.spec.route.http_route,
            service: &seen.spec.service,
            rollout,
            reason,
            rules,
            clock: self.clock,
            patience: lower::PATIENCE,
        };
        lower::to_zero(&self.api(seen), self.permit, &wanted, |written| self.world.routes.wrote(written)).await
    }

    async fn ensure_finalizer(&self, seen: &Seen) -> Result<(), ApplyError> {
        let present = seen.rollout.metadata.finalizers.as_ref().is_some_and(|f| !f.is_empty());
        let op = if present {
            add("/metadata/finalizers/-", json!(names::FINALIZER))
        } else {
            add("/metadata/finalizers", json!([names::FINALIZER]))
        };
        self.patch_rollout(seen, "put the finalizer on", vec![op]).await
    }

    async fn release_finalizer(&self, seen: &Seen) -> Result<(), ApplyError> {
        let finalizers = seen.rollout.metadata.finalizers.iter().flatten();
        let Some(place) = finalizers.into_iter().position(|f| f == names::FINALIZER) else { return Ok(()) };
        let path = format!("/metadata/finalizers/{place}");
        let ops = vec![test(&path, json!(names::FINALIZER)), remove(&path)];
        match self.patch_rollout(seen, "take the finalizer off", ops).await {
            Err(ApplyError::Call { source, .. }) if source.is_not_found() => Ok(()),
            other => other,
        }
    }

    async fn patch_rollout(
        &self,
        seen: &Seen,
        what: &'static str,
        mut ops: Vec<json_patch::PatchOperation>,
    ) -> Result<(), ApplyError> {
        ops.insert(0, test("/metadata/uid", json!(seen.uid())));
        let api: Api<Rollout> = self.api(seen);
        let patch = Patch::Json::<()>(json_patch::Patch(ops));
        let name = seen.rollout.metadata.name.as_deref().unwrap_or_default();
        let written = bounded(api.patch(name, &PatchParams::default(), &patch)).await.map_err(called(what))?;
        let gone = written.metadata.deletion_timestamp.is_some()
            && written.metadata.finalizers.as_ref().is_none_or(|finalizers| finalizers.is_empty());
        if gone {
            self.world.rollouts.forget(Some(seen.namespace()), name);
        } else {
            self.world.rollouts.wrote(written);
        }
        Ok(())
    }

    async fn set_hpa_min(&self, seen: &Seen, min: u32, raise: bool) -> Result<(), ApplyError> {
        const WHAT: &str = "set the autoscaler's minReplicas";
        let Some(autoscaler) = &seen.autoscaler else { return Ok(()) };
        let path = format!("/metadata/annotations/{}", names::HPA_RAISED.replace('/', "~1"));
        let mut ops = vec![
            test("/metadata/uid", json!(autoscaler.metadata.uid)),
            test("/metadata/resourceVersion", json!(autoscaler.metadata.resource_version)),
            add("/spec/minReplicas", json!(min)),
        ];
        let annotations = autoscaler.metadata.annotations.as_ref();
        if raise {
            if annotations.is_none_or(|a| a.is_empty()) {
                ops.push(add("/metadata/annotations", json!({})));
            }
            ops.push(add(&path, json!(min.to_string())));
        } else if annotations.is_some_and(|a| a.contains_key(names::HPA_RAISED)) {
            ops.push(remove(&path));
        }
        let params = PatchParams { field_manager: Some(names::HPA_FIELD_MANAGER.into()), ..PatchParams::default() };
        let api: Api<k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler> = self.api(seen);
        let name = autoscaler.metadata.name.as_deref().unwrap_or_default();
        let written = bounded(api.patch(name, &params, &Patch::Json::<()>(json_patch::Patch(ops)))).await;
        self.world.autoscalers.wrote(written.map_err(called(WHAT))?);
        Ok(())
    }
}

/// A raw object as one that this program's caches hold.
pub(super) fn typed<K: serde::de::DeserializeOwned>(object: &DynamicObject) -> Option<K> {
    serde_json::to_value(object).and_then(serde_json::from_value).ok()
}
