//! Leader election over a `Lease`: the adapter that reads and writes what [`evaluate`] decides.
//! Takes the lease only by writes that carry its resourceVersion, and never trusts a wall clock
//! but its own, and that one only to fill in `renewTime` for people.

pub mod evaluate;

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::SharedClock;
use crate::connect::{CallError, bounded};
pub use evaluate::{Names, Record, Step, Terms, evaluate};

/// Whether this process leads, asked right before each write. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Permit {
    renewed: watch::Receiver<Option<Instant>>,
    terms: Terms,
}

impl Permit {
    /// A permit that always holds, for a role that runs alone.
    pub fn unconditional() -> Self {
        let (sender, renewed) = watch::channel(None);
        // With the sender gone the channel keeps its last value.
        sender.send_replace(Some(Instant::now()));
        Permit { renewed, terms: Terms { renew_deadline: Duration::MAX, ..Terms::default() } }
    }

    /// A permit whose lease ran out.
    #[cfg(test)]
    pub fn lost() -> Self {
        Permit { renewed: watch::channel(None).1, terms: Terms::default() }
    }

    /// A permit that holds until its other end says `None`.
    #[cfg(test)]
    pub fn revocable() -> (watch::Sender<Option<Instant>>, Self) {
        let (sender, renewed) = watch::channel(Some(Instant::now()));
        (sender, Permit { renewed, ..Permit::unconditional() })
    }

    /// True while no other process can have taken over.
    pub fn held(&self) -> bool {
        let renewed = *self.renewed.borrow();
        renewed.is_some_and(|at| Instant::now().saturating_duration_since(at) < self.terms.renew_deadline)
    }
}

/// One process's candidacy for one lease.
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    identity: String,
    /// Who this process was in its tenure before.
    former: Option<String>,
    terms: Terms,
    clock: SharedClock,
    seen: Option<(Record, Instant, Lease)>,
    renewed: watch::Sender<Option<Instant>>,
}

impl Candidate {
    /// `role` is told to people in front of a fresh UUID; an identity is never used twice.
    pub fn new(client: Client, namespace: &str, name: &str, role: &str, clock: SharedClock) -> Self {
        Candidate {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: format!("{role}-{}", uuid::Uuid::new_v4()),
            former: None,
            terms: Terms::default(),
            clock,
            seen: None,
            renewed: watch::channel(None).0,
        }
    }

    /// `former` led for this same process, and everything of it has ended: a lease that still names it, because it
    /// could not be given up, is taken without waiting for its end.
    pub fn succeeding(mut self, former: Option<String>) -> Self {
        self.former = former;
        self
    }

    #[cfg(test)]
    pub fn under(mut self, terms: Terms) -> Self {
        self.terms = terms;
        self
    }

    pub fn identity(&self) -> &str {
        &self.identity
    }

    pub fn permit(&self) -> Permit {
        Permit { renewed: self.renewed.subscribe(), terms: self.terms }
    }

    /// Resolves once this process leads.
    pub async fn acquire(&mut self) {
        while self.renewed.borrow().is_none() {
            let pause = self.turn().await.unwrap_or(self.terms.retry);
            if self.renewed.borrow().is_none() {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Renews until leadership is lost; resolves with the reason.
    pub async fn keep(&mut self) -> &'static str {
        loop {
            tokio::time::sleep(self.terms.retry).await;
            if let Err(reason) = self.turn().await {
                self.renewed.send_replace(None);
                return reason;
            }
        }
    }

    /// Gives the lease up, so that the next one need not wait. The last write of a shutdown.
    pub async fn release(&mut self) {
        if self.renewed.send_replace(None).is_none() {
            return;
        }
        let Some((_, _, mut lease)) = self.seen.take() else { return };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
        }
        if let Err(error) = bounded(self.api.replace(&self.name, &PostParams::default(), &lease)).await {
            tracing::warn!(lease = %self.name, %error, "the lease could not be given up; it expires by itself");
        }
    }

    /// One look and at most one write. `Err` is the order to step down.
    async fn turn(&mut self) -> Result<Duration, &'static str> {
        // A leader may not spend a whole call deadline when its own is nearer; the next look decides.
        match bounded(self.api.get_opt(&self.name)).await {
            Ok(lease) => self.observe(lease),
            Err(error) if error.is_unanswered() => {
                tracing::debug!(lease = %self.name, %error, "the lease could not be read")
            }
            Err(error) => tracing::warn!(lease = %self.name, %error, "the lease could not be read"),
        }
        let renewed = *self.renewed.borrow();
        let observed = self.seen.as_ref().map(|(record, first, _)| (record, *first));
        match evaluate(observed, renewed, Instant::now(), self.names(), &self.terms) {
            Step::StepDown(reason) => Err(reason),
            Step::Wait(pause) => Ok(pause),
            Step::Acquire | Step::Renew => {
                let sent = Instant::now();
                match self.write().await {
                    Ok(lease) => {
                        self.observe(Some(lease));
                        self.renewed.send_replace(Some(sent));
                    }
                    // Lost the race, or no answer: what the server holds is read at the next turn.
                    Err(error) if error.is_unanswered() => {
                        tracing::debug!(lease = %self.name, %error, "the lease was not written")
                    }
                    Err(error) => tracing::info!(lease = %self.name, %error, "the lease was not written"),
                }
                Ok(self.terms.retry)
            }
        }
    }

    fn names(&self) -> Names<'_> {
        Names { me: &self.identity, former: self.former.as_deref() }
    }

    fn observe(&mut self, lease: Option<Lease>) {
        let Some(lease) = lease else {
            self.seen = None;
            return;
        };
        let spec = lease.spec.as_ref();
        let seconds = spec.and_then(|s| s.lease_duration_seconds).unwrap_or_default();
        let record = Record {
            holder: spec.and_then(|s| s.holder_identity.clone()),
            duration: Duration::from_secs(u64::try_from(seconds).unwrap_or_default()),
            version: lease.metadata.resource_version.clone().unwrap_or_default(),
        };
        let first = match &self.seen {
            Some((known, first, _)) if *known == record => *first,
            _ => Instant::now(),
        };
        self.seen = Some((record, first, lease));
    }

    async fn write(&self) -> Result<Lease, CallError> {
        let now = MicroTime(self.clock.now());
        let previous = self.seen.as_ref().map(|(_, _, lease)| lease);
        let old = previous.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let ours = old.holder_identity.as_deref() == Some(self.identity.as_str());
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.terms.duration.as_secs()).ok(),
            acquire_time: if ours { old.acquire_time } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(old.lease_transitions.unwrap_or_default() + i32::from(!ours && previous.is_some())),
            ..LeaseSpec::default()
        };
        match previous {
            // Its resourceVersion travels in the metadata: of two takers one meets a conflict.
            Some(lease) => {
                let lease = Lease { metadata: lease.metadata.clone(), spec: Some(spec) };
                bounded(self.api.replace(&self.name, &PostParams::default(), &lease)).await
            }
            None => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                bounded(self.api.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) })).await
            }
        }
    }
}
