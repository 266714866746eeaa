//! The acts of the demo, one case each, on one stage and in this order: each leaves the stage as the next one expects it.
//! A case fails with its act's line: what was expected beside what came out.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tidegate_tests::acts::{Outcome, gate, play, ship, trouble};
use tidegate_tests::stage::Stage;
use tidegate_tests::supply::release::Published;

use crate::case::Case;

pub const PREFIX: &str = "acts::";

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("acts::unsigned", async |world| {
            let stage = world.stage().await?;
            as_expected(&play(&stage, "unsigned", gate::UNSIGNED, gate::unsigned(&stage, "v4")).await)
        }),
        Case::new("acts::sbom", async |world| {
            let stage = world.stage().await?;
            as_expected(&play(&stage, "sbom", gate::SBOM, gate::sbom(&stage, "v5")).await)
        }),
        Case::new("acts::intruder", async |world| {
            let stage = world.stage().await?;
            as_expected(&play(&stage, "intruder", gate::INTRUDER, gate::intruder(&stage, "prod-west")).await)
        }),
        Case::new("acts::good", async |world| {
            let stage = world.stage().await?;
            let act = async { Ok(ship::good(&stage, "v1").await?.1) };
            as_expected(&play(&stage, "good", ship::GOOD, act).await)
        }),
        Case::new("acts::regression", async |world| {
            let stage = world.stage().await?;
            stage.change_pipeline(json!({"rollback": "release"})).await?;
            let before = running(&stage, "prod-east").await?;
            let act = ship::regression(&stage, "v2", &before);
            as_expected(&play(&stage, "regression", ship::REGRESSION, act).await)
        }),
        Case::new("acts::regression_with_rollback_environment", async |world| {
            let stage = world.stage().await?;
            stage.change_pipeline(json!({"rollback": "environment"})).await?;
            let before = running(&stage, "prod-east").await?;
            let act = ship::regression_alone(&stage, "v2-alone", &before);
            let outcome = play(&stage, "regression", ship::REGRESSION_ALONE, act).await;
            stage.change_pipeline(json!({"rollback": "release"})).await?;
            as_expected(&outcome)
        }),
        Case::new("acts::dead", async |world| {
            let stage = world.stage().await?;
            as_expected(&play(&stage, "dead", ship::DEAD, ship::dead(&stage, "v3")).await)
        }),
        Case::new("acts::crash", async |world| {
            let stage = world.stage().await?;
            as_expected(&play(&stage, "crash", trouble::CRASH, trouble::crash(&stage, "v7")).await)
        }),
        Case::new("acts::island", async |world| {
            let stage = world.stage().await?;
            as_expected(&play(&stage, "island", trouble::ISLAND, trouble::island(&stage, "v8")).await)
        }),
    ]
}

fn as_expected(outcome: &Outcome) -> Result<()> {
    ensure!(outcome.ok, "expected: {}; came out: {}", outcome.expected, outcome.outcome);
    eprintln!("  {} after {:.0} s: {}", outcome.name, outcome.seconds, outcome.outcome);
    Ok(())
}

/// What stable runs in an environment now.
async fn running(stage: &Stage, environment: &str) -> Result<Published> {
    let image = stage.stable_image(environment).await?;
    let (repository, digest) = image.split_once('@').with_context(|| format!("{environment} runs {image}"))?;
    let (repository, digest) = (repository.to_owned(), digest.to_owned());
    Ok(Published { digest, repository, tag: String::new(), revision: String::new() })
}
