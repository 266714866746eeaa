//! The heartbeat to the hub, and what it says about the link. Decides nothing about rollouts.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tidegate_pipelines::api::names;
use tidegate_pipelines::rollout::Hub;

use super::Mirror;
use super::away::Note;
use crate::connect::bounded;

/// The hub calls a spoke silent after a few of these.
pub(super) const BEAT: Duration = Duration::from_secs(5);
/// The Lease in `env-<name>` that it renews.
pub(super) const HEARTBEAT: &str = "spoke";
/// One lost beat is no outage; after this long without an answer the hub counts as away.
const AWAY_AFTER: i64 = 8;

/// The link after one more try.
fn judge(link: Hub, answered: bool, last_answer: Timestamp, now: Timestamp) -> Hub {
    if answered {
        return Hub { reachable: true, away_since: None };
    }
    if now.duration_since(last_answer).as_secs() < AWAY_AFTER {
        return link;
    }
    Hub { reachable: false, away_since: Some(link.away_since.unwrap_or(last_answer)) }
}

/// Microseconds: the API server refuses more digits and takes none less.
pub(super) fn micro(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

impl Mirror {
    /// Beats until the process ends.
    pub async fn beat(self) {
        let mut last_answer = self.clock.now();
        let mut note = Note::default();
        let mut ticks = tokio::time::interval(BEAT);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if !self.may_write() {
                continue;
            }
            let away = note.of(self.world.reach.away(), self.clock.now());
            let answer = self.beat_once(&away).await;
            let now = self.clock.now();
            if let Err(error) = &answer {
                tracing::debug!(%error, "no answer from the hub");
            } else {
                last_answer = now;
            }
            self.link.send_if_modified(|link| {
                let next = judge(*link, answer.is_ok(), last_answer, now);
                let turned = next.reachable != link.reachable;
                if turned {
                    tracing::warn!(reachable = next.reachable, "the link to the hub turned");
                }
                let changed = next != *link;
                *link = next;
                changed
            });
        }
    }

    async fn beat_once(&self, api_server_away: &str) -> Result<(), crate::connect::CallError> {
        let environment = self.world.environments.get(None, &self.environment);
        let in_force = environment.and_then(|e| self.world.in_force(&e));
        let body = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {
                "name": HEARTBEAT, "namespace": self.namespace(),
                "annotations": {
                    "tidegate.io/policy-digest": in_force.as_ref().map(|f| f.policy.clone()).unwrap_or_default(),
                    "tidegate.io/policy-mode": in_force.as_ref().map(|f| f.mode.clone()).unwrap_or_default(),
                    names::API_SERVER_AWAY: api_server_away,
                }
            },
            "spec": {
                "holderIdentity": format!("spoke/{}", self.environment),
                "leaseDurationSeconds": 15,
                "renewTime": micro(self.clock.now()),
            }
        });
        let api: Api<Lease> = Api::namespaced(self.hub.clone(), &self.namespace());
        let params = PatchParams::apply(names::FIELD_MANAGER).force();
        bounded(api.patch(HEARTBEAT, &params, &Patch::Apply(&body))).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn one_lost_beat_is_no_outage_and_the_outage_is_dated_by_the_last_answer() {
        let up = Hub { reachable: true, away_since: None };
        assert_eq!(judge(up, false, at(100), at(105)), up);
        let away = judge(up, false, at(100), at(110));
        assert_eq!(away, Hub { reachable: false, away_since: Some(at(100)) });
        assert_eq!(judge(away, false, at(100), at(500)), away, "the date stays");
        assert_eq!(judge(away, true, at(505), at(505)), up);
    }
}
