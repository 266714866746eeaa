//! The canary arm as copies of stable's objects: `<name>-canary` Deployment and Service. Works on raw
//! objects, so that fields which this program does not know are copied too; never talks to a cluster.

use kube::api::DynamicObject;
use serde_json::{Map, Value, json};
use tidegate_pipelines::api::{ReleaseImage, names};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CanaryError {
    #[error("Deployment {0} has no matchLabels in its selector: a canary's pods could not be told from its own")]
    NoSelector(String),
    #[error("Service {0} has no selector: a Service for the canary cannot be made from it")]
    NoServiceSelector(String),
    #[error("Deployment {workload} has no container '{container}'")]
    NoContainer { workload: String, container: String },
    #[error("Deployment {0} has no pod template")]
    NoTemplate(String),
    #[error("{0} exists and was not made by Tidegate: rename it, or name another workload in the pipeline")]
    Foreign(String),
}

impl CanaryError {
    pub fn reason(&self) -> &'static str {
        match self {
            CanaryError::NoSelector(_) | CanaryError::NoServiceSelector(_) => "UnsupportedSelector",
            CanaryError::NoContainer { .. } | CanaryError::NoTemplate(_) => "ContainerNotFound",
            CanaryError::Foreign(_) => "CanaryNameTaken",
        }
    }
}

/// Whose canary it is.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    pub pipeline: &'a str,
    pub release: &'a str,
    /// Which write of ours the template is from.
    pub stamp: &'a str,
}

fn object<'a>(value: &'a Value, path: &str) -> Option<&'a Map<String, Value>> {
    value.pointer(path).and_then(Value::as_object).filter(|m| !m.is_empty())
}

/// Stable's labels with every selector label's value replaced, so that neither stable's Deployment nor
/// its Service selects the canary.
fn canary_selector(selector: &Map<String, Value>) -> Map<String, Value> {
    let mut labels: Map<String, Value> = selector
        .iter()
        .map(|(key, value)| (key.clone(), json!(names::canary_label_value(value.as_str().unwrap_or_default()))))
        .collect();
    labels.insert(names::ROLE_LABEL.into(), json!("canary"));
    labels
}

fn ours(owner: &Owner<'_>) -> Map<String, Value> {
    let mut labels = Map::new();
    labels.insert(names::PIPELINE_LABEL.into(), json!(label_value(owner.pipeline)));
    labels.insert(names::ROLE_LABEL.into(), json!("canary"));
    labels
}

/// Names may be longer than label values.
fn label_value(name: &str) -> String {
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.', '_']).to_owned()
}

/// The canary's Deployment: a copy of stable's template with these images.
pub fn deployment(
    stable: &DynamicObject,
    service: &DynamicObject,
    images: &[ReleaseImage],
    replicas: i64,
    owner: &Owner<'_>,
) -> Result<Value, CanaryError> {
    let name = stable.metadata.name.clone().unwrap_or_default();
    let selector =
        object(&stable.data, "/spec/selector/matchLabels").ok_or_else(|| CanaryError::NoSelector(name.clone()))?;
    let service_selector = object(&service.data, "/spec/selector")
        .ok_or_else(|| CanaryError::NoServiceSelector(service.metadata.name.clone().unwrap_or_default()))?;
    let mut spec = stable.data.get("spec").cloned().ok_or_else(|| CanaryError::NoTemplate(name.clone()))?;
    let template = spec.get_mut("template").ok_or_else(|| CanaryError::NoTemplate(name.clone()))?;
    set_images(template, images, &name)?;
    label_template(template, selector, service_selector);
    let fields = spec.as_object_mut().ok_or_else(|| CanaryError::NoTemplate(name.clone()))?;
    fields.remove("paused");
    fields.insert("replicas".into(), json!(replicas));
    // A canary's pods carry traffic from the first one on: an update never takes one away before its successor.
    fields.insert(
        "strategy".into(),
        json!({ "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 0, "maxSurge": "25%" } }),
    );
    // The selector never changes afterwards: it is made of the Deployment's own labels alone, for the
    // Service's may change.
    fields.insert("selector".into(), json!({ "matchLabels": canary_selector(selector) }));
    let mut labels = ours(owner);
    labels.insert(names::RELEASE_LABEL.into(), json!(label_value(owner.release)));
    Ok(json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": names::canary_name(&name),
            "namespace": stable.metadata.namespace,
            "labels": labels,
            "annotations": { names::CANARY_ROLLOUT: owner.stamp },
        },
        "spec": spec,
    }))
}

