//! `tidegate install`: applies what a role needs, by server-side apply with
//! strict field validation. Idempotent; says what changed. It never deletes.

use std::path::PathBuf;
use std::time::Duration;

use kube::api::{Api, DynamicObject, Patch, PatchParams, ValidationDirective};
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt, discovery};
use serde::Deserialize;
use tidegate_pipelines::api::names;

use super::crds;
use crate::connect::{self, CallError, PersonArgs, bounded};

#[derive(clap::Args, Clone, Debug)]
pub struct InstallArgs {
    #[command(flatten)]
    pub person: PersonArgs,
    /// What to install; may be repeated. Without it everything for a single cluster: doors, hub, spoke, guard.
    #[arg(long = "role", value_enum)]
    pub roles: Vec<Role>,
    /// Name of the environment, for `spoke-access`, and for running `spoke` and `guard`.
    #[arg(long)]
    pub environment: Option<String>,
    /// Image of the roles, by digest. Without it accounts and policies are installed and nothing is run.
    #[arg(long)]
    pub image: Option<String>,
    /// PEM file of the authority that signed the guard's certificate. Without it the webhook is left as it is.
    #[arg(long)]
    pub webhook_ca: Option<PathBuf>,
    /// Where the API server reaches the guard. Default: the Service `tidegate-guard`.
    #[arg(long, requires = "webhook_ca")]
    pub webhook_url: Option<String>,
    /// What the API server does when no guard answers: `Fail` refuses, `Ignore` lets everything in.
    #[arg(long, default_value = "Fail", value_parser = ["Fail", "Ignore"])]
    pub webhook_failure_policy: String,
    /// Ask the API server what would change, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    Doors,
    Hub,
    Spoke,
    Guard,
    /// At the hub: the namespace and the account of one environment's spoke.
    SpokeAccess,
}

#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("--role {0} needs --environment NAME")]
    EnvironmentMissing(&'static str),
    #[error("--environment '{0}' is not a name: lower-case letters, digits and '-', at most 40 characters")]
    EnvironmentName(String),
    #[error(
        "--image '{0}' has no digest; name the image as repository@sha256:..., so that what runs is what was verified"
    )]
    ImageWithoutDigest(String),
    #[error("cannot read {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("manifest {name}: {source}")]
    Manifest { name: &'static str, source: serde_yaml_ng::Error },
    #[error("{object}: the API server does not know this kind: {source}")]
    Kind { object: String, source: kube::Error },
    #[error("{object}: {reason}")]
    Apply { object: String, reason: CallError },
    #[error("{0} was applied but is not served after 30 s")]
    NotEstablished(String),
}

/// What became of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Created,
    Changed,
    Unchanged,
}

macro_rules! manifest {
    ($name:literal) => {
        ($name, include_str!(concat!("../../../deploy/manifests/", $name)))
    };
}

const ACCOUNTS: &[(Role, &[(&str, &str)])] = &[
    (Role::Hub, &[manifest!("hub.yaml"), manifest!("people.yaml")]),
    (Role::Doors, &[manifest!("doors.yaml")]),
    (Role::SpokeAccess, &[manifest!("spoke-access.yaml")]),
    (Role::Spoke, &[manifest!("spoke.yaml")]),
    (Role::Guard, &[manifest!("guard.yaml"), manifest!("people.yaml")]),
];

const DEPLOYMENTS: &[(Role, (&str, &str))] = &[
    (Role::Hub, manifest!("run-hub.yaml")),
    (Role::Doors, manifest!("run-doors.yaml")),
    (Role::Spoke, manifest!("run-spoke.yaml")),
    (Role::Guard, manifest!("run-guard.yaml")),
];

const WEBHOOK: (&str, &str) = manifest!("webhook.yaml");

/// Applies what `args` asks for; `tell` gets one line per object.
///
/// # Errors
/// The first object that the API server refuses, with its message; what was applied before stays.
pub async fn install(args: &InstallArgs, client: Client, mut tell: impl FnMut(&str)) -> Result<(), InstallError> {
    let documents = documents(args)?;
    let applier = Applier { client, dry_run: args.dry_run };
    let mut counts = [0usize; 3];
    let mut note = |object: &str, change: Change, tell: &mut dyn FnMut(&str)| {
        counts[change as usize] += 1;
        let word = match (change, args.dry_run) {
            (Change::Created, false) => "created",
            (Change::Changed, false) => "changed",
            (Change::Created, true) => "would be created",
            (Change::Changed, true) => "would be changed",
            (Change::Unchanged, _) => "unchanged",
        };
        tell(&format!("{object}: {word}"));
    };
    for crd in crds::all() {
        let name = crd.name_any();
        let value = serde_json::to_value(&crd).unwrap_or_default();
        let object: DynamicObject = serde_json::from_value(value).map_err(|source| InstallError::Apply {
            object: name.clone(),
            reason: kube::Error::SerdeError(source).into(),
        })?;
        let change = applier.apply(&object).await?;
        note(&describe(&object), change, &mut tell);
    }
    if !args.dry_run {
        applier.wait_established().await?;
    }
    for object in &documents {
        let change = applier.apply(object).await?;
        note(&describe(object), change, &mut tell);
    }
    let [created, changed, unchanged] = counts;
    tell(&format!("{created} created, {changed} changed, {unchanged} unchanged"));
    Ok(())
}

