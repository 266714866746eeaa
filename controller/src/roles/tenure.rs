//! Leading again and again, for the roles of which one replica acts: a tenure that lost its lease ends with everything
//! of it, and the process stands anew. An API server that is away for a while thus costs no restart from outside; a part
//! that ended by itself does. Knows nothing of what is done while leading.

use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;

use super::parts::Parts;
use super::stopped;
use crate::lease::{Candidate, Permit};

/// Longest that an end waits for what is in hand; each call of it has a shorter deadline.
const LAST_PASS: Duration = Duration::from_secs(20);

/// What a role does while it leads, and while it does not.
pub trait Office {
    /// While another leads; never resolves. `led`: this process did before.
    fn meanwhile(&self, led: bool) -> impl Future<Output = ()> + Send;

    /// One tenure, with memory of its own: its background parts, which end with it, and its work. That resolves once
    /// `ended` says so, or the permit ran out, and nothing is in hand any more. An error ends the process.
    fn lead(&self, permit: Permit, ended: watch::Receiver<bool>) -> (Parts, BoxFuture<'_, anyhow::Result<()>>);
}

/// Until `shutdown`, or until a tenure fails. `stand` makes another candidate each time: an identity is never used twice.
pub async fn hold(
    office: &impl Office,
    stand: impl Fn() -> Candidate,
    shutdown: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut former = None;
    while !*shutdown.borrow() {
        let candidate = stand().succeeding(former.clone());
        let identity = candidate.identity().to_owned();
        if let Some(reason) = tenure(office, candidate, former.is_some(), &shutdown).await? {
            tracing::warn!(reason, "leadership was lost: standing again");
        }
        former = Some(identity);
    }
    Ok(())
}

/// One leadership, from candidacy to its end. Some: it was lost.
async fn tenure(
    office: &impl Office,
    mut candidate: Candidate,
    led: bool,
    shutdown: &watch::Receiver<bool>,
) -> anyhow::Result<Option<&'static str>> {
    tokio::select! {
        () = candidate.acquire() => {}
        () = office.meanwhile(led) => {}
        () = stopped(shutdown.clone()) => return Ok(None),
    }
    tracing::info!(identity = candidate.identity(), "leading");
    let (end, ended) = watch::channel(false);
    let (mut parts, leading) = office.lead(candidate.permit(), ended);
    let mut died = None;
    let outcome = {
        // Ends with this block: what hangs in it must not outlive the lease.
        let mut leading = leading;
        // Leadership is kept while the last passes end.
        let ending = async {
            tokio::select! {
                () = stopped(shutdown.clone()) => {}
                part = parts.ended() => {
                    tracing::error!(error = %part, "this tenure ends");
                    died = Some(part);
                }
            }
            end.send_replace(true);
            match died {
                Some(_) => tokio::time::sleep(LAST_PASS).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            reason = candidate.keep() => {
                end.send_replace(true);
                // Passes see the lost permit before their next write; they only have to come to their end.
                let _ = tokio::time::timeout(LAST_PASS, leading).await;
                Ok(Some(reason))
            }
            () = ending => Ok(None),
            // Without a shutdown only the permit ends it, which runs out a moment before `keep` says so.
            outcome = &mut leading => {
                outcome.map(|()| (!*shutdown.borrow()).then_some("the lease could not be renewed in time"))
            }
        }
    };
    parts.shutdown().await;
    // Last: until here nobody else may begin.
    candidate.release().await;
    match died {
        Some(part) => Err(part.into()),
        None => outcome,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures::FutureExt;
    use http::{Method, Request, Response};
    use http_body_util::BodyExt;
    use kube::Client;
    use kube::client::Body;
    use serde_json::{Value, json};
    use tokio::sync::mpsc;

    use super::*;
    use crate::lease::Terms;

    /// Long for a test, and short beside the 15 s that a foreign lease is respected.
    const SOON: Duration = Duration::from_secs(5);

    /// One Lease in an API server that gives no answer to writes while `away`.
    fn server(away: Arc<AtomicBool>, lease: Arc<watch::Sender<Value>>) -> Client {
        let service = tower::service_fn(move |request: Request<Body>| {
            let (away, lease) = (away.clone(), lease.clone());
            async move {
                let (parts, body) = request.into_parts();
                let (code, said) = if parts.method == Method::GET {
                    let held = lease.borrow().clone();
                    (if held.is_null() { 404 } else { 200 }, held)
                } else if away.load(Ordering::Relaxed) {
                    (500, Value::Null)
                } else {
                    let mut sent: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
                    let version = sent["metadata"]["resourceVersion"].as_str().unwrap_or("0").parse::<u64>().unwrap();
                    sent["metadata"]["resourceVersion"] = json!((version + 1).to_string());
                    lease.send_replace(sent.clone());
                    (200, sent)
                };
                let failure =
                    json!({"kind": "Status", "status": "Failure", "message": "no", "reason": "No", "code": code});
                let said = if code == 200 { said } else { failure };
                let body = Body::from(serde_json::to_vec(&said).unwrap());
                Ok::<_, std::convert::Infallible>(Response::builder().status(code).body(body).unwrap())
            }
        });
        Client::new(service, "default")
    }

    /// Tells each tenure's permit, and when a task of one has ended.
    struct Watched {
        begun: mpsc::UnboundedSender<Permit>,
        ended: mpsc::UnboundedSender<()>,
        /// Its work ends by itself, as when it sees first that its permit ran out.
        by_itself: bool,
        /// Of one of its parts.
        fate: watch::Sender<Fate>,
        /// What was in hand at its end came to its end, with the permit to write.
        finished: AtomicBool,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Fate {
        Lives,
        Ends,
        Panics,
    }

    impl Watched {
        fn new(begun: mpsc::UnboundedSender<Permit>, ended: mpsc::UnboundedSender<()>, by_itself: bool) -> Self {
            Watched { begun, ended, by_itself, fate: watch::Sender::new(Fate::Lives), finished: AtomicBool::new(false) }
        }
    }

    struct Tell(mpsc::UnboundedSender<()>);

    impl Drop for Tell {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }

    impl Office for Watched {
        async fn meanwhile(&self, _led: bool) {
            std::future::pending().await
        }

        fn lead(&self, permit: Permit, ended: watch::Receiver<bool>) -> (Parts, BoxFuture<'_, anyhow::Result<()>>) {
            let mut parts = Parts::default();
            let tell = Tell(self.ended.clone());
            parts.spawn("healthy", async move {
                let _tell = tell;
                std::future::pending().await
            });
            let mut fate = self.fate.subscribe();
            parts.spawn("doomed", async move {
                match fate.wait_for(|fate| *fate != Fate::Lives).await.map(|fate| *fate) {
                    Ok(Fate::Panics) => panic!("hostile bytes"),
                    Ok(_) => {}
                    Err(_) => std::future::pending().await,
                }
            });
            let led = async move {
                self.begun.send(permit.clone())?;
                if !self.by_itself {
                    stopped(ended).await;
                    // What is in hand takes a while, and writes at its end.
                    tokio::task::yield_now().await;
                    self.finished.store(permit.held(), Ordering::Relaxed);
                }
                Ok(())
            };
            (parts, led.boxed())
        }
    }

    #[tokio::test]
    async fn a_lost_tenure_ends_with_everything_of_it_and_the_next_one_waits_for_nothing() {
        let (away, lease) = (Arc::new(AtomicBool::new(false)), Arc::new(watch::Sender::new(Value::Null)));
        let client = server(away.clone(), lease.clone());
        let terms =
            Terms { renew_deadline: Duration::from_millis(50), retry: Duration::from_millis(1), ..Terms::default() };
        let stand = || Candidate::new(client.clone(), "system", "role", "role", crate::clock::wall()).under(terms);
        let ((begun, mut began), (ended, mut ends)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let (stop, shutdown) = watch::channel(false);
        let office = Watched::new(begun, ended, false);
        let holder = || lease.borrow()["spec"]["holderIdentity"].clone();
        let story = async {
            let first = began.recv().await.unwrap();
            let who = holder();
            assert!(first.held());
            away.store(true, Ordering::Relaxed);
            ends.recv().await.unwrap();
            assert!(!first.held(), "nothing of it may write any more");
            assert_eq!(holder(), who, "it could not be given up");
            away.store(false, Ordering::Relaxed);
            let second = began.recv().await.unwrap();
            assert!(second.held() && !first.held());
            assert_ne!(holder(), who, "another candidate");
            stop.send_replace(true);
        };
        let held = async { tokio::join!(hold(&office, stand, shutdown), story).0 };
        tokio::time::timeout(SOON, held).await.expect("it waited for its own lease").unwrap();
        assert!(ends.try_recv().is_ok(), "a shutdown ends the last one");
        assert_eq!(holder(), Value::Null, "given up for whoever comes next");
    }

    #[tokio::test]
    async fn work_that_sees_first_that_its_permit_ran_out_ends_its_tenure_and_no_more() {
        let lease = Arc::new(watch::Sender::new(Value::Null));
        let client = server(Arc::default(), lease.clone());
        let stand = || Candidate::new(client.clone(), "system", "role", "role", crate::clock::wall());
        let ((begun, mut began), (ended, _ends)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let (stop, shutdown) = watch::channel(false);
        let office = Watched::new(begun, ended, true);
        let story = async {
            began.recv().await.unwrap();
            began.recv().await.unwrap();
            stop.send_replace(true);
        };
        let held = async { tokio::join!(hold(&office, stand, shutdown), story).0 };
        tokio::time::timeout(SOON, held).await.expect("it never stood again").unwrap();
    }

    #[tokio::test]
    async fn a_part_that_dies_ends_its_tenure_in_order_and_the_process_with_the_reason() {
        for (fate, said) in
            [(Fate::Panics, "the part 'doomed' failed: "), (Fate::Ends, "the part 'doomed' ended by itself")]
        {
            let lease = Arc::new(watch::Sender::new(Value::Null));
            let client = server(Arc::default(), lease.clone());
            let stand = || Candidate::new(client.clone(), "system", "role", "role", crate::clock::wall());
            let ((begun, mut began), (ended, mut ends)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
            let (_stop, shutdown) = watch::channel(false);
            let office = Watched::new(begun, ended, false);
            let story = async {
                began.recv().await.unwrap();
                assert_ne!(lease.borrow()["spec"]["holderIdentity"], Value::Null);
                office.fate.send_replace(fate);
            };
            let held = async { tokio::join!(hold(&office, stand, shutdown), story).0 };
            let told = tokio::time::timeout(SOON, held).await.expect("nobody noticed").unwrap_err().to_string();
            assert!(told.starts_with(said), "{fate:?}: {told}");
            assert_eq!(told.contains("hostile bytes"), fate == Fate::Panics, "{told}");
            assert!(office.finished.load(Ordering::Relaxed), "{fate:?}: what was in hand is finished under its permit");
            assert!(ends.try_recv().is_ok(), "{fate:?}: every other part ended as well");
            assert_eq!(
                lease.borrow()["spec"]["holderIdentity"],
                Value::Null,
                "{fate:?}: given up for the other replica"
            );
        }
    }
}
