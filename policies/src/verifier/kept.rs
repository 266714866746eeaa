//! Verdicts that allowed, and verifications under way. Never keeps a denial or an error.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{Mutex, OnceCell};

use crate::digest::Digest;
use crate::verdict::Verdict;

/// Far more than the images of a cluster under all its policies; a few MB at most.
const MAX_KEPT: usize = 4096;

/// From so many on, those that nobody waits for any more are forgotten.
const MANY_UNDER_WAY: usize = 64;

#[derive(Default)]
pub(super) struct Kept {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    allowed: HashMap<Digest, (u64, Verdict)>,
    /// By age, oldest first: what is dropped when there is no more room.
    ages: BTreeMap<u64, Digest>,
    next: u64,
    under_way: HashMap<Digest, Arc<OnceCell<Verdict>>>,
}

impl Kept {
    /// The verdict kept under this key, else that of the verification under way, else of a new one.
    /// A requester that goes away in the middle leaves the work to the next that waits.
    pub async fn get_or<F: Future<Output = Verdict>>(
        &self,
        key: Digest,
        now: Timestamp,
        verify: impl FnOnce() -> F,
    ) -> Verdict {
        let cell = {
            let mut state = self.state.lock().await;
            if let Some(verdict) = state.allowed(&key, now) {
                return verdict;
            }
            if state.under_way.len() >= MANY_UNDER_WAY {
                // Whoever waited for these has gone away.
                state.under_way.retain(|_, cell| Arc::strong_count(cell) > 1);
            }
            Arc::clone(state.under_way.entry(key.clone()).or_default())
        };
        let verdict = cell.get_or_init(verify).await.clone();
        let mut state = self.state.lock().await;
        // Only the verification that this was, not one begun since.
        if state.under_way.get(&key).is_some_and(|current| Arc::ptr_eq(current, &cell)) {
            state.under_way.remove(&key);
            if verdict.is_keepable(now) {
                state.keep(key, verdict.clone());
            }
        }
        verdict
    }
}

impl State {
    fn allowed(&mut self, key: &Digest, now: Timestamp) -> Option<Verdict> {
        let (age, verdict) = self.allowed.get(key)?;
        if verdict.is_keepable(now) {
            return Some(verdict.clone());
        }
        self.ages.remove(&age.clone());
        self.allowed.remove(key);
        None
    }

    fn keep(&mut self, key: Digest, verdict: Verdict) {
        while self.allowed.len() >= MAX_KEPT {
            let Some((_, oldest)) = self.ages.pop_first() else { break };
            self.allowed.remove(&oldest);
        }
        let age = self.next;
        self.next += 1;
        if let Some((before, _)) = self.allowed.insert(key.clone(), (age, verdict)) {
            self.ages.remove(&before);
        }
        self.ages.insert(age, key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::verdict::Decision;

    fn verdict(decision: Decision, expires: Option<Timestamp>) -> Verdict {
        Verdict {
            image: "registry.example/portal".parse().unwrap(),
            decision,
            check_set: String::new(),
            checks: vec![],
            policy_digest: Digest::of(b"p"),
            trust_root_digest: Digest::of(b"t"),
            revision: None,
            expires,
        }
    }

    async fn count(kept: &Kept, key: &str, now: Timestamp, counter: &AtomicUsize, answer: Verdict) -> Verdict {
        kept.get_or(Digest::of(key.as_bytes()), now, || async {
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            answer
        })
        .await
    }

    #[tokio::test]
    async fn concurrent_requests_are_one_verification() {
        let (kept, counter) = (Kept::default(), AtomicUsize::new(0));
        let requests =
            (0..100).map(|_| count(&kept, "k", Timestamp::UNIX_EPOCH, &counter, verdict(Decision::Deny, None)));
        futures::future::join_all(requests).await;
        assert_eq!(counter.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn verifications_that_nobody_waits_for_are_forgotten() {
        let kept = Kept::default();
        for i in 0..1000 {
            let key = Digest::of(i.to_string().as_bytes());
            let hanging = kept.get_or(key, Timestamp::UNIX_EPOCH, std::future::pending);
            assert!(futures::FutureExt::now_or_never(hanging).is_none(), "it hangs, and whoever asked goes away");
            // Tokio lets one task take only so many locks in a row: beyond them nothing would be begun any more.
            tokio::task::yield_now().await;
        }
        assert!(kept.state.lock().await.under_way.len() <= MANY_UNDER_WAY);
    }

    #[tokio::test]
    async fn only_a_yes_is_kept_and_only_until_it_expires() {
        let (kept, counter) = (Kept::default(), AtomicUsize::new(0));
        let (early, late) = (Timestamp::UNIX_EPOCH, Timestamp::from_second(100).unwrap());
        for (key, now, decision, expires, verifications) in [
            ("deny", early, Decision::Deny, None, 1),
            ("deny", early, Decision::Deny, None, 2),
            ("error", early, Decision::Error, None, 3),
            ("error", early, Decision::Error, None, 4),
            ("allow", early, Decision::Allow, None, 5),
            ("allow", late, Decision::Allow, None, 5),
            ("expiring", early, Decision::Allow, Some(late), 6),
            ("expiring", early, Decision::Allow, Some(late), 6),
            ("expiring", late, Decision::Allow, Some(late), 7),
            ("expiring", late, Decision::Allow, Some(late), 8),
        ] {
            count(&kept, key, now, &counter, verdict(decision, expires)).await;
            assert_eq!(counter.load(Ordering::SeqCst), verifications, "{key} {now}");
        }
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded_and_the_oldest_goes_first() {
        let (kept, counter) = (Kept::default(), AtomicUsize::new(0));
        for i in 0..=MAX_KEPT {
            count(&kept, &i.to_string(), Timestamp::UNIX_EPOCH, &counter, verdict(Decision::Allow, None)).await;
        }
        assert_eq!(kept.state.lock().await.allowed.len(), MAX_KEPT);
        count(&kept, "1", Timestamp::UNIX_EPOCH, &counter, verdict(Decision::Allow, None)).await;
        assert_eq!(counter.load(Ordering::SeqCst), MAX_KEPT + 1);
        count(&kept, "0", Timestamp::UNIX_EPOCH, &counter, verdict(Decision::Allow, None)).await;
        assert_eq!(counter.load(Ordering::SeqCst), MAX_KEPT + 2);
    }
}
