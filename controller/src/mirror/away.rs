//! What a spoke tells the hub while its own API server does not answer: it can write no status there, but people look
//! at the hub. Writes the heartbeat only, and nothing while another replica of this spoke beats.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tidegate_pipelines::api::names;
use tokio::time::Instant;

use super::link::{BEAT, HEARTBEAT, micro};
use crate::clock::SharedClock;
use crate::connect::{CallError, bounded};
use crate::reach::{Away, Reach};

/// The note for one outage, the same from its first beat to its last: a text that counts seconds would be a write of
/// the hub's for each of them.
#[derive(Default)]
pub struct Note {
    of: Option<(Instant, String)>,
}

impl Note {
    /// Empty: it answers.
    pub fn of(&mut self, away: Option<Away>, now: Timestamp) -> String {
        let Some(away) = away else {
            self.of = None;
            return String::new();
        };
        match &self.of {
            Some((since, note)) if *since == away.since => note.clone(),
            _ => {
                let note = text(&away, now);
                self.of = Some((away.since, note.clone()));
                note
            }
        }
    }
}

fn text(away: &Away, now: Timestamp) -> String {
    let ago = SignedDuration::try_from(away.since.elapsed()).unwrap_or(SignedDuration::ZERO);
    let since = now.checked_sub(ago).and_then(|since| since.round(jiff::Unit::Second)).unwrap_or(now);
    format!("its API server has not answered since {}: {}", since.strftime("%H:%M:%SZ"), away.why)
}

/// Whether somebody else renewed the heartbeat since it was last looked at.
fn others_beat(known: &mut Option<Value>, renewed: &Value) -> bool {
    let changed = known.as_ref().is_some_and(|known| known != renewed);
    *known = Some(renewed.clone());
    changed
}

/// For a spoke that led and cannot renew its own lease: goes on until it is dropped.
pub async fn tell(hub: Client, environment: &str, reach: &Reach, clock: &SharedClock) {
    let api: Api<Lease> = Api::namespaced(hub, &names::environment_namespace(environment));
    let mut note = Note::default();
    let mut known = None;
    let mut ticks = tokio::time::interval(BEAT);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let text = note.of(reach.away(), clock.now());
        if text.is_empty() {
            continue;
        }
        if let Err(error) = beat(&api, &text, &mut known, clock).await {
            tracing::debug!(%error, "the hub was not told that the API server is away");
        }
    }
}

async fn beat(api: &Api<Lease>, note: &str, known: &mut Option<Value>, clock: &SharedClock) -> Result<(), CallError> {
    let renewed = |lease: &Lease| json!(lease.spec.as_ref().and_then(|spec| spec.renew_time.clone()));
    let lease = bounded(api.get(HEARTBEAT)).await?;
    if others_beat(known, &renewed(&lease)) {
        return Ok(());
    }
    let patch = json!({
        "metadata": {"annotations": {names::API_SERVER_AWAY: note}},
        "spec": {"renewTime": micro(clock.now())},
    });
    let params = PatchParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PatchParams::default() };
    *known = Some(renewed(&bounded(api.patch(HEARTBEAT, &params, &Patch::Merge(&patch))).await?));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_outage_has_one_note_and_the_next_another() {
        let mut note = Note::default();
        let since = Instant::now();
        let away = |why: &str, since| Some(Away { since, why: why.to_owned(), told: true });
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = note.of(away("connection refused", since), at(60));
        assert_eq!(first, "its API server has not answered since 00:01:00Z: connection refused");
        assert_eq!(note.of(away("reset", since), at(68)), first);
        assert_eq!(note.of(None, at(70)), "");
        let later = note.of(away("reset", since + Duration::from_secs(30)), at(90));
        assert_eq!(later, "its API server has not answered since 00:01:30Z: reset");
    }

    #[test]
    fn a_replica_that_beats_silences_this_one() {
        let mut known = None;
        assert!(!others_beat(&mut known, &json!("1")), "seen for the first time");
        assert!(!others_beat(&mut known, &json!("1")));
        assert!(others_beat(&mut known, &json!("2")));
        assert!(!others_beat(&mut known, &json!("2")), "it has stopped");
    }
}
