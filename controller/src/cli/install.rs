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

macro_rules! manifest {
    ($name:literal) => {
        ($name, include_str!(concat!("../../../deploy/manifests/", $name)))
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
    let flags = if args.guard_client_ca { r#", "--client-ca=/clients/ca.crt""# } else { "" };
    Ok(text
        .replace("${image}", args.image.as_deref().unwrap_or_default())
        .replace("${guard_flags}", flags)
        .replace("${guard_peers}", &guard_peers(&args.api_server).to_string()))
}

/// Whom the guard's NetworkPolicy lets in is said once: an install without `--api-server` must not open it again.
fn is_guards_door(object: &DynamicObject) -> bool {
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

fn describe(object: &DynamicObject) -> String {
    let kind = object.types.as_ref().map_or("", |types| types.kind.as_str());
    match object.namespace() {
        Some(namespace) => format!("{kind} {namespace}/{}", object.name_any()),
        None => format!("{kind} {}", object.name_any()),
    }
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
            api_server: vec![],
            guard_client_ca: false,
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

    #[tokio::test]
    async fn a_server_that_is_not_there_is_no_unknown_kind() {
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let client = Client::try_from(config).unwrap();
        let person = Person { client, namespace: "default".into(), server: "http://127.0.0.1:1".into() };
        let told = install(&args(&[Role::Hub]), person, |_| {}).await.unwrap_err();
        assert_eq!(told.to_string(), "http://127.0.0.1:1 cannot be reached: connection refused");
    }

    fn everything() -> InstallArgs {
        let mut all = args(&[Role::Hub, Role::Doors, Role::SpokeAccess, Role::Spoke, Role::Guard]);
        all.environment = Some("x".into());
        all.image = Some(format!("registry.example/tidegate@sha256:{}", "a".repeat(64)));
        all
    }

    fn kind(object: &DynamicObject) -> &str {
        &object.types.as_ref().unwrap().kind
    }

    /// Keys of servers, tokens of accounts and passwords of registries lie in `tidegate-system`, and are mounted by
    /// whom they are for.
    #[test]
    fn a_role_reads_secrets_in_a_namespace_of_its_own_or_not_at_all() {
        let mut readers = vec![];
        for object in documents(&everything()).unwrap() {
            let text = serde_json::to_string(&object.data).unwrap();
            if !kind(&object).ends_with("Role") || !(text.contains("\"secrets\"") || text.contains("\"*\"")) {
                continue;
            }
            // A viewer sees every kind of our own group, where there are no Secrets.
            let ours = object
                .data
                .pointer("/rules")
                .unwrap()
                .as_array()
                .unwrap()
                .iter()
                .all(|rule| rule["apiGroups"] == serde_json::json!(["tidegate.io"]));
            if !ours {
                assert_eq!(
                    object.data["rules"],
                    serde_json::json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}])
                );
                readers.push(describe(&object));
            }
        }
        readers.sort();
        assert_eq!(readers, ["Role tidegate-doors/tidegate-doors", "Role tidegate-hub/tidegate-hub"]);
    }

    /// Of the ports that the roles listen on, as `(component, port, from)`; `from` empty: anybody.
    fn let_in(objects: &[DynamicObject]) -> Vec<(String, u64, String)> {
        let mut found = vec![];
        let pods: Vec<&DynamicObject> = objects.iter().filter(|object| kind(object) == "Deployment").collect();
        for policy in objects.iter().filter(|object| kind(object) == "NetworkPolicy") {
            let labels = policy.data.pointer("/spec/podSelector/matchLabels").and_then(|labels| labels.as_object());
            let selects = |pod: &&&DynamicObject| {
                let own = &pod.data["spec"]["template"]["metadata"]["labels"];
                labels.into_iter().flatten().all(|(name, value)| own[name] == *value)
            };
            for pod in pods.iter().filter(selects) {
                for rule in
                    policy.data.pointer("/spec/ingress").and_then(|rules| rules.as_array()).into_iter().flatten()
                {
                    for port in rule["ports"].as_array().expect("a rule without ports lets in all of them") {
                        let from = rule.get("from").map(ToString::to_string).unwrap_or_default();
                        found.push((pod.name_any(), port["port"].as_u64().unwrap(), from));
                    }
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn the_network_lets_in_what_each_role_serves_and_nothing_else() {
        let mut all = everything();
        let objects = documents(&all).unwrap();
        let denied = objects.iter().find(|object| object.name_any() == "tidegate-default-deny").unwrap();
        assert_eq!(denied.data["spec"], serde_json::json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
        let scrapes = r#"[{"namespaceSelector":{"matchLabels":{"tidegate.io/scrapes-metrics":"true"}}}]"#;
        let row = |role: &str, port: u64, from: &str| (format!("tidegate-{role}"), port, from.to_owned());
        let expected = [
            row("doors", 8443, ""),
            row("doors", 9440, scrapes),
            row("guard", 9440, scrapes),
            row("guard", 9443, ""),
            row("hub", 9440, scrapes),
            row("spoke", 9440, scrapes),
        ];
        assert_eq!(let_in(&objects), expected);
        // Every port that a container names is one of them.
        for object in objects.iter().filter(|object| kind(object) == "Deployment") {
            for port in object.data.pointer("/spec/template/spec/containers/0/ports").unwrap().as_array().unwrap() {
                let port = port["containerPort"].as_u64().unwrap();
                assert!(expected.iter().any(|(role, open, _)| *role == object.name_any() && *open == port), "{port}");
            }
        }
        all.api_server = vec!["192.0.2.0/28".into(), "2001:db8::/64".into()];
        let narrowed = let_in(&documents(&all).unwrap());
        let from = r#"[{"ipBlock":{"cidr":"192.0.2.0/28"}},{"ipBlock":{"cidr":"2001:db8::/64"}}]"#;
        assert!(narrowed.contains(&row("guard", 9443, from)), "{narrowed:?}");
        assert!(!narrowed.contains(&row("guard", 9443, "")), "{narrowed:?}");
    }

    #[test]
    fn a_guard_that_demands_client_certificates_is_told_where_their_authority_is() {
        let mut all = everything();
        for demands in [false, true] {
            all.guard_client_ca = demands;
            let objects = documents(&all).unwrap();
            let guard = objects.iter().find(|o| kind(o) == "Deployment" && o.name_any() == "tidegate-guard").unwrap();
            let args = guard.data.pointer("/spec/template/spec/containers/0/args").unwrap().as_array().unwrap();
            assert_eq!(args.iter().any(|arg| arg == "--client-ca=/clients/ca.crt"), demands, "{args:?}");
        }
    }
}
