//! Reporting: each Rollout's whole status goes to its intent at the hub. Only when it changed, again and again
//! until it arrives, and across any outage; nothing here waits for the hub.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tidegate_pipelines::api::{DecisionEntry, Rollout, RolloutPhase, RolloutStatus, names};

use super::Mirror;
use crate::connect::{CallError, bounded};

/// Changes are gathered this long, so that a burst becomes one write.
const GATHER: Duration = Duration::from_millis(50);
/// After a failed report, and for what an event was missed.
const RETRY: Duration = Duration::from_secs(1);

/// The intents as last seen at the hub, by name.
#[derive(Clone, Default)]
pub struct Intents {
    known: Arc<RwLock<HashMap<String, Rollout>>>,
    listed: Arc<AtomicBool>,
}

impl Intents {
    pub fn insert(&self, intent: Rollout) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(intent.name_any(), intent);
    }

    pub fn remove(&self, name: &str) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// All of them were listed at least once.
    pub fn complete(&self) {
        self.listed.store(true, Ordering::Release);
    }

    /// The hub has this rollout's end, or wants to know nothing of it any more.
    pub fn heard_the_end_of(&self, name: &str) -> bool {
        self.listed.load(Ordering::Acquire)
            && self.get(name).is_none_or(|i| i.status.and_then(|s| s.phase).is_some_and(RolloutPhase::is_terminal))
    }

    pub fn get(&self, name: &str) -> Option<Rollout> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub fn all(&self) -> Vec<Rollout> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// The versions of the local copy and of the intent after a report.
type Sent = (Option<String>, Option<String>);

/// Whether the hub has yet to learn of this status. `sent` is what was last sent, and what the hub made of it: a
/// status that reads back differently (a rounded number) must not be sent for ever, one that the hub has lost
/// since must be sent again.
fn owed(intent: &Rollout, local: &Rollout, sent: Option<&Sent>) -> bool {
    let Some(status) = &local.status else { return false };
    status.phase.is_some()
        && intent.status.as_ref() != Some(status)
        && sent.is_none_or(|(ours, theirs)| {
            *ours != local.metadata.resource_version || *theirs != intent.metadata.resource_version
        })
}

impl Mirror {
    pub async fn report(self) {
        let mut wake = self.world.wakes.listen("");
        let mut sent: HashMap<String, Sent> = HashMap::new();
        loop {
            wake.borrow_and_update();
            let locals = self.world.rollouts.select(|r| r.spec.environment == self.environment);
            for local in locals {
                if !self.may_write() {
                    break;
                }
                let Some(intent) = self.intents.get(&local.name_any()) else { continue };
                let known = local.uid().and_then(|uid| sent.get(&uid));
                if intent.spec.namespace != local.namespace().unwrap_or_default() || !owed(&intent, &local, known) {
                    continue;
                }
                let Some(status) = &local.status else { continue };
                match self.report_status(&intent, status).await {
                    Ok(()) => {
                        let after = self.intents.get(&local.name_any()).and_then(|i| i.metadata.resource_version);
                        let versions = (local.metadata.resource_version.clone(), after);
                        sent.insert(local.uid().unwrap_or_default(), versions);
                    }
                    Err(error) => {
                        tracing::debug!(rollout = %local.name_any(), %error, "status not reported yet");
                        // The hub is likely away: the others would each wait for it too.
                        if error.code().is_none() {
                            break;
                        }
                    }
                }
            }
            tokio::select! {
                _ = wake.changed() => tokio::time::sleep(GATHER).await,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    pub(super) async fn report_status(&self, intent: &Rollout, status: &RolloutStatus) -> Result<(), CallError> {
        let name = intent.name_any();
        let api: Api<Rollout> = Api::namespaced(self.hub.clone(), &self.namespace());
        let body = json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": "Rollout",
            "metadata": {"name": name, "uid": intent.uid()}, "status": status,
        });
        let params = PatchParams::apply(names::MIRROR_FIELD_MANAGER).force();
        let written = bounded(api.patch_status(&name, &params, &Patch::Apply(&body))).await?;
        self.intents.insert(written);
        Ok(())
    }

    /// An end that has no execution in this cluster to tell it.
    pub(super) async fn report_end(
        &self,
        intent: &Rollout,
        phase: &str,
        reason: &str,
        message: &str,
    ) -> Result<(), CallError> {
        let now = Time(self.clock.now());
        let mut status = intent.status.clone().unwrap_or_default();
        status.phase = Some(if phase == "Failed" { RolloutPhase::Failed } else { RolloutPhase::Withdrawn });
        status.message = Some(format!("{reason}: {message}"));
        status.finished_at = Some(now.clone());
        let entry = DecisionEntry { at: now, reason: reason.to_owned(), message: message.to_owned(), weight: 0 };
        status.history.push(entry);
        let surplus = status.history.len().saturating_sub(30);
        status.history.drain(..surplus);
        tracing::warn!(rollout = %intent.name_any(), reason, message, "reported to the hub");
        self.report_status(intent, &status).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollout(phase: Option<&str>, version: &str) -> Rollout {
        serde_json::from_value(json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": "Rollout",
            "metadata": {"name": "r", "resourceVersion": version},
            "spec": {
                "environment": "staging", "pipelineNamespace": "acme", "pipeline": "portal", "release": "portal-1", "attempt": 1,
                "namespace": "acme", "images": [], "workload": {"name": "portal"}, "service": "portal",
                "route": {"httpRoute": "portal"}, "strategy": {}, "objectives": []
            },
            "status": phase.map(|p| json!({"phase": p}))
        }))
        .unwrap()
    }

    #[test]
    fn a_status_is_reported_once_and_nothing_before_there_is_one() {
        let (fresh, canary) = (rollout(None, "1"), rollout(Some("Canary"), "2"));
        assert!(!owed(&fresh, &fresh, None), "nothing to tell yet");
        assert!(owed(&fresh, &canary, None));
        assert!(!owed(&canary, &canary, None), "the hub says the same");
        let sent = |ours: &str, theirs: &str| (Some(ours.to_owned()), Some(theirs.to_owned()));
        assert!(!owed(&fresh, &canary, Some(&sent("2", "1"))), "this version was sent");
        assert!(owed(&fresh, &rollout(Some("Promoting"), "3"), Some(&sent("2", "1"))));
        let restored = rollout(Some("Preparing"), "7");
        assert!(owed(&restored, &canary, Some(&sent("2", "1"))), "the hub was restored and has lost it");
    }

    #[test]
    fn an_end_is_heard_only_once_the_hub_shows_it() {
        let intents = Intents::default();
        assert!(!intents.heard_the_end_of("r"), "a hub that was never reached has heard nothing");
        intents.complete();
        assert!(intents.heard_the_end_of("r"), "the hub no longer has it");
        intents.insert(rollout(Some("Canary"), "1"));
        assert!(!intents.heard_the_end_of("r"));
        intents.insert(rollout(Some("RolledBack"), "2"));
        assert!(intents.heard_the_end_of("r"));
    }
}
