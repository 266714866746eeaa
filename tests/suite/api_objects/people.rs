//! Admission policies of `deploy/`: who may say what, in whose name, and which writes come too late.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kube::Client;
use serde_json::{Value, json};
use tidegate_tests::rig::{Fleet, apply};
use tokio::time::{Instant, sleep};

use super::ask::{self, Answer};
use super::samples::{self, NAMESPACE};
use crate::world::{APPROVER, NOVICE, OPERATOR};

const FRESH: Duration = Duration::from_secs(20);

/// The API server learns of admission policies by a watch: they hold a moment after they are stored.
pub async fn policies_in_force(admin: &Client) -> Result<()> {
    for (kind, change) in
        [("Verdict", json!({})), ("Approval", json!({"user": "dana"})), ("BreakGlass", json!({"user": "dana"}))]
    {
        let mut object = samples::named(kind, "probe")?;
        samples::merge(&mut object["spec"], &change);
        let from = Instant::now();
        while let Answer::Accepted(_) = ask::try_create(admin, &object).await? {
            if from.elapsed() > FRESH {
                bail!("the admission policy on {kind} does not hold after {FRESH:?}");
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

/// An approver by `deploy/`'s role, and somebody who may create the objects but lacks the verbs.
pub async fn bindings(admin: &Client) -> Result<()> {
    let group = "rbac.authorization.k8s.io";
    let bound = |user: &str, role: &str| {
        json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": format!("{user}-{role}")},
               "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
               "subjects": [{"apiGroup": group, "kind": "User", "name": user}]})
    };
    apply::objects(
        admin,
        &[
            json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": {"name": "novice"}, "rules": [
                {"apiGroups": ["tidegate.io"], "resources": ["approvals", "breakglasses", "quarantines"],
                 "verbs": ["get", "list", "create", "patch", "update", "delete"]}]}),
            bound(NOVICE, "novice"),
            bound(APPROVER, "tidegate-approver"),
            bound(OPERATOR, "tidegate-operator"),
        ],
    )
    .await
}

fn by(kind: &str, name: &str, user: &str) -> Result<Value> {
    let mut object = samples::named(kind, name)?;
    object["spec"]["user"] = user.into();
    Ok(object)
}

pub async fn approvals_need_a_verb_and_the_own_name(fleet: &Fleet) -> Result<()> {
    let approver = fleet.hub.client_for(APPROVER).await?;
    let novice = fleet.hub.client_for(NOVICE).await?;
    ask::create(&approver, &by("Approval", "by-ava", APPROVER)?).await?.accepted()?;
    let other = ask::create(&approver, &by("Approval", "for-nora", NOVICE)?).await?;
    other.refused_with("an Approval is given in one's own name: spec.user must be ava")?;
    let without = ask::create(&novice, &by("Approval", "by-nora", NOVICE)?).await?;
    without.refused_with("nora lacks the verb approve on releases.tidegate.io in objects")
}

pub async fn breakglass_needs_a_verb_and_the_own_name(fleet: &Fleet) -> Result<()> {
    let novice = fleet.hub.client_for(NOVICE).await?;
    let without = ask::create(&novice, &by("BreakGlass", "by-nora", NOVICE)?).await?;
    without.refused_with("nora lacks the verb breakglass on breakglasses.tidegate.io in objects")?;
    let other = ask::create(&novice, &by("BreakGlass", "for-ava", APPROVER)?).await?;
    other.refused_with("a BreakGlass names its own maker: spec.user must be nora")?;
    ask::create(&fleet.hub.admin, &by("BreakGlass", "by-admin", "cluster-admin")?).await?.accepted().map(drop)
}

