//! What every command that talks to the hub shares: the connection, finding a
//! release by a short name, and errors that say what to type instead.

use std::collections::BTreeMap;

use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tidegate_pipelines::api::{Pipeline, Release, Rollout, names};

use super::choose;
use crate::connect::{self, CallError, ConnectError, PersonArgs, bounded};

/// Flags of every command that talks to the hub.
#[derive(clap::Args, Clone, Debug)]
pub struct HubArgs {
    #[command(flatten)]
    pub person: PersonArgs,
    /// Namespace of the pipeline at the hub. Default: that of the context.
    #[arg(long, short, global = true)]
    pub namespace: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{what}: {reason}")]
    Call { what: String, reason: CallError },
    #[error(
        "no release or pipeline '{name}' in namespace '{namespace}'; `tidegate get -n {namespace}` lists what is there"
    )]
    NotFound { name: String, namespace: String },
    #[error("pipeline '{0}' has no release yet; `tidegate release IMAGE` ships one")]
    NothingReleased(String),
    #[error("{release} has no rollout under way in '{environment}'; `tidegate describe {release}` shows where it is")]
    NoRollout { release: String, environment: String },
    #[error("the namespace is given twice: --namespace {given} and '{name}'")]
    TwoNamespaces { given: String, name: String },
    #[error("{server} cannot be reached: {cause}")]
    Unreachable { server: String, cause: String },
    /// Nothing is stored.
    #[error(
        "the hub's CRDs are older than this tidegate: BuildEvents there have no spec.pipelineNamespace, and without it the \
         pipelines of all namespaces would be meant; update them first: `tidegate install --role hub` ({0})"
    )]
    OlderKinds(String),
    /// It is stored, or may be, and no more is known of it.
    #[error("{0}")]
    MayShip(String),
    #[error("the API server does not say who you are: an Approval is given in one's own name")]
    Nobody,
    /// The state of things does not allow it; nothing was written.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Usage(String),
}

impl CliError {
    /// The exit code. 0, 1 and 2 answer what was asked (`status`, `watch`, `release`, `verify`); what kept a command
    /// from an answer is neither.
    pub fn code(&self) -> u8 {
        match self {
            CliError::Refused(_) | CliError::NoRollout { .. } => 1,
            CliError::MayShip(_) => 2,
            CliError::Usage(_) | CliError::TwoNamespaces { .. } => super::USAGE,
            _ => super::NO_ANSWER,
        }
    }

    /// The API server's own sentence, where it says that this person may not do what was asked.
    pub fn forbidden(&self) -> Option<String> {
        match self {
            CliError::Call { reason, .. } if reason.code() == Some(403) => Some(reason.to_string()),
            _ => None,
        }
    }

    /// Nobody answered: it may be worth another try.
    pub fn is_unanswered(&self) -> bool {
        matches!(self, CliError::Unreachable { .. })
    }
}

/// The rollouts of a release, as far as somebody may read them.
#[derive(Debug, Default)]
pub struct Seen {
    pub rollouts: Vec<Rollout>,
    /// Environments whose rollouts this person may not read, with the API server's sentence.
    pub unseen: BTreeMap<String, String>,
}

/// A connection to the hub, in one namespace.
#[derive(Clone)]
pub struct Hub {
    pub client: Client,
    pub namespace: String,
    /// The API server's address, for people.
    server: String,
}

impl Hub {
    pub async fn connect(args: &HubArgs) -> Result<Self, CliError> {
        let person = connect::person(&args.person).await?;
        let namespace = args.namespace.clone().unwrap_or(person.namespace);
        Ok(Hub { client: person.client, namespace, server: person.server })
    }

    #[cfg(test)]
    pub fn over(client: Client, namespace: &str) -> Self {
        Hub { client, namespace: namespace.to_owned(), server: "https://hub.example".into() }
    }

    /// The same, in the namespace that a `namespace/name` says.
    pub async fn connect_for(args: &HubArgs, name: &str) -> Result<Self, CliError> {
        let mut args = args.clone();
        if let Some((namespace, _)) = name.split_once('/') {
            if let Some(given) = args.namespace.filter(|given| given != namespace) {
                return Err(CliError::TwoNamespaces { given, name: name.to_owned() });
            }
            args.namespace = Some(namespace.to_owned());
        }
        Self::connect(&args).await
    }

    /// What becomes of a call that failed.
    pub fn failed(&self, what: &str) -> impl Fn(CallError) -> CliError + use<> {
        let (what, server) = (what.to_owned(), self.server.clone());
        move |reason| match reason.silence() {
            Some(cause) => CliError::Unreachable { server: server.clone(), cause },
            None => CliError::Call { what: what.clone(), reason },
        }
    }

