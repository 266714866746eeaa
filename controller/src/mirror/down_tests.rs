//! Pulling over two API servers in memory: what is written here, in which order, and what waits.

use std::sync::Arc;

use futures::future::join_all;
use kube::Client;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tidegate_pipelines::api::policy::{Attestor, VerificationPolicy};
use tidegate_pipelines::api::{Environment, names};
use tidegate_pipelines::rollout::Hub;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;

use super::Mirror;
use super::kinds::{self, Kind, Merge, Pace};
use super::reliance::Footing;
use crate::clock::Clock;
use crate::lease::Permit;
use crate::memory::{objects, server, told};
use crate::reach::Reach;
use crate::spoke::World;

pub(super) fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "tidegate.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

pub(super) fn environment() -> Value {
    object("Environment", "east", json!({"policy": "strict", "metrics": {"prometheus": "http://p"}}))
}

pub(super) fn policy(attestors: &[&str]) -> Value {
    let check = json!({"displayName": "signed", "sigstoreSignatureCheck": {"attestors": attestors}});
    object("VerificationPolicy", "strict", json!({"checkSets": [{"displayName": "all", "checks": [check]}]}))
}

pub(super) fn attestor(name: &str) -> Value {
    object("Attestor", name, json!({"keys": [{"pem": "-----BEGIN PUBLIC KEY-----"}]}))
}

fn root() -> Value {
    object("TrustRoot", "default", json!({"trustedRoot": "{}"}))
}

pub(super) fn typed<K: DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).unwrap()
}

pub(super) const NOW: &str = "2026-01-01T00:10:00Z";
/// Just as long ago as the delay, and a second less.
const LONG_AGO: &str = "2026-01-01T00:05:00Z";
pub(super) const OF_LATE: &str = "2026-01-01T00:05:01Z";

