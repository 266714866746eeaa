//! The hub: event to Release, verified, stage by stage. Each reconcile goes through six named
//! steps: observe -> validate -> plan -> apply -> status -> report; what is decided stands in
//! `tidegate-pipelines`. Holds no credential of any environment.

pub mod apply;
#[cfg(test)]
mod apply_tests;
pub mod environment;
pub mod event;
pub mod heartbeat;
pub mod index;
pub mod metrics;
pub mod observe;
pub mod pipeline;
pub mod plan;
pub mod queue;
pub mod release;
pub mod report;
pub mod retention;
pub mod standing;
pub mod status;
pub mod validate;
pub mod verify;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use kube::Client;

use crate::clock::SharedClock;
use crate::github::Reports;
use crate::lease::Permit;
use crate::ledger::Ledger;
use crate::step::reconcile_error;
use index::Index;
use metrics::Metrics;
use queue::Key;

/// What every reconcile of the hub needs.
pub struct Hub {
    pub client: Client,
    pub index: Index,
    pub clock: SharedClock,
    pub permit: Permit,
    pub verdicts: verify::Verdicts,
    pub heartbeats: heartbeat::Heartbeats,
    pub ledger: Arc<dyn Ledger>,
    pub events: report::Events,
    pub metrics: Metrics,
    pub github: Reports,
    /// Releases that this process has looked at, by uid.
    pub looked_at: tokio::sync::Mutex<HashSet<String>>,
    /// Admissions go one by one, each against a fresh list: of two that become ready at once, the
    /// second sees the first.
    pub admission: tokio::sync::Mutex<()>,
}

reconcile_error! {
    Observe(observe::ObserveError) = "observe",
    Validate(validate::ValidateError) = "validate",
    Apply(apply::ApplyError) = "apply",
    Status(status::StatusError) = "status",
}

impl Hub {
    /// Works on one key; says when to look again.
    pub async fn reconcile(&self, key: &Key) -> queue::Next {
        // Without the lease nothing is written; the process is about to end.
        if !self.permit.held() {
            return queue::Next::After(Duration::from_secs(2));
        }
        let outcome = match key {
            Key::Event(name) => event::reconcile(self, name).boxed().await,
            Key::Release(namespace, name) => release::reconcile(self, namespace, name).boxed().await,
            Key::Pipeline(namespace, name) => pipeline::reconcile(self, namespace, name).boxed().await,
            Key::Environment(name) => environment::reconcile(self, name).boxed().await,
        };
        match outcome {
            Ok(Some(after)) => queue::Next::After(after),
            Ok(None) => queue::Next::Idle,
            Err(error) if error.is_conflict() || matches!(&error, ReconcileError::Validate(e) if e.is_conflict()) => {
                tracing::debug!(?key, %error, "stale, looking again");
                queue::Next::Retry
            }
            Err(error) => {
                self.metrics.error(error.step());
                tracing::warn!(?key, error = %error, "reconcile failed");
                queue::Next::Retry
            }
        }
    }
}
