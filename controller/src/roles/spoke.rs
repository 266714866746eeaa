//! The role `spoke`: wiring only.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use kube::Client;
use tidegate_pipelines::api::names;
use tidegate_pipelines::rollout::Hub;
use tokio::sync::watch;

use super::parts::{self, Parts};
use super::{CommonArgs, shutdown_signal, stopped, tenure};
use crate::clock::SharedClock;
use crate::lease::{Candidate, Permit};
use crate::ledger::LogLedger;
use crate::metrics::prometheus::PrometheusClient;
use crate::mirror::{Mirror, away, reliance::Waiting, up::Intents};
use crate::reach::Reach;
use crate::serve::Telemetry;
use crate::spoke::report::{Metrics, Teller};
use crate::spoke::{Spoke, World};
use crate::{clock, connect};

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

/// Runs until SIGTERM, or until a part of it ends by itself.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let (client, reach) = connect::reached(args.common.kubeconfig.as_deref()).await?;
    let hub = match &args.hub_kubeconfig {
        Some(path) => Some(connect::client(Some(path)).await?),
        None => None,
    };
    let telemetry = Telemetry::default();
    let metrics = Metrics::register(&mut *telemetry.registry.write().await);
    let (stop, shutdown) = watch::channel(false);
    let mut parts = Parts::default();
    parts.spawn("side port", args.common.side_port(telemetry.clone(), shutdown.clone()));
    let office = Office {
        environment: args.environment,
        client,
        reach,
        hub,
        clock: clock::wall(),
        metrics,
        reader: Arc::new(PrometheusClient::new()?),
        telemetry,
    };
    let (client, clock) = (office.client.clone(), office.clock.clone());
    let stand = || Candidate::new(client.clone(), names::SYSTEM_NAMESPACE, "tidegate-spoke", "spoke", clock.clone());
    parts::run(parts, stop, shutdown_signal(), tenure::hold(&office, stand, shutdown)).await
}

/// What outlives one leadership.
struct Office {
    environment: String,
    client: Client,
    reach: Reach,
    hub: Option<Client>,
    clock: SharedClock,
    metrics: Metrics,
    reader: Arc<PrometheusClient>,
    telemetry: Telemetry,
}

impl tenure::Office for Office {
    /// What the last tenure left at the hub is told on until somebody leads again; one that has not led knows of no
    /// other to speak for.
    async fn meanwhile(&self, led: bool) {
        self.telemetry.set_ready(false);
        match &self.hub {
            Some(hub) if led => away::tell(hub.clone(), &self.environment, &self.reach, &self.clock).await,
            _ => std::future::pending().await,
        }
    }

    fn lead(&self, permit: Permit, ended: watch::Receiver<bool>) -> (Parts, BoxFuture<'_, anyhow::Result<()>>) {
        let mut parts = Parts::default();
        let (spoke, world) = self.open(&permit, ended.clone(), &mut parts);
        let led = async move {
            tokio::select! {
                () = world.ready() => {}
                () = stopped(ended) => return Ok(()),
            }
            self.telemetry.set_ready(true);
            spoke.supervise().await;
            Ok(())
        };
        (parts, led.boxed())
    }
}

impl Office {
    /// Caches, mirror and teller of one tenure, started.
    fn open(&self, permit: &Permit, shutdown: watch::Receiver<bool>, parts: &mut Parts) -> (Spoke, World) {
        let (world, keepers) = World::open(self.client.clone(), self.reach.clone());
        keepers.into_iter().for_each(|keeper| parts.spawn("cache", keeper));
        let (teller, events) =
            Teller::new(self.client.clone(), Arc::new(LogLedger), self.metrics.clone(), &self.environment);
        parts.spawn("Events", events);
        let (link, hub) = watch::channel(Hub { reachable: true, away_since: None });
        let link = Arc::new(link);
        let intents = self.hub.as_ref().map(|_| Intents::default());
        if let (Some(client), Some(intents)) = (&self.hub, &intents) {
            let mirror = Mirror {
                environment: self.environment.clone(),
                hub: client.clone(),
                world: world.clone(),
                clock: self.clock.clone(),
                permit: permit.clone(),
                link: link.clone(),
                intents: intents.clone(),
                waiting: Waiting::default(),
                turn: Arc::default(),
            };
            mirror.tasks().into_iter().for_each(|(name, task)| parts.spawn(name, task));
        }
        // Without a hub nobody else holds it, and a closed channel would wake its listeners for ever.
        parts.spawn("link", async move {
            let _link = link;
            std::future::pending().await
        });
        let spoke = Spoke {
            environment: self.environment.clone(),
            world: world.clone(),
            clock: self.clock.clone(),
            permit: permit.clone(),
            metrics: self.reader.clone(),
            teller,
            hub,
            intents,
            shutdown,
        };
        (spoke, world)
    }
}
