//! Finishes what requests could not wait for, beside what is verified ahead, in the order that the backlog gives.
//! Keeps an Allow and nothing else, or whoever may make a pod could have a no of theirs written.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use tidegate_policies::digest::Digest;
use tidegate_policies::verdict::{Decision, Verdict};
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

use super::assess::{Assessor, Want, cut};
use super::backlog::{Backlog, Offered, Resting};
use super::cluster::Cluster;
use super::facts::InForce;

/// One verification, whatever hangs.
const VERIFICATION: Duration = Duration::from_secs(60);
/// With no policy in force, look again after this long: what waits has been promised its turn.
const NO_POLICY: Duration = Duration::from_secs(1);
/// Of why something rests: a thousand of these are kept.
const TOLD: usize = 512;

/// The backlog, between requests and who works it off.
#[derive(Default)]
pub struct Unfinished {
    backlog: Mutex<Backlog>,
    more: Notify,
}

impl Unfinished {
    pub async fn offer(&self, key: Digest, want: &Want, now: Timestamp) -> Offered {
        let offered = self.backlog.lock().await.offer(key, want, now);
        self.more.notify_one();
        offered
    }

    pub async fn rests(&self, key: &Digest, want: &Want, now: Timestamp) -> Option<Resting> {
        self.backlog.lock().await.rests(key, want, now)
    }

    pub async fn answered(&self, key: Digest, want: &Want) {
        self.backlog.lock().await.answered(key, want);
    }
}

/// Works until dropped.
pub async fn run(cluster: &dyn Cluster, assessor: &Assessor) {
    let Unfinished { backlog, more } = assessor.unfinished();
    let mut under_way = FuturesUnordered::new();
    loop {
        let in_force = cluster.in_force();
        // Without a policy all stays where it is: whoever asked was told that it goes on, and what rests still rests.
        if let Ok(in_force) = &in_force {
            while let Some((key, want)) = backlog.lock().await.take() {
                let in_force = Arc::clone(in_force);
                under_way.push(async move {
                    let in_vain = finish(assessor, &in_force, &want).await;
                    (key, want, in_vain)
                });
            }
        }
        tokio::select! {
            () = more.notified() => {}
            // Not in there: what waits for the lock is polled here alone, and would keep it from everybody meanwhile.
            Some((key, want, in_vain)) = under_way.next() => {
                backlog.lock().await.ended(key, &want, in_vain, assessor.now());
            }
            () = tokio::time::sleep(NO_POLICY), if in_force.is_err() => {}
        }
    }
}

/// Why it is not to be tried again soon, if it took long for nothing. What errs within a request's time does not rest:
/// the next request asks, and is told by its registry, its policy or its evidence itself.
async fn finish(assessor: &Assessor, in_force: &InForce, want: &Want) -> Option<String> {
    let began = Instant::now();
    match tokio::time::timeout(VERIFICATION, assessor.finish(in_force, want)).await {
        Err(_) => Some(format!("could not be verified within {} s", VERIFICATION.as_secs())),
        Ok(verdict) => in_vain(&verdict?, began.elapsed(), assessor.patience()),
    }
}

fn in_vain(verdict: &Verdict, took: Duration, patience: Duration) -> Option<String> {
    if verdict.decision != Decision::Error || took < patience {
        return None;
    }
    let summary = verdict.summary();
    let why = summary.strip_prefix(&verdict.image.to_string()).unwrap_or(&summary);
    Some(cut(why.trim_start(), TOLD))
}
