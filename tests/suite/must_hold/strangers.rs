//! Whoever reaches the guard's port and is not the API server gets no word out of it, and cannot make it work.

use std::sync::Arc;

use anyhow::{Result, ensure};
use tidegate_tests::rig::control_plane::shown_to_the_guard;
use tidegate_tests::rig::pki::Authority;
use tidegate_tests::stage::roles::{GUARD_PORT, GUARD_TELEMETRY};
use tidegate_tests::supply::raw::{Raw, Request};

use super::hands::STAGING;
use crate::world::World;

/// That the API server itself is answered, every pod of the stage shows: under `Fail` none would have started.
pub async fn at_the_guard(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    let cluster = &stage.environment(STAGING)?.cluster;
    let (host, ca) = (cluster.address.to_string(), stage.fleet.authority.ca_pem());
    let (own, foreign) = (shown_to_the_guard(cluster)?, Authority::new()?.issue_client("kube-apiserver")?);
    let served = stage.fleet.authority.issue(&["kube-apiserver"])?;
    let strangers =
        [("no certificate", None), ("another authority's", Some(&foreign)), ("one to serve with", Some(&served))];
    for (name, shown) in strangers {
        let answers =
            Raw::showing(shown, &host, GUARD_PORT, &ca)?.send(&Request::post("/admission", b"{}".into())).await;
        ensure!(answers.as_ref().is_ok_and(Vec::is_empty) || answers.is_err(), "{name}: answered {answers:?}");
    }
    let answers =
        Raw::showing(Some(&own), &host, GUARD_PORT, &ca)?.send(&Request::post("/admission", b"{}".into())).await?;
    ensure!(answers.first().is_some_and(|answer| answer.status == 400), "its own: {answers:?}");
    let probe = reqwest::get(format!("http://{host}:{GUARD_TELEMETRY}/readyz")).await?;
    ensure!(probe.status().is_success(), "kubelets' probes need no certificate: {probe:?}");
    Ok(())
}
