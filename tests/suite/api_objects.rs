//! The API as its users meet it: definitions, rules and admission policies in a real API server, without any role.

mod ask;
mod columns;
mod older;
mod people;
mod records;
mod refused;
mod rights;
mod samples;
mod verbs;

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tidegate_tests::rig::apply;
use tidegate_tests::rig::cluster::ADMIN;

use crate::case::Case;
use crate::world::{HubOnly, World};

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("api::a_second_install_changes_nothing", async |world| {
            let hub = ready(&world).await?;
            let last = hub.installed.lines().last().unwrap_or_default();
            ensure!(last.ends_with(" created, 0 changed, 0 unchanged"), "the first install said: {last}");
            let kubeconfig = hub.fleet.hub.kubeconfig_for(ADMIN)?;
            let again = world.tidegate(&kubeconfig, &["install"]).await?;
            let last = again.lines().last().unwrap_or_default();
            ensure!(last.starts_with("0 created, 0 changed, "), "the second install said:\n{again}");
            Ok(())
        }),
        Case::new("api::a_guards_door_that_was_narrowed_is_not_opened_by_another_install", async |world| {
            let hub = ready(&world).await?;
            let kubeconfig = hub.fleet.hub.kubeconfig_for(ADMIN)?;
            let door = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"name": "tidegate-guard", "namespace": "tidegate-system"}});
            let rows: [(&[&str], serde_json::Value); 3] = [
                (
                    &["--api-server", "192.0.2.0/28", "--api-server", "2001:db8::/64"],
                    json!(["192.0.2.0/28", "2001:db8::/64"]),
                ),
                (&[], json!(["192.0.2.0/28", "2001:db8::/64"])),
                (&["--api-server", "0.0.0.0/0"], json!(["0.0.0.0/0"])),
            ];
            for (more, wanted) in rows {
                world.tidegate(&kubeconfig, &[&["install", "--role", "guard"], more].concat()).await?;
                let there = ask::read(&hub.fleet.hub.admin, &door).await?.accepted()?;
                let from = there["spec"]["ingress"][0]["from"].as_array().cloned().unwrap_or_default();
                let from: Vec<_> = from.iter().map(|peer| peer["ipBlock"]["cidr"].clone()).collect();
                ensure!(json!(from) == wanted, "after install {more:?}: {there}");
            }
            Ok(())
        }),
        Case::new("api::a_valid_object_of_every_kind_is_accepted", async |world| {
            let hub = ready(&world).await?;
            let guard = hub.fleet.hub.client_for("tidegate-guard").await?;
            let maker = hub.fleet.hub.client_for("tidegate-hub").await?;
            for object in samples::all()? {
                let client = match object["kind"].as_str() {
                    Some("Verdict") => &guard,
                    Some("Release" | "Rollout") => &maker,
                    _ => &hub.fleet.hub.admin,
                };
                let answer = ask::create(client, &object).await?;
                answer.accepted().with_context(|| object["kind"].to_string())?;
            }
            Ok(())
        }),
        Case::new("api::a_bad_object_is_refused_with_a_sentence_that_helps", async |world| {
            refused::each_with_its_sentence(&ready(&world).await?.fleet.hub.admin).await
        }),
        Case::new("api::records_keep_their_word", async |world| {
            records::keep_their_word(&ready(&world).await?.fleet).await
        }),
        Case::new("api::defaults_are_written_out", async |world| {
            records::defaults_are_written_out(&ready(&world).await?.fleet).await
        }),
        Case::new("api::columns_tell_the_story", async |world| {
            columns::tell_the_story(&world, &*ready(&world).await?).await
        }),
        Case::new("api::approvals_need_a_verb_and_the_own_name", async |world| {
            people::approvals_need_a_verb_and_the_own_name(&ready(&world).await?.fleet).await
        }),
        Case::new("api::breakglass_needs_a_verb_and_the_own_name", async |world| {
            people::breakglass_needs_a_verb_and_the_own_name(&ready(&world).await?.fleet).await
        }),
        Case::new("api::a_quarantine_is_lifted_by_right_only", async |world| {
            people::a_quarantine_is_lifted_by_right_only(&ready(&world).await?.fleet).await
        }),
        Case::new("api::a_new_breach_takes_a_lifted_quarantine_back", async |world| {
            people::a_new_breach_takes_a_lifted_quarantine_back(&ready(&world).await?.fleet).await
        }),
        Case::new("api::people_stop_and_repeat_releases_and_change_nothing_else", async |world| {
            people::people_stop_and_repeat_releases_and_change_nothing_else(&ready(&world).await?.fleet).await
        }),
        Case::new("api::the_spoke_writes_nothing_in_the_clusters_own_namespaces", async |world| {
            people::the_spoke_writes_nothing_in_the_clusters_own_namespaces(&ready(&world).await?.fleet).await
        }),
        Case::new("api::a_role_reads_the_secrets_that_are_for_it_and_no_others", async |world| {
            rights::a_role_reads_the_secrets_that_are_for_it_and_no_others(&ready(&world).await?.fleet).await
        }),
        Case::new("api::the_guard_reads_a_workload_by_its_name_and_lists_none", async |world| {
            rights::the_guard_reads_a_workload_by_its_name_and_lists_none(&ready(&world).await?.fleet).await
        }),
        Case::new("api::people_on_call_do_what_the_docs_say_and_are_told_what_they_may_not", async |world| {
            let hub = ready(&world).await?;
            verbs::people_on_call_do_what_the_docs_say_and_are_told_what_they_may_not(&world, &hub).await
        }),
        Case::new("api::a_deposed_spoke_cannot_raise_a_weight", async |world| {
            people::a_deposed_spoke_cannot_raise_a_weight(&ready(&world).await?.fleet).await
        }),
        Case::new("api::a_release_for_one_namespace_is_not_stored_by_a_hub_that_would_forget_which", async |world| {
            let hub = ready(&world).await?;
            older::a_release_for_one_namespace_is_not_stored_by_a_hub_that_would_forget_which(&world, &hub).await
        }),
    ]
}

/// The API server with what every case of this file stands on.
async fn ready(world: &World) -> Result<Arc<HubOnly>> {
    let hub = world.hub_only().await?;
    let admin = &hub.fleet.hub.admin;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": samples::NAMESPACE}});
    apply::objects(admin, &[namespace]).await?;
    people::bindings(admin).await?;
    people::policies_in_force(admin).await?;
    Ok(hub)
}
