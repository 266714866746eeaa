//! What may not change once it is written, and what a person may still change.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidegate_tests::rig::Fleet;

use super::{ask, samples};

/// Changes in order, each with the sentence that refuses it, or none when it passes.
type Changes = Vec<(Value, Option<&'static str>)>;

fn table() -> Vec<(&'static str, Changes)> {
    let other = format!("sha256:{}", "b".repeat(64));
    let image = json!([{"container": "app", "repository": "registry.example/acme/portal", "digest": other}]);
    vec![
        (
            "Rollout",
            vec![
                (json!({"images": image}), Some("a Rollout ships what it was made for")),
                (json!({"namespace": "elsewhere"}), Some("a Rollout ships what it was made for")),
                (json!({"workload": {"name": "other"}}), Some("a Rollout acts on what it was made for")),
                (json!({"strategy": {"steps": [{"setWeight": 100}]}}), Some("a Rollout is judged as it was made")),
                (
                    json!({"objectives": [{"name": "availability", "target": 0.5, "ratio": {"total": "a", "errors": "b"}}]}),
                    Some("a Rollout is judged as it was made"),
                ),
                (json!({"revision": "a".repeat(40)}), Some("a Rollout is judged as it was made")),
                (json!({"alphaShare": 0.5}), Some("a Rollout is judged as it was made")),
                (json!({"pipelineNamespace": "other"}), Some("a Rollout is judged as it was made")),
                (json!({"paused": true, "maxWeight": 50, "promoteThrough": 1}), None),
                (json!({"abort": true}), None),
                (json!({"abort": false}), Some("abort cannot be taken back: retry the release instead")),
                (json!({"paused": false}), None),
            ],
        ),
        (
            "BuildEvent",
            vec![
                (json!({"revision": "b".repeat(40)}), Some("a BuildEvent is a fact: its spec is immutable")),
                (json!({"pipelineNamespace": "other"}), Some("a BuildEvent is a fact: its spec is immutable")),
            ],
        ),
        ("Approval", vec![(json!({"stage": "staging"}), Some("an Approval is a record: its spec is immutable"))]),
        ("BreakGlass", vec![(json!({"expiresAt": "2031-01-01T00:00:00Z"}), Some("a BreakGlass is a record"))]),
        (
            "Release",
            vec![
                (json!({"images": image}), Some("a Release is immutable: ship other digests as another Release")),
                (json!({"pipeline": "other"}), Some("a Release is immutable")),
                (json!({"revision": "a".repeat(40)}), Some("a Release keeps what its event said")),
                (json!({"repository": "acme/other"}), Some("a Release keeps what its event said")),
                (json!({"builtAt": "2026-01-02T03:04:05Z"}), Some("a Release keeps what its event said")),
                (json!({"attempt": 3, "paused": true}), None),
                (json!({"attempt": 2}), Some("attempt only rises")),
            ],
        ),
    ]
}

pub async fn keep_their_word(fleet: &Fleet) -> Result<()> {
    // Even the one that makes them does not change what they are.
    let hub = fleet.hub.client_for("tidegate-hub").await?;
    for (kind, changes) in table() {
        let client = if matches!(kind, "Release" | "Rollout") { &hub } else { &fleet.hub.admin };
        let object = samples::named(kind, "record")?;
        ask::create(client, &object).await?.accepted().with_context(|| kind.to_owned())?;
        for (change, refusal) in changes {
            let answer = ask::change(client, &object, &json!({ "spec": change })).await?;
            match refusal {
                Some(sentence) => answer.refused_with(sentence),
                None => answer.accepted().map(drop),
            }
            .with_context(|| format!("{kind}: {change}"))?;
        }
    }
    Ok(())
}

/// A default is what a reader of the object sees, not what a role makes of its absence.
pub async fn defaults_are_written_out(fleet: &Fleet) -> Result<()> {
    let hub = fleet.hub.client_for("tidegate-hub").await?;
    let stored = ask::try_create(&hub, &samples::named("Rollout", "plain")?).await?.accepted()?;
    let strategy = &stored["spec"]["strategy"];
    ensure!(
        strategy["steps"] == json!([{"setWeight": 5}, {"setWeight": 25}, {"setWeight": 50}, {"setWeight": 100}]),
        "{strategy}"
    );
    ensure!(strategy["onInconclusive"] == "hold" && strategy["mask"] == "1m", "{strategy}");
    ensure!(stored["spec"]["reason"] == "Ship" && stored["spec"]["maxWeight"] == 100, "{}", stored["spec"]);
    Ok(())
}
