//! The stage on which acts and suites play: the fleet, the supply chain, Tidegate's roles as `tidegate install` leaves
//! them, and a service `portal` that was there before. It says what is; whether that is right, the acts say.

pub mod manifests;
pub mod roles;
pub mod wait;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tidegate_pipelines::api::{self, BuildEvent, Quarantine, Release, Rollout, names};
use tokio::sync::watch;

use crate::parts::Parts;
use crate::rig::{Environment, Fleet, FleetConfig, Load, apply};
use crate::supply::behavior::Behavior;
use crate::supply::chain::{self, SupplyChain};
use crate::supply::events::Events;
use crate::supply::github;
use crate::supply::payloads::{self, Artifact};
use crate::supply::provenance::Provenance;
use crate::supply::release::{PublishSpec, Published};
use manifests::{APP, Shipping};
use roles::{DOORS_PORT, Roles};

pub const DELIBERATE: f64 = 0.04;
pub const ROLLING_RATE: f64 = 600.0;
pub const QUIET_RATE: f64 = 150.0;
const STABLE_PODS: u32 = 4;

pub struct Stage {
    pub fleet: Fleet,
    pub supply: SupplyChain,
    pub roles: Roles,
    pub events: Events,
    /// Load by environment; empty until [`Stage::start_load`].
    pub loads: BTreeMap<String, Load>,
    /// What runs everywhere when the curtain rises.
    pub first: Published,
    /// Has the spotlight whatever is rolling, while a case says so.
    pub pinned: watch::Sender<Option<String>>,
}

impl Stage {
    /// Everything started, version `v0` running in every environment, no load yet.
    pub async fn start(dir: &Path, parts: Parts, shipping: &Shipping, tell: &dyn Fn(&str)) -> Result<Self> {
        let environments: Vec<&str> = shipping.stages.iter().map(String::as_str).collect();
        tell("starting etcd, API servers, gateways, Prometheus");
        let tools = parts.supply_tools();
        let fleet = Fleet::start(FleetConfig::new(dir, &environments), parts).await?;
        tell("starting registry, Fulcio, Rekor, timestamp authority, GitHub and Google stand-ins");
        let supply = SupplyChain::start(&dir.join("supply"), &tools, &[manifests::GITHUB_REPOSITORY]).await?;
        let roles = Roles::find()?;
        tell("tidegate install: CRDs, accounts, admission policies");
        roles.install(&fleet).await?;
        let registry = chain::REGISTRY;
        let trust = manifests::trust(
            registry,
            supply.sigstore.identity(),
            supply.sigstore.issuer(),
            supply.sigstore.trusted_root_json(),
            "Enforce",
        );
        let hub = &fleet.hub.admin;
        apply::yaml(hub, &trust).await?;
        for environment in &fleet.environments {
            apply::yaml(hub, &manifests::environment(environment.name(), &environment.prometheus_url)).await?;
        }
        let github_api = format!("http://{}", chain::GITHUB);
        let sources = manifests::event_sources(registry, supply.google.issuer(), &github_api, github::TOKEN);
        apply::yaml(hub, &sources).await?;
        tell("starting doors, hub, spokes, guards");
        roles.start_all(&fleet).await?;
        roles.guards_ready(&fleet).await?;
        roles.install_webhooks(&fleet).await?;

        tell("version v0 is signed and deployed by a deployer");
        let first = publish(&supply, &spec("v0", Behavior::version("v0").errors(DELIBERATE))).await?;
        for environment in &fleet.environments {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": APP}});
            apply::objects(&environment.cluster.admin, &[namespace]).await?;
            let dana = environment.cluster.client_for(crate::rig::cluster::DEPLOYER).await?;
            let app = manifests::app(&first.by_digest(), STABLE_PODS);
            // Refused until the mirror has brought the policy and the guard has seen it.
            let what = format!("v0 is admitted in {}", environment.name());
            let admitted = || async { apply::yaml(&dana, &app).await.map_err(|error| format!("{error:#}")) };
            wait::until_ok(Duration::from_secs(30), &what, admitted).await?;
        }
        apply::yaml(hub, &manifests::pipeline(registry, shipping)).await?;
        let ca = std::fs::read_to_string(&fleet.ca_pem)?;
        let events = Events::to(&format!("https://{}:{DOORS_PORT}", fleet.hub.address), Some(&ca))?;
        let pinned = watch::Sender::new(None);
        let stage = Self { fleet, supply, roles, events, loads: BTreeMap::new(), first, pinned };
        for environment in &stage.fleet.environments {
            stage.serves(environment, Duration::from_secs(60)).await?;
        }
        Ok(stage)
    }

