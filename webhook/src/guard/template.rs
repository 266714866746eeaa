//! What of a pod counts: the images in it, whether it is what its owner's template says, and whether
//! a template changed. Works on the JSON as sent where fields are compared: what our types do not
//! know must not slip through. Never asks anyone.

use k8s_openapi::api::core::v1::PodSpec;
use serde_json::{Map, Value};

use tidegate_pipelines::api::names::TEMPLATE_HASH_LABEL;

/// The one annotation that anybody may set on a template: `kubectl rollout restart`.
const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";
/// What the service account admission mounts into every container.
const TOKEN_MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// What the job controller adds to indexed jobs.
const COMPLETION_INDEX: &str = "JOB_COMPLETION_INDEX";

/// An image and where in the pod it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// `container app`, `init container migrate`, ..
    pub place: String,
    /// Empty if none is given.
    pub image: String,
}

/// Every image that this pod pulls: init, ephemeral and image volumes included.
pub fn images(pod: &PodSpec) -> Vec<Placed> {
    let placed = |what: &str, name: &str, image: &Option<String>| Placed {
        place: format!("{what} `{name}`"),
        image: image.clone().unwrap_or_default(),
    };
    let init = pod.init_containers.iter().flatten().map(|c| placed("init container", &c.name, &c.image));
    let containers = pod.containers.iter().map(|c| placed("container", &c.name, &c.image));
    let ephemeral = pod.ephemeral_containers.iter().flatten();
    let ephemeral = ephemeral.map(|c| placed("ephemeral container", &c.name, &c.image));
    let volumes = pod.volumes.iter().flatten().filter_map(|volume| {
        let image = volume.image.as_ref()?;
        Some(placed("image volume", &volume.name, &image.reference))
    });
    init.chain(containers).chain(ephemeral).chain(volumes).collect()
}

/// Whether two templates differ in more than the time of a restart.
pub fn changed(old: &Value, new: &Value) -> bool {
    normal(old, &[RESTARTED_AT], &[]) != normal(new, &[RESTARTED_AT], &[])
}

/// Whether a ReplicaSet's template is its Deployment's.
pub fn same(owner: &Value, made: &Value) -> bool {
    normal(owner, &[], &[TEMPLATE_HASH_LABEL]) == normal(made, &[], &[TEMPLATE_HASH_LABEL])
}

fn normal(template: &Value, annotations: &[&str], labels: &[&str]) -> Value {
    let mut template = template.clone();
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        for (field, ignored) in [("annotations", annotations), ("labels", labels)] {
            if let Some(map) = metadata.get_mut(field).and_then(Value::as_object_mut) {
                map.retain(|key, _| !ignored.contains(&key.as_str()));
            }
        }
        metadata.retain(|_, value| !is_nothing(value));
    }
    template
}

/// Absent, null and empty are one: the API server's defaulting writes any of them.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(flag) => !flag,
        Value::Number(_) => false,
    }
}

/// Whether this pod is what the template makes, apart from what was injected on the way.
///
/// Every container that the template names must be there with the same image and everything that
/// says what runs in it; what the template does not name is judged by its image alone. `claims` are
/// volumes that a StatefulSet makes from its claim templates.
pub fn made_from(template: &Value, pod: &Value, claims: &[String]) -> Result<(), String> {
    for list in ["initContainers", "containers"] {
        for wanted in items(template, list) {
            let name = wanted.get("name").and_then(Value::as_str).unwrap_or_default();
            let Some(found) = named(pod, list, name) else {
                return Err(format!("the owner's container `{name}` is missing"));
            };
            same_container(name, wanted, found)?;
        }
    }
    for wanted in items(template, "volumes") {
        let name = wanted.get("name").and_then(Value::as_str).unwrap_or_default();
        if claims.iter().any(|claim| claim == name) {
            continue;
        }
        if named(pod, "volumes", name) != Some(wanted) {
            return Err(format!("volume `{name}` is not the owner's"));
        }
    }
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec(template, field).is_some_and(|v| !is_nothing(v)) != spec(pod, field).is_some_and(|v| !is_nothing(v)) {
            return Err(format!("`{field}` is not the owner's"));
        }
    }
    let account = |object| spec(object, "serviceAccountName").and_then(Value::as_str).filter(|name| !name.is_empty());
    if account(template).unwrap_or("default") != account(pod).unwrap_or("default") {
        return Err("the service account is not the owner's".to_owned());
    }
    Ok(())
}

fn same_container(name: &str, wanted: &Value, found: &Value) -> Result<(), String> {
    let wanted_has = |field: &str, key: &str, value: &str| {
        list(wanted, field).iter().any(|item| item.get(key).and_then(Value::as_str) == Some(value))
    };
    let without = |field: &str, key: &str, value: &str| -> Vec<Value> {
        let keep = wanted_has(field, key, value);
        let items = list(found, field).into_iter();
        items.filter(|item| keep || item.get(key).and_then(Value::as_str) != Some(value)).collect()
    };
    for field in ["image", "command", "args", "envFrom", "workingDir", "lifecycle", "volumeDevices"] {
        let nothing = Value::Null;
        let of = |container: &Value| container.get(field).filter(|v| !is_nothing(v)).unwrap_or(&nothing).clone();
        if of(wanted) != of(found) {
            return Err(format!("`{field}` of container `{name}` is not the owner's"));
        }
    }
    if list(wanted, "env") != without("env", "name", COMPLETION_INDEX) {
        return Err(format!("`env` of container `{name}` is not the owner's"));
    }
    if list(wanted, "volumeMounts") != without("volumeMounts", "mountPath", TOKEN_MOUNT) {
        return Err(format!("`volumeMounts` of container `{name}` are not the owner's"));
    }
    Ok(())
}

