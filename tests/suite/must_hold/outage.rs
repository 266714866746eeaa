//! For 20 s each in mid-canary: a part is away. Nothing is promoted without evidence, nothing is lost, others go on, the
//! status says what is waited for, and when the part is back the rollout comes to its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use serde_json::json;
use tidegate_pipelines::api::{BuildEventPhase, Environment, ReleasePhase, RolloutPhase, RolloutStatus};
use tidegate_tests::acts::{counts, gate, reaches};
use tidegate_tests::rig::{Snapshot, cluster};
use tidegate_tests::stage::manifests::APP;
use tidegate_tests::stage::{Stage, name_of, spec, wait};
use tidegate_tests::supply::behavior::Behavior;
use tidegate_tests::supply::release::Published;
use tokio::time::Instant;

use super::hands::{
    OTHER, STAGING, Sight, Stored, ends_as, event_since, goes_on, never_rises, says, to_mid_canary_beside_another,
    watch,
};
use crate::world::World;

const AWAY: Duration = Duration::from_secs(20);
/// A decision taken just before may still be written, and a scrape just before may still be judged.
const GRACE: Duration = Duration::from_secs(4);
const END: Duration = Duration::from_secs(300);
/// From the API server's first answer to the spoke's first write: a look every 2 s, then a list of every kind.
const BACK_AT_WORK: Duration = Duration::from_secs(10);
/// After [`AWAY`] the gateway's watches have 45 s to start over, of which `BACK_AT_WORK` may be over.
const CATCHING_UP: Duration = Duration::from_secs(30);

/// What was seen of both environments while a part was away.
struct Meanwhile {
    staging: Vec<Sight>,
    other: Vec<Sight>,
    requests: u64,
}

/// Looks at both for as long; the other has the load, since it has the evidence to win.
async fn meanwhile(stage: &Stage, published: &Published) -> Result<Meanwhile> {
    stage.pinned.send_replace(Some(OTHER.to_owned()));
    let before = counts(stage).await;
    let (staging, other) =
        tokio::join!(watch(stage, STAGING, &published.digest, AWAY), watch(stage, OTHER, &published.digest, AWAY),);
    let after = counts(stage).await;
    stage.pinned.send_replace(None);
    let (before, after) = (before.get(OTHER).context("no load")?, after.get(OTHER).context("no load")?);
    let since = after.since(before);
    ensure!(since.failed == 0, "{OTHER}: {} requests failed: {:?}", since.failed, since.failure_kinds());
    ensure!(since.requests > 1000, "{OTHER} had only {} requests", since.requests);
    Ok(Meanwhile { staging, other, requests: since.requests })
}

/// Others went on: decisions or fresh evidence, and every request of theirs was answered.
fn others_went_on(seen: &Meanwhile) -> Result<()> {
    let how = goes_on(&seen.other)?;
    eprintln!("  meanwhile {OTHER}: {how}, {} requests", seen.requests);
    Ok(())
}

/// Promoted in both, and the hub knows.
async fn nothing_was_lost(stage: &Stage, published: &Published) -> Result<RolloutStatus> {
    let rollout = ends_as(stage, &published.digest, RolloutPhase::Promoted, END).await?;
    reaches(stage, &published.digest, ReleasePhase::Promoted, Duration::from_secs(120)).await?;
    ensure!(!stage.quarantined(stage.hub(), &published.digest).await, "an outage quarantined the digest");
    Ok(rollout.status.unwrap_or_default())
}

/// No promotion of Prometheus' silence: back to the last certified weight, then 0, then once more from the start.
pub async fn prometheus(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    let published = to_mid_canary_beside_another(&stage, "m-prometheus").await?;
    let before = counts(&stage).await;
    stage.fleet.stop("staging-prometheus").await?;
    let seen = meanwhile(&stage, &published).await;
    stage.fleet.start_again("staging-prometheus").await?;
    let seen = seen?;
    never_rises(&seen.staging, GRACE)?;
    says(&seen.staging, &["no fresh sample", "metrics source"])?;
    // blindLimit is 8 s, and the same again until 0.
    let last = seen.staging.last().context("never looked")?;
    ensure!(last.weight == 0, "blind for {AWAY:?} and still at weight {}: {last:?}", last.weight);
    others_went_on(&seen)?;
    let status = nothing_was_lost(&stage, &published).await?;
    let reasons: Vec<&str> = status.history.iter().map(|entry| entry.reason.as_str()).collect();
    ensure!(reasons.contains(&"BlindRestart"), "it did not start once more: {reasons:?}");
    unharmed(&stage, &before).await
}