    async fn serves(&self, environment: &Environment, limit: Duration) -> Result<()> {
        let url = environment.gateway_url.clone();
        wait::until(limit, &format!("{} answers through its gateway", environment.name()), || async {
            let answer = reqwest::get(&url).await.ok()?;
            answer.headers().contains_key("x-version").then_some(())
        })
        .await
    }

    /// `quiet` requests/s in every environment.
    pub fn start_load(&mut self) -> Result<()> {
        for environment in &self.fleet.environments {
            let load = Load::start(&environment.gateway_url, "portal.example", QUIET_RATE)?;
            self.loads.insert(environment.name().to_owned(), load);
        }
        Ok(())
    }

    /// Much load where a rollout is, little elsewhere.
    pub fn spotlight(&self, environment: Option<&str>) {
        let pinned = self.pinned.borrow().clone();
        let lit = pinned.as_deref().or(environment);
        for (name, load) in &self.loads {
            load.set_rate(if Some(name.as_str()) == lit { ROLLING_RATE } else { QUIET_RATE });
        }
    }

    pub fn hub(&self) -> &Client {
        &self.fleet.hub.admin
    }

    pub fn environment(&self, name: &str) -> Result<&Environment> {
        self.fleet.environment(name)
    }

    pub fn releases(&self) -> Api<Release> {
        Api::namespaced(self.hub().clone(), APP)
    }

    /// The release that carries `digest`.
    pub async fn release_of(&self, digest: &str) -> Option<Release> {
        let all = self.releases().list(&Default::default()).await.ok()?;
        all.items.into_iter().find(|release| release.spec.images.iter().any(|image| image.digest == digest))
    }

    /// The newest rollout of `digest` as the environment itself has it.
    pub async fn rollout_in(&self, environment: &str, digest: &str) -> Option<Rollout> {
        let client = self.environment(environment).ok()?.cluster.admin.clone();
        let api: Api<Rollout> = Api::namespaced(client, APP);
        let mut all = api.list(&Default::default()).await.ok()?.items;
        all.retain(|rollout| rollout.spec.images.iter().any(|image| image.digest == digest));
        all.sort_by_key(|rollout| rollout.metadata.creation_timestamp.clone());
        all.pop()
    }

    /// Images that stable's template names in an environment.
    pub async fn stable_image(&self, environment: &str) -> Result<String> {
        use k8s_openapi::api::apps::v1::Deployment;
        let api: Api<Deployment> = Api::namespaced(self.environment(environment)?.cluster.admin.clone(), APP);
        let deployment = api.get(APP).await?;
        let containers = deployment.spec.and_then(|spec| spec.template.spec).map(|spec| spec.containers);
        Ok(containers.unwrap_or_default().first().and_then(|c| c.image.clone()).unwrap_or_default())
    }

    /// The canary's weight in the route, in percent of the two.
    pub async fn canary_weight(&self, environment: &str) -> Result<u64> {
        let route = self.route(environment).await?;
        let mut weights = (0, 0);
        for rule in route["spec"]["rules"].as_array().into_iter().flatten() {
            for backend in rule["backendRefs"].as_array().into_iter().flatten() {
                let weight = backend["weight"].as_u64().unwrap_or(1);
                if backend["name"] == names::canary_name(APP) {
                    weights.1 += weight;
                } else if backend["name"] == APP {
                    weights.0 += weight;
                }
            }
        }
        let sum = weights.0 + weights.1;
        Ok((weights.1 * 100).checked_div(sum).unwrap_or(0))
    }

    pub async fn route(&self, environment: &str) -> Result<Value> {
        let client = &self.environment(environment)?.cluster.admin;
        let path = format!("/apis/gateway.networking.k8s.io/v1/namespaces/{APP}/httproutes/{APP}");
        Ok(client.request(http::Request::get(path).body(Vec::new())?).await?)
    }