fn set_images(template: &mut Value, images: &[ReleaseImage], workload: &str) -> Result<(), CanaryError> {
    for image in images {
        let containers = template.pointer_mut("/spec/containers").and_then(Value::as_array_mut);
        let place = containers
            .into_iter()
            .flatten()
            .find(|c| c.get("name").and_then(Value::as_str) == Some(image.container.as_str()));
        let Some(place) = place else {
            return Err(CanaryError::NoContainer { workload: workload.into(), container: image.container.clone() });
        };
        place["image"] = json!(image.reference());
    }
    Ok(())
}

fn label_template(template: &mut Value, selector: &Map<String, Value>, service: &Map<String, Value>) {
    let metadata = &mut template["metadata"];
    if !metadata.is_object() {
        *metadata = json!({});
    }
    if let Some(fields) = metadata.as_object_mut() {
        fields.remove("creationTimestamp");
        let labels = fields.entry("labels").or_insert_with(|| json!({}));
        if let Some(labels) = labels.as_object_mut() {
            labels.extend(canary_selector(service));
            labels.extend(canary_selector(selector));
        }
    }
}

/// The canary's Service: stable's ports, the canary's pods.
pub fn service(stable: &DynamicObject, owner: &Owner<'_>) -> Result<Value, CanaryError> {
    let name = stable.metadata.name.clone().unwrap_or_default();
    let selector =
        object(&stable.data, "/spec/selector").ok_or_else(|| CanaryError::NoServiceSelector(name.clone()))?;
    let mut ports = stable.data.pointer("/spec/ports").cloned().unwrap_or_else(|| json!([]));
    for port in ports.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        // A node's port belongs to one Service.
        port.remove("nodePort");
    }
    let mut spec = json!({ "ports": ports, "selector": canary_selector(selector) });
    if stable.data.pointer("/spec/clusterIP").and_then(Value::as_str) == Some("None") {
        spec["clusterIP"] = json!("None");
    }
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": names::canary_name(&name),
            "namespace": stable.metadata.namespace,
            "labels": ours(owner),
        },
        "spec": spec,
    }))
}

