//! `kubectl get` alone tells the story: the columns that people see, through the `kubectl` that they have.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{ask, samples};
use crate::world::{HubOnly, World};

/// A kind, its short name, what its status says, the header, and what its line contains.
type Row = (&'static str, &'static str, Value, Vec<&'static str>, Vec<&'static str>);

fn table() -> Vec<Row> {
    vec![
        (
            "Rollout",
            "tro",
            json!({"phase": "Canary", "step": 1, "stepText": "2/4 setWeight 25", "weight": 25, "verdict": "Allow",
                   "message": "errors 12 of 300, stable 11 of 900: not decided yet"}),
            vec!["NAME", "REASON", "PHASE", "STEP", "WEIGHT", "VERDICT", "MESSAGE", "AGE"],
            vec!["Ship", "Canary", "2/4 setWeight 25", " 25 ", "Allow", "not decided yet"],
        ),
        (
            "Release",
            "trel",
            json!({"phase": "Shipping", "verdict": "Allow", "stage": "staging", "message": "staging at 25 %"}),
            vec!["NAME", "PIPELINE", "PHASE", "VERDICT", "STAGE", "MESSAGE", "AGE"],
            vec!["portal", "Shipping", "Allow", "staging at 25 %"],
        ),
        (
            "BuildEvent",
            "tbe",
            json!({"phase": "Ignored", "message": "no pipeline ships this repository"}),
            vec!["NAME", "SOURCE", "TYPE", "PHASE", "MESSAGE", "AGE"],
            vec!["github", "package", "Ignored", "no pipeline ships this repository"],
        ),
        (
            "Pipeline",
            "tpl",
            json!({"phase": "Shipping", "currentRelease": "portal-0123456789"}),
            vec!["NAME", "PHASE", "RELEASE", "MESSAGE", "AGE"],
            vec!["Shipping", "portal-0123456789"],
        ),
    ]
}

pub async fn tell_the_story(world: &World, hub: &HubOnly) -> Result<()> {
    let admin = &hub.fleet.hub.admin;
    let maker = hub.fleet.hub.client_for("tidegate-hub").await?;
    let kubeconfig = hub.fleet.hub.kubeconfig_for(tidegate_tests::rig::cluster::ADMIN)?;
    for (kind, short, status, header, cells) in table() {
        let object = samples::named(kind, "columns")?;
        let maker = if matches!(kind, "Release" | "Rollout") { &maker } else { admin };
        ask::create(maker, &object).await?.accepted()?;
        ask::report(admin, &object, &status).await?.accepted()?;
        let printed = world.kubectl(&kubeconfig, &["get", short, "columns", "-n", samples::NAMESPACE]).await?;
        let mut lines = printed.lines();
        let seen: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
        ensure!(seen == header, "{kind}: {seen:?}");
        let line = lines.next().unwrap_or_default();
        for cell in cells {
            ensure!(line.contains(cell), "{kind} shows no '{cell}': {line}");
        }
    }
    Ok(())
}
