//! The role `hub`: wiring only.

use std::sync::Arc;

use anyhow::Context;
use kube::Client;
use tidegate_pipelines::api::names;
use tidegate_policies::registry::Fetch;
use tidegate_policies::verifier::Verifier;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::{CommonArgs, stopped, tenure};
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
    let mut tasks = JoinSet::new();
    tasks.spawn(args.common.side_port(telemetry.clone(), shutdown.clone()));
    tasks.spawn(async move {
        super::shutdown_signal().await;
        stop.send_replace(true);
    });
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
    let outcome = tenure::hold(&office, stand, shutdown).await;
    tasks.shutdown().await;
    outcome
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

    async fn lead(&self, permit: Permit, ended: watch::Receiver<bool>, tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
        let (sender, keys) = mpsc::channel(1024);
        let (index, watches) = Index::open(&self.client, &sender);
        let (events, publish) = report::Events::open(self.client.clone());
        let (github, tell) = Reports::open(self.client.clone());
        watches.into_iter().for_each(|watch| drop(tasks.spawn(watch)));
        tasks.spawn(publish);
        tasks.spawn(tell);
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
        tasks.spawn(async move {
            // Nothing is decided from a store that is not filled yet.
            worker.index.ready().await;
            queue::run(keys, concurrency, move |key| {
                let hub = worker.clone();
                async move { hub.reconcile(&key).await }
            })
            .await;
        });
        tasks.spawn(async move {
            loop {
                tokio::time::sleep(retention::INTERVAL).await;
                retention::sweep(&hub).await;
            }
        });
        tokio::select! {
            () = stopped(ended) => Ok(()),
            Some(part) = tasks.join_next() => Err(anyhow::anyhow!("a part ended by itself: {part:?}")),
        }
    }
}