    pub fn pipelines(&self) -> Api<Pipeline> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn releases(&self) -> Api<Release> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn rollouts(&self, environment: &str) -> Api<Rollout> {
        Api::namespaced(self.client.clone(), &names::environment_namespace(environment))
    }

    /// All objects of a kind that this connection lists, oldest first.
    pub async fn list<K>(&self, api: &Api<K>) -> Result<Vec<K>, CliError>
    where
        K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let what = format!("list {}", K::plural(&()));
        let mut items = bounded(api.list(&ListParams::default())).await.map_err(self.failed(&what))?.items;
        items.sort_by_key(|item| (item.meta().creation_timestamp.clone(), item.name_any()));
        Ok(items)
    }

    /// To look at: the release called `name`, or of the pipeline called so the one under way, else the one that began last.
    pub async fn release(&self, name: &str) -> Result<Release, CliError> {
        self.chosen(name, |of_pipeline| Ok(choose::to_show(of_pipeline))).await
    }

    /// To act on: the release called `name` or that of the pipeline called so, if it is under way; else refused.
    pub async fn under_way(&self, name: &str) -> Result<Release, CliError> {
        let release = self.chosen(name, choose::to_act).await?;
        if choose::is_under_way(&release) { Ok(release) } else { Err(choose::ended_already(&release)) }
    }

    /// The release called `name`, or what `choose` takes of those of the pipeline called so.
    pub async fn chosen(
        &self,
        name: &str,
        choose: impl FnOnce(Vec<Release>) -> Result<Option<Release>, CliError>,
    ) -> Result<Release, CliError> {
        let name = name.rsplit('/').next().unwrap_or(name);
        if let Some(release) = self.exactly(name).await? {
            return Ok(release);
        }
        let of_pipeline: Vec<Release> =
            self.list(&self.releases()).await?.into_iter().filter(|release| release.spec.pipeline == name).collect();
        if let Some(chosen) = choose(of_pipeline)? {
            return Ok(chosen);
        }
        let failed = self.failed(&format!("get pipeline {name}"));
        match bounded(self.pipelines().get_opt(name)).await.map_err(failed)? {
            Some(_) => Err(CliError::NothingReleased(name.to_owned())),
            None => Err(CliError::NotFound { name: name.to_owned(), namespace: self.namespace.clone() }),
        }
    }

    /// A release by its own name.
    pub async fn exactly(&self, name: &str) -> Result<Option<Release>, CliError> {
        bounded(self.releases().get_opt(name)).await.map_err(self.failed(&format!("get release {name}")))
    }

    /// The rollouts that a release has made, everywhere or in one environment, with the environment's own report in
    /// their status. For who acts on them: one that may not be read fails the whole.
    pub async fn rollouts_of(&self, release: &Release, only: Option<&str>) -> Result<Vec<Rollout>, CliError> {
        let mut found = Vec::new();
        for environment in environments(release).filter(|environment| only.is_none_or(|only| only == *environment)) {
            found.extend(self.rollouts_in(release, environment).await?);
        }
        Ok(found)
    }

    /// The same, to look at: what may not be read is named and hides nothing else.
    pub async fn seen(&self, release: &Release) -> Result<Seen, CliError> {
        let mut seen = Seen::default();
        for environment in environments(release) {
            match self.rollouts_in(release, environment).await {
                Ok(found) => seen.rollouts.extend(found),
                Err(error) => {
                    let why = error.forbidden().ok_or(error)?;
                    seen.unseen.insert(environment.clone(), why);
                }
            }
        }
        Ok(seen)
    }

    async fn rollouts_in(&self, release: &Release, environment: &str) -> Result<Vec<Rollout>, CliError> {
        let mut all = self.list(&self.rollouts(environment)).await?;
        all.retain(|rollout| rollout.spec.release == release.name_any());
        Ok(all)
    }

    /// Merges `change` into an object's spec, as the user that the kubeconfig names.
    pub async fn patch_spec<K>(&self, api: &Api<K>, name: &str, change: impl Serialize) -> Result<K, CliError>
    where
        K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let what = format!("change {} {name}", K::kind(&()));
        let patch = serde_json::json!({ "spec": serde_json::to_value(change).unwrap_or_default() });
        let params = PatchParams { field_manager: Some("tidegate-cli".into()), ..PatchParams::default() };
        bounded(api.patch(name, &params, &Patch::Merge(&patch))).await.map_err(self.failed(&what))
    }
}

/// Every environment that a release ships to, in the order of its stages.
fn environments(release: &Release) -> impl Iterator<Item = &String> {
    release.spec.snapshot.stages.iter().flat_map(|stage| &stage.environments)
}
