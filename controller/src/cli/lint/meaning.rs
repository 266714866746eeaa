//! What a schema cannot say about the kinds beside Pipeline. The policies' own rules are those of their model.

use serde_json::Value;
use tidegate_pipelines::api::{
    AttestorSpec, EnvironmentSpec, EventSourceKind, EventSourceSpec, TrustRootSpec, VerificationPolicySpec, names,
};
use tidegate_pipelines::judge::selector;
use tidegate_policies::model::PolicyError;

use super::pipeline::repository_problem;
use super::schema::{Finding, is_name};

/// Labels and names of a selector are the API server's to check; these are ours.
pub fn environment(spec: &EnvironmentSpec, findings: &mut Vec<Finding>) {
    if spec.metrics.pod_label == spec.metrics.namespace_label {
        findings.push(Finding::new("spec.metrics.podLabel", "is namespaceLabel: they are two labels"));
    }
    if let Some(gateway) = &spec.metrics.gateway {
        if !gateway.service_pattern.contains("{service}") || !gateway.service_pattern.contains("{namespace}") {
            let message = "must contain {namespace} and {service}: else one backend's requests are another's evidence";
            findings.push(Finding::new("spec.metrics.gateway.servicePattern", message));
        }
        let pattern = selector::backend_pattern(&gateway.service_pattern, "namespace", "service", 80);
        if let Err(error) = selector::backends(gateway, &pattern) {
            findings.push(Finding::new("spec.metrics.gateway", error.to_string()));
        }
    }
    for (i, allowed) in spec.allowed_pipelines.iter().enumerate() {
        for (j, namespace) in allowed.target_namespaces.iter().enumerate() {
            if !is_name(namespace, 63) {
                let path = format!("spec.allowedPipelines[{i}].targetNamespaces[{j}]");
                findings.push(Finding::new(path, format!("'{namespace}' is no namespace: patterns are not read")));
            }
        }
    }
}

pub fn event_source(spec: &EventSourceSpec, namespace: &str, findings: &mut Vec<Finding>) {
    if !namespace.is_empty() && namespace != names::SYSTEM_NAMESPACE {
        let message = format!("'{namespace}' is not looked at: EventSources live in {}", names::SYSTEM_NAMESPACE);
        findings.push(Finding::new("metadata.namespace", message));
    }
    let github = spec.kind == EventSourceKind::Github;
    match (github, &spec.hmac_secret, &spec.oidc) {
        (true, None, _) => {
            let message = "is missing: a github source needs the Secret and key that hold its webhook secret";
            findings.push(Finding::new("spec.hmacSecret", message));
        }
        (false, _, None) => {
            let message = "is missing: this kind of source needs issuer, audience and e-mail of its push subscription";
            findings.push(Finding::new("spec.oidc", message));
        }
        (true, _, Some(_)) => findings.push(Finding::new("spec.oidc", "is for cloudbuild and artifactregistry only")),
        (false, Some(_), _) => findings.push(Finding::new("spec.hmacSecret", "is for github only")),
        _ => {}
    }
    if !github && spec.report.is_some() {
        findings.push(Finding::new("spec.report", "is for github only"));
    }
    if !github && spec.images.is_empty() {
        let message = "is empty, so this source may name no image: list the repositories that it pushes to";
        findings.push(Finding::new("spec.images", message));
    }
    if spec.repositories.is_empty() && spec.images.is_empty() {
        let message = "is empty, as images is, so this source may speak for nothing: name what it builds";
        findings.push(Finding::new("spec.repositories", message));
    }
    for (i, repository) in spec.repositories.iter().enumerate() {
        let good = !github || repository.split('/').filter(|part| !part.is_empty()).count() == 2;
        if !good || repository.contains("://") || repository.contains('*') {
            let message = format!("'{repository}' is not owner/name");
            findings.push(Finding::new(format!("spec.repositories[{i}]"), message));
        }
    }
    for (i, image) in spec.images.iter().enumerate() {
        let stem = image.strip_suffix("/**").unwrap_or(image);
        let problem = match stem.contains('*') {
            true => Some(format!("'{image}': only /** at the end is read")),
            // A registry's project alone is no image's name, but stands for what lies below it.
            false if stem != image && !stem.contains('/') => None,
            false => repository_problem(stem),
        };
        findings.extend(problem.map(|message| Finding::new(format!("spec.images[{i}]"), message)));
    }
}

pub fn policy(spec: &VerificationPolicySpec, findings: &mut Vec<Finding>) {
    told(spec.policy.validate(), findings);
}

pub fn attestor(spec: &AttestorSpec, findings: &mut Vec<Finding>) {
    told(spec.attestor.validate(), findings);
}

pub fn trust_root(spec: &TrustRootSpec, findings: &mut Vec<Finding>) {
    told(spec.trust_root.validate(), findings);
}

fn told(result: Result<(), Vec<PolicyError>>, findings: &mut Vec<Finding>) {
    let errors = result.err().unwrap_or_default();
    findings.extend(errors.into_iter().map(|error| Finding::new(format!("spec.{}", error.path), error.message)));
}

/// Names of other objects that a spec relies on: path, kind, name.
pub fn references(kind: &str, spec: &Value) -> Vec<(String, &'static str, String)> {
    let mut found = Vec::new();
    let mut add = |path: String, kind: &'static str, value: Option<&Value>| {
        if let Some(name) = value.and_then(Value::as_str) {
            found.push((path, kind, name.to_owned()));
        }
    };
    let list = |pointer: &str| spec.pointer(pointer).and_then(Value::as_array).into_iter().flatten().enumerate();
    match kind {
        "Environment" => add("spec.policy".into(), "VerificationPolicy", spec.get("policy")),
        "Attestor" => add("spec.trustRoot".into(), "TrustRoot", spec.get("trustRoot")),
        "Pipeline" => {
            for (i, source) in list("/sources") {
                add(format!("spec.sources[{i}].eventSource"), "EventSource", source.get("eventSource"));
            }
            for (i, stage) in list("/stages") {
                for (j, name) in stage.get("environments").and_then(Value::as_array).into_iter().flatten().enumerate() {
                    add(format!("spec.stages[{i}].environments[{j}]"), "Environment", Some(name));
                }
            }
        }
        "VerificationPolicy" => {
            for (i, set) in list("/checkSets") {
                for (j, check) in set.get("checks").and_then(Value::as_array).into_iter().flatten().enumerate() {
                    for (field, value) in check.as_object().into_iter().flatten() {
                        let named = value.get("attestors").and_then(Value::as_array).into_iter().flatten();
                        for (k, name) in named.enumerate() {
                            let path = format!("spec.checkSets[{i}].checks[{j}].{field}.attestors[{k}]");
                            add(path, "Attestor", Some(name));
                        }
                    }
                }
            }
        }
        _ => {}
    }
    found
}
