//! What the API server asks, made definite: which pod or pod template by whom. Never decides; what
//! it cannot read it says, so that the request can be refused with a reason.

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, Operation};
use serde_json::Value;
use tidegate_pipelines::api::names::TEMPLATE_HASH_LABEL;

/// One admission request about something that runs, or will run, images.
#[derive(Clone, Debug)]
pub struct Review {
    /// `Kind namespace/name`, for people.
    pub title: String,
    pub namespace: String,
    pub user: String,
    pub groups: Vec<String>,
    pub subject: Subject,
}

#[derive(Clone, Debug)]
pub enum Subject {
    /// Nothing that runs an image, or a deletion: always passes.
    Passes,
    Pod {
        new: Box<Object>,
        old: Option<Box<Object>>,
    },
    Workload {
        kind: String,
        new: Box<Object>,
        old: Option<Box<Object>>,
    },
}

/// An object with the pod (or the template of pods) inside it.
#[derive(Clone, Debug)]
pub struct Object {
    pub metadata: ObjectMeta,
    /// Of the template's pods; of a pod its own.
    pub pod_metadata: ObjectMeta,
    pub pod: PodSpec,
    /// `{metadata, spec}` of the pod as sent: comparisons see fields that our types do not know.
    pub raw: Value,
    /// How many pods it asks for; 1 where it does not say.
    pub replicas: i64,
    /// A ReplicaSet whose selector, which nobody can change, says that a Deployment made it.
    pub of_deployment: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    #[error("the request carries no {0}")]
    Missing(&'static str),
    #[error("the {kind} cannot be read: {reason}")]
    Unreadable { kind: String, reason: String },
}

impl Object {
    /// The owner that controls it, as it claims.
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.metadata.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))
    }

    /// From a pod's or a workload's JSON.
    pub fn read(kind: &str, value: Value) -> Result<Self, ReviewError> {
        let unreadable = |reason: String| ReviewError::Unreadable { kind: kind.to_owned(), reason };
        let metadata: ObjectMeta = field(&value, "/metadata").map_err(unreadable)?;
        let replicas = value.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
        let hash = value.pointer("/spec/selector/matchLabels").and_then(|labels| labels.get(TEMPLATE_HASH_LABEL));
        let of_deployment = kind == "ReplicaSet" && hash.is_some();
        let raw = match template_path(kind) {
            None => value,
            Some(path) => match value.pointer(path) {
                Some(template) if template.is_object() => template.clone(),
                _ => return Err(unreadable("it has no pod template".to_owned())),
            },
        };
        let pod_metadata = field(&raw, "/metadata").map_err(unreadable)?;
        if !raw.pointer("/spec").is_some_and(Value::is_object) {
            return Err(unreadable("its pod has no spec".to_owned()));
        }
        let pod = field(&raw, "/spec").map_err(unreadable)?;
        Ok(Self { metadata, pod_metadata, pod, raw, replicas, of_deployment })
    }

    /// From the `scale` of a ReplicaSet: its number alone, the template is not in it.
    fn scaled(value: &Value) -> Result<Self, ReviewError> {
        let unreadable = |reason: String| ReviewError::Unreadable { kind: "Scale".to_owned(), reason };
        let metadata = field(value, "/metadata").map_err(unreadable)?;
        let selector = value.pointer("/status/selector").and_then(Value::as_str).unwrap_or_default();
        Ok(Self {
            metadata,
            pod_metadata: ObjectMeta::default(),
            pod: PodSpec::default(),
            raw: Value::Null,
            // The API server leaves a zero out.
            replicas: value.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0),
            of_deployment: selector
                .split(',')
                .any(|one| one.split_once('=').is_some_and(|(key, _)| key == TEMPLATE_HASH_LABEL)),
        })
    }
}

fn field<T: serde::de::DeserializeOwned + Default>(value: &Value, path: &str) -> Result<T, String> {
    match value.pointer(path) {
        None | Some(Value::Null) => Ok(T::default()),
        Some(found) => serde_json::from_value(found.clone()).map_err(|error| error.to_string()),
    }
}

/// Where a kind keeps its pod template; none for a pod.
fn template_path(kind: &str) -> Option<&'static str> {
    match kind {
        "Pod" => None,
        "CronJob" => Some("/spec/jobTemplate/spec/template"),
        "ControllerRevision" => Some("/data/spec/template"),
        _ => Some("/spec/template"),
    }
}

fn is_workload(group: &str, kind: &str) -> bool {
    matches!(
        (group, kind),
        ("apps", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "ControllerRevision")
            | ("batch", "Job" | "CronJob")
            | ("", "ReplicationController")
    )
}

impl Review {
    pub fn of(request: AdmissionRequest<DynamicObject>) -> Result<Self, ReviewError> {
        let scales = request.resource.group == "apps"
            && request.resource.resource == "replicasets"
            && request.sub_resource.as_deref() == Some("scale");
        let kind = if scales { "ReplicaSet".to_owned() } else { request.kind.kind.clone() };
        let namespace = request.namespace.clone().unwrap_or_default();
        let review = |subject| Review {
            title: title(&request, &kind, &namespace),
            namespace: namespace.clone(),
            user: request.user_info.username.clone().unwrap_or_default(),
            groups: request.user_info.groups.clone().unwrap_or_default(),
            subject,
        };
        let is_pod = request.kind.group.is_empty() && kind == "Pod";
        let changes = matches!(request.operation, Operation::Create | Operation::Update);
        if !changes || !(is_pod || scales || is_workload(&request.kind.group, &kind)) {
            return Ok(review(Subject::Passes));
        }
        if kind == "ControllerRevision" && !brings_a_template(&request) {
            return Ok(review(Subject::Passes));
        }
        let read = |object: &DynamicObject| {
            let value = serde_json::to_value(object)
                .map_err(|error| ReviewError::Unreadable { kind: kind.clone(), reason: error.to_string() })?;
            if scales { Object::scaled(&value) } else { Object::read(&kind, value) }.map(Box::new)
        };
        let new = read(request.object.as_ref().ok_or(ReviewError::Missing("object"))?)?;
        let old = match (&request.operation, &request.old_object) {
            (Operation::Update, None) => return Err(ReviewError::Missing("old object")),
            (Operation::Update, Some(old)) => Some(read(old)?),
            // A creation has nothing before it, whatever the request claims.
            _ => None,
        };
        if namespace.is_empty() {
            return Err(ReviewError::Missing("namespace"));
        }
        let subject =
            if is_pod { Subject::Pod { new, old } } else { Subject::Workload { kind: kind.clone(), new, old } };
        Ok(review(subject))
    }
}

/// Whether this revision says what pods are made of, and is new: what is in one cannot be changed.
fn brings_a_template(request: &AdmissionRequest<DynamicObject>) -> bool {
    let template = request.object.as_ref().and_then(|object| object.data.pointer("/data/spec/template"));
    request.operation == Operation::Create && template.is_some()
}

fn title(request: &AdmissionRequest<DynamicObject>, kind: &str, namespace: &str) -> String {
    // A name that the server is to make up is not there yet.
    let generated = || {
        let prefix = request.object.as_ref().and_then(|object| object.metadata.generate_name.as_deref());
        prefix.map(|prefix| format!("{prefix}*"))
    };
    let name = if request.name.is_empty() { generated().unwrap_or_default() } else { request.name.clone() };
    format!("{kind} {namespace}/{name}")
}