/// Requests fail, but nobody blames the canary for it, and it gains nothing by it.
pub async fn gateway(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    let published = to_mid_canary_beside_another(&stage, "m-gateway").await?;
    stage.fleet.stop("staging-traefik").await?;
    let seen = meanwhile(&stage, &published).await;
    stage.fleet.start_again("staging-traefik").await?;
    let seen = seen?;
    never_rises(&seen.staging, GRACE)?;
    says(&seen.staging, &["nothing decided", "data plane", "no fresh sample", "samples"])?;
    others_went_on(&seen)?;
    nothing_was_lost(&stage, &published).await?;
    Ok(())
}

/// The guard goes on with its verdicts: known digests get in, unknown ones do not, and an event waits.
pub async fn registry(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    let unsigned = stage.publish(&spec("m-late", Behavior::version("m-late")).unsigned()).await?;
    let published = to_mid_canary_beside_another(&stage, "m-registry").await?;
    let before = counts(&stage).await;
    let stored = Stored::now(&stage).await?;
    stage.supply.registry.freeze().await?;
    let during = async {
        stage.cloud_build_event(&unsigned).await?;
        known_pod(&stage, &stage.first).await.context("a pod with a known digest while the registry is away")?;
        let stranger = format!("{}@sha256:{}", stage.first.repository, "ab".repeat(32));
        let cluster = &stage.environment(STAGING)?.cluster;
        gate::refused_pod(cluster, "dana", "unknown-digest", &stranger).await?;
        let event = event_since(&stage, &stored).await?;
        let status = event.status.unwrap_or_default();
        ensure!(
            status.phase == Some(BuildEventPhase::Waiting),
            "the event became {:?}: {:?}",
            status.phase,
            status.message
        );
        let message = status.message.unwrap_or_default();
        ensure!(message.contains(&stage.first.repository), "the event does not say what it waits for: {message}");
        anyhow::Ok(())
    };
    let (seen, during) = tokio::join!(meanwhile(&stage, &published), during);
    stage.supply.registry.thaw().await?;
    during?;
    let seen = seen?;
    never_jumps(&seen.staging)?;
    others_went_on(&seen)?;
    nothing_was_lost(&stage, &published).await?;
    reaches(&stage, &unsigned.digest, ReleasePhase::Denied, Duration::from_secs(120)).await?;
    unharmed(&stage, &before).await
}

/// A pod by hand with an image that the guard has judged before; as a dry run, nothing is left.
async fn known_pod(stage: &Stage, known: &Published) -> Result<()> {
    let dana = stage.environment(STAGING)?.cluster.client_for("dana").await?;
    let api: Api<Pod> = Api::namespaced(dana, APP);
    let pod = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "known-digest", "namespace": APP},
        "spec": {"containers": [{"name": "app", "image": known.by_digest()}], "serviceAccountName": "default"},
    }))?;
    api.create(&PostParams { dry_run: true, ..PostParams::default() }, &pod).await?;
    Ok(())
}

/// Its API server, and with it its lease; the process stays and stands anew. The spokes go on with what they may, hold,
/// and say why; an event is not acknowledged, so its sender keeps it; afterwards the hub knows the end.
pub async fn hub(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    // Slow enough that the canary is still under way when the hub counts as lost (13 s at most).
    stage.change_pipeline(json!({"strategy": {"stepMinTime": "20s"}})).await?;
    let outcome = hub_in_mid_canary(&stage).await;
    stage.change_pipeline(json!({"strategy": {"stepMinTime": "3s"}})).await?;
    outcome
}

async fn hub_in_mid_canary(stage: &Stage) -> Result<()> {
    let published = to_mid_canary_beside_another(stage, "m-hub").await?;
    let before = counts(stage).await;
    stage.fleet.stop("hub-api").await?;
    let unheard = spec("m-unheard", Behavior::version("m-unheard")).unsigned();
    let (seen, kept) = tokio::join!(meanwhile(stage, &published), async {
        let unheard = stage.publish(&unheard).await?;
        let acknowledged = stage.cloud_build_event(&unheard).await.is_ok();
        ensure!(!acknowledged, "an event was acknowledged that nobody could store");
        anyhow::Ok(())
    });
    stage.fleet.start_again("hub-api").await?;
    let seen = seen?;
    kept?;
    ensure!(
        seen.staging.iter().all(|sight| sight.weight > 0),
        "the hub's absence took the weight away: {:?}",
        seen.staging
    );
    never_jumps(&seen.staging)?;
    never_jumps(&seen.other)?;
    says(&seen.staging, &["the hub is away"])?;
    others_went_on(&seen)?;
    nothing_was_lost(stage, &published).await?;
    unharmed(stage, &before).await
}