    pub async fn quarantined(&self, client: &Client, digest: &str) -> bool {
        let api: Api<Quarantine> = Api::all(client.clone());
        let all = api.list(&Default::default()).await.map(|list| list.items).unwrap_or_default();
        all.iter().any(|quarantine| {
            quarantine.spec.lifted.is_none() && quarantine.spec.digests.iter().any(|other| other == digest)
        })
    }

    /// What became of the newest build event that the doors stored since `names` was taken.
    pub async fn build_events(&self) -> Result<Vec<BuildEvent>> {
        let api: Api<BuildEvent> = Api::namespaced(self.hub().clone(), names::SYSTEM_NAMESPACE);
        Ok(api.list(&Default::default()).await?.items)
    }

    /// Changes the pipeline's spec by a merge patch.
    pub async fn change_pipeline(&self, spec: Value) -> Result<()> {
        let api: Api<api::Pipeline> = Api::namespaced(self.hub().clone(), APP);
        api.patch(APP, &PatchParams::default(), &Patch::Merge(json!({ "spec": spec }))).await?;
        Ok(())
    }

    pub async fn publish(&self, spec: &PublishSpec) -> Result<Published> {
        publish(&self.supply, spec).await
    }

    /// A Cloud Build success message as a Pub/Sub push.
    pub async fn cloud_build_event(&self, published: &Published) -> Result<()> {
        let build_id = published.digest.trim_start_matches("sha256:").chars().take(32).collect::<String>();
        let build = payloads::cloud_build(&build_id, "shop-prod", manifests::SOURCE, &Artifact::from(published));
        let message = payloads::cloud_build_message(&build, &build_id);
        let claims = self.supply.google.push_claims(manifests::PUSH_AUDIENCE, manifests::PUSH_EMAIL);
        let token = self.supply.google.sign(&claims);
        let answer = self.events.cloud_build(Some(&token), &message).await?;
        accepted(answer.status, &answer.body)
    }

    pub async fn github_package_event(&self, published: &Published) -> Result<()> {
        let payload = payloads::github_package(manifests::GITHUB_REPOSITORY, &Artifact::from(published))?;
        let answer = self.events.github("package", manifests::HMAC_SECRET, &payload).await?;
        accepted(answer.status, &answer.body)
    }

    pub async fn github_push_event(&self, revision: &str) -> Result<()> {
        let payload = payloads::github_push(manifests::GITHUB_REPOSITORY, revision)?;
        let answer = self.events.github("push", manifests::HMAC_SECRET, &payload).await?;
        accepted(answer.status, &answer.body)
    }

    /// What every role of Tidegate on this fleet cost: `(process, usage)`.
    pub async fn usage(&self) -> BTreeMap<String, crate::rig::Usage> {
        let mut usage = BTreeMap::new();
        for name in self.fleet.processes.names().await {
            let role = name.rsplit('-').next().unwrap_or_default();
            if matches!(role, "doors" | "hub" | "spoke" | "guard")
                && let Some(cost) = self.fleet.processes.usage(&name).await
            {
                usage.insert(name, cost);
            }
        }
        usage
    }
}

fn accepted(status: u16, body: &str) -> Result<()> {
    if !(200..300).contains(&status) {
        bail!("the doors answered {status}: {}", body.trim());
    }
    Ok(())
}

/// A version in order: signed, with provenance of its revision and an SBOM. The revision is derived from its name.
pub fn spec(version: &str, behavior: Behavior) -> PublishSpec {
    let revision = revision_of(version);
    let provenance = Provenance::cloud_build(manifests::SOURCE, &revision);
    PublishSpec::new(manifests::REPOSITORY, version, behavior, &revision).provenance(provenance)
}

/// A commit id for a version's name.
pub fn revision_of(version: &str) -> String {
    use sha2::{Digest, Sha256};
    hex::encode(Sha256::digest(version.as_bytes()))[..40].to_owned()
}

async fn publish(supply: &SupplyChain, spec: &PublishSpec) -> Result<Published> {
    supply.publisher().publish(spec).await.with_context(|| format!("publish {}:{}", spec.repo, spec.tag))
}

/// Name of an object for a report.
pub fn name_of<K: kube::Resource>(object: &K) -> String {
    object.name_any()
}
