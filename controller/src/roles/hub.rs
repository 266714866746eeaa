//! The role `hub`: wiring only.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tidegate_policies::verifier::Verifier;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::{CommonArgs, shutdown_signal};
use crate::github::Reports;
use crate::hub::index::Index;
use crate::hub::metrics::Metrics;
use crate::hub::{Hub, heartbeat::Heartbeats, queue, report, retention, verify::Verdicts};
use crate::ledger::LogLedger;
use crate::registry::RegistryArgs;
use crate::serve::Telemetry;
use crate::{clock, connect, lease};
use tidegate_pipelines::api::names;

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    pub common: CommonArgs,
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// How many objects are worked on at a time.
    #[arg(long, default_value_t = 8)]
    pub concurrency: usize,
}

/// Runs until SIGTERM, or until leadership is lost.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let client = connect::client(args.common.kubeconfig.as_deref()).await?;
    let clock = clock::wall();
    let telemetry = Telemetry::default();
    let metrics = Metrics::register(&mut *telemetry.registry.write().await);
    let mut tasks: JoinSet<&'static str> = JoinSet::new();
    let (served, stop_serving) = oneshot::channel::<()>();
    let (port, address) = (telemetry.clone(), args.common.telemetry_listen);
    tasks.spawn(async move {
        let stop = async { drop(stop_serving.await) };
        if let Err(error) = port.serve(address, stop).await {
            tracing::error!(%error, %address, "the telemetry port could not be served");
        }
        "telemetry"
    });

    let mut candidate =
        lease::Candidate::new(client.clone(), names::SYSTEM_NAMESPACE, "tidegate-hub", "hub", clock.clone());
    // Both replicas are ready; one of them leads.
    telemetry.set_ready(true);
    let shutdown = shutdown_signal();
    tokio::pin!(shutdown);
    tokio::select! {
        () = candidate.acquire() => tracing::info!(identity = candidate.identity(), "leading"),
        () = &mut shutdown => return Ok(()),
    }

    let (sender, keys) = mpsc::channel(1024);
    let (index, watches) = Index::open(&client, &sender);
    let (events, publish) = report::Events::open(client.clone());
    let (github, tell) = Reports::open(client.clone());
    for watch in watches {
        tasks.spawn(async move {
            watch.await;
            "watch"
        });
    }
    tasks.spawn(async move {
        publish.await;
        "events"
    });
    tasks.spawn(async move {
        tell.await;
        "github"
    });
    let fetch = args.registry.fetch().context("the registry client")?;
    let hub = Arc::new(Hub {
        client,
        index,
        clock,
        permit: candidate.permit(),
        verdicts: Verdicts::new(Arc::new(Verifier::new(Arc::new(fetch)).with_room(128))),
        heartbeats: Heartbeats::default(),
        ledger: Arc::new(LogLedger),
        events,
        metrics,
        github,
        looked_at: tokio::sync::Mutex::default(),
        admission: tokio::sync::Mutex::default(),
    });
    let worker = hub.clone();
    tasks.spawn(async move {
        // Nothing is decided from a store that is not filled yet.
        worker.index.ready().await;
        queue::run(keys, args.concurrency.max(1), move |key| {
            let hub = worker.clone();
            async move { hub.reconcile(&key).await }
        })
        .await;
        "queue"
    });
    let sweeper = hub.clone();
    tasks.spawn(async move {
        loop {
            tokio::time::sleep(retention::INTERVAL).await;
            retention::sweep(&sweeper).await;
        }
    });

    let outcome = tokio::select! {
        () = &mut shutdown => Ok(()),
        reason = candidate.keep() => Err(anyhow::anyhow!("no longer leading: {reason}")),
        Some(ended) = tasks.join_next() => Err(anyhow::anyhow!("a part ended by itself: {ended:?}")),
    };
    // Writers first, the lease last: whoever comes next finds nobody else writing.
    drop(served);
    tasks.shutdown().await;
    let _ = tokio::time::timeout(Duration::from_secs(3), candidate.release()).await;
    outcome
}
