//! `demo --rollbacks N`: N bad versions, one pipeline per environment, a fresh digest each time, each told to a door by a
//! signed event. Measures from the door's 202 to the first request that a canary pod served, from the newest sample of
//! the deciding evaluation to the acknowledged route write, on to the canary's last request, and the requests that were
//! harmed against the floor that no test can beat (docs/judgement.md). A turn that fails is counted, never left out.

mod figures;
mod watch;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::api::{Api, DeleteParams};
use tidegate_pipelines::api::{Environment, Pipeline, Release, ReleasePhase, RolloutPhase, RolloutStatus};
use tidegate_tests::rig::{apply, now};
use tidegate_tests::stage::manifests::{self, APP, GITHUB_REPOSITORY, REPOSITORY, Shipping, environment, pipeline};
use tidegate_tests::stage::{ROLLING_RATE, Stage, spec, wait};
use tidegate_tests::supply::behavior::Behavior;
use tidegate_tests::supply::chain::{GITHUB, REGISTRY};
use tidegate_tests::supply::github;
use tidegate_tests::supply::release::Published;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use figures::{Failure, Ledger, Measured};
use watch::{Life, Watch};

/// Share of requests that the bad version answers with an error; stable's is `DELIBERATE`.
pub const BAD: f64 = 0.30;
const WEIGHT: u8 = 10;
/// From the event to the end of the rollout.
const TURN: Duration = Duration::from_secs(120);
/// A rig that is broken is not measured any longer.
const FAILURES_IN_A_ROW: usize = 4;

/// What the lanes share.
struct Turns {
    wanted: usize,
    /// Turns that may be begun, those that fail included.
    most: usize,
    ledger: Mutex<Ledger>,
}

/// Runs until `count` rollbacks are measured, environments side by side; the outcome is written after each. True: all
/// of them are.
pub async fn run(stage: &Stage, count: usize, outcome: &Path) -> Result<bool> {
    prepare(stage).await?;
    if let Some(dir) = outcome.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let turns = Turns { wanted: count, most: count + count.div_ceil(10) + 3, ledger: Mutex::new(Ledger::new(outcome)) };
    let lanes = stage.fleet.environments.iter().map(|environment| lane(stage, environment.name(), &turns));
    futures::future::join_all(lanes).await;
    let ledger = turns.ledger.lock().await;
    println!("{}", ledger.text());
    Ok(ledger.samples.len() >= count)
}

/// The stage's own pipeline gives way to one per environment, each with an image repository of its own for which the
/// event source may speak.
async fn prepare(stage: &Stage) -> Result<()> {
    let pipelines: Api<Pipeline> = Api::namespaced(stage.hub().clone(), APP);
    pipelines.delete(APP, &DeleteParams::default()).await?;
    wait::until(Duration::from_secs(60), "the stage's pipeline is gone", || async {
        pipelines.get_opt(APP).await.ok()?.is_none().then_some(())
    })
    .await?;
    let own = format!("images: [\"{REGISTRY}/{REPOSITORY}\"]");
    let theirs: Vec<String> =
        stage.fleet.environments.iter().map(|place| format!("\"{REGISTRY}/{REPOSITORY}-{}\"", place.name())).collect();
    let sources =
        manifests::event_sources(REGISTRY, stage.supply.google.issuer(), &format!("http://{GITHUB}"), github::TOKEN);
    apply::yaml(stage.hub(), &sources.replace(&own, &format!("images: [{}]", theirs.join(", ")))).await?;
    for place in &stage.fleet.environments {
        let name = place.name();
        let allowed = environment(name, &place.prometheus_url).replace(
            "namespaceSelector: {matchLabels: {team: shop}}",
            "namespaceSelector: {}\n    targetNamespaces: [portal]",
        );
        apply::yaml(stage.hub(), &allowed).await?;
        let mut shipping = Shipping::through(&[name]);
        shipping.rollback = "environment";
        shipping.steps = format!("[{{setWeight: {WEIGHT}}}, {{setWeight: 100}}]");
        let own = pipeline(REGISTRY, &shipping)
            .replace("metadata: {name: portal, labels", &format!("metadata: {{name: portal-{name}, labels"))
            .replace(
                "metadata: {name: portal, namespace: portal}",
                &format!("metadata: {{name: portal-{name}, namespace: portal-{name}}}"),
            )
            .replace("  evidenceDeadline: 0s", "  evidenceDeadline: 0s\n  targetNamespace: portal")
            .replace("mask: 5s", "mask: 2s")
            .replace("shop/portal\"}]", &format!("shop/portal-{name}\"}}]"))
            .replace(&format!("  - {{eventSource: github, repository: \"{GITHUB_REPOSITORY}\"}}\n"), "");
        apply::yaml(stage.hub(), &own).await?;
        stage.loads[name].set_rate(ROLLING_RATE / 3.0);
    }
    for place in &stage.fleet.environments {
        let mirrored: Api<Environment> = Api::all(place.cluster.admin.clone());
        wait::until(Duration::from_secs(60), "the mirror has brought the changed Environment", || async {
            let environment = mirrored.get_opt(place.name()).await.ok()??;
            environment.spec.allowed_pipelines.iter().any(|allowed| !allowed.target_namespaces.is_empty()).then_some(())
        })
        .await?;
    }
    Ok(())
}

