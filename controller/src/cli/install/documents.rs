//! Which manifests of `deploy/` a role needs, filled in. Reads no cluster.

use std::path::PathBuf;

use kube::ResourceExt;
use kube::api::DynamicObject;
use serde::Deserialize;
use tidegate_pipelines::api::names;

use super::{InstallArgs, InstallError, Role};

macro_rules! manifest {
    ($name:literal) => {
        ($name, include_str!(concat!("../../../../deploy/manifests/", $name)))
    };
}

const NETWORK: (&str, &str) = manifest!("network.yaml");

const ACCOUNTS: &[(Role, &[(&str, &str)])] = &[
    (Role::Hub, &[manifest!("hub.yaml"), manifest!("people.yaml"), NETWORK]),
    (Role::Doors, &[manifest!("doors.yaml"), NETWORK]),
    (Role::SpokeAccess, &[manifest!("spoke-access.yaml")]),
    (Role::Spoke, &[manifest!("spoke.yaml"), NETWORK]),
    (Role::Guard, &[manifest!("guard.yaml"), manifest!("people.yaml"), NETWORK]),
];

const DEPLOYMENTS: &[(Role, (&str, &str))] = &[
    (Role::Hub, manifest!("run-hub.yaml")),
    (Role::Doors, manifest!("run-doors.yaml")),
    (Role::Spoke, manifest!("run-spoke.yaml")),
    (Role::Guard, manifest!("run-guard.yaml")),
];

const WEBHOOK: (&str, &str) = manifest!("webhook.yaml");

/// The objects that the chosen roles need, in the order in which they are applied.
pub(super) fn documents(args: &InstallArgs) -> Result<Vec<DynamicObject>, InstallError> {
    const ALL: [Role; 4] = [Role::Hub, Role::Doors, Role::Spoke, Role::Guard];
    let roles: &[Role] = if args.roles.is_empty() { &ALL } else { &args.roles };
    if let Some(name) = &args.environment {
        let ok = !name.is_empty()
            && name.len() <= 40
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if !ok {
            return Err(InstallError::EnvironmentName(name.clone()));
        }
    }
    if let Some(image) = args.image.as_ref().filter(|image| !image.contains("@sha256:")) {
        return Err(InstallError::ImageWithoutDigest(image.clone()));
    }
    let mut texts: Vec<(&'static str, String)> = Vec::new();
    for (role, manifests) in ACCOUNTS.iter().filter(|(role, _)| roles.contains(role)) {
        for (name, text) in *manifests {
            texts.push((name, fill(text, args, *role)?));
        }
    }
    if args.image.is_some() {
        for (role, (name, text)) in DEPLOYMENTS.iter().filter(|(role, _)| roles.contains(role)) {
            texts.push((name, fill(text, args, *role)?));
        }
    }
    if let Some(path) = args.webhook_ca.as_ref().filter(|_| roles.contains(&Role::Guard)) {
        texts.push((WEBHOOK.0, webhook(args, path)?));
    }
    let mut objects: Vec<DynamicObject> = Vec::new();
    for (name, text) in texts {
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let object =
                DynamicObject::deserialize(document).map_err(|source| InstallError::Manifest { name, source })?;
            let seen = objects.iter().any(|other| describe(other) == describe(&object));
            if !seen {
                objects.push(object);
            }
        }
    }
    Ok(objects)
}

fn fill(text: &str, args: &InstallArgs, role: Role) -> Result<String, InstallError> {
    let mut text = text.to_owned();
    if text.contains("${environment}") {
        let word = match role {
            Role::SpokeAccess => "spoke-access",
            Role::Spoke => "spoke --image",
            _ => "guard --image",
        };
        let environment = args.environment.as_deref().ok_or(InstallError::EnvironmentMissing(word))?;
        text = text.replace("${environment}", environment);
    }
    let flags = if args.guard_client_ca { r#", "--client-ca=/clients/ca.crt""# } else { "" };
    Ok(text
        .replace("${image}", args.image.as_deref().unwrap_or_default())
        .replace("${guard_flags}", flags)
        .replace("${guard_peers}", &guard_peers(&args.api_server).to_string()))
}

/// Whom the guard's NetworkPolicy lets in is said once: an install without `--api-server` must not open it again.
pub(super) fn is_guards_door(object: &DynamicObject) -> bool {
    object.name_any() == "tidegate-guard" && object.types.as_ref().is_some_and(|types| types.kind == "NetworkPolicy")
}

/// Who may connect to the guard; without `from` anybody.
fn guard_peers(api_server: &[String]) -> serde_json::Value {
    let mut rule = serde_json::json!({ "ports": [{ "protocol": "TCP", "port": 9443 }] });
    if !api_server.is_empty() {
        rule["from"] = api_server.iter().map(|cidr| serde_json::json!({ "ipBlock": { "cidr": cidr } })).collect();
    }
    rule
}

fn webhook(args: &InstallArgs, path: &PathBuf) -> Result<String, InstallError> {
    use base64::Engine;
    let pem = std::fs::read(path).map_err(|source| InstallError::Read { path: path.display().to_string(), source })?;
    let bundle = base64::engine::general_purpose::STANDARD.encode(pem);
    let client_config = match &args.webhook_url {
        Some(url) => serde_json::json!({ "url": url, "caBundle": bundle }),
        None => serde_json::json!({
            "service": { "namespace": names::SYSTEM_NAMESPACE, "name": "tidegate-guard", "path": "/admission" },
            "caBundle": bundle,
        }),
    };
    Ok(WEBHOOK
        .1
        .replace("${client_config}", &client_config.to_string())
        .replace("${failure_policy}", &args.webhook_failure_policy))
}

pub(super) fn describe(object: &DynamicObject) -> String {
    let kind = object.types.as_ref().map_or("", |types| types.kind.as_str());
    match object.namespace() {
        Some(namespace) => format!("{kind} {namespace}/{}", object.name_any()),
        None => format!("{kind} {}", object.name_any()),
    }
}
