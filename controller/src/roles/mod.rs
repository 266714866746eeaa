//! Where the roles are wired: clients, clocks, ports and tasks meet here and nowhere else.

pub mod doors;
pub mod guard;
pub mod hub;
mod parts;
pub mod spoke;
mod tenure;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;

use crate::serve::Telemetry;
use parts::Parts;

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
    /// Serves the side port until shutdown; a role does its work without it, so this resolves in no case.
    async fn side_port(self, telemetry: Telemetry, shutdown: watch::Receiver<bool>) {
        let address = self.telemetry_listen;
        if let Err(error) = telemetry.serve(address, stopped(shutdown)).await {
            tracing::error!(%error, %address, "the side port does not serve");
        }
        std::future::pending().await
    }
}

/// What is served at a role's own door, until shutdown and what is in hand then. Its end before that is an error.
async fn attended(
    serving: impl Future<Output = ()> + Send + 'static,
    telemetry: Telemetry,
    shutdown: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut door = Parts::default();
    door.spawn("door", serving);
    tokio::select! {
        // First: told to end, it ends as it should.
        biased;
        () = stopped(shutdown) => {}
        died = door.ended() => return Err(died.into()),
    }
    telemetry.set_ready(false);
    // `serve` bounds its own drain; this is only against its being stuck.
    let _ = tokio::time::timeout(Duration::from_secs(15), door.ended()).await;
    Ok(())
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
