//! For 20 s each in mid-canary: a part is away. Nothing is promoted without evidence, nothing is lost, the status says
//! what is waited for, and when the part is back the rollout comes to its end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use serde_json::json;
use tidegate_pipelines::api::{BuildEventPhase, Environment, ReleasePhase, RolloutPhase};
use tidegate_tests::acts::{counts, gate, reaches};
use tidegate_tests::stage::manifests::APP;
use tidegate_tests::stage::{Stage, spec, wait};
use tidegate_tests::supply::behavior::Behavior;
use tidegate_tests::supply::release::Published;
use tokio::time::sleep;

use super::hands::{STAGING, Sight, Stored, ends_as, event_since, never_rises, says, to_mid_canary, watch};
use crate::world::World;

const AWAY: Duration = Duration::from_secs(20);
/// A decision taken just before may still be written, and a scrape just before may still be judged.
const GRACE: Duration = Duration::from_secs(4);
const END: Duration = Duration::from_secs(300);

/// No promotion of Prometheus' silence: back to the last certified weight, then 0, then once more from the start.
pub async fn prometheus(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    let published = to_mid_canary(&stage, "m-prometheus").await?;
    let before = counts(&stage).await;
    stage.fleet.stop("staging-prometheus").await?;
    let seen = watch(&stage, &published.digest, AWAY).await;
    stage.fleet.start_again("staging-prometheus").await?;
    never_rises(&seen, GRACE)?;
    says(&seen, &["no fresh sample", "metrics source"])?;
    // blindLimit is 8 s, and the same again until 0.
    let last = seen.last().context("never looked")?;
    ensure!(last.weight == 0, "blind for {AWAY:?} and still at weight {}: {last:?}", last.weight);
    let rollout = ends_as(&stage, &published.digest, RolloutPhase::Promoted, END).await?;
    let history = rollout.status.map(|status| status.history).unwrap_or_default();
    let reasons: Vec<&str> = history.iter().map(|entry| entry.reason.as_str()).collect();
    ensure!(reasons.contains(&"BlindRestart"), "it did not start once more: {reasons:?}");
    ensure!(!stage.quarantined(stage.hub(), &published.digest).await, "blindness quarantined the digest");
    unharmed(&stage, &before).await
}

/// Requests fail, but nobody blames the canary for it, and it gains nothing by it.
pub async fn gateway(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    let published = to_mid_canary(&stage, "m-gateway").await?;
    stage.fleet.stop("staging-traefik").await?;
    let seen = watch(&stage, &published.digest, AWAY).await;
    stage.fleet.start_again("staging-traefik").await?;
    never_rises(&seen, GRACE)?;
    says(&seen, &["nothing decided", "data plane", "no fresh sample", "samples"])?;
    ends_as(&stage, &published.digest, RolloutPhase::Promoted, END).await?;
    ensure!(!stage.quarantined(stage.hub(), &published.digest).await, "the gateway's failure quarantined the digest");
    Ok(())
}

/// The guard goes on with its verdicts: known digests get in, unknown ones do not, and an event waits.
pub async fn registry(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    let unsigned = stage.publish(&spec("m-late", Behavior::version("m-late")).unsigned()).await?;
    let published = to_mid_canary(&stage, "m-registry").await?;
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
    let (seen, during) = tokio::join!(watch(&stage, &published.digest, AWAY), during);
    stage.supply.registry.thaw().await?;
    during?;
    ensure!(!seen.is_empty(), "never looked");
    ends_as(&stage, &published.digest, RolloutPhase::Promoted, END).await?;
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

/// Process and API server: the spoke goes on with what it may, holds, and says why; afterwards the hub knows the end.
pub async fn hub(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    // Slow enough that the canary is still under way when the hub counts as lost (15 s).
    stage.change_pipeline(json!({"strategy": {"stepMinTime": "20s"}})).await?;
    let outcome = hub_in_mid_canary(&stage).await;
    stage.change_pipeline(json!({"strategy": {"stepMinTime": "3s"}})).await?;
    outcome
}

async fn hub_in_mid_canary(stage: &Stage) -> Result<()> {
    let published = to_mid_canary(stage, "m-hub").await?;
    let before = counts(stage).await;
    stage.fleet.kill("hub-hub").await?;
    stage.fleet.stop("hub-api").await?;
    let seen = watch(stage, &published.digest, AWAY + Duration::from_secs(10)).await;
    stage.fleet.start_again("hub-api").await?;
    stage.fleet.start_again("hub-hub").await?;
    ensure!(seen.iter().all(|sight| sight.weight > 0), "the hub's absence took the weight away: {seen:?}");
    never_jumps(&seen)?;
    says(&seen, &["the hub is away"])?;
    ends_as(stage, &published.digest, RolloutPhase::Promoted, END).await?;
    reaches(stage, &published.digest, ReleasePhase::Promoted, Duration::from_secs(60)).await?;
    unharmed(stage, &before).await
}

/// Nothing can be written: the split stays, the hub says that nobody hears of the environment, and the rollout goes on
/// from where it was.
pub async fn environment_api(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    // The built-in controllers come back to their API server with a backoff of up to a minute; pods wait for them.
    stage.change_pipeline(json!({"strategy": {"capacityDeadline": "150s"}})).await?;
    let published = to_mid_canary(&stage, "m-api").await?;
    stage.change_pipeline(json!({"strategy": {"capacityDeadline": "60s"}})).await?;
    let before = counts(&stage).await;
    stage.fleet.stop("staging-api").await?;
    sleep(AWAY).await;
    let told = wait::until_ok(Duration::from_secs(40), "the hub tells of it", || spoke_silent(&stage)).await;
    stage.fleet.start_again("staging-api").await?;
    let read = || async { stage.canary_weight(STAGING).await.ok() };
    let back = wait::until(Duration::from_secs(20), "the route can be read", read).await?;
    ensure!(back <= 50, "weight {back} when the API server is back: raised while nobody could decide");
    ensure!(stage.fleet.processes.is_running("staging-spoke").await, "the spoke ended for want of its API server");
    ends_as(&stage, &published.digest, RolloutPhase::Promoted, END).await?;
    reaches(&stage, &published.digest, ReleasePhase::Promoted, Duration::from_secs(60)).await?;
    told?;
    unharmed(&stage, &before).await
}

/// The Environment's condition at the hub, once it is false; else how things stand.
async fn spoke_silent(stage: &Stage) -> Result<(), String> {
    let api: Api<Environment> = Api::all(stage.hub().clone());
    let environment = api.get(STAGING).await.map_err(|error| error.to_string())?;
    let conditions = environment.status.map(|status| status.conditions).unwrap_or_default();
    let ready = conditions.iter().find(|condition| condition.type_ == "SpokeReady");
    match ready {
        Some(ready) if ready.status == "False" && !ready.message.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// A spoke may finish a step that its intent allows, one at a time; it never jumps.
fn never_jumps(seen: &[Sight]) -> Result<()> {
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
async fn unharmed(
    stage: &Stage,
    before: &std::collections::BTreeMap<String, tidegate_tests::rig::Snapshot>,
) -> Result<()> {
    for (name, now) in counts(stage).await {
        if let Some(earlier) = before.get(&name) {
            let since = now.since(earlier);
            ensure!(since.failed == 0, "{name}: {} requests failed: {:?}", since.failed, since.failure_kinds());
        }
    }
    Ok(())
}
