//! What the cases share: the parts, the built `tidegate`, and fleets that start when the first case asks for them.
//! Cases keep apart by Kubernetes namespace; what is cluster-scoped they name after themselves.
//! Fleets share addresses: the API server alone makes room for the stage, and never comes back.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use tidegate_tests::parts::Parts;
use tidegate_tests::rig::{Fleet, FleetConfig, User, cluster};
use tidegate_tests::stage::Stage;
use tidegate_tests::stage::manifests::Shipping;
use tokio::process::Command;
use tokio::sync::{Mutex, OnceCell};

/// Has the roles of an approver, but not the verb `approve`; and of a viewer.
pub const NOVICE: &str = "nora";
/// Bound to `tidegate-approver`.
pub const APPROVER: &str = "ava";
/// Somebody on call, by `deploy/`'s role.
pub const OPERATOR: &str = "oscar";
/// In the groups of `examples/approvers.yaml`: on call, and a release manager.
pub const ON_CALL: &str = "olaf";
pub const MANAGER: &str = "mara";
/// Bound to `tidegate-viewer` in a team's namespace and where it ships to.
pub const VIEWER: &str = "vera";

/// The acts need all of them; a case that wants to see others go on, two.
const ENVIRONMENTS: [&str; 3] = ["staging", "prod-east", "prod-west"];

pub struct World {
    pub parts: Parts,
    /// The program under test.
    pub tidegate: PathBuf,
    /// How many of [`ENVIRONMENTS`] the stage has.
    environments: usize,
    hub_only: Mutex<Option<Arc<HubOnly>>>,
    /// A stage that could not start is not tried again: its remains hold the addresses.
    stage: OnceCell<Result<Arc<Stage>, String>>,
}

/// One API server with Tidegate's definitions, accounts and admission policies, and no role running.
pub struct HubOnly {
    pub fleet: Fleet,
    /// What the first `tidegate install` printed.
    pub installed: String,
}

impl World {
    pub fn new(parts: Parts, tidegate: PathBuf, environments: usize) -> Self {
        Self { parts, tidegate, environments, hub_only: Mutex::default(), stage: OnceCell::new() }
    }

    /// For what an API server alone can show.
    pub async fn hub_only(&self) -> Result<Arc<HubOnly>> {
        let mut running = self.hub_only.lock().await;
        if let Some(hub) = &*running {
            return Ok(hub.clone());
        }
        if self.stage.initialized() {
            bail!("the stage has the address of this API server: run with --test-threads=1");
        }
        let hub = Arc::new(self.start_hub_only().await?);
        *running = Some(hub.clone());
        Ok(hub)
    }

    /// Fleet, supply chain, Tidegate's roles and the service `portal` under load.
    pub async fn stage(&self) -> Result<Arc<Stage>> {
        let started =
            self.stage.get_or_init(|| async { self.start_stage().await.map_err(|error| format!("{error:#}")) });
        started.await.clone().map_err(|error| anyhow!("no stage: {error}"))
    }

    async fn start_stage(&self) -> Result<Arc<Stage>> {
        if let Some(hub) = self.hub_only.lock().await.take() {
            for name in hub.fleet.processes.names().await {
                hub.fleet.stop(&name).await?;
            }
        }
        let shipping = Shipping::through(&ENVIRONMENTS[..self.environments.min(ENVIRONMENTS.len())]);
        let mut stage =
            Stage::start(&run_dir("stage"), self.parts.clone(), &shipping, &|line| eprintln!("  {line}")).await?;
        stage.start_load()?;
        let stage = Arc::new(stage);
        tidegate_tests::acts::follow(stage.clone());
        Ok(stage)
    }

    async fn start_hub_only(&self) -> Result<HubOnly> {
        let mut config = FleetConfig::new(run_dir("api"), &[]);
        config.data_plane = false;
        config.users = [APPROVER, NOVICE, OPERATOR, VIEWER].map(|name| User::new(name, &[])).to_vec();
        config.users.push(User::new(ON_CALL, &["portal-on-call"]));
        config.users.push(User::new(MANAGER, &["release-managers"]));
        let fleet = Fleet::start(config, self.parts.clone()).await.context("the control plane does not start")?;
        let kubeconfig = fleet.hub.kubeconfig_for(cluster::ADMIN)?;
        let installed = self.tidegate(&kubeconfig, &["install"]).await?;
        Ok(HubOnly { fleet, installed })
    }

    /// Runs `tidegate <arguments> --kubeconfig <kubeconfig>`; its standard output, or what it said when it failed.
    pub async fn tidegate(&self, kubeconfig: &Path, arguments: &[&str]) -> Result<String> {
        output(Command::new(&self.tidegate).args(arguments).arg("--kubeconfig").arg(kubeconfig)).await
    }

    /// Runs the `kubectl` that people have.
    pub async fn kubectl(&self, kubeconfig: &Path, arguments: &[&str]) -> Result<String> {
        output(Command::new(&self.parts.kubectl).arg("--kubeconfig").arg(kubeconfig).args(arguments)).await
    }
}

async fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("{:?} ended with {}: {said}", command.as_std(), output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// `target/<profile>`: where this test was built, the product lies beside it.
fn profile_dir() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let dir = program.parent().and_then(Path::parent).context("the test program lies in no target directory")?;
    Ok(dir.to_owned())
}

/// A test target does not make cargo build another package's program: `make test` does that first.
pub fn built_binary() -> Result<PathBuf> {
    let path = profile_dir()?.join("tidegate");
    if !path.is_file() {
        bail!("{} is not built: run `make test`, or `cargo build -p tidegate-controller` first", path.display());
    }
    Ok(path)
}

/// Logs and data of a fleet of this suite.
pub fn run_dir(name: &str) -> PathBuf {
    let base = profile_dir().unwrap_or_else(|_| std::env::temp_dir());
    base.parent().unwrap_or(&base).join("suite").join(name)
}
