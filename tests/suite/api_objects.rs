//! The API as its users meet it: definitions, rules and admission policies in a real API server, without any role.

#[expect(dead_code)]
mod ask;

use anyhow::{Result, ensure};
use tidegate_tests::rig::cluster::ADMIN;

use crate::case::Case;

pub fn cases() -> Vec<Case> {
    vec![Case::new("api::a_second_install_changes_nothing", async |world| {
        let hub = world.hub_only().await?;
        let last = hub.installed.lines().last().unwrap_or_default();
        ensure!(last.ends_with(" created, 0 changed, 0 unchanged"), "the first install said: {last}");
        let kubeconfig = hub.fleet.hub.kubeconfig_for(ADMIN)?;
        let again = world.tidegate(&kubeconfig, &["install"]).await?;
        let last = again.lines().last().unwrap_or_default();
        ensure!(last.starts_with("0 created, 0 changed, "), "the second install said:\n{again}");
        Ok(())
    })]
}
