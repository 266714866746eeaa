//! What every command that talks to the hub shares: the connection, finding a
//! release by a short name, and errors that say what to type instead.

use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tidegate_pipelines::api::{Pipeline, Release, Rollout, names};

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
    #[error("{0}")]
    Usage(String),
}

/// A connection to the hub, in one namespace.
#[derive(Clone)]
pub struct Hub {
    pub client: Client,
    pub namespace: String,
}

impl Hub {
    pub async fn connect(args: &HubArgs) -> Result<Self, CliError> {
        let (client, default) = connect::person(&args.person).await?;
        Ok(Hub { client, namespace: args.namespace.clone().unwrap_or(default) })
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
        let mut items =
            bounded(api.list(&ListParams::default())).await.map_err(|reason| CliError::Call { what, reason })?.items;
        items.sort_by_key(|item| (item.meta().creation_timestamp.clone(), item.name_any()));
        Ok(items)
    }

    /// The release called `name`, or the newest of the pipeline called so.
    pub async fn release(&self, name: &str) -> Result<Release, CliError> {
        let name = name.rsplit('/').next().unwrap_or(name);
        let failed = |reason| CliError::Call { what: format!("get release {name}"), reason };
        if let Some(release) = bounded(self.releases().get_opt(name)).await.map_err(failed)? {
            return Ok(release);
        }
        let of_pipeline: Vec<Release> =
            self.list(&self.releases()).await?.into_iter().filter(|release| release.spec.pipeline == name).collect();
        if let Some(newest) = of_pipeline.into_iter().next_back() {
            return Ok(newest);
        }
        match bounded(self.pipelines().get_opt(name)).await.map_err(failed)? {
            Some(_) => Err(CliError::NothingReleased(name.to_owned())),
            None => Err(CliError::NotFound { name: name.to_owned(), namespace: self.namespace.clone() }),
        }
    }

    /// The rollouts that a release has made, with the environment's own report in their status.
    pub async fn rollouts_of(&self, release: &Release) -> Result<Vec<Rollout>, CliError> {
        let mut found = Vec::new();
        for stage in &release.spec.snapshot.stages {
            for environment in &stage.environments {
                let mut all = self.list(&self.rollouts(environment)).await?;
                all.retain(|rollout| rollout.spec.release == release.name_any());
                found.extend(all);
            }
        }
        Ok(found)
    }

    /// Merges `change` into an object's spec, as the user that the kubeconfig names.
    pub async fn patch_spec<K>(&self, api: &Api<K>, name: &str, change: impl Serialize) -> Result<K, CliError>
    where
        K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let what = format!("change {} {name}", K::kind(&()));
        let patch = serde_json::json!({ "spec": serde_json::to_value(change).unwrap_or_default() });
        let params = PatchParams { field_manager: Some("tidegate-cli".into()), ..PatchParams::default() };
        bounded(api.patch(name, &params, &Patch::Merge(&patch))).await.map_err(|reason| CliError::Call { what, reason })
    }
}
