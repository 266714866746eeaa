//! `tidegate install`: applies what a role needs, by server-side apply with
//! strict field validation. Idempotent; says what changed. It never deletes.

mod documents;

use std::path::PathBuf;
use std::time::Duration;

use kube::api::{Api, DynamicObject, Patch, PatchParams, ValidationDirective};
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt, discovery};
use tidegate_pipelines::api::names;

use self::documents::{describe, documents, is_guards_door};
use super::crds;
use crate::connect::{self, CallError, Person, PersonArgs, bounded};

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
    /// Addresses from which the API server reaches the guard, as CIDR; may be repeated. Without it the guard's
    /// NetworkPolicy is left as it is, and lets anybody ask if it is new.
    #[arg(long)]
    pub api_server: Vec<String>,
    /// The guard demands a client certificate that an authority in the ConfigMap `tidegate-guard-clients` (key `ca.crt`)
    /// has signed.
    #[arg(long, requires = "image")]
    pub guard_client_ca: bool,
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
    #[error("{server} cannot be reached: {cause}")]
    Unreachable { server: String, cause: String },
    #[error("{object}: the API server does not know this kind: {source}")]
    Kind { object: String, source: kube::Error },
    #[error("{object}: {reason}")]
    Apply { object: String, reason: CallError },
    #[error("{0} was applied but is not served after 30 s")]
    NotEstablished(String),
}

impl InstallError {
    /// What was typed is wrong, whatever the cluster says.
    pub fn is_usage(&self) -> bool {
        use InstallError::{EnvironmentMissing, EnvironmentName, ImageWithoutDigest};
        matches!(self, EnvironmentMissing(_) | EnvironmentName(_) | ImageWithoutDigest(_))
    }
}

/// What became of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Created,
    Changed,
    Unchanged,
}

/// Applies what `args` asks for; `tell` gets one line per object.
///
/// # Errors
/// The first object that the API server refuses, with its message; what was applied before stays.
pub async fn install(args: &InstallArgs, person: Person, mut tell: impl FnMut(&str)) -> Result<(), InstallError> {
    let documents = documents(args)?;
    let applier = Applier { client: person.client, server: person.server, dry_run: args.dry_run };
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
        let change = match args.api_server.is_empty() && is_guards_door(object) && applier.exists(object).await? {
            true => Change::Unchanged,
            false => applier.apply(object).await?,
        };
        note(&describe(object), change, &mut tell);
    }
    let [created, changed, unchanged] = counts;
    tell(&format!("{created} created, {changed} changed, {unchanged} unchanged"));
    Ok(())
}

/// The command: connects and prints.
pub async fn run(args: &InstallArgs) -> anyhow::Result<()> {
    let person = connect::person(&args.person).await?;
    install(args, person, |line| super::print(&format!("{line}\n"))).await?;
    Ok(())
}

struct Applier {
    client: Client,
    server: String,
    dry_run: bool,
}

impl Applier {
    fn failed(&self, object: &str, reason: CallError) -> InstallError {
        match reason.silence() {
            Some(cause) => InstallError::Unreachable { server: self.server.clone(), cause },
            None => InstallError::Apply { object: object.to_owned(), reason },
        }
    }

    async fn exists(&self, object: &DynamicObject) -> Result<bool, InstallError> {
        let failed = |reason| self.failed(&describe(object), reason);
        Ok(bounded(self.api(object).await?.get_opt(&object.name_any())).await.map_err(failed)?.is_some())
    }

    async fn api(&self, object: &DynamicObject) -> Result<Api<DynamicObject>, InstallError> {
        let name = describe(object);
        let types = object.types.clone().unwrap_or_default();
        let gvk = GroupVersionKind::try_from(types).unwrap_or_else(|_| GroupVersionKind::gvk("", "", ""));
        let (resource, capabilities) =
            discovery::pinned_kind(&self.client, &gvk).await.map_err(|source| match connect::silence(&source) {
                Some(cause) => InstallError::Unreachable { server: self.server.clone(), cause },
                None => InstallError::Kind { object: name.clone(), source },
            })?;
        Ok(match (object.namespace(), capabilities.scope) {
            (Some(namespace), discovery::Scope::Namespaced) => {
                Api::namespaced_with(self.client.clone(), &namespace, &resource)
            }
            _ => Api::all_with(self.client.clone(), &resource),
        })
    }

    async fn apply(&self, object: &DynamicObject) -> Result<Change, InstallError> {
        let (name, api) = (describe(object), self.api(object).await?);
        let failed = |reason| self.failed(&name, reason);
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
                let found = bounded(api.get(&name)).await.map_err(|reason| self.failed(&name, reason))?;
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
mod tests;
