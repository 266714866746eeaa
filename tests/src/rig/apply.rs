//! Server-side apply of objects given as YAML or JSON, as the rig's admin: fixtures for the suites. The product has
//! its own `tidegate install`; this is not it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{ApiCapabilities, ApiResource, Scope, pinned_kind};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep};

/// Applies every document of a YAML text, in order.
pub async fn yaml(client: &Client, text: &str) -> Result<()> {
    objects(client, &documents(text)?).await
}

/// The documents of a YAML text that are not empty.
pub fn documents(text: &str) -> Result<Vec<Value>> {
    let mut documents = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let value = Value::deserialize(document)?;
        if !value.is_null() {
            documents.push(value);
        }
    }
    Ok(documents)
}

/// Applies `objects` in order, with field manager `rig`, forced and strictly validated.
pub async fn objects(client: &Client, objects: &[Value]) -> Result<()> {
    let mut kinds: BTreeMap<String, (ApiResource, ApiCapabilities)> = BTreeMap::new();
    for object in objects {
        let text = |key: &str| object[key].as_str().ok_or_else(|| anyhow!("an object without {key}: {object}"));
        let (version, kind) = (text("apiVersion")?, text("kind")?);
        let name = object["metadata"]["name"].as_str().ok_or_else(|| anyhow!("an object without a name: {object}"))?;
        let key = format!("{version}/{kind}");
        if !kinds.contains_key(&key) {
            let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
            let known = pinned_kind(client, &GroupVersionKind::gvk(group, version, kind))
                .await
                .with_context(|| format!("the API server does not know {key}"))?;
            kinds.insert(key.clone(), known);
        }
        let (resource, capabilities) = &kinds[&key];
        let api: Api<DynamicObject> = if capabilities.scope == Scope::Namespaced {
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
            Api::namespaced_with(client.clone(), namespace, resource)
        } else {
            Api::all_with(client.clone(), resource)
        };
        let params = PatchParams::apply("rig").force().validation_strict();
        api.patch(name, &params, &Patch::Apply(object)).await.with_context(|| format!("cannot apply {kind} {name}"))?;
    }
    Ok(())
}

/// Waits until the API server serves every custom kind it was given.
pub async fn custom_kinds_served(client: &Client) -> Result<()> {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let started = Instant::now();
    loop {
        let all = api.list(&Default::default()).await?;
        let waiting: Vec<&str> = all
            .items
            .iter()
            .filter(|crd| {
                let conditions =
                    crd.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
                !conditions.iter().any(|condition| condition.type_ == "Established" && condition.status == "True")
            })
            .filter_map(|crd| crd.metadata.name.as_deref())
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        if started.elapsed() > Duration::from_secs(30) {
            bail!("not served after 30 s: {}", waiting.join(", "));
        }
        sleep(Duration::from_millis(100)).await;
    }
}
