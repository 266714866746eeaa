//! Where the roles are wired: clients, clocks, ports and tasks meet here and nowhere else.

pub mod doors;
pub mod guard;
pub mod hub;
pub mod spoke;
mod tenure;

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::sync::watch;

use crate::serve::Telemetry;

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

/// Resolves once shutdown is asked for.
pub async fn stopped(mut shutdown: watch::Receiver<bool>) {
    // An error says that nobody can ask any more, which is a shutdown too.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

impl CommonArgs {
    /// Serves the side port until shutdown; a role does its work without it.
    async fn side_port(self, telemetry: Telemetry, shutdown: watch::Receiver<bool>) {
        let address = self.telemetry_listen;
        if let Err(error) = telemetry.serve(address, stopped(shutdown)).await {
            tracing::error!(%error, %address, "the side port does not serve");
        }
    }
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
