//! The role `doors`: wiring only.

use std::sync::Arc;

use anyhow::Context;
use futures::FutureExt;
use futures::future::BoxFuture;
use tidegate_webhook::doors::jwks::KeyCache;
use tidegate_webhook::doors::route::{self, Side};
use tidegate_webhook::doors::{Doors, HttpKeys, KubeStore, Metrics};
use tidegate_webhook::serve::Transport;
use tidegate_webhook::tls::Certificates;

use super::parts::{self, Parts};
use super::{CommonArgs, attended, shutdown_signal, stopped};
use crate::serve::Telemetry;
use crate::{clock, connect};

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Address of the doors.
    #[arg(long, default_value = "127.0.0.1:8443")]
    pub listen: std::net::SocketAddr,
    /// TLS certificate chain (PEM), read per connection. Without it the doors serve plain HTTP, for use behind a proxy that ends TLS.
    #[arg(long, requires = "tls_key")]
    pub tls_cert: Option<std::path::PathBuf>,
    #[arg(long, requires = "tls_cert")]
    pub tls_key: Option<std::path::PathBuf>,
}

/// Runs until SIGTERM, or until a part of it ends by itself.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let client = connect::client(args.common.kubeconfig.as_deref()).await?;
    let transport = match (&args.tls_cert, &args.tls_key) {
        (Some(certificate), Some(key)) => Transport::Tls(Arc::new(Certificates::load(certificate, key).await?)),
        _ => Transport::Plain,
    };
    let listener =
        tokio::net::TcpListener::bind(args.listen).await.with_context(|| format!("listen on {}", args.listen))?;
    let wall = clock::wall();
    let telemetry = Telemetry::default();
    let metrics = Metrics::default();
    metrics.register(&mut *telemetry.registry.write().await);
    let (store, watch) = KubeStore::new(client);
    let doors = Arc::new(Doors {
        store: store.clone(),
        keys: KeyCache::new(HttpKeys::new()?),
        now: Arc::new(move || wall.now()),
        metrics,
    });

    let (stop, shutdown) = tokio::sync::watch::channel(false);
    let mut parts = Parts::default();
    parts.spawn("watch", watch);
    parts.spawn("side port", args.common.side_port(telemetry.clone(), shutdown.clone()));
    let ready = telemetry.clone();
    parts.spawn("readiness", async move {
        store.synced().await;
        ready.set_ready(true);
        std::future::pending().await
    });
    tracing::info!(address = %args.listen, tls = args.tls_cert.is_some(), "the doors are open");
    let side: Arc<dyn Side> = Arc::new(Told(telemetry.clone()));
    let serving = route::run(doors, side, listener, transport, stopped(shutdown.clone()));
    parts::run(parts, stop, shutdown_signal(), attended(serving, telemetry, shutdown)).await
}

/// The side port's answers, given at the doors as well.
struct Told(Telemetry);

impl Side for Told {
    fn ready(&self) -> bool {
        self.0.is_ready()
    }

    fn metrics(&self) -> BoxFuture<'_, String> {
        self.0.metrics_text().boxed()
    }
}