/// One environment's turns. What it cannot measure it notes; it ends when enough are measured, or the rig is broken.
async fn lane(stage: &Stage, environment: &str, turns: &Turns) {
    let (mut in_a_row, mut prepared) = (0, None);
    let mut watch = match stage.environment(environment) {
        Ok(place) => Watch::open(place.cluster.admin.clone()),
        Err(error) => return turns.ledger.lock().await.failed(Failure::of(environment, 0, &error)),
    };
    for turn in 0.. {
        if !turns.ledger.lock().await.begin(turns.wanted, turns.most) {
            return;
        }
        let result = one(stage, environment, turn, &mut prepared, &mut watch).await;
        let mut ledger = turns.ledger.lock().await;
        match result {
            Ok(measured) => {
                in_a_row = 0;
                ledger.measured(measured);
            }
            Err(error) => {
                in_a_row += 1;
                ledger.failed(Failure::of(environment, turn, &error));
            }
        }
        if let Err(error) = ledger.write() {
            eprintln!("the outcome cannot be written: {error:#}");
        }
        if in_a_row >= FAILURES_IN_A_ROW {
            println!("      {environment:<10} GIVEN UP after {in_a_row} failures in a row");
            return;
        }
    }
}

/// What the hub says of a release that it ended without a rollback; waits for ever while there is none.
async fn stopped(stage: &Stage, environment: &str, digest: &str) -> String {
    let releases: Api<Release> = Api::namespaced(stage.hub().clone(), &format!("{APP}-{environment}"));
    loop {
        sleep(Duration::from_secs(2)).await;
        let Ok(all) = releases.list(&Default::default()).await else { continue };
        let ours = |release: &&Release| release.spec.images.iter().any(|image| image.digest == digest);
        let status = all.iter().find(ours).and_then(|release| release.status.clone()).unwrap_or_default();
        if status.phase.is_some_and(|phase| phase.is_terminal() && phase != ReleasePhase::RolledBack) {
            return format!("{:?}: {}", status.phase, status.message.unwrap_or_default());
        }
    }
}

/// A bad version and its evidence, as a build would leave them.
struct Bad {
    version: String,
    published: Published,
}

async fn publish(stage: &Stage, environment: &str, turn: usize) -> Result<Bad> {
    let version = format!("bad-{environment}-{turn}");
    let mut image = spec(&version, Behavior::version(&version).errors(BAD));
    image.repo = format!("{REPOSITORY}-{environment}");
    let published = timeout(Duration::from_secs(60), stage.publish(&image)).await.context("publishing hangs")??;
    Ok(Bad { version, published })
}

/// `prepared` is this turn's image, and then the next one's: it is signed while the last requests are awaited, so that
/// the signing delays nothing.
async fn one(
    stage: &Stage,
    environment: &str,
    turn: usize,
    prepared: &mut Option<Bad>,
    watch: &mut Watch,
) -> Result<Measured> {
    let bad = match prepared.take() {
        Some(bad) => bad,
        None => publish(stage, environment, turn).await?,
    };
    let digest = &bad.published.digest;
    let load = &stage.loads[environment];
    let before = load.snapshot().await;
    let deadline = Instant::now() + TURN;
    stage.cloud_build_event(&bad.published).await?;
    let accepted = now();
    let mut life = Life::default();
    let over = |status: &RolloutStatus| status.phase.is_some_and(RolloutPhase::is_terminal);
    tokio::select! {
        breached = watch.until(digest, deadline, &mut life, |status| status.breach.is_some() || over(status)) => breached.map(drop)?,
        why = stopped(stage, environment, digest) => bail!("the hub did not ship it: {why}"),
    }
    let (ended, upcoming) =
        tokio::join!(watch.until(digest, deadline, &mut life, over), publish(stage, environment, turn + 1));
    *prepared = upcoming.ok();
    let status = ended?.status.unwrap_or_default();
    if status.phase != Some(RolloutPhase::RolledBack) {
        bail!("it ended as {:?}: {}", status.phase, status.message.unwrap_or_default());
    }
    let load = load.snapshot().await.since(&before);
    figures::measure(environment, &bad.version, accepted, &life, &status, &load)
}
