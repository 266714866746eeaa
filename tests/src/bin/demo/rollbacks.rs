//! `demo --rollbacks N`: N bad versions, one pipeline per environment, a fresh digest each time. Measures from the
//! newest sample of the deciding evaluation to the acknowledged route write, on to the canary's last request, and the
//! requests that were harmed against the floor that no test can beat (docs/judgement.md).

use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::api::{Api, DeleteParams};
use serde::Serialize;
use serde_json::json;
use tidegate_pipelines::api::{Pipeline, Rollout, RolloutPhase};
use tidegate_tests::rig::apply;
use tidegate_tests::stage::manifests::{APP, Shipping, environment, pipeline};
use tidegate_tests::stage::{DELIBERATE, ROLLING_RATE, Stage, spec, wait};
use tidegate_tests::supply::behavior::Behavior;
use tidegate_tests::supply::chain::REGISTRY;

const BAD: f64 = 0.30;
const WEIGHT: u8 = 10;

#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    environment: String,
    /// Newest sample used to the acknowledged write.
    breach_to_zero_ms: f64,
    /// Newest sample used to the last request that the canary served.
    breach_to_last_request_ms: i64,
    weight: u8,
    canary_requests: u64,
    /// Errors beyond those that the stable version would have made.
    excess_errors: f64,
    floor: f64,
    /// Requests that failed otherwise: resets, time-outs, 502.
    failed: u64,
}

/// Runs the rollbacks, environments side by side.
pub async fn run(stage: &Stage, count: usize) -> Result<Vec<Sample>> {
    prepare(stage).await?;
    let each = count.div_ceil(stage.fleet.environments.len());
    let lanes = stage.fleet.environments.iter().map(|environment| lane(stage, environment.name(), each));
    let lanes = futures::future::join_all(lanes).await;
    let mut samples = Vec::new();
    for lane in lanes {
        samples.extend(lane?);
    }
    Ok(samples)
}

/// The stage's own pipeline gives way to one per environment, each with an image repository of its own.
async fn prepare(stage: &Stage) -> Result<()> {
    let pipelines: Api<Pipeline> = Api::namespaced(stage.hub().clone(), APP);
    pipelines.delete(APP, &DeleteParams::default()).await?;
    wait::until(Duration::from_secs(60), "the stage's pipeline is gone", || async {
        pipelines.get_opt(APP).await.ok()?.is_none().then_some(())
    })
    .await?;
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
            .replace("  sources:\n", "")
            .replace("  - {eventSource: github, repository: \"shop/portal\"}\n", "")
            .replace("  - {eventSource: cloudbuild, repository: \"shop/portal\"}\n", "");
        apply::yaml(stage.hub(), &own).await?;
        stage.loads[name].set_rate(ROLLING_RATE / 3.0);
    }
    Ok(())
}

async fn lane(stage: &Stage, environment: &str, count: usize) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for turn in 0..count {
        let sample = one(stage, environment, turn).await.with_context(|| format!("{environment}, rollback {turn}"));
        match sample {
            Ok(sample) => samples.push(sample),
            Err(error) if samples.is_empty() => return Err(error),
            Err(error) => eprintln!("left out: {error:#}"),
        }
    }
    Ok(samples)
}

async fn one(stage: &Stage, environment: &str, turn: usize) -> Result<Sample> {
    let version = format!("bad-{environment}-{turn}");
    let mut image = spec(&version, Behavior::version(&version).errors(BAD));
    image.repo = format!("shop/portal-{environment}");
    let published = stage.publish(&image).await?;
    let before = stage.loads[environment].snapshot().await;
    let hub = stage.fleet.hub.kubeconfig_for(tidegate_tests::rig::cluster::ADMIN)?.display().to_string();
    let reference = published.by_digest();
    let args = ["release", &reference, "--revision", &published.revision, "-n", APP, "--kubeconfig", &hub];
    stage.roles.run(&args).await?;
    let ended = wait::until(Duration::from_secs(120), "the rollout's end", || async {
        let rollout = stage.rollout_in(environment, &published.digest).await?;
        let phase = rollout.status.as_ref()?.phase?;
        phase.is_terminal().then_some(rollout)
    })
    .await?;
    let status = ended.status.clone().unwrap_or_default();
    if status.phase != Some(RolloutPhase::RolledBack) {
        bail!("it ended as {:?}: {}", status.phase, status.message.unwrap_or_default());
    }
    let after = stage.loads[environment].snapshot().await.since(&before);
    sample(environment, &version, &ended, &after).context("no breach, write or request is recorded")
}

fn sample(environment: &str, version: &str, rollout: &Rollout, load: &tidegate_tests::rig::Snapshot) -> Option<Sample> {
    let status = rollout.status.as_ref()?;
    let breach = status.breach.as_ref()?;
    let (newest, written) = (breach.sample_at.0, breach.written_at.as_ref()?.0);
    let served = load.versions.get(version)?;
    let weight = status.history.iter().map(|entry| entry.weight).max().unwrap_or(0);
    Some(Sample {
        environment: environment.to_owned(),
        breach_to_zero_ms: written.duration_since(newest).as_secs_f64() * 1000.0,
        breach_to_last_request_ms: served.last_served.duration_since(newest).as_millis() as i64,
        weight,
        canary_requests: served.requests,
        excess_errors: served.deliberate as f64 - DELIBERATE * served.requests as f64,
        floor: floor(f64::from(weight.max(1)) / 100.0, BAD / DELIBERATE, 0.01),
        failed: load.failed,
    })
}

/// Least expected excess errors before evidence of strength 1/alpha at canary share `w` and risk ratio `r`:
/// (r - 1) w ln(1/alpha) / ((1 - w + w r) KL(theta1 || theta0)).
fn floor(w: f64, r: f64, alpha: f64) -> f64 {
    let theta = w * r / (1.0 - w + w * r);
    let kl = theta * (theta / w).ln() + (1.0 - theta) * ((1.0 - theta) / (1.0 - w)).ln();
    (r - 1.0) * w * (1.0 / alpha).ln() / ((1.0 - w + w * r) * kl)
}

pub fn report(samples: &[Sample]) -> serde_json::Value {
    let sorted = |of: &dyn Fn(&Sample) -> f64| {
        let mut values: Vec<f64> = samples.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let figures = |of: &dyn Fn(&Sample) -> f64| {
        let values = sorted(of);
        let at = |q: f64| values.get(((values.len() as f64 - 1.0) * q).round() as usize).copied().unwrap_or(f64::NAN);
        json!({"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": at(1.0)})
    };
    json!({
        "rollbacks": samples.len(),
        "breach_to_zero_ms": figures(&|s| s.breach_to_zero_ms),
        "breach_to_last_request_ms": figures(&|s| s.breach_to_last_request_ms as f64),
        "excess_errors": figures(&|s| s.excess_errors),
        "floor_of_excess_errors": figures(&|s| s.floor),
        "otherwise_failed_requests": samples.iter().map(|s| s.failed).sum::<u64>(),
        "samples": samples,
    })
}