fn spec<'a>(object: &'a Value, field: &str) -> Option<&'a Value> {
    object.get("spec").and_then(Value::as_object).and_then(|spec: &Map<String, Value>| spec.get(field))
}

fn items<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    spec(object, field).and_then(Value::as_array).into_iter().flatten()
}

fn named<'a>(object: &'a Value, field: &str, name: &str) -> Option<&'a Value> {
    items(object, field).find(|item| item.get("name").and_then(Value::as_str) == Some(name))
}

fn list(container: &Value, field: &str) -> Vec<Value> {
    container.get(field).and_then(Value::as_array).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template() -> Value {
        json!({"metadata": {"labels": {"app": "portal"}}, "spec": {
            "containers": [{"name": "app", "image": "r/portal@sha256:1", "env": [{"name": "A", "value": "1"}],
                            "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
            "volumes": [{"name": "data", "emptyDir": {}}]}})
    }

    /// What the API server's own admission and an injector make of it.
    fn pod() -> Value {
        let mut pod = template();
        let token = json!({"name": "kube-api-access-x", "mountPath": TOKEN_MOUNT, "readOnly": true});
        pod["spec"]["containers"][0]["volumeMounts"].as_array_mut().unwrap().push(token);
        pod["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "mesh", "image": "r/mesh@sha256:2"}));
        pod["spec"]["volumes"].as_array_mut().unwrap().push(json!({"name": "kube-api-access-x", "projected": {}}));
        pod["spec"]["serviceAccountName"] = json!("default");
        pod
    }

    #[test]
    fn a_pod_with_injected_parts_is_still_its_owners() {
        assert_eq!(made_from(&template(), &pod(), &[]), Ok(()));
        let mut indexed = pod();
        indexed["spec"]["containers"][0]["env"]
            .as_array_mut()
            .unwrap()
            .push(json!({"name": COMPLETION_INDEX, "valueFrom": {}}));
        assert_eq!(made_from(&template(), &indexed, &[]), Ok(()));
    }

    #[test]
    fn a_pod_that_runs_something_else_is_not_its_owners() {
        for (path, value, expected) in [
            ("/spec/containers/0/image", json!("r/portal@sha256:9"), "`image` of container `app`"),
            ("/spec/containers/0/command", json!(["sh"]), "`command`"),
            ("/spec/containers/0/args", json!(["-x"]), "`args`"),
            ("/spec/containers/0/env", json!([{"name": "A", "value": "2"}]), "`env`"),
            ("/spec/containers/0/envFrom", json!([{"secretRef": {"name": "s"}}]), "`envFrom`"),
            ("/spec/containers/0/lifecycle", json!({"postStart": {}}), "`lifecycle`"),
            ("/spec/containers/0/volumeMounts", json!([]), "`volumeMounts`"),
            ("/spec/containers/0/name", json!("other"), "container `app` is missing"),
            ("/spec/volumes/0", json!({"name": "data", "hostPath": {"path": "/"}}), "volume `data`"),
            ("/spec/hostNetwork", json!(true), "`hostNetwork`"),
            ("/spec/serviceAccountName", json!("admin"), "service account"),
        ] {
            let mut other = pod();
            let (parent, key) = path.rsplit_once('/').unwrap();
            match other.pointer_mut(parent).unwrap() {
                Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
                map => map[key] = value,
            }
            let refused = made_from(&template(), &other, &[]).unwrap_err();
            assert!(refused.contains(expected), "{path}: {refused}");
        }
    }

    #[test]
    fn a_restart_is_no_change_of_the_template_and_any_other_field_is() {
        let old = template();
        let mut restarted = template();
        restarted["metadata"]["annotations"] = json!({RESTARTED_AT: "2026-11-22T16:00:00Z"});
        assert!(!changed(&old, &restarted));
        restarted["metadata"]["annotations"]["other"] = json!("x");
        assert!(changed(&old, &restarted));
        let mut unknown = template();
        unknown["spec"]["aFieldOfTomorrow"] = json!(true);
        assert!(changed(&old, &unknown));
    }

    #[test]
    fn a_replica_set_carries_its_deployments_template_and_a_hash() {
        let mut made = template();
        made["metadata"]["labels"][TEMPLATE_HASH_LABEL] = json!("abc");
        assert!(same(&template(), &made));
        made["spec"]["containers"][0]["command"] = json!(["sh"]);
        assert!(!same(&template(), &made));
    }

    #[test]
    fn every_place_an_image_can_stand_is_seen() {
        let pod: PodSpec = serde_json::from_value(json!({
            "initContainers": [{"name": "i", "image": "a"}],
            "containers": [{"name": "c", "image": "b"}, {"name": "none"}],
            "ephemeralContainers": [{"name": "e", "image": "c"}],
            "volumes": [{"name": "v", "image": {"reference": "d"}}, {"name": "w", "emptyDir": {}}]
        }))
        .unwrap();
        let seen: Vec<_> = images(&pod).into_iter().map(|p| (p.place, p.image)).collect();
        let expected = [
            ("init container `i`", "a"),
            ("container `c`", "b"),
            ("container `none`", ""),
            ("ephemeral container `e`", "c"),
            ("image volume `v`", "d"),
        ];
        assert_eq!(seen, expected.map(|(p, i)| (p.to_owned(), i.to_owned())));
    }
}
