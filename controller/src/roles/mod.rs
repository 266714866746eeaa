//! Where the roles are wired: clients, clocks, ports and tasks meet here and nowhere else.

pub mod doors;
pub mod guard;
pub mod hub;
pub mod spoke;
mod tenure;

use std::net::SocketAddr;
use std::path::PathBuf;

/// Flags that every role takes.
#[derive(clap::Args, Clone, Debug)]
pub struct CommonArgs {
    /// Kubeconfig of the cluster this role serves; without it the in-cluster configuration.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Address of `/healthz`, `/readyz` and `/metrics`.
    #[arg(long, default_value = "127.0.0.1:9440")]
    pub telemetry_listen: SocketAddr,
}

/// Resolves at SIGTERM or SIGINT.
pub async fn shutdown_signal() {
    let Ok(mut term) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