pub async fn a_quarantine_is_lifted_by_right_only(fleet: &Fleet) -> Result<()> {
    let novice = fleet.hub.client_for(NOVICE).await?;
    let quarantine = samples::named("Quarantine", "held")?;
    let lifted = json!({"spec": {"lifted": {"by": NOVICE, "reason": "it was the database"}}});
    let more = json!({"spec": {"digests": [samples::DIGEST, format!("sha256:{}", "c".repeat(64))]}});
    let lacks = "nora lacks the verb unquarantine on quarantines.tidegate.io";
    ask::create(&fleet.hub.admin, &quarantine).await?.accepted()?;
    ask::change(&novice, &quarantine, &lifted).await?.refused_with(lacks)?;
    ask::delete(&novice, &quarantine).await?.refused_with(lacks)?;
    ask::change(&novice, &quarantine, &more).await?.accepted()?;
    let fewer = json!({"spec": {"digests": [samples::DIGEST]}});
    ask::change(&novice, &quarantine, &fewer).await?.refused_with(lacks)?;
    let elsewhere = json!({"spec": {"environments": ["staging"]}});
    ask::change(&novice, &quarantine, &elsewhere).await?.refused_with(lacks)?;
    let everywhere = json!({"spec": {"environments": []}});
    ask::change(&novice, &quarantine, &everywhere).await?.accepted()?;
    ask::change(&novice, &quarantine, &elsewhere).await?.refused_with(lacks)?;
    let spoke = fleet.hub.client_for("tidegate-spoke").await?;
    ask::delete(&spoke, &quarantine).await?.refused_with("cannot delete resource \"quarantines\"")?;
    ask::change(&fleet.hub.admin, &quarantine, &lifted).await?.accepted().map(drop)
}

/// What ships is the hub's word. People stop it, hold it, let it pass and repeat it, and no more.
pub async fn people_stop_and_repeat_releases_and_change_nothing_else(fleet: &Fleet) -> Result<()> {
    let hub = fleet.hub.client_for("tidegate-hub").await?;
    let operator = fleet.hub.client_for(OPERATOR).await?;
    let (release, rollout) = (samples::named("Release", "hands")?, samples::named("Rollout", "hands")?);
    for object in [&release, &rollout] {
        ask::create(&operator, object).await?.refused_with("cannot create resource")?;
        ask::create(&fleet.hub.admin, object).await?.refused_with("`tidegate release IMAGE`")?;
        ask::create(&hub, object).await?.accepted()?;
    }
    let mut stages = release["spec"]["snapshot"]["stages"].clone();
    stages[0]["requireApproval"] = true.into();
    stages[0]["soak"] = "0s".into();
    let only = "people may change only spec.paused";
    let marks = "labels and annotations of tidegate.io are the hub's memory";
    let rows = [
        (&release, json!({"spec": {"snapshot": {"stages": stages}}}), Some(only)),
        (&release, json!({"spec": {"snapshot": {"strategy": {"steps": [{"setWeight": 100}]}}}}), Some(only)),
        (&release, json!({"spec": {"revision": "a".repeat(40)}}), Some("a Release keeps what its event said")),
        (&release, json!({"metadata": {"annotations": {"tidegate.io/events": "x"}}}), Some(marks)),
        (&release, json!({"metadata": {"annotations": {"note": "on call"}}}), None),
        (&release, json!({"spec": {"paused": true}}), None),
        (&release, json!({"spec": {"undo": true}}), None),
        (&release, json!({"spec": {"abort": true}}), None),
        (&release, json!({"spec": {"attempt": 2, "abort": false, "undo": false, "paused": false}}), None),
        (&rollout, json!({"spec": {"maxWeight": 5}}), Some(only)),
        (&rollout, json!({"spec": {"supersededBy": "other"}}), Some(only)),
        (&rollout, json!({"metadata": {"annotations": {"tidegate.io/retire": "true"}}}), Some(marks)),
        (&rollout, json!({"metadata": {"labels": {"tidegate.io/release": "other"}}}), Some(marks)),
        (&rollout, json!({"spec": {"paused": true, "promoteThrough": 2}}), None),
        (&rollout, json!({"spec": {"abort": true}}), None),
    ];
    for (object, change, refusal) in rows {
        for client in [&operator, &fleet.hub.admin] {
            let answer = ask::change(client, object, &change).await?;
            match refusal {
                Some(sentence) => answer.refused_with(sentence),
                None => answer.accepted().map(drop),
            }
            .with_context(|| format!("{}: {change}", object["kind"]))?;
        }
    }
    // The hub itself takes a new snapshot for another attempt, and hands over.
    ask::change(&hub, &release, &json!({"spec": {"snapshot": {"stages": stages}}})).await?.accepted()?;
    ask::change(&hub, &rollout, &json!({"spec": {"supersededBy": "other", "maxWeight": 5}})).await?.accepted()?;
    spokes_mirror_into_their_own_cluster_only(fleet).await
}