/// The command: connects and prints.
pub async fn run(args: &InstallArgs) -> anyhow::Result<()> {
    let (client, _) = connect::person(&args.person).await?;
    install(args, client, |line| super::print(&format!("{line}\n"))).await?;
    Ok(())
}

/// The objects that the chosen roles need, in the order in which they are applied.
fn documents(args: &InstallArgs) -> Result<Vec<DynamicObject>, InstallError> {
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
    Ok(text.replace("${image}", args.image.as_deref().unwrap_or_default()))
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

fn describe(object: &DynamicObject) -> String {
    let kind = object.types.as_ref().map_or("", |types| types.kind.as_str());
    match object.namespace() {
        Some(namespace) => format!("{kind} {namespace}/{}", object.name_any()),
        None => format!("{kind} {}", object.name_any()),
    }
}

struct Applier {
    client: Client,
    dry_run: bool,
}

impl Applier {
    async fn apply(&self, object: &DynamicObject) -> Result<Change, InstallError> {
        let name = describe(object);
        let types = object.types.clone().unwrap_or_default();
        let gvk = GroupVersionKind::try_from(types).unwrap_or_else(|_| GroupVersionKind::gvk("", "", ""));
        let (resource, capabilities) = discovery::pinned_kind(&self.client, &gvk)
            .await
            .map_err(|source| InstallError::Kind { object: name.clone(), source })?;
        let api: Api<DynamicObject> = match (object.namespace(), capabilities.scope) {
            (Some(namespace), discovery::Scope::Namespaced) => {
                Api::namespaced_with(self.client.clone(), &namespace, &resource)
            }
            _ => Api::all_with(self.client.clone(), &resource),
        };
        let failed = |reason| InstallError::Apply { object: name.clone(), reason };
        let before = bounded(api.get_opt(&object.name_any())).await.map_err(failed)?;
        let params = PatchParams {
            field_manager: Some(format!("{}-install", names::FIELD_MANAGER)),
            field_validation: Some(ValidationDirective::Strict),
            force: true,
            dry_run: self.dry_run,
        };
        let answer = bounded(api.patch(&object.name_any(), &params, &Patch::Apply(object))).await;
        let after = match answer {
            Ok(after) => after,
            // On a first dry run the namespace of what follows does not exist yet.
            Err(error) if self.dry_run && error.is_not_found() && before.is_none() => return Ok(Change::Created),
            Err(error) => return Err(failed(error)),
        };
        Ok(match before {
            None => Change::Created,
            Some(before) if same(&before, &after) => Change::Unchanged,
            Some(_) => Change::Changed,
        })
    }

    async fn wait_established(&self) -> Result<(), InstallError> {
        use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        for crd in crds::all() {
            let name = crd.name_any();
            let mut served = false;
            for _ in 0..150 {
                let found = bounded(api.get(&name))
                    .await
                    .map_err(|reason| InstallError::Apply { object: name.clone(), reason })?;
                let conditions = found.status.and_then(|status| status.conditions).unwrap_or_default();
                served = conditions.iter().any(|c| c.type_ == "Established" && c.status == "True");
                if served {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            if !served {
                return Err(InstallError::NotEstablished(name));
            }
        }
        Ok(())
    }
}

/// Whether an apply changed nothing but its own bookkeeping.
fn same(before: &DynamicObject, after: &DynamicObject) -> bool {
    before.resource_version() == after.resource_version()
        || (before.data == after.data
            && before.metadata.labels == after.metadata.labels
            && before.metadata.annotations == after.metadata.annotations)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(roles: &[Role]) -> InstallArgs {
        InstallArgs {
            person: PersonArgs::default(),
            roles: roles.to_vec(),
            environment: None,
            image: None,
            webhook_ca: None,
            webhook_url: None,
            webhook_failure_policy: "Fail".into(),
            dry_run: false,
        }
    }

    #[test]
    fn every_manifest_parses_and_nothing_is_left_to_fill_in() {
        let mut all = args(&[Role::Hub, Role::Doors, Role::SpokeAccess, Role::Spoke, Role::Guard]);
        all.environment = Some("prod-east".into());
        all.image = Some(format!("registry.example/tidegate@sha256:{}", "a".repeat(64)));
        let objects = documents(&all).unwrap();
        assert!(objects.len() > 30, "{}", objects.len());
        for object in &objects {
            let text = serde_json::to_string(object).unwrap();
            assert!(!text.contains("${"), "{text}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(matches!(documents(&args(&[Role::SpokeAccess])), Err(InstallError::EnvironmentMissing(_))));
        let mut tagged = args(&[]);
        tagged.image = Some("registry.example/tidegate:v1".into());
        assert!(matches!(documents(&tagged), Err(InstallError::ImageWithoutDigest(_))));
        let mut odd = args(&[Role::SpokeAccess]);
        odd.environment = Some("Prod East".into());
        assert!(matches!(documents(&odd), Err(InstallError::EnvironmentName(_))));
    }

    #[test]
    fn the_roles_may_never_read_secrets_beyond_their_own_namespace() {
        let mut all = args(&[Role::Hub, Role::Doors, Role::SpokeAccess, Role::Spoke, Role::Guard]);
        all.environment = Some("x".into());
        for object in documents(&all).unwrap() {
            let kind = object.types.as_ref().unwrap().kind.clone();
            let text = serde_json::to_string(&object.data).unwrap();
            if kind == "ClusterRole" {
                assert!(!text.contains("\"secrets\""), "{}: {text}", object.name_any());
            }
        }
    }
}
