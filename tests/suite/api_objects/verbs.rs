//! The command line as people on call, approvers and viewers have it: bound by `examples/approvers.yaml`, with the roles
//! that `tidegate install` brings. No role runs here: what is looked at is what a verb may write, and what a refusal says.

use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tidegate_tests::rig::apply;
use tokio::process::Command;

use super::{ask, samples};
use crate::world::{HubOnly, MANAGER, ON_CALL, VIEWER, World};

/// What the examples call the team's namespace, and an environment that its pipeline ships to.
const TEAM: &str = "portal";
const PLACE: &str = "env-staging";
const RELEASE: &str = "portal-0123456789";
const IMAGE: &str = "registry.example/acme/portal:v2";

struct People<'a> {
    world: &'a World,
    hub: &'a HubOnly,
}

impl People<'_> {
    /// What the command answers: standard output, or standard error where it failed.
    async fn say(&self, user: &str, arguments: &[&str]) -> Result<Result<String, String>> {
        let kubeconfig = self.hub.fleet.hub.kubeconfig_for(user)?;
        let mut command = Command::new(&self.world.tidegate);
        command.args(arguments).arg("--kubeconfig").arg(kubeconfig).stdin(Stdio::null()).kill_on_drop(true);
        if !arguments.contains(&"-n") {
            command.args(["-n", TEAM]);
        }
        let output = command.output().await?;
        Ok(match output.status.success() {
            true => Ok(String::from_utf8(output.stdout)?),
            false => Err(String::from_utf8(output.stderr)?),
        })
    }

    async fn may(&self, user: &str, arguments: &[&str], part: &str) -> Result<()> {
        match self.say(user, arguments).await? {
            Ok(said) if said.contains(part) => Ok(()),
            Ok(said) => bail!("{user}: {arguments:?} should say '{part}', but says: {said}"),
            Err(said) => bail!("{user}: {arguments:?} is refused: {said}"),
        }
    }

    /// One line, the API server's own words, without a trace of the program.
    async fn may_not(&self, user: &str, arguments: &[&str], part: &str) -> Result<()> {
        let Err(said) = self.say(user, arguments).await? else { bail!("{user}: {arguments:?} was not refused") };
        let line = said.trim_end();
        ensure!(
            line.starts_with("tidegate: ") && !line.contains('\n') && line.contains(part),
            "{user}: {arguments:?} should say '{part}' on one line, but says: {said}"
        );
        Ok(())
    }

    async fn reads(&self, object: &Value, pointer: &str, wanted: Value) -> Result<()> {
        let there = ask::read(&self.hub.fleet.hub.admin, object).await?.accepted()?;
        let found = there.pointer(pointer).cloned().unwrap_or_default();
        ensure!(found == wanted, "{pointer} is {found}, not {wanted}");
        Ok(())
    }
}

fn binding(user: &str, role: &str, namespace: &str) -> Value {
    let group = "rbac.authorization.k8s.io";
    json!({"apiVersion": format!("{group}/v1"), "kind": "RoleBinding",
        "metadata": {"name": format!("{user}-{role}"), "namespace": namespace},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}]})
}

