//! The role `spoke`: wiring only.

use std::sync::Arc;
use std::time::Duration;

use tidegate_pipelines::api::names;
use tidegate_pipelines::rollout::Hub;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::CommonArgs;
use crate::lease::Candidate;
use crate::ledger::LogLedger;
use crate::metrics::prometheus::PrometheusClient;
use crate::mirror::{Mirror, up::Intents};
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

/// Runs until SIGTERM, or until leadership is lost.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let client = connect::client(args.common.kubeconfig.as_deref()).await?;
    let telemetry = Telemetry::default();
    let metrics = Metrics::register(&mut *telemetry.registry.write().await);
    let clock = clock::wall();
    let (stop, shutdown) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let serving = telemetry.clone().serve(args.common.telemetry_listen, stopped(shutdown.clone()));
    tasks.spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "side port not served");
        }
    });
    let signalled = stop.clone();
    tasks.spawn(async move {
        super::shutdown_signal().await;
        tracing::info!("shutting down: the writes in hand are finished");
        signalled.send_replace(true);
    });

    let mut candidate =
        Candidate::new(client.clone(), names::SYSTEM_NAMESPACE, "tidegate-spoke", "spoke", clock.clone());
    let permit = candidate.permit();
    tokio::select! {
        () = candidate.acquire() => {}
        () = stopped(shutdown.clone()) => return Ok(()),
    }
    tracing::info!(identity = candidate.identity(), environment = %args.environment, "leading");

    let (world, keepers) = World::open(client.clone());
    keepers.into_iter().for_each(|keeper| drop(tasks.spawn(keeper)));
    let (teller, events) = Teller::new(client, Arc::new(LogLedger), metrics, &args.environment);
    tasks.spawn(events);
    let (link, hub) = watch::channel(Hub { reachable: true, away_since: None });
    let link = Arc::new(link);
    if let Some(path) = &args.hub_kubeconfig {
        let mirror = Mirror {
            environment: args.environment.clone(),
            hub: connect::client(Some(path)).await?,
            world: world.clone(),
            clock: clock.clone(),
            permit: permit.clone(),
            link: link.clone(),
            intents: Intents::default(),
        };
        mirror.tasks().into_iter().for_each(|task| drop(tasks.spawn(task)));
    }
    let spoke = Spoke {
        environment: args.environment,
        world: world.clone(),
        clock,
        permit,
        metrics: Arc::new(PrometheusClient::new()?),
        teller,
        hub,
        shutdown: shutdown.clone(),
    };
    let driving = async {
        tokio::select! {
            () = world.ready() => {}
            () = stopped(shutdown.clone()) => return,
        }
        telemetry.set_ready(true);
        spoke.supervise().await;
    };
    let lost = {
        let mut driving = std::pin::pin!(driving);
        let lost = tokio::select! {
            reason = candidate.keep() => Some(reason),
            () = &mut driving => None,
        };
        if lost.is_some() {
            stop.send_replace(true);
            // Passes see the lost permit before their next write; they only have to come to their end.
            let _ = tokio::time::timeout(LAST_PASS, driving).await;
        }
        lost
    };
    // Last: until here nobody else may begin.
    candidate.release().await;
    tasks.shutdown().await;
    match lost {
        Some(reason) => anyhow::bail!("leadership was lost: {reason}"),
        None => Ok(()),
    }
}

/// Resolves once shutdown is asked for.
async fn stopped(mut shutdown: watch::Receiver<bool>) {
    // An error says that nobody can ask any more, which is a shutdown too.
    let _ = shutdown.wait_for(|stop| *stop).await;
}
