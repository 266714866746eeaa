//! The role `spoke`: wiring only.

use super::CommonArgs;

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Name of this environment.
    #[arg(long)]
    pub environment: String,
    /// Kubeconfig of the hub; without it the spoke works alone.
    #[arg(long)]
    pub hub_kubeconfig: Option<std::path::PathBuf>,
}

/// Runs until SIGTERM.
pub async fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("the role spoke is not wired yet")
}
