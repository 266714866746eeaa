//! The role `spoke`: wiring only.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tidegate_pipelines::api::names;
use tidegate_pipelines::rollout::Hub;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::CommonArgs;
use crate::clock::SharedClock;
use crate::lease::Candidate;
use crate::ledger::LogLedger;
use crate::metrics::prometheus::PrometheusClient;
use crate::mirror::{Mirror, away, reliance::Waiting, up::Intents};
use crate::reach::Reach;
use crate::serve::Telemetry;
use crate::spoke::report::{Metrics, Teller};
use crate::spoke::{Spoke, World};
use crate::{clock, connect};

/// Longest that a shutdown waits for the passes in hand; each of their calls has a shorter deadline.
const LAST_PASS: Duration = Duration::from_secs(20);

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
pub async fn run(args: Args) -> anyhow::Result<()> {
    let (client, reach) = connect::reached(args.common.kubeconfig.as_deref()).await?;
    let hub = match &args.hub_kubeconfig {
        Some(path) => Some(connect::client(Some(path)).await?),
        None => None,
    };
    let telemetry = Telemetry::default();
    let metrics = Metrics::register(&mut *telemetry.registry.write().await);
    let (stop, shutdown) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let serving = telemetry.clone().serve(args.common.telemetry_listen, stopped(shutdown.clone()));
    tasks.spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "side port not served");
        }
    });
    tasks.spawn(async move {
        super::shutdown_signal().await;
        tracing::info!("shutting down: the writes in hand are finished");
        stop.send_replace(true);
    });
    let office = Office {
        environment: args.environment,
        client,
        reach,
        hub,
        clock: clock::wall(),
        metrics,
        reader: Arc::new(PrometheusClient::new()?),
        telemetry,
        shutdown,
    };
    let mut former = None;
    while !*office.shutdown.borrow() {
        let (lost, identity) = office.tenure(former.take()).await;
        former = Some(identity);
        if let Some(reason) = lost {
            // Everything known was dropped with the tenure, as if the process had ended; the next one is another
            // candidate. An API server that is away for a while thus costs no restart from outside.
            tracing::warn!(reason, "leadership was lost: standing again");
        }
        office.telemetry.set_ready(false);
    }
    tasks.shutdown().await;
    Ok(())
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
    shutdown: watch::Receiver<bool>,
}

impl Office {
    /// One leadership, from candidacy to its end, with memory of its own; and who it was. Some: it was lost.
    async fn tenure(&self, former: Option<String>) -> (Option<&'static str>, String) {
        let mut candidate =
            Candidate::new(self.client.clone(), names::SYSTEM_NAMESPACE, "tidegate-spoke", "spoke", self.clock.clone())
                .succeeding(former.clone());
        let identity = candidate.identity().to_owned();
        tokio::select! {
            () = candidate.acquire() => {}
            // What the last tenure left at the hub is told on until somebody leads again.
            () = self.tell_away(former.is_some()) => {}
            () = stopped(self.shutdown.clone()) => return (None, identity),
        }
        tracing::info!(identity = candidate.identity(), environment = %self.environment, "leading");
        // Dropped with this tenure, and every task of it ends then.
        let mut tasks = JoinSet::new();
        let (end, ended) = watch::channel(false);
        let (spoke, world) = self.open(&candidate, ended.clone(), &mut tasks);
        let driving = async {
            tokio::select! {
                () = world.ready() => {}
                () = stopped(ended) => return,
            }
            self.telemetry.set_ready(true);
            spoke.supervise().await;
        };
        let mut driving = std::pin::pin!(driving);
        let lost = tokio::select! {
            reason = candidate.keep() => Some(reason),
            // Leadership is kept while the last passes end.
            () = async {
                stopped(self.shutdown.clone()).await;
                end.send_replace(true);
                std::future::pending::<()>().await;
            } => None,
            // Without a shutdown only the permit ends it, which runs out a moment before `keep` says so.
            () = &mut driving => (!*self.shutdown.borrow()).then_some("the lease could not be renewed in time"),
        };
        if lost.is_some() {
            end.send_replace(true);
            // Passes see the lost permit before their next write; they only have to come to their end.
            let _ = tokio::time::timeout(LAST_PASS, driving).await;
        }
        tasks.shutdown().await;
        // Last: until here nobody else may begin.
        candidate.release().await;
        (lost, identity)
    }

    /// Never resolves. One that has not led knows of no other to speak for.
    async fn tell_away(&self, led: bool) {
        match &self.hub {
            Some(hub) if led => away::tell(hub.clone(), &self.environment, &self.reach, &self.clock).await,
            _ => std::future::pending().await,
        }
    }

    /// Caches, mirror and teller of one tenure, started.
    fn open(&self, candidate: &Candidate, shutdown: watch::Receiver<bool>, tasks: &mut JoinSet<()>) -> (Spoke, World) {
        let (world, keepers) = World::open(self.client.clone());
        keepers.into_iter().for_each(|keeper| drop(tasks.spawn(keeper)));
        let (teller, events) =
            Teller::new(self.client.clone(), Arc::new(LogLedger), self.metrics.clone(), &self.environment);
        tasks.spawn(events);
        let (link, hub) = watch::channel(Hub { reachable: true, away_since: None });
        let link = Arc::new(link);
        let intents = self.hub.as_ref().map(|_| Intents::default());
        if let (Some(client), Some(intents)) = (&self.hub, &intents) {
            let mirror = Mirror {
                environment: self.environment.clone(),
                hub: client.clone(),
                world: world.clone(),
                clock: self.clock.clone(),
                permit: candidate.permit(),
                link: link.clone(),
                reach: self.reach.clone(),
                intents: intents.clone(),
                waiting: Waiting::default(),
            };
            mirror.tasks().into_iter().for_each(|task| drop(tasks.spawn(task)));
        }
        // Without a hub nobody else holds it, and a closed channel would wake its listeners for ever.
        tasks.spawn(async move {
            let _link = link;
            std::future::pending().await
        });
        let spoke = Spoke {
            environment: self.environment.clone(),
            world: world.clone(),
            clock: self.clock.clone(),
            permit: candidate.permit(),
            metrics: self.reader.clone(),
            teller,
            hub,
            intents,
            shutdown,
        };
        (spoke, world)
    }
}

/// Resolves once shutdown is asked for.
async fn stopped(mut shutdown: watch::Receiver<bool>) {
    // An error says that nobody can ask any more, which is a shutdown too.
    let _ = shutdown.wait_for(|stop| *stop).await;
}
