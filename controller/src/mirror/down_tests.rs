//! Pulling over two API servers in memory: what is written here, in which order, and what waits.

use std::sync::Arc;

use futures::future::join_all;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tidegate_pipelines::api::policy::{Attestor, VerificationPolicy};
use tidegate_pipelines::rollout::Hub;
use tokio::sync::watch;

use super::Mirror;
use super::kinds::Kind;
use crate::lease::Permit;
use crate::memory::{objects, server, told};
use crate::reach::Reach;
use crate::spoke::World;

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "tidegate.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn environment() -> Value {
    object("Environment", "east", json!({"policy": "strict", "metrics": {"prometheus": "http://p"}}))
}

fn policy(attestors: &[&str]) -> Value {
    let check = json!({"displayName": "signed", "sigstoreSignatureCheck": {"attestors": attestors}});
    object("VerificationPolicy", "strict", json!({"checkSets": [{"displayName": "all", "checks": [check]}]}))
}

fn attestor(name: &str) -> Value {
    object("Attestor", name, json!({"keys": [{"pem": "-----BEGIN PUBLIC KEY-----"}]}))
}

fn root() -> Value {
    object("TrustRoot", "default", json!({"trustedRoot": "{}"}))
}

fn typed<K: DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).unwrap()
}

/// What one pull of this object writes here.
async fn pulled(source: Value, hub: &[Value], here: &[Value]) -> Vec<String> {
    let ((hub, _at_the_hub), (client, written)) = (server(objects(hub)), server(objects(here)));
    let (world, keepers) = World::open(client, Reach::of("memory"));
    let mirror = Mirror {
        environment: "east".into(),
        hub,
        world: world.clone(),
        clock: crate::clock::wall(),
        permit: Permit::unconditional(),
        link: Arc::new(watch::channel(Hub { reachable: true, away_since: None }).0),
        reach: Reach::of("memory"),
        intents: super::up::Intents::default(),
        waiting: super::reliance::Waiting::default(),
    };
    let pull = async {
        match source["kind"].as_str() {
            Some("Attestor") => mirror.merge(Kind::Attestor, &typed::<Attestor>(source), &world.attestors).await,
            _ => mirror.merge(Kind::Policy, &typed::<VerificationPolicy>(source), &world.policies).await,
        }
    };
    tokio::select! {
        () = pull => {}
        _ = join_all(keepers) => panic!("the watches ended"),
    }
    told(written)
}

#[tokio::test]
async fn a_missing_attestor_that_a_policy_in_force_names_is_not_brought_in_at_once() {
    let here = [environment(), policy(&["ci"])];
    assert_eq!(pulled(attestor("ci"), &[], &here).await, Vec::<String>::new());
    assert_eq!(pulled(attestor("qa"), &[], &here).await, ["attestors/qa"], "nobody relies on it");
    assert_eq!(pulled(attestor("ci"), &[], &[environment()]).await, ["attestors/ci"], "nothing is in force yet");
}

#[tokio::test]
async fn a_policy_comes_after_the_attestors_and_roots_that_it_names_for_the_first_time() {
    let hub = [attestor("ci"), attestor("qa"), root()];
    let fresh = pulled(policy(&["ci"]), &hub, &[environment()]).await;
    assert_eq!(fresh, ["trustroots/default", "attestors/ci", "verificationpolicies/strict"]);
    // What it named already is not its to bring.
    let tightened = pulled(policy(&["ci", "qa"]), &hub, &[environment(), policy(&["ci"]), root()]).await;
    assert!(!tightened.contains(&"attestors/ci".to_owned()), "{tightened:?}");
    assert!(tightened.contains(&"attestors/qa".to_owned()), "{tightened:?}");
    let alone = pulled(policy(&["ci"]), &[], &[environment()]).await;
    assert_eq!(alone, ["verificationpolicies/strict"], "a hub that has none of them holds it up no longer");
}
