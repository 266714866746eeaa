//! The role `guard`: wiring only.

use super::CommonArgs;

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Name of this environment.
    #[arg(long)]
    pub environment: String,
    /// Address of the admission webhook.
    #[arg(long, default_value = "127.0.0.1:9443")]
    pub listen: std::net::SocketAddr,
    /// TLS certificate chain (PEM), read per connection so that a rotation needs no restart.
    #[arg(long)]
    pub tls_cert: std::path::PathBuf,
    #[arg(long)]
    pub tls_key: std::path::PathBuf,
}

/// Runs until SIGTERM.
pub async fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("the role guard is not wired yet")
}