/// Whether an existing object under our name is ours to change.
pub fn check_ours(existing: &DynamicObject, what: &str) -> Result<(), CanaryError> {
    let role = existing.metadata.labels.as_ref().and_then(|l| l.get(names::ROLE_LABEL));
    match role.map(String::as_str) {
        Some("canary") => Ok(()),
        _ => Err(CanaryError::Foreign(format!("{what} {}", existing.metadata.name.as_deref().unwrap_or_default()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stable() -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "portal", "namespace": "acme", "labels": {"app": "portal"}},
            "spec": {
                "replicas": 4,
                "paused": true,
                "minReadySeconds": 3,
                "selector": {"matchLabels": {"app": "portal"}},
                "template": {
                    "metadata": {"creationTimestamp": null, "labels": {"app": "portal", "team": "records"}, "annotations": {"a": "b"}},
                    "spec": {
                        "initContainers": [{"name": "migrate", "image": "r/migrate@sha256:11"}],
                        "containers": [
                            {"name": "web", "image": "r/portal@sha256:00", "ports": [{"containerPort": 8080}], "fieldOfTomorrow": {"x": 1}},
                            {"name": "log", "image": "r/log@sha256:22"}
                        ]
                    }
                }
            }
        }))
        .unwrap()
    }

    fn stable_service() -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "portal", "namespace": "acme"},
            "spec": {
                "type": "NodePort", "clusterIP": "10.96.0.7",
                "ports": [{"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080, "appProtocol": "http"}],
                "selector": {"app": "portal", "serves": "web"}
            }
        }))
        .unwrap()
    }

    fn image() -> ReleaseImage {
        ReleaseImage {
            container: "web".into(),
            repository: "r/portal".into(),
            digest: format!("sha256:{}", "a".repeat(64)),
        }
    }

    const OWNER: Owner<'static> = Owner { pipeline: "portal", release: "portal-0123456789", stamp: "u-1/new" };

    #[test]
    fn canary_copies_the_template_and_replaces_images_and_selector_labels_only() {
        let canary = deployment(&stable(), &stable_service(), &[image()], 2, &OWNER).unwrap();
        assert_eq!(canary["metadata"]["name"], "portal-canary");
        assert_eq!(canary["spec"]["replicas"], 2);
        assert_eq!(canary["spec"]["minReadySeconds"], 3);
        assert_eq!(canary["spec"].get("paused"), None);
        assert_eq!(
            canary["spec"]["selector"]["matchLabels"],
            json!({"app": "portal-canary", "tidegate.io/role": "canary"})
        );
        assert_eq!(
            canary["spec"]["template"]["metadata"]["labels"],
            json!({"app": "portal-canary", "serves": "web-canary", "team": "records", "tidegate.io/role": "canary"})
        );
        let containers = canary.pointer("/spec/template/spec/containers").unwrap();
        assert_eq!(containers[0]["image"], image().reference());
        assert_eq!(containers[0]["fieldOfTomorrow"], json!({"x": 1}), "unknown fields are copied");
        assert_eq!(containers[1]["image"], "r/log@sha256:22", "other containers stay");
        assert_eq!(canary.pointer("/spec/template/spec/initContainers/0/image").unwrap(), "r/migrate@sha256:11");
        assert_eq!(canary.pointer("/spec/template/metadata/annotations/a").unwrap(), "b");
    }

    #[test]
    fn neither_stables_deployment_nor_its_service_selects_the_canary() {
        let canary = deployment(&stable(), &stable_service(), &[image()], 1, &OWNER).unwrap();
        let labels = canary.pointer("/spec/template/metadata/labels").unwrap();
        for selector in [json!({"app": "portal"}), json!({"app": "portal", "serves": "web"})] {
            let selected = selector.as_object().unwrap().iter().all(|(k, v)| labels.get(k) == Some(v));
            assert!(!selected, "{selector} selects {labels}");
        }
        let service = service(&stable_service(), &OWNER).unwrap();
        let selector = service.pointer("/spec/selector").unwrap().as_object().unwrap();
        assert!(selector.iter().all(|(k, v)| labels.get(k) == Some(v)), "the canary's Service selects its pods");
    }

    #[test]
    fn canary_service_keeps_ports_but_no_node_port_and_no_address() {
        let service = service(&stable_service(), &OWNER).unwrap();
        assert_eq!(
            service["spec"]["ports"],
            json!([{"name": "http", "port": 80, "targetPort": 8080, "appProtocol": "http"}])
        );
        assert_eq!(service["spec"].get("clusterIP"), None);
    }

    #[test]
    fn a_container_that_does_not_exist_is_refused() {
        let image = ReleaseImage { container: "wbe".into(), ..image() };
        let error = deployment(&stable(), &stable_service(), &[image], 1, &OWNER).unwrap_err();
        assert_eq!(error.reason(), "ContainerNotFound");
    }

    #[test]
    fn an_object_of_somebody_else_under_our_name_is_left_alone() {
        assert!(check_ours(&stable(), "Deployment").is_err());
    }
}
