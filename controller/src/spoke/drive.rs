//! One task per active rollout, and the supervisor that starts them. A rollout that hangs delays no other; a
//! pass that has begun is always finished before the task ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use tidegate_pipelines::api::{Rollout, RolloutPhase, names};
use tidegate_pipelines::rollout::Hub;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::apply::Hand;
use super::evidence;
use super::observe::{Memory, ObserveError};
use super::reconcile::{Outcome, Pass, ReconcileError, reconcile};
use super::report::Teller;
use super::retention;
use super::status::Written;
use super::world::World;
use crate::clock::SharedClock;
use crate::lease::Permit;
use crate::metrics::MetricsPort;
use crate::mirror::up::Intents;

/// After a failed call; doubled up to the longest.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// The longest sleep of a rollout that nothing wakes: repairs what an event was missed for.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// So often the supervisor looks for work even if nothing wakes it.
const SUPERVISE: Duration = Duration::from_secs(30);

/// Everything that rollouts share.
#[derive(Clone)]
pub struct Spoke {
    pub environment: String,
    pub world: World,
    pub clock: SharedClock,
    pub permit: Permit,
    pub metrics: Arc<dyn MetricsPort>,
    pub teller: Teller,
    pub hub: watch::Receiver<Hub>,
    /// What the hub wants and was told; none: the spoke works alone.
    pub intents: Option<Intents>,
    pub shutdown: watch::Receiver<bool>,
}

fn needs_work(rollout: &Rollout) -> bool {
    let phase = rollout.status.as_ref().and_then(|s| s.phase);
    let terminal = phase.is_some_and(RolloutPhase::is_terminal);
    !terminal || rollout.finalizers().iter().any(|f| f == names::FINALIZER)
}

impl Spoke {
    /// Starts a task for each rollout that has work, until shutdown or the loss of leadership.
    pub async fn supervise(mut self) {
        let mut wake = self.world.wakes.listen("");
        let mut running: HashMap<String, tokio::task::Id> = HashMap::new();
        let mut tasks: JoinSet<String> = JoinSet::new();
        while !*self.shutdown.borrow() && self.permit.held() {
            wake.borrow_and_update();
            let rollouts = self.world.rollouts.select(|_| true);
            for rollout in rollouts.iter().filter(|r| needs_work(r)) {
                let Some(uid) = rollout.uid().filter(|uid| !running.contains_key(uid)) else { continue };
                let key = (rollout.namespace().unwrap_or_default(), rollout.name_any());
                let (spoke, task_uid) = (self.clone(), uid.clone());
                let handle = tasks.spawn(async move {
                    spoke.drive(key, &task_uid).await;
                    task_uid
                });
                running.insert(uid, handle.id());
            }
            self.count_phases(&rollouts);
            retention::sweep(&self.world, &self.permit, self.intents.as_ref(), &rollouts).await;
            tokio::select! {
                _ = wake.changed() => {}
                Some(ended) = tasks.join_next_with_id() => {
                    let id = match &ended { Ok((id, _)) => *id, Err(error) => error.id() };
                    running.retain(|_, known| *known != id);
                }
                _ = self.shutdown.changed() => {}
                () = tokio::time::sleep(SUPERVISE) => {}
            }
        }
        // Each task finishes the pass in hand and sees the shutdown (or the lost lease) for itself.
        while tasks.join_next().await.is_some() {}
    }

    fn count_phases(&self, rollouts: &[Arc<Rollout>]) {
        let mut counts: HashMap<String, i64> = HashMap::new();
        for rollout in rollouts {
            let phase = rollout.status.as_ref().and_then(|s| s.phase);
            *counts.entry(phase.map_or("Waiting".into(), |p| format!("{p:?}"))).or_default() += 1;
        }
        self.teller.metrics.set_phases(counts);
    }

    /// Passes over one rollout until it has ended or is gone.
    async fn drive(mut self, key: (String, String), uid: &str) {
        let mut wake = self.world.wakes.listen(&key.0);
        let (questions, asked) = watch::channel(None);
        let (answers, mut answered) = watch::channel(None);
        let kept = self.world.rollouts.get(Some(&key.0), &key.1).and_then(|r| r.status.clone()?.judge);
        let judge = evidence::judge(self.metrics.clone(), self.clock.clone(), asked, answers, kept.unwrap_or_default());
        let mut judge = std::pin::pin!(judge);
        let (mut memory, mut written) = (Memory::default(), Written::default());
        let mut backoff = FIRST_BACKOFF;
        loop {
            if *self.shutdown.borrow() || !self.permit.held() {
                return;
            }
            wake.borrow_and_update();
            let answer = answered.borrow_and_update().clone();
            let hub = *self.hub.borrow_and_update();
            if self.world.rollouts.get(Some(&key.0), &key.1).and_then(|r| r.uid()).as_deref() != Some(uid) {
                return;
            }
            let result = {
                let hand = Hand {
                    world: &self.world,
                    clock: &self.clock,
                    permit: &self.permit,
                    environment: &self.environment,
                };
                let pass = Pass { hand, teller: &self.teller, hub, answer, questions: &questions };
                let mut running = std::pin::pin!(reconcile(&pass, (&key.0, &key.1), &mut memory, &mut written));
                // The judge goes on reading while a write is under way; neither waits for the other.
                loop {
                    tokio::select! {
                        result = &mut running => break result,
                        () = &mut judge => unreachable_judge().await,
                    }
                }
            };
            self.teller.metrics.reconciles.inc();
            let pause = match self.after(result, &key, &mut backoff) {
                Some(pause) => pause,
                None => return,
            };
            tokio::select! {
                () = &mut judge => unreachable_judge().await,
                () = tokio::time::sleep(pause) => {}
                _ = wake.changed() => {}
                _ = answered.changed() => {}
                _ = self.hub.changed() => {}
                _ = self.shutdown.changed() => {}
            }
        }
    }

    /// How long to sleep; none: this rollout is done with.
    fn after(
        &self,
        result: Result<Outcome, ReconcileError>,
        key: &(String, String),
        backoff: &mut Duration,
    ) -> Option<Duration> {
        match result {
            Ok(outcome) if outcome.finished => None,
            Ok(outcome) => {
                *backoff = FIRST_BACKOFF;
                // What changed is looked at again at once: the next action may be due already.
                Some(if outcome.changed { Duration::ZERO } else { outcome.wake_after.min(LONGEST_SLEEP) })
            }
            Err(ReconcileError::Observe(ObserveError::Gone)) => None,
            Err(error) => {
                self.teller.metrics.error(error.step());
                let pause = *backoff;
                if error.is_unanswered() || error.is_conflict() && *backoff < FIRST_BACKOFF * 4 {
                    tracing::debug!(namespace = %key.0, rollout = %key.1, %error, "looking again");
                } else {
                    tracing::warn!(namespace = %key.0, rollout = %key.1, step = error.step(), %error, "pass failed");
                }
                *backoff = (*backoff * 2).min(LONGEST_BACKOFF);
                Some(if error.is_conflict() { pause / 5 } else { pause })
            }
        }
    }
}

/// The judge ends only when its question channel is gone, which this task holds.
async fn unreachable_judge() {
    std::future::pending::<()>().await;
}