pub(super) struct At(pub &'static str);

impl Clock for At {
    fn now(&self) -> jiff::Timestamp {
        self.0.parse().unwrap()
    }
}

/// The environment's spoke, over these two servers.
pub(super) fn spoke(
    hub: &[Value],
    here: &[Value],
) -> (Mirror, impl Future<Output = ()> + use<>, UnboundedReceiver<String>) {
    let (client, written) = server(objects(here));
    let (mirror, kept) = spoke_over(hub, client);
    (mirror, kept, written)
}

/// The same over this client of the environment's own API server.
pub(super) fn spoke_over(hub: &[Value], client: Client) -> (Mirror, impl Future<Output = ()> + use<>) {
    let (hub, _at_the_hub) = server(objects(hub));
    let (world, keepers) = World::open(client, Reach::of("memory"));
    let mirror = Mirror {
        environment: "east".into(),
        hub,
        world,
        clock: Arc::new(At(NOW)),
        permit: Permit::unconditional(),
        link: Arc::new(watch::channel(Hub { reachable: true, away_since: None }).0),
        intents: super::up::Intents::default(),
        waiting: super::reliance::Waiting::default(),
        turn: Arc::default(),
    };
    let kept = async {
        join_all(keepers).await;
        panic!("the watches ended");
    };
    (mirror, kept)
}

/// What one pull of this object writes here.
async fn pulled(source: Value, hub: &[Value], here: &[Value]) -> Vec<String> {
    let (mirror, kept, written) = spoke(hub, here);
    let world = mirror.world.clone();
    let pull = async {
        match source["kind"].as_str() {
            Some("Attestor") => mirror.merge(Kind::Attestor, &typed::<Attestor>(source), &world.attestors).await,
            Some("Environment") => {
                mirror.merge(Kind::Environment, &typed::<Environment>(source), &world.environments).await
            }
            _ => mirror.merge(Kind::Policy, &typed::<VerificationPolicy>(source), &world.policies).await,
        }
    };
    tokio::select! {
        () = pull => {}
        () = kept => {}
    }
    told(written)
}

/// As it is here once `source` loosened it so long ago that its own time is just over.
pub(super) fn due<K: DeserializeOwned + Serialize>(kind: Kind, local: &Value, source: &Value) -> Value {
    let whole = |object: &Value| serde_json::to_value(typed::<K>(object.clone())).unwrap();
    let pace = Pace { delay: 300, now: LONG_AGO.parse().unwrap(), footing: Footing::Firm };
    let (local, source) = (whole(local), whole(source));
    let Merge::Write { annotations, .. } = kinds::merge(kind, &source, kinds::Here::Copy(&local), pace) else {
        panic!("it loosens")
    };
    marked(local, annotations)
}

pub(super) fn marked(mut object: Value, annotations: Value) -> Value {
    object["metadata"]["annotations"] = annotations;
    object
}

fn made(mut object: Value, at: &str) -> Value {
    object["metadata"]["creationTimestamp"] = json!(at);
    object
}

/// The environment after this policy governed it.
fn governed(policy: &Value) -> Value {
    let policy = serde_json::to_value(typed::<VerificationPolicy>(policy.clone())).unwrap();
    marked(environment(), json!({names::GOVERNED: kinds::fingerprint(&policy)}))
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

const NOTHING: [&str; 0] = [];

#[tokio::test]
async fn a_loosened_policy_waits_anew_for_an_attestor_or_root_that_comes_at_the_last_second() {
    let loosened = policy(&["eve"]);
    let here = |others: &[Value]| {
        let strict = due::<VerificationPolicy>(Kind::Policy, &policy(&["ci"]), &loosened);
        [&[environment(), strict], others].concat()
    };
    let takes_effect = ["verificationpolicies/strict"];
    for (others, expected, case) in [
        (vec![], &takes_effect[..], "what it names is not here, and is missed from now on"),
        (vec![made(attestor("eve"), OF_LATE)], &NOTHING[..], "an attestor that came after it"),
        (vec![made(attestor("eve"), LONG_AGO)], &takes_effect[..], "one that came with it"),
        (vec![made(attestor("eve"), LONG_AGO), made(root(), OF_LATE)], &NOTHING[..], "a root that came after it"),
        (vec![made(attestor("ci"), OF_LATE)], &takes_effect[..], "what it names no more"),
    ] {
        assert_eq!(pulled(loosened.clone(), &[], &here(&others)).await, expected, "{case}");
    }
    let put_there_now = pulled(loosened.clone(), &[attestor("eve"), root()], &here(&[])).await;
    assert_eq!(put_there_now, ["trustroots/default", "attestors/eve"], "in the open, and not in force");
}

#[tokio::test]
async fn a_policy_and_what_it_newly_names_come_in_the_same_moment_only_one_after_the_other() {
    let loosened = policy(&["eve"]);
    let strict = due::<VerificationPolicy>(Kind::Policy, &policy(&["ci"]), &loosened);
    // The hub says that there is none, and sends it at every moment of the policy's way.
    for moment in 0..40 {
        let (mirror, kept, written) = spoke(&[], &[environment(), strict.clone()]);
        let world = mirror.world.clone();
        let (policy, eve) = (typed::<VerificationPolicy>(loosened.clone()), typed::<Attestor>(attestor("eve")));
        let sent = async {
            mirror.listed().await;
            for _ in 0..moment {
                tokio::task::yield_now().await;
            }
            mirror.merge(Kind::Attestor, &eve, &world.attestors).await;
        };
        tokio::select! {
            _ = async { tokio::join!(mirror.merge(Kind::Policy, &policy, &world.policies), sent) } => {}
            () = kept => {}
        }
        let written = told(written);
        assert_eq!(written.len(), 1, "at moment {moment} the other one waits: {written:?}");
    }
}

#[tokio::test]
async fn an_attestor_that_is_turned_to_another_root_waits_anew_for_one_that_comes_at_the_last_second() {
    let mut turned = attestor("ci");
    turned["spec"]["trustRoot"] = json!("corporate");
    let corporate = || object("TrustRoot", "corporate", json!({"trustedRoot": "{}"}));
    let ci = due::<Attestor>(Kind::Attestor, &attestor("ci"), &turned);
    let here = |root: Value| [environment(), policy(&["ci"]), ci.clone(), root];
    assert_eq!(pulled(turned.clone(), &[], &here(made(corporate(), OF_LATE))).await, NOTHING);
    assert_eq!(pulled(turned.clone(), &[], &here(made(corporate(), LONG_AGO))).await, ["attestors/ci"]);
}

#[tokio::test]
async fn an_environment_that_is_turned_to_another_policy_waits_until_that_one_is_here_as_long() {
    let mut turned = environment();
    turned["spec"]["policy"] = json!("lax");
    let mut lax = policy(&["eve"]);
    lax["metadata"]["name"] = json!("lax");
    let east = due::<Environment>(Kind::Environment, &environment(), &turned);
    let here = |others: &[Value]| [&[east.clone(), policy(&["ci"])], others].concat();
    assert_eq!(pulled(turned.clone(), &[], &here(&[])).await, NOTHING, "nothing would hold");
    assert_eq!(pulled(turned.clone(), &[], &here(&[made(lax.clone(), OF_LATE)])).await, NOTHING);
    assert_eq!(pulled(turned.clone(), &[], &here(&[made(lax, LONG_AGO)])).await, ["environments/east"]);
}

#[tokio::test]
async fn a_policy_that_is_missing_where_one_governed_waits_unless_it_is_the_same_on_what_was_there() {
    let (ci, default) = (made(attestor("ci"), LONG_AGO), made(root(), LONG_AGO));
    let east = || governed(&policy(&["ci"]));
    let here = |attestor: &Value| [east(), attestor.clone(), default.clone()];
    let returns = ["verificationpolicies/strict"];
    assert_eq!(pulled(policy(&["eve"]), &[], &here(&ci)).await, NOTHING, "another one in its place");
    assert_eq!(pulled(policy(&["ci"]), &[], &here(&ci)).await, returns, "somebody deleted it here");
    let replaced = made(attestor("ci"), OF_LATE);
    assert_eq!(pulled(policy(&["ci"]), &[], &here(&replaced)).await, NOTHING, "its attestor was replaced meanwhile");
    let mut other = policy(&["qa"]);
    other["metadata"]["name"] = json!("next");
    assert_eq!(pulled(attestor("qa"), &[], &[east(), other]).await, NOTHING, "other policies are in force still");
}

#[tokio::test]
async fn an_environment_that_is_missing_where_a_policy_governed_waits_as_any_loosening() {
    let governed = || made(marked(policy(&["ci"]), json!({names::GOVERNED: "east"})), LONG_AGO);
    assert_eq!(pulled(environment(), &[], &[policy(&["ci"])]).await, ["environments/east"], "a fresh one");
    let (mut mirror, kept, written) = spoke(&[], &[governed()]);
    let east = typed::<Environment>(environment());
    let world = mirror.world.clone();
    let play = async {
        mirror.merge(Kind::Environment, &east, &world.environments).await;
        assert!(mirror.waiting.of(Kind::Environment, "east").is_some(), "its delay runs");
        mirror.clock = Arc::new(At("2026-01-01T00:14:59Z"));
        mirror.merge(Kind::Environment, &east, &world.environments).await;
        assert!(world.environments.get(None, "east").is_none());
        mirror.clock = Arc::new(At("2026-01-01T00:15:00Z"));
        mirror.merge(Kind::Environment, &east, &world.environments).await;
    };
    tokio::select! {
        () = play => {}
        () = kept => {}
    }
    assert_eq!(told(written), ["environments/east"], "once its delay is over");
}

#[tokio::test]
async fn an_environment_remembers_which_policy_governed_it() {
    let strict = || policy(&["ci"]);
    let known = || marked(strict(), json!({names::GOVERNED: "east"}));
    for (here, expected, case) in [
        (vec![environment(), strict()], &["environments/east", "verificationpolicies/strict"][..], "from now on"),
        (vec![governed(&strict()), known()], &NOTHING[..], "that is known"),
        (vec![governed(&strict()), strict()], &["verificationpolicies/strict"], "its copy was made anew"),
        (vec![governed(&policy(&["qa"])), known()], &["environments/east"], "another one governed before"),
        (vec![environment()], &NOTHING, "nothing governs yet"),
        (vec![governed(&strict())], &NOTHING, "it was taken away, which is not forgotten"),
        (vec![strict()], &NOTHING, "no Environment yet"),
        (vec![known()], &NOTHING, "the Environment was taken away, which is not forgotten"),
    ] {
        let (mirror, kept, written) = spoke(&[], &here);
        tokio::select! {
            remembered = mirror.remember() => remembered.unwrap(),
            () = kept => {}
        }
        let holds = mirror.world.environments.get(None, "east").and_then(|e| e.metadata.annotations.clone());
        assert_eq!(told(written), expected, "{case}");
        if !expected.is_empty() {
            let copy = mirror.world.policies.get(None, "strict").unwrap();
            assert_eq!(copy.metadata.annotations, typed::<VerificationPolicy>(known()).metadata.annotations, "{case}");
            assert_eq!(holds.as_ref(), typed::<Environment>(governed(&strict())).metadata.annotations.as_ref());
        }
    }
}
