//! The rollouts of one environment as its API server tells of them, with the moment at which each thing was first seen:
//! a status keeps whole seconds. It waits and takes notes; it changes nothing.

use std::pin::Pin;

use anyhow::{Context, Result};
use futures::{Stream, StreamExt};
use jiff::Timestamp;
use kube::Client;
use kube::api::Api;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher::watcher};
use tidegate_pipelines::api::{Rollout, RolloutPhase, RolloutStatus};
use tidegate_tests::rig::now;
use tidegate_tests::stage::manifests::APP;
use tokio::time::{Instant, timeout_at};

/// When what of a rollout was first seen.
#[derive(Debug, Default)]
pub struct Life {
    /// The spoke prepares pods and route.
    pub preparing: Option<Timestamp>,
    /// Pods are ready and scraped.
    pub canary: Option<Timestamp>,
    last: String,
}

impl Life {
    fn note(&mut self, status: &RolloutStatus) {
        if status.phase == Some(RolloutPhase::Preparing) {
            self.preparing.get_or_insert_with(now);
        }
        if status.phase == Some(RolloutPhase::Canary) {
            self.canary.get_or_insert_with(now);
        }
        self.last = format!("{:?}: {}", status.phase, status.message.as_deref().unwrap_or_default());
    }
}

pub struct Watch {
    events: Pin<Box<dyn Stream<Item = watcher::Result<Event<Rollout>>>>>,
    /// What was seen last, of the newest rollout only: turns follow each other.
    last: Option<Rollout>,
}

impl Watch {
    pub fn open(client: Client) -> Self {
        let api: Api<Rollout> = Api::namespaced(client, APP);
        Self { events: Box::pin(watcher(api, watcher::Config::default()).default_backoff()), last: None }
    }

    /// The rollout of `digest` once `wanted` holds of its status.
    ///
    /// # Errors
    /// After `deadline`, with what was seen last.
    pub async fn until(
        &mut self,
        digest: &str,
        deadline: Instant,
        life: &mut Life,
        wanted: impl Fn(&RolloutStatus) -> bool,
    ) -> Result<Rollout> {
        let of = |rollout: &Rollout| rollout.spec.images.iter().any(|image| image.digest == digest);
        loop {
            if let Some(rollout) = self.last.as_ref().filter(|rollout| of(rollout))
                && rollout.status.as_ref().is_some_and(&wanted)
            {
                return Ok(rollout.clone());
            }
            let event = timeout_at(deadline, self.events.next()).await;
            let event = event.with_context(|| format!("no end in time; last seen: {}", life.last_seen()))?;
            let event = event.context("the watch of rollouts ended")?;
            if let Ok(Event::Apply(rollout) | Event::InitApply(rollout)) = event
                && of(&rollout)
            {
                life.note(&rollout.status.clone().unwrap_or_default());
                self.last = Some(rollout);
            }
        }
    }
}

impl Life {
    fn last_seen(&self) -> &str {
        if self.last.is_empty() { "no rollout of it" } else { &self.last }
    }
}