pub async fn people_on_call_do_what_the_docs_say_and_are_told_what_they_may_not(
    world: &World,
    hub: &HubOnly,
) -> Result<()> {
    let admin = &hub.fleet.hub.admin;
    let maker = hub.fleet.hub.client_for("tidegate-hub").await?;
    let places = [TEAM, PLACE, "env-prod"]
        .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    apply::objects(admin, &places).await?;
    apply::yaml(admin, include_str!("../../../examples/approvers.yaml")).await?;
    let views = [TEAM, PLACE, "env-prod"].map(|namespace| binding(VIEWER, "tidegate-viewer", namespace));
    apply::objects(admin, &views).await?;

    let at = |kind: &str, name: &str, namespace: &str| -> Result<Value> {
        let mut object = samples::named(kind, name)?;
        object["metadata"]["namespace"] = namespace.into();
        Ok(object)
    };
    let (mut release, rollout) = (at("Release", RELEASE, TEAM)?, at("Rollout", "portal-0123456789-1", PLACE)?);
    release["spec"]["snapshot"]["stages"] = json!([{"name": "staging", "environments": ["staging"]},
        {"name": "production", "environments": ["prod"], "requireApproval": true}]);
    apply::objects(admin, &[at("Pipeline", "portal", TEAM)?]).await?;
    ask::create(&maker, &release).await?.accepted()?;
    ask::create(&maker, &rollout).await?.accepted()?;
    let staging = json!({"environment": "staging", "phase": "Canary", "verdict": "Allow"});
    let shipping = json!({"phase": "Shipping", "verdict": "Allow", "stage": "staging", "environments": [staging]});
    ask::report(&maker, &release, &shipping).await?.accepted()?;
    ask::report(&maker, &rollout, &json!({"phase": "Canary", "step": 1, "weight": 25})).await?.accepted()?;

    let people = People { world, hub };
    for user in [ON_CALL, VIEWER] {
        people.may(user, &["get"], RELEASE).await?;
        people.may(user, &["describe", "portal"], "rollout portal-0123456789-1 (Ship): Canary at weight 25").await?;
    }
    refused(&people).await?;
    // Approvers have no eyes in the environments: the rest is shown, and who may not read what.
    let blind = format!("env-staging: not readable by you: rollouts.tidegate.io is forbidden: User \"{MANAGER}\"");
    people.may(MANAGER, &["describe", "portal"], &blind).await?;
    people.may(MANAGER, &["describe", "portal"], "staging: Allow, Canary").await?;

    let last = ask::read(admin, &rollout).await?.accepted()?;
    let last = last["spec"]["strategy"]["steps"].as_array().context("no steps")?.len() - 1;
    let rows: [(&[&str], &str, &Value, &str, Value); 9] = [
        (&["pause", "portal"], "paused", &release, "/spec/paused", true.into()),
        (&["resume", RELEASE], "resumed", &release, "/spec/paused", false.into()),
        (&["pause", "portal", "-e", "staging"], "in staging: paused", &rollout, "/spec/paused", true.into()),
        (&["resume", "portal", "-e", "staging"], "in staging: resumed", &rollout, "/spec/paused", false.into()),
        (&["promote", "portal"], "steps through 2", &rollout, "/spec/promoteThrough", 1.into()),
        (&["promote", "portal", "--full"], "may pass", &rollout, "/spec/promoteThrough", last.into()),
        (&["abort", "portal", "-e", "staging"], "in staging: aborted", &rollout, "/spec/abort", true.into()),
        (&["abort", "portal"], "aborted", &release, "/spec/abort", true.into()),
        (&["undo", "portal"], "goes back wherever it passed", &release, "/spec/undo", true.into()),
    ];
    for (arguments, part, object, pointer, wanted) in rows {
        people.may(ON_CALL, arguments, part).await?;
        people.reads(object, pointer, wanted).await.with_context(|| format!("{arguments:?}"))?;
    }
    people.may_not(ON_CALL, &["retry", "portal"], "is under way (Shipping)").await?;
    ask::report(&maker, &release, &json!({"phase": "Withdrawn"})).await?.accepted()?;
    people.may(ON_CALL, &["retry", "portal"], "attempt 2").await?;
    people.reads(&release, "/spec/attempt", 2.into()).await?;
    people.reads(&release, "/spec/abort", false.into()).await?;

    // Between stages, and older than what runs: that takes an approver, who has no eyes in the environments.
    ask::report(&maker, &rollout, &json!({"phase": "Promoted"})).await?.accepted()?;
    for (phase, stage) in [("Waiting", "production"), ("Downgrade", "downgrade")] {
        let status = json!({"phase": phase, "stage": "production", "message": "waits for an approval"});
        ask::report(&maker, &release, &status).await?.accepted()?;
        let approvals = "cannot create resource \"approvals\"";
        people.may_not(ON_CALL, &["promote", "portal"], approvals).await?;
        people.may_not(VIEWER, &["promote", "portal"], approvals).await?;
        people.may(MANAGER, &["get"], "waits for an approval").await?;
        let passed = format!("{MANAGER} let {RELEASE} pass into {stage}");
        people.may(MANAGER, &["promote", "portal", "--comment", "seen in staging"], &passed).await?;
    }
    people.may_not(MANAGER, &["abort", "portal"], "cannot patch resource \"releases\"").await
}

/// What none of them may, with nothing changed by it.
async fn refused(people: &People<'_>) -> Result<()> {
    for user in [ON_CALL, VIEWER, MANAGER] {
        let events =
            "cannot create resource \"buildevents\" in API group \"tidegate.io\" in the namespace \"tidegate-system\"";
        people.may_not(user, &["release", IMAGE], events).await?;
        // Another team's.
        people.may_not(user, &["get", "-n", "objects"], "in the namespace \"objects\"").await?;
        people.may_not(user, &["abort", "portal", "-n", "objects"], "in the namespace \"objects\"").await?;
    }
    for verb in ["pause", "resume", "abort", "undo"] {
        people.may_not(VIEWER, &[verb, "portal"], "cannot patch resource \"releases\"").await?;
    }
    people.may_not(VIEWER, &["promote", "portal"], "cannot patch resource \"rollouts\"").await?;
    people.may_not(VIEWER, &["pause", "portal", "-e", "staging"], "cannot patch resource \"rollouts\"").await
}
