//! What the cases share: the parts, the built `tidegate`, and fleets that start when the first case asks for them.
//! Cases keep apart by Kubernetes namespace; what is cluster-scoped they name after themselves.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tidegate_tests::parts::Parts;
use tidegate_tests::rig::{Fleet, FleetConfig, User, cluster};
use tokio::process::Command;
use tokio::sync::OnceCell;

/// Has the roles of an approver, but not the verb `approve`; and of a viewer.
pub const NOVICE: &str = "nora";
/// Bound to `tidegate-approver`.
pub const APPROVER: &str = "ava";

pub struct World {
    pub parts: Parts,
    /// The program under test.
    pub tidegate: PathBuf,
    hub_only: OnceCell<HubOnly>,
}

/// One API server with Tidegate's definitions, accounts and admission policies, and no role running.
pub struct HubOnly {
    pub fleet: Fleet,
    /// What the first `tidegate install` printed.
    pub installed: String,
}

impl World {
    pub fn new(parts: Parts, tidegate: PathBuf) -> Self {
        Self { parts, tidegate, hub_only: OnceCell::new() }
    }

    /// For what an API server alone can show.
    pub async fn hub_only(&self) -> Result<&HubOnly> {
        self.hub_only.get_or_try_init(|| self.start_hub_only()).await
    }

    async fn start_hub_only(&self) -> Result<HubOnly> {
        let mut config = FleetConfig::new(run_dir("api"), &[]);
        config.data_plane = false;
        config.users = vec![User::new(APPROVER, &[]), User::new(NOVICE, &[])];
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
