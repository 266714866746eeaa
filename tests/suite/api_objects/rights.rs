//! What the roles' accounts may read, asked as those accounts: Secrets above all.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tidegate_tests::rig::{Fleet, apply};

use super::ask;
use super::samples::NAMESPACE;

const ROLES: [&str; 4] = ["doors", "hub", "spoke", "guard"];

fn of(kind: &str, api: &str, namespace: &str, name: &str) -> Value {
    json!({"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": namespace}})
}

pub async fn a_role_reads_the_secrets_that_are_for_it_and_no_others(fleet: &Fleet) -> Result<()> {
    let places = ["tidegate-system", "tidegate-doors", "tidegate-hub", "kube-system", NAMESPACE];
    for place in places {
        let mut secret = of("Secret", "v1", place, "rights");
        secret["stringData"] = json!({"tls.key": place});
        apply::objects(&fleet.hub.admin, &[secret]).await?;
    }
    for role in ROLES {
        let client = fleet.hub.client_for(&format!("tidegate-{role}")).await?;
        for place in places {
            let secret = of("Secret", "v1", place, "rights");
            let read = ask::read(&client, &secret).await?;
            if (role, place) == ("doors", "tidegate-doors") || (role, place) == ("hub", "tidegate-hub") {
                ensure!(read.accepted()?["data"]["tls.key"].is_string(), "{role} reads an empty Secret in {place}");
            } else {
                read.refused_with("cannot get resource \"secrets\"")?;
            }
            // A name has to be known: who may list sees them all at once.
            for (verb, query) in [("list", ""), ("watch", "?watch=true&timeoutSeconds=1")] {
                let refusal = format!("cannot {verb} resource \"secrets\"");
                ask::read_all(&client, &secret, query).await?.refused_with(&refusal)?;
            }
            ask::change(&client, &secret, &json!({"data": {}}))
                .await?
                .refused_with("cannot patch resource \"secrets\"")?;
        }
    }
    Ok(())
}

pub async fn the_guard_reads_a_workload_by_its_name_and_lists_none(fleet: &Fleet) -> Result<()> {
    let guard = fleet.hub.client_for("tidegate-guard").await?;
    let kinds = [
        ("apps/v1", ["Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "ControllerRevision"].as_slice()),
        ("batch/v1", &["Job", "CronJob"]),
        ("v1", &["ReplicationController"]),
    ];
    for (api, kinds) in kinds {
        for kind in kinds {
            let object = of(kind, api, NAMESPACE, "nothing-of-this-name");
            ask::read(&guard, &object).await?.refused_with("\"nothing-of-this-name\" not found")?;
            ask::read_all(&guard, &object, "").await?.refused_with("cannot list resource")?;
        }
    }
    for kind in ["Pod", "ConfigMap", "Service"] {
        ask::read(&guard, &of(kind, "v1", NAMESPACE, "x")).await?.refused_with("cannot get resource")?;
    }
    Ok(())
}
