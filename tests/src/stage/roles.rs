//! Tidegate's own processes on the fleet: installed by `tidegate install`, run under the accounts of `deploy/`.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::rig::cluster::{ADMIN, Cluster};
pub use crate::rig::control_plane::GUARD_PORT;
use crate::rig::fleet::Fleet;
use crate::rig::process::Spec;

const LIMIT: Duration = Duration::from_secs(60);
pub const DOORS_PORT: u16 = 8443;
pub const GUARD_TELEMETRY: u16 = 9444;

/// The product's binary and how each role of it is called on this fleet.
pub struct Roles {
    pub tidegate: PathBuf,
}

impl Roles {
    /// Beside the running program, where `cargo build` puts both; test executables lie one folder deeper.
    pub fn find() -> Result<Self> {
        let program = std::env::current_exe()?;
        for dir in program.ancestors().skip(1).take(2) {
            let tidegate = dir.join("tidegate");
            if tidegate.is_file() {
                return Ok(Self { tidegate });
            }
        }
        bail!("there is no `tidegate` beside {}: `cargo build -p tidegate-controller` makes it", program.display())
    }

    /// Runs `tidegate` to its end and returns its standard output.
    pub async fn run(&self, args: &[&str]) -> Result<String> {
        let output = tokio::process::Command::new(&self.tidegate).args(args).output().await?;
        if !output.status.success() {
            bail!("tidegate {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Installs hub and environments with the very command that users have.
    pub async fn install(&self, fleet: &Fleet) -> Result<()> {
        let hub = text(&fleet.hub.kubeconfig_for(ADMIN)?);
        let mut steps = vec![vec!["install", "--kubeconfig", &hub, "--role", "hub", "--role", "doors"]];
        let names: Vec<String> = fleet.environments.iter().map(|e| e.name().to_owned()).collect();
        for name in &names {
            steps.push(vec!["install", "--kubeconfig", &hub, "--role", "spoke-access", "--environment", name]);
        }
        for step in &steps {
            self.run(step).await.context("install at the hub")?;
        }
        for environment in &fleet.environments {
            let cluster = &environment.cluster;
            let kubeconfig = text(&cluster.kubeconfig_for(ADMIN)?);
            let args = ["install", "--kubeconfig", &kubeconfig, "--role", "spoke", "--role", "guard"];
            self.run(&args).await.with_context(|| format!("install in {}", cluster.name))?;
        }
        Ok(())
    }

    /// Points each environment's API server at its guard. Done once the guards answer, or nothing gets in.
    pub async fn install_webhooks(&self, fleet: &Fleet) -> Result<()> {
        for environment in &fleet.environments {
            self.install_webhook(&environment.cluster, &fleet.ca_pem).await?;
        }
        Ok(())
    }

    /// Points an API server at its guard, whose certificate must be of an authority in this file.
    pub async fn install_webhook(&self, cluster: &Cluster, authorities: &Path) -> Result<()> {
        let kubeconfig = text(&cluster.kubeconfig_for(ADMIN)?);
        let (ca, url) = (text(authorities), format!("https://{}:{GUARD_PORT}/admission", cluster.address));
        let args =
            ["install", "--kubeconfig", &kubeconfig, "--role", "guard", "--webhook-ca", &ca, "--webhook-url", &url];
        self.run(&args).await.with_context(|| format!("webhook of {}", cluster.name))?;
        Ok(())
    }

    pub async fn start_all(&self, fleet: &Fleet) -> Result<()> {
        self.start_doors(fleet).await?;
        self.start_hub(fleet).await?;
        for environment in &fleet.environments {
            self.start_guard(fleet, &environment.cluster, &[]).await?;
            self.start_spoke(fleet, &environment.cluster).await?;
        }
        Ok(())
    }

    async fn start_doors(&self, fleet: &Fleet) -> Result<()> {
        let (cert, key) = certificate(fleet, &fleet.hub, "doors")?;
        let spec = self.spec(&fleet.hub, "doors", "tidegate-doors", 9441)?.args([
            format!("--listen={}", SocketAddr::new(IpAddr::V4(fleet.hub.address), DOORS_PORT)),
            format!("--tls-cert={}", cert.display()),
            format!("--tls-key={}", key.display()),
        ]);
        self.up(fleet, &fleet.hub, spec, 9441).await
    }

    async fn start_hub(&self, fleet: &Fleet) -> Result<()> {
        let spec = self.spec(&fleet.hub, "hub", "tidegate-hub", 9442)?;
        self.up(fleet, &fleet.hub, spec, 9442).await
    }

    /// Ends the guard and starts it with further arguments; in between its API server lets no pod in.
    pub async fn restart_guard(&self, fleet: &Fleet, cluster: &Cluster, more: &[&str]) -> Result<()> {
        fleet.stop(&cluster.part("guard")).await?;
        self.start_guard(fleet, cluster, more).await?;
        self.guard_ready(fleet, cluster).await
    }

    async fn start_guard(&self, fleet: &Fleet, cluster: &Cluster, more: &[&str]) -> Result<()> {
        let (cert, key) = certificate(fleet, cluster, "guard")?;
        let spec = self.spec(cluster, "guard", "tidegate-guard", GUARD_TELEMETRY)?.args([
            format!("--environment={}", cluster.name),
            format!("--listen={}", SocketAddr::new(IpAddr::V4(cluster.address), GUARD_PORT)),
            format!("--tls-cert={}", cert.display()),
            format!("--tls-key={}", key.display()),
            format!("--client-ca={}", fleet.ca_pem.display()),
        ]);
        // Ready only when the mirror has brought a policy: awaited later.
        fleet.processes.start(spec.args(more.iter().copied())).await
    }

    async fn start_spoke(&self, fleet: &Fleet, cluster: &Cluster) -> Result<()> {
        let hub = fleet.hub.kubeconfig_for(&format!("tidegate-spoke-{}", cluster.name))?;
        let spec = self
            .spec(cluster, "spoke", "tidegate-spoke", 9445)?
            .args([format!("--environment={}", cluster.name), format!("--hub-kubeconfig={}", hub.display())]);
        self.up(fleet, cluster, spec, 9445).await
    }

    /// A second replica of the spoke: it stands by, and is ready only once it leads. Says its name among the processes.
    pub async fn start_second_spoke(&self, fleet: &Fleet, cluster: &Cluster) -> Result<String> {
        let hub = fleet.hub.kubeconfig_for(&format!("tidegate-spoke-{}", cluster.name))?;
        let mut spec = self
            .spec(cluster, "spoke", "tidegate-spoke", 9446)?
            .args([format!("--environment={}", cluster.name), format!("--hub-kubeconfig={}", hub.display())]);
        spec.name = cluster.part("second");
        let name = spec.name.clone();
        fleet.processes.start(spec).await?;
        let url = format!("http://{}:9446/healthz", cluster.address);
        fleet.processes.await_ready(&name, LIMIT, || answers(url.clone())).await?;
        Ok(name)
    }

    /// Waits until the first spoke of an environment leads and has seen its cluster.
    pub async fn spoke_ready(&self, fleet: &Fleet, cluster: &Cluster) -> Result<()> {
        let url = format!("http://{}:9445/readyz", cluster.address);
        fleet.processes.await_ready(&cluster.part("spoke"), LIMIT, || answers(url.clone())).await
    }

    /// Waits until every guard says that it can answer.
    pub async fn guards_ready(&self, fleet: &Fleet) -> Result<()> {
        for environment in &fleet.environments {
            self.guard_ready(fleet, &environment.cluster).await?;
        }
        Ok(())
    }

    async fn guard_ready(&self, fleet: &Fleet, cluster: &Cluster) -> Result<()> {
        let url = format!("http://{}:{GUARD_TELEMETRY}/readyz", cluster.address);
        fleet.processes.await_ready(&cluster.part("guard"), LIMIT, || answers(url.clone())).await
    }

    fn spec(&self, cluster: &Cluster, role: &str, account: &str, telemetry: u16) -> Result<Spec> {
        let kubeconfig = cluster.kubeconfig_for(account)?;
        Ok(Spec::new(cluster.part(role), &self.tidegate).arg(role).args([
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--telemetry-listen={}", SocketAddr::new(IpAddr::V4(cluster.address), telemetry)),
        ]))
    }

    async fn up(&self, fleet: &Fleet, cluster: &Cluster, spec: Spec, telemetry: u16) -> Result<()> {
        let name = spec.name.clone();
        fleet.processes.start(spec).await?;
        let url = format!("http://{}:{telemetry}/readyz", cluster.address);
        fleet.processes.await_ready(&name, LIMIT, || answers(url.clone())).await
    }
}

async fn answers(url: String) -> bool {
    reqwest::get(url).await.is_ok_and(|answer| answer.status().is_success())
}

fn certificate(fleet: &Fleet, cluster: &Cluster, role: &str) -> Result<(PathBuf, PathBuf)> {
    let issued = fleet.authority.issue(&[&cluster.address.to_string()])?;
    let (cert, key) = certificate_files(cluster, role);
    std::fs::write(&cert, issued.certificate)?;
    std::fs::write(&key, issued.key)?;
    Ok((cert, key))
}

/// From which a role that serves on this cluster reads its certificate and its key.
pub fn certificate_files(cluster: &Cluster, role: &str) -> (PathBuf, PathBuf) {
    (cluster.dir.join(format!("{role}.crt")), cluster.dir.join(format!("{role}.key")))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
