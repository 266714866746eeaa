//! Finishes what requests could not wait for, beside what is verified ahead, in the order that the backlog gives.
//! Keeps an Allow and nothing else, or whoever may make a pod could have a no of theirs written.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::{SignedDuration, Timestamp};
use tidegate_policies::digest::Digest;
use tokio::sync::{Mutex, Notify};

use super::assess::{Assessor, Want};
use super::backlog::{Backlog, Offered};
use super::cluster::Cluster;

/// One verification, whatever hangs.
const VERIFICATION: Duration = Duration::from_secs(60);

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

    pub async fn rests(&self, key: &Digest, want: &Want, now: Timestamp) -> Option<SignedDuration> {
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
        while let Some((key, want)) = backlog.lock().await.take() {
            under_way.push(async move {
                let answered = match cluster.in_force() {
                    Ok(in_force) => tokio::time::timeout(VERIFICATION, assessor.finish(&in_force, &want)).await,
                    // No registry was asked.
                    Err(_) => Ok(true),
                };
                (key, want, answered.unwrap_or(false))
            });
        }
        tokio::select! {
            () = more.notified() => {}
            // Not in there: what waits for the lock is polled here alone, and would keep it from everybody meanwhile.
            Some((key, want, answered)) = under_way.next() => {
                backlog.lock().await.ended(key, &want, answered, assessor.now());
            }
        }
    }
}