/// The spoke of the hub's own cluster mirrors into application namespaces, and makes no intents for anyone.
async fn spokes_mirror_into_their_own_cluster_only(fleet: &Fleet) -> Result<()> {
    let spoke = fleet.hub.client_for("tidegate-spoke").await?;
    let place = json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "env-hands", "labels": {"tidegate.io/environment": "hands"}}});
    apply::objects(&fleet.hub.admin, &[place]).await?;
    let mut rollout = samples::named("Rollout", "mirrored")?;
    ask::create(&spoke, &rollout).await?.accepted()?;
    rollout["metadata"]["namespace"] = "env-hands".into();
    ask::create(&spoke, &rollout).await?.refused_with("the hub makes rollouts of events")?;
    ask::create(&fleet.hub.client_for("tidegate-hub").await?, &rollout).await?.accepted().map(drop)
}

/// Where the guard does not judge the spoke writes nothing, whatever it is told.
pub async fn the_spoke_writes_nothing_in_the_clusters_own_namespaces(fleet: &Fleet) -> Result<()> {
    let spoke = fleet.hub.client_for("tidegate-spoke").await?;
    let out_of_reach = "no rollout acts in the namespaces of the cluster itself and of Tidegate";
    let in_namespace = |mut object: Value, namespace: &str| {
        object["metadata"]["namespace"] = namespace.into();
        object
    };
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "reach"}, "spec": {"ports": [{"port": 80}]}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "reach"}, "spec": {
        "selector": {"matchLabels": {"app": "reach"}},
        "template": {"metadata": {"labels": {"app": "reach"}}, "spec": {"containers": [{"name": "a", "image": "r.example/a"}]}}}});
    for object in [service, deployment, samples::named("Rollout", "reach")?] {
        for namespace in
            ["kube-system", "kube-public", "kube-node-lease", "tidegate-system", "tidegate-doors", "tidegate-hub"]
        {
            let answer = ask::try_create(&spoke, &in_namespace(object.clone(), namespace)).await?;
            answer.refused_with(out_of_reach).with_context(|| format!("{} in {namespace}", object["kind"]))?;
        }
        ask::try_create(&spoke, &in_namespace(object, NAMESPACE)).await?.accepted()?;
    }
    Ok(())
}

/// The merge patch is the one that a breach of a lifted digest makes the hub write.
pub async fn a_new_breach_takes_a_lifted_quarantine_back(fleet: &Fleet) -> Result<()> {
    let (hub, novice) = (fleet.hub.client_for("tidegate-hub").await?, fleet.hub.client_for(NOVICE).await?);
    let quarantine = samples::named("Quarantine", "again")?;
    let lifted = json!({"spec": {"lifted": {"by": "ava", "reason": "it was the database"}}});
    let back = json!({"spec": {"lifted": null, "environments": ["staging"], "reason": "and it was not", "digests": [samples::DIGEST]}});
    ask::create(&hub, &quarantine).await?.accepted()?;
    // It holds back; letting go is for people.
    let lacks = "tidegate-hub lacks the verb unquarantine on quarantines.tidegate.io";
    ask::change(&hub, &quarantine, &lifted).await?.refused_with(lacks)?;
    ask::change(&fleet.hub.admin, &quarantine, &lifted).await?.accepted()?;
    ask::change(&novice, &quarantine, &back).await?.refused_with("nora lacks the verb unquarantine")?;
    let mut fewer = back.clone();
    fewer["spec"]["digests"] = json!([format!("sha256:{}", "c".repeat(64))]);
    ask::change(&hub, &quarantine, &fewer).await?.refused_with(lacks)?;
    let held = ask::change(&hub, &quarantine, &back).await?.accepted()?;
    ensure!(held["spec"].get("lifted").is_none(), "still lifted: {held}");
    ask::change(&hub, &quarantine, &lifted).await?.refused_with(lacks)
}

