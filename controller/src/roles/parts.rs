//! The background parts of a role, or of one tenure of it, by name. None of them ends before it is told to, so one that
//! does has failed, and what it did is done by nobody: the role ends in order and with an error, for the kubelet to start
//! it anew. Never starts a part again by itself.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{Id, JoinSet};

/// Longest that an end waits for what is in hand after a part has failed: nobody outside would end it then.
pub const LAST_WORK: Duration = Duration::from_secs(25);

/// How a part ended that was not told to.
#[derive(Debug, thiserror::Error)]
pub enum Died {
    #[error("the part '{0}' ended by itself")]
    Ended(&'static str),
    #[error("the part '{0}' failed: {1}")]
    Failed(&'static str, String),
}

/// Dropped, they all end.
#[derive(Default)]
pub struct Parts {
    tasks: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl Parts {
    /// `work` may end only because it was told to.
    pub fn spawn(&mut self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let id = self.tasks.spawn(work).id();
        self.names.insert(id, name);
    }

    /// Resolves when one has ended; never with none.
    pub async fn ended(&mut self) -> Died {
        match self.tasks.join_next_with_id().await {
            None => std::future::pending().await,
            Some(Ok((id, ()))) => Died::Ended(self.name(id)),
            Some(Err(error)) => Died::Failed(self.name(error.id()), error.to_string()),
        }
    }

    fn name(&self, id: Id) -> &'static str {
        self.names.get(&id).copied().unwrap_or_default()
    }

    /// Ends what still runs.
    pub async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Runs `work` until shutdown is `asked` for or one of `parts` has ended. Either way `stop` is told, and `work` comes to
/// its own end while the other parts still run. Where it ends before that, it says itself whether this is an error.
pub async fn run(
    mut parts: Parts,
    stop: watch::Sender<bool>,
    asked: impl Future<Output = ()>,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let mut work = std::pin::pin!(work);
    let outcome = tokio::select! {
        () = asked => {
            tracing::info!("shutting down: what is in hand is finished");
            stop.send_replace(true);
            work.await
        }
        died = parts.ended() => {
            tracing::error!(error = %died, "shutting down, to be started anew");
            stop.send_replace(true);
            let _ = tokio::time::timeout(LAST_WORK, work).await;
            Err(died.into())
        }
        outcome = &mut work => outcome,
    };
    parts.shutdown().await;
    outcome
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::stopped;
    use super::*;

    /// Long for a test, and short beside any deadline of the role.
    const SOON: Duration = Duration::from_secs(5);

    struct Mark(Arc<AtomicBool>);

    impl Drop for Mark {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    /// A role of one healthy part, and whatever else `parts` holds. Its work has something in hand when it is told to
    /// stop, which needs the part.
    async fn role(mut parts: Parts, asked: impl Future<Output = ()>) -> anyhow::Result<bool> {
        let (stop, shutdown) = watch::channel(false);
        let (gone, finished) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let mark = Mark(gone.clone());
        parts.spawn("healthy", async move {
            let _mark = mark;
            pending().await
        });
        let work = async {
            stopped(shutdown).await;
            tokio::task::yield_now().await;
            finished.store(!gone.load(Ordering::SeqCst), Ordering::SeqCst);
            Ok(())
        };
        let outcome = tokio::time::timeout(SOON, run(parts, stop, asked, work)).await.expect("it went on");
        assert!(finished.load(Ordering::SeqCst), "what was in hand is finished, and before any part ends");
        assert!(gone.load(Ordering::SeqCst), "everything of it has ended");
        outcome.map(|()| true)
    }

    #[tokio::test]
    async fn a_part_that_panics_or_ends_early_ends_the_role_and_is_named() {
        let mut panics = Parts::default();
        panics.spawn("caches", async {
            tokio::task::yield_now().await;
            panic!("hostile bytes")
        });
        let told = role(panics, pending()).await.unwrap_err().to_string();
        assert!(told.contains("'caches' failed") && told.contains("hostile bytes"), "{told}");
        let mut ends = Parts::default();
        ends.spawn("mirror", async {});
        let told = role(ends, pending()).await.unwrap_err().to_string();
        assert_eq!(told, "the part 'mirror' ended by itself");
    }

    #[tokio::test]
    async fn a_shutdown_that_was_asked_for_is_no_error() {
        assert!(role(Parts::default(), ready(())).await.unwrap());
    }

    #[tokio::test]
    async fn work_that_ends_first_says_itself_whether_that_is_an_error() {
        let (stop, _shutdown) = watch::channel(false);
        let told = run(Parts::default(), stop, pending(), ready(Err(anyhow::anyhow!("the door is shut")))).await;
        assert_eq!(told.unwrap_err().to_string(), "the door is shut");
    }
}
