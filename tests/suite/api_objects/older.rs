//! A command that is newer than the hub's CustomResourceDefinitions.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::Value;
use tidegate_pipelines::api::{BuildEvent, names};
use tidegate_tests::rig::cluster::ADMIN;
use tokio::process::Command;

use super::ask::{self, Answer};
use super::samples;
use crate::world::{HubOnly, World};

const FIELDS: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";

/// An API server takes up another definition a moment after it was written.
async fn takes(hub: &HubOnly, event: &Value, wanted: bool) -> Result<()> {
    for _ in 0..100 {
        let known = match ask::try_create(&hub.fleet.hub.admin, event).await? {
            Answer::Accepted(_) => true,
            refused => refused.refused_with("unknown field").is_err(),
        };
        if known == wanted {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    anyhow::bail!("the API server's definition did not change")
}

async fn release(world: &World, hub: &HubOnly) -> Result<(Option<i32>, String)> {
    let mut command = Command::new(&world.tidegate);
    command.args(["release", "registry.example/acme/portal:v7", "-n", "portal", "--timeout", "0s", "--kubeconfig"]);
    let output = command.arg(hub.fleet.hub.kubeconfig_for(ADMIN)?).kill_on_drop(true).output().await?;
    Ok((output.status.code(), String::from_utf8(output.stderr)?))
}

pub async fn a_release_for_one_namespace_is_not_stored_by_a_hub_that_would_forget_which(
    world: &World,
    hub: &HubOnly,
) -> Result<()> {
    let admin = &hub.fleet.hub.admin;
    let events: Api<BuildEvent> = Api::namespaced(admin.clone(), names::SYSTEM_NAMESPACE);
    let of_people = async || -> Result<Vec<BuildEvent>> {
        let all = events.list(&ListParams::default()).await?.items;
        Ok(all.into_iter().filter(|event| event.spec.source == names::PERSON_SOURCE).collect())
    };
    let before = of_people().await?.len();
    let mut event = samples::named("BuildEvent", "older")?;
    event["spec"]["pipelineNamespace"] = "portal".into();

    let kinds: Api<CustomResourceDefinition> = Api::all(admin.clone());
    let mut older = serde_json::to_value(kinds.get("buildevents.tidegate.io").await?)?;
    let fields = older.pointer_mut(FIELDS).and_then(Value::as_object_mut).context("no fields")?;
    fields.remove("pipelineNamespace").context("it is older already")?;
    kinds.replace("buildevents.tidegate.io", &PostParams::default(), &serde_json::from_value(older)?).await?;
    takes(hub, &event, false).await?;
    let (code, said) = release(world, hub).await?;
    let stored = of_people().await?.len();
    // Whatever came of it: the cases after this one stand on the kinds as they are.
    world.tidegate(&hub.fleet.hub.kubeconfig_for(ADMIN)?, &["install", "--role", "hub"]).await?;
    takes(hub, &event, true).await?;
    ensure!(code == Some(3) && said.contains("update them first: `tidegate install --role hub`"), "{code:?}: {said}");
    ensure!(stored == before, "it was stored nevertheless");

    // No hub runs here.
    let (code, said) = release(world, hub).await?;
    ensure!(code == Some(2) && said.contains("the hub has not answered the event"), "{code:?}: {said}");
    let stored = of_people().await?;
    let newest = stored.iter().max_by_key(|event| event.spec.received_at.0).context("nothing stored")?;
    ensure!(stored.len() == before + 1 && newest.spec.pipeline_namespace.as_deref() == Some("portal"), "{newest:?}");
    Ok(())
}