/// Nothing can be written: the split stays, the spoke tells the hub why, and soon after the API server is back the
/// rollout goes on from where it was.
pub async fn environment_api(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    let published = to_mid_canary_beside_another(&stage, "m-api").await?;
    let before = counts(&stage).await;
    let was = stage.rollout_in(STAGING, &published.digest).await.and_then(|r| r.status).context("no rollout")?;
    let logged = spoke_log(&stage)?.len();
    stage.fleet.stop("staging-api").await?;
    // Without its API server it loses its own lease and ends; the kubelet of its node starts it again. Left alone, as
    // the rig would have it, it comes back with a backoff of up to a minute, and pods wait for it.
    stage.fleet.stop("staging-controllers").await?;
    let told =
        wait::until_ok(AWAY, "the hub tells that the API server is away", || api_server_away(&stage, &published));
    let (seen, told) = tokio::join!(meanwhile(&stage, &published), told);
    stage.fleet.start_again("staging-api").await?;
    let back = Instant::now();
    stage.fleet.start_again("staging-controllers").await?;
    let (seen, told) = (seen?, told?);
    ensure!(seen.staging.is_empty(), "the API server was not away: {:?}", seen.staging);
    let look = || async {
        stage.rollout_in(STAGING, &published.digest).await.and_then(|r| r.status).filter(|s| s.epoch > was.epoch)
    };
    let weight = stage.canary_weight(STAGING).await?;
    ensure!(weight <= 50, "weight {weight} when the API server is back: raised while nobody could decide");
    let resumed = wait::until(BACK_AT_WORK, "the spoke goes on under a new epoch", look).await?;
    eprintln!("  told: {told}; back at work after {:.1} s at weight {}", back.elapsed().as_secs_f64(), resumed.weight);
    ensure!(stage.fleet.processes.is_running("staging-spoke").await, "the spoke ended for want of its API server");
    never_rises(&watch(&stage, STAGING, &published.digest, CATCHING_UP).await, Duration::ZERO)?;
    others_went_on(&seen)?;
    nothing_was_lost(&stage, &published).await?;
    eprintln!("  promoted {:.0} s after the API server was back", back.elapsed().as_secs_f64());
    let log = spoke_log(&stage)?.split_off(logged);
    let lines = |words: &str| log.iter().filter(|line| line.contains(words)).count();
    ensure!(lines("does not answer") == 1 && lines("answers again") == 1, "an outage is told once: {log:#?}");
    // Refusals are answers, and told: an API server that begins to answer may not know its own roles and kinds yet.
    let silent = log.iter().filter(|line| line.contains("client error") && !line.contains("does not answer")).count();
    ensure!(lines("\"ERROR\"") == 0 && silent == 0, "a line for each failed call: {log:#?}");
    unharmed(&stage, &before).await
}

/// What the Environment and the Release at the hub, and so `tidegate describe`, say of it; else how things stand.
async fn api_server_away(stage: &Stage, published: &Published) -> Result<String, String> {
    let words = "its API server has not answered since";
    let api: Api<Environment> = Api::all(stage.hub().clone());
    let environment = api.get(STAGING).await.map_err(|error| error.to_string())?;
    let conditions = environment.status.map(|status| status.conditions).unwrap_or_default();
    let ready = conditions.iter().find(|condition| condition.type_ == "SpokeReady");
    let told = ready.filter(|ready| ready.status == "False" && ready.message.contains(words));
    let told = told.ok_or_else(|| format!("{ready:?}"))?.message.clone();
    let release = stage.release_of(&published.digest).await.ok_or("no release")?;
    let hub = stage.fleet.hub.kubeconfig_for(cluster::ADMIN).map_err(|error| error.to_string())?;
    let (hub, name) = (hub.display().to_string(), name_of(&release));
    let described = stage.roles.run(&["describe", &name, "-n", APP, "--kubeconfig", &hub]).await;
    let described = described.map_err(|error| error.to_string())?;
    if described.contains(&format!("{STAGING}: the spoke lives, but {words}")) { Ok(told) } else { Err(described) }
}

fn spoke_log(stage: &Stage) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(stage.fleet.processes.log("staging-spoke"))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// A spoke may finish a step that its intent allows, one at a time; it never jumps.
pub fn never_jumps(seen: &[Sight]) -> Result<()> {
    let steps = [0, 2, 5, 25, 50, 100];
    for pair in seen.windows(2) {
        let place = |weight: u64| steps.iter().position(|step| *step == weight);
        let (from, to) = (place(pair[0].weight), place(pair[1].weight));
        let at_most_one = matches!((from, to), (Some(from), Some(to)) if to <= from + 1);
        let going_home = pair[1].phase != Some(RolloutPhase::Canary);
        ensure!(at_most_one || going_home, "the split jumped: {:?} then {:?}", pair[0], pair[1]);
    }
    Ok(())
}

/// No request failed meanwhile.
pub async fn unharmed(stage: &Stage, before: &BTreeMap<String, Snapshot>) -> Result<()> {
    for (name, now) in counts(stage).await {
        if let Some(earlier) = before.get(&name) {
            let since = now.since(earlier);
            ensure!(since.failed == 0, "{name}: {} requests failed: {:?}", since.failed, since.failure_kinds());
        }
    }
    Ok(())
}
