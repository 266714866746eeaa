//! The mirror: pulls this environment's policy and intents from the hub, reports status up. Outbound only; it
//! removes nothing because a source is empty, absent, older or away, and resets nothing that a person set here.

pub mod away;
pub mod down;
#[cfg(test)]
mod down_tests;
#[cfg(test)]
mod gap_tests;
pub mod intents;
pub mod kinds;
pub mod link;
pub mod loosen;
pub mod reliance;
pub mod rollouts;
pub mod sources;
pub mod up;

use std::sync::Arc;

use futures::future::BoxFuture;
use kube::Client;
use tidegate_pipelines::api::names;
use tidegate_pipelines::rollout::Hub;
use tokio::sync::{Mutex, watch};

use crate::clock::SharedClock;
use crate::lease::Permit;
use crate::spoke::World;

/// What the mirror's parts share.
#[derive(Clone)]
pub struct Mirror {
    pub environment: String,
    pub hub: Client,
    pub world: World,
    pub clock: SharedClock,
    pub permit: Permit,
    pub link: Arc<watch::Sender<Hub>>,
    pub intents: up::Intents,
    /// First copies whose delay runs.
    pub waiting: reliance::Waiting,
    /// Held from the look at what is here to the write: each kind has a task of its own, and two documents that name
    /// one another would else come in the same moment, each as if the other were not here.
    pub turn: Arc<Mutex<()>>,
}

impl Mirror {
    /// The namespace at the hub that is this environment's own.
    pub fn namespace(&self) -> String {
        names::environment_namespace(&self.environment)
    }

    /// The mirror's tasks by name, none of which ends by itself; the wiring runs them.
    pub fn tasks(&self) -> Vec<(&'static str, BoxFuture<'static, ()>)> {
        vec![
            ("heartbeat", Box::pin(self.clone().beat())),
            ("mirror of the environment", Box::pin(self.clone().pull_environment())),
            ("mirror of policies", Box::pin(self.clone().pull_policies())),
            ("mirror of attestors", Box::pin(self.clone().pull_attestors())),
            ("mirror of trust roots", Box::pin(self.clone().pull_trust_roots())),
            ("mirror of quarantines", Box::pin(self.clone().pull_quarantines())),
            ("mirror of rollouts", Box::pin(self.clone().pull_rollouts())),
            ("report to the hub", Box::pin(self.clone().report())),
        ]
    }

    /// Whether this process may write at all.
    fn may_write(&self) -> bool {
        self.permit.held()
    }
}
