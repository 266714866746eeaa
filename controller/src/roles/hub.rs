//! The role `hub`: wiring only.

use std::sync::Arc;

use anyhow::Context;
use futures::FutureExt;
use futures::future::BoxFuture;
use kube::Client;
use tidegate_pipelines::api::names;
use tidegate_policies::registry::Fetch;
use tidegate_policies::verifier::Verifier;
use tokio::sync::{mpsc, watch};

use super::parts::{self, Parts};
use super::{CommonArgs, shutdown_signal, stopped, tenure};
use crate::clock::SharedClock;
use crate::github::Reports;
use crate::hub::index::Index;
use crate::hub::metrics::Metrics;
use crate::hub::{Hub, heartbeat::Heartbeats, queue, report, retention, verify::Verdicts};
use crate::lease::{Candidate, Permit};
use crate::ledger::LogLedger;
use crate::registry::RegistryArgs;
use crate::serve::Telemetry;
use crate::{clock, connect};

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

/// Runs until SIGTERM, or until a part of it ends by itself.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let client = connect::client(args.common.kubeconfig.as_deref()).await?;
    let telemetry = Telemetry::default();
    let metrics = Metrics::register(&mut *telemetry.registry.write().await);
    let (stop, shutdown) = watch::channel(false);
    let mut parts = Parts::default();
    parts.spawn("side port", args.common.side_port(telemetry.clone(), shutdown.clone()));
    let office = Office {
        client: client.clone(),
        clock: clock::wall(),
        metrics,
        fetch: Arc::new(args.registry.fetch().context("the registry client")?),
        concurrency: args.concurrency.max(1),
    };
    // Both replicas are ready; one of them leads.
    telemetry.set_ready(true);
    let clock = office.clock.clone();
    let stand = || Candidate::new(client.clone(), names::SYSTEM_NAMESPACE, "tidegate-hub", "hub", clock.clone());
    parts::run(parts, stop, shutdown_signal(), tenure::hold(&office, stand, shutdown)).await
}

/// What outlives one leadership.
struct Office {
    client: Client,
    clock: SharedClock,
    metrics: Metrics,
    fetch: Arc<dyn Fetch>,
    concurrency: usize,
}

impl tenure::Office for Office {
    async fn meanwhile(&self, _led: bool) {
        std::future::pending().await
    }

    fn lead(&self, permit: Permit, ended: watch::Receiver<bool>) -> (Parts, BoxFuture<'_, anyhow::Result<()>>) {
        let mut parts = Parts::default();
        let (sender, keys) = mpsc::channel(1024);
        let (index, watches) = Index::open(&self.client, &sender);
        let (events, publish) = report::Events::open(self.client.clone());
        let (github, tell) = Reports::open(self.client.clone());
        watches.into_iter().for_each(|watch| parts.spawn("watch", watch));
        parts.spawn("Events", publish);
        parts.spawn("GitHub", tell);
        let hub = Arc::new(Hub {
            client: self.client.clone(),
            index,
            clock: self.clock.clone(),
            permit,
            verdicts: Verdicts::new(Arc::new(Verifier::new(self.fetch.clone()).with_room(128))),
            heartbeats: Heartbeats::default(),
            ledger: Arc::new(LogLedger),
            events,
            metrics: self.metrics.clone(),
            github,
            looked_at: tokio::sync::Mutex::default(),
            admission: tokio::sync::Mutex::default(),
        });
        let (worker, concurrency) = (hub.clone(), self.concurrency);
        parts.spawn("work queue", async move {
            // Nothing is decided from a store that is not filled yet.
            worker.index.ready().await;
            queue::run(keys, concurrency, move |key| {
                let hub = worker.clone();
                async move { hub.reconcile(&key).await }
            })
            .await;
        });
        parts.spawn("retention", async move {
            loop {
                tokio::time::sleep(retention::INTERVAL).await;
                retention::sweep(&hub).await;
            }
        });
        let led = async {
            stopped(ended).await;
            Ok(())
        };
        (parts, led.boxed())
    }
}
