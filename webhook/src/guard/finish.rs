//! Finishes what requests could not wait for, beside what is verified ahead: whoever names images at a registry
//! that hangs must hold up no rollout's. Keeps an Allow and nothing else, or whoever may make a pod could have a no of
//! theirs written.

use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc;

use super::assess::{Assessor, Want};
use super::cluster::Cluster;

const AT_ONCE: usize = 4;
/// One verification, whatever hangs.
const VERIFICATION: Duration = Duration::from_secs(60);

/// Works until nobody can ask any more.
pub async fn run(cluster: &dyn Cluster, assessor: &Assessor, unfinished: mpsc::Receiver<Want>) {
    let wants = futures::stream::unfold(unfinished, |mut unfinished| async move {
        unfinished.recv().await.map(|want| (want, unfinished))
    });
    let finished = wants.for_each_concurrent(AT_ONCE, async |want| {
        if let Ok(in_force) = cluster.in_force() {
            // What takes longer is asked for again by whoever needs it.
            let _ = tokio::time::timeout(VERIFICATION, assessor.finish(&in_force, &want)).await;
        }
    });
    finished.await;
}
