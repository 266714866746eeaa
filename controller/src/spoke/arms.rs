//! Writes to the canary arm: its Deployment and Service. Touches only what carries our label.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;
use tidegate_pipelines::api::{ReleaseImage, names};

use super::apply::{ApplyError, Hand, called, typed};
use super::canary::{self, CanaryError, Owner};
use super::httproute::{replace, test};
use super::observe::Seen;
use crate::connect::bounded;

fn create_params() -> PostParams {
    PostParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PostParams::default() }
}

impl Hand<'_> {
    /// Raw clients, so that fields unknown here are kept in the copies.
    fn raw<K: kube::Resource<DynamicType = ()>>(&self, seen: &Seen) -> Api<DynamicObject> {
        let kind = ApiResource::erase::<K>(&());
        Api::namespaced_with(self.world.client.clone(), seen.namespace(), &kind)
    }

    pub(super) async fn ensure_canary_service(&self, seen: &Seen) -> Result<(), ApplyError> {
        const WHAT: &str = "make the canary's Service";
        let api = self.raw::<Service>(seen);
        let stable = bounded(api.get(&seen.spec.service)).await.map_err(called(WHAT))?;
        let owner = Owner { pipeline: &seen.spec.pipeline, release: &seen.spec.release, stamp: seen.uid() };
        let wanted = canary::service(&stable, &owner)?;
        let name = names::canary_name(&seen.spec.service);
        let existing = bounded(api.get_opt(&name)).await.map_err(called(WHAT))?;
        let written = match existing {
            None => {
                let object: DynamicObject =
                    serde_json::from_value(wanted).map_err(|_| CanaryError::NoTemplate(name))?;
                bounded(api.create(&create_params(), &object)).await
            }
            Some(existing) => {
                canary::check_ours(&existing, "Service")?;
                let ops = vec![
                    test("/metadata/resourceVersion", json!(existing.metadata.resource_version)),
                    replace("/spec/ports", wanted["spec"]["ports"].clone()),
                    replace("/spec/selector", wanted["spec"]["selector"].clone()),
                ];
                let patch = Patch::Json::<()>(json_patch::Patch(ops));
                bounded(api.patch(&name, &PatchParams::default(), &patch)).await
            }
        };
        if let Some(service) = typed(&written.map_err(called(WHAT))?) {
            self.world.services.wrote(service);
        }
        Ok(())
    }

    pub(super) async fn ensure_canary(
        &self,
        seen: &Seen,
        images: &[ReleaseImage],
        replicas: u32,
        stamp: &str,
    ) -> Result<(), ApplyError> {
        const WHAT: &str = "make the canary's Deployment";
        let api = self.raw::<Deployment>(seen);
        let workload = &seen.spec.workload.name;
        let stable = bounded(api.get(workload)).await.map_err(called(WHAT))?;
        let service = bounded(self.raw::<Service>(seen).get(&seen.spec.service)).await.map_err(called(WHAT))?;
        let owner = Owner { pipeline: &seen.spec.pipeline, release: &seen.spec.release, stamp };
        let mut wanted = canary::deployment(&stable, &service, images, i64::from(replicas), &owner)?;
        let name = names::canary_name(workload);
        let existing = bounded(api.get_opt(&name)).await.map_err(called(WHAT))?;
        if let Some(existing) = &existing {
            canary::check_ours(existing, "Deployment")?;
            wanted["metadata"]["resourceVersion"] = json!(existing.metadata.resource_version);
            wanted["metadata"]["uid"] = json!(existing.metadata.uid);
        }
        let object: DynamicObject =
            serde_json::from_value(wanted).map_err(|_| CanaryError::NoTemplate(workload.clone()))?;
        let written = match existing {
            None => bounded(api.create(&create_params(), &object)).await,
            Some(_) => bounded(api.replace(&name, &create_params(), &object)).await,
        };
        if let Some(deployment) = typed(&written.map_err(called(WHAT))?) {
            self.world.deployments.wrote(deployment);
        }
        Ok(())
    }

    pub(super) async fn scale_canary(&self, seen: &Seen, replicas: u32) -> Result<(), ApplyError> {
        const WHAT: &str = "scale the canary";
        let api: Api<Deployment> = self.api(seen);
        let label = format!("/metadata/labels/{}", names::ROLE_LABEL.replace('/', "~1"));
        let ops = vec![test(&label, json!("canary")), replace("/spec/replicas", json!(replicas))];
        let name = names::canary_name(&seen.spec.workload.name);
        let params = PatchParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PatchParams::default() };
        match bounded(api.patch(&name, &params, &Patch::Json::<()>(json_patch::Patch(ops)))).await {
            Ok(deployment) => self.world.deployments.wrote(deployment),
            Err(error) if error.is_not_found() && replicas == 0 => {
                self.world.deployments.forget(Some(seen.namespace()), &name);
            }
            Err(error) => return Err(called(WHAT)(error)),
        }
        Ok(())
    }

    /// The pipeline is gone: our two objects go, whatever else carries their names stays.
    pub(super) async fn remove_canary(&self, seen: &Seen) -> Result<(), ApplyError> {
        let deployment = names::canary_name(&seen.spec.workload.name);
        self.remove(self.raw::<Deployment>(seen), &deployment).await?;
        self.world.deployments.forget(Some(seen.namespace()), &deployment);
        let service = names::canary_name(&seen.spec.service);
        self.remove(self.raw::<Service>(seen), &service).await?;
        self.world.services.forget(Some(seen.namespace()), &service);
        Ok(())
    }

    async fn remove(&self, api: Api<DynamicObject>, name: &str) -> Result<(), ApplyError> {
        const WHAT: &str = "remove the canary arm";
        let Some(existing) = bounded(api.get_opt(name)).await.map_err(called(WHAT))? else { return Ok(()) };
        if canary::check_ours(&existing, "object").is_err() {
            return Ok(());
        }
        let preconditions = Preconditions { uid: existing.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams::background().preconditions(preconditions);
        match bounded(api.delete(name, &params)).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(called(WHAT)(error)),
        }
    }
}