pub async fn a_deposed_spoke_cannot_raise_a_weight(fleet: &Fleet) -> Result<()> {
    let admin = &fleet.hub.admin;
    let definition = fleet.parts.gateway_crds.join("gateway.networking.k8s.io_httproutes.yaml");
    apply::yaml(admin, &std::fs::read_to_string(&definition).with_context(|| definition.display().to_string())?)
        .await?;
    apply::custom_kinds_served(admin).await?;

    let decision = |text: &str| json!({"metadata": {"annotations": {"tidegate.io/decision": text}}});
    let weights = |canary: u8| {
        json!({"spec": {"rules": [{"backendRefs": [
            {"name": "portal", "port": 80, "weight": 100 - canary}, {"name": "portal-canary", "port": 80, "weight": canary}]}]}})
    };
    let spoke = fleet.hub.client_for("tidegate-spoke").await?;
    let mut route = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "portal", "namespace": NAMESPACE, "annotations": {"tidegate.io/decision": "uid/5/1"}}});
    samples::merge(&mut route, &weights(5));
    ask::create(admin, &route).await?.accepted()?;

    let late = "this route was last driven under epoch 5; a write under 4 comes from a deposed leader";
    let from = Instant::now();
    // The policies hold once the API server has seen the kind that they are about.
    while let Answer::Accepted(_) = ask::change(&spoke, &route, &decision("uid/4/2")).await? {
        if from.elapsed() > FRESH {
            bail!("the epoch fence does not hold after {FRESH:?}");
        }
        ask::change(&spoke, &route, &decision("uid/5/1")).await?.accepted()?;
        sleep(Duration::from_millis(200)).await;
    }
    let mut raise = decision("uid/4/2");
    samples::merge(&mut raise, &weights(25));
    ask::change(&spoke, &route, &raise).await?.refused_with(late)?;
    // Lowering leaves the annotation alone: it must always pass.
    ask::change(&spoke, &route, &weights(0)).await?.accepted()?;
    let mut raise = decision("uid/6/2");
    samples::merge(&mut raise, &weights(25));
    ask::change(&spoke, &route, &raise).await?.accepted()?;
    forged_marks_on_a_route_disarm_nothing(fleet, &route).await
}

/// A route's owners may take the spoke's marks off and not forge them; what was forged before fences nobody out.
async fn forged_marks_on_a_route_disarm_nothing(fleet: &Fleet, route: &Value) -> Result<()> {
    let (admin, spoke) = (&fleet.hub.admin, fleet.hub.client_for("tidegate-spoke").await?);
    let marked =
        |key: &str, value: Value| json!({"metadata": {"annotations": {(format!("tidegate.io/{key}")): value}}});
    for (key, value) in [
        ("decision", "x"),
        ("rollout", "other"),
        ("phase", "promoting"),
        ("lowered", "uid/Aborted"),
        ("lowered-at", "uid/Aborted@2026-11-22T10:00:00Z"),
        ("users-weights", "@web=1"),
    ] {
        let forged = ask::change(admin, route, &marked(key, value.into())).await?;
        forged.refused_with("are written by the spoke alone; leave them out").with_context(|| key.to_owned())?;
    }
    ask::change(admin, route, &json!({"metadata": {"annotations": {"team": "shop"}}})).await?.accepted()?;
    ask::change(admin, route, &marked("decision", Value::Null)).await?.accepted()?;
    for (number, forged) in ["x", "uid/18446744073709551615/1", "uid/x/1", "other/9/1"].into_iter().enumerate() {
        let mut there = route.clone();
        there["metadata"]["name"] = format!("forged-{number}").into();
        there["metadata"]["annotations"]["tidegate.io/decision"] = forged.into();
        ask::create(admin, &there).await?.accepted()?;
        let zero = json!({"spec": {"rules": [{"backendRefs": [
            {"name": "portal", "port": 80, "weight": 100}, {"name": "portal-canary", "port": 80, "weight": 0}]}]}});
        ask::change(&spoke, &there, &zero).await?.accepted().with_context(|| forged.to_owned())?;
        let mut own = zero.clone();
        samples::merge(&mut own, &marked("decision", "uid/7/3".into()));
        ask::change(&spoke, &there, &own).await?.accepted().with_context(|| forged.to_owned())?;
    }
    Ok(())
}
