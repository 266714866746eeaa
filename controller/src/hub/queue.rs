//! The hub's one work queue: keys, each at most once in line and never worked on twice at a time.
//! Knows nothing of what the work is.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    Event(String),
    /// Namespace and name.
    Release(String, String),
    Pipeline(String, String),
    Environment(String),
}

/// What a piece of work says about its next time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// When something changes.
    Idle,
    After(Duration),
    /// It failed: with a growing pause.
    Retry,
}

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// When which key is due; each key at one time only, the earliest that was asked for.
#[derive(Default)]
struct Agenda {
    by_time: BTreeSet<(Instant, Key)>,
    by_key: HashMap<Key, Instant>,
}

impl Agenda {
    fn put(&mut self, key: Key, at: Instant) {
        match self.by_key.get(&key) {
            Some(known) if *known <= at => return,
            Some(known) => {
                self.by_time.remove(&(*known, key.clone()));
            }
            None => {}
        }
        self.by_key.insert(key.clone(), at);
        self.by_time.insert((at, key));
    }

    fn next(&self, busy: &HashSet<Key>) -> Option<(Instant, Key)> {
        self.by_time.iter().find(|(_, key)| !busy.contains(key)).cloned()
    }

    fn take(&mut self, at: Instant, key: &Key) {
        self.by_key.remove(key);
        self.by_time.remove(&(at, key.clone()));
    }
}

/// Works until `keys` closes. Triggers that come while a key is worked on make it run once more.
pub async fn run<F, W>(mut keys: mpsc::Receiver<Key>, concurrency: usize, work: F)
where
    F: Fn(Key) -> W,
    W: Future<Output = Next> + Send + 'static,
{
    let mut agenda = Agenda::default();
    let mut busy: HashSet<Key> = HashSet::new();
    let mut failures: HashMap<Key, u32> = HashMap::new();
    let mut tasks: JoinSet<(Key, Next)> = JoinSet::new();
    loop {
        let now = Instant::now();
        let mut due = agenda.next(&busy);
        while let Some((at, key)) = due.clone().filter(|(at, _)| *at <= now && busy.len() < concurrency) {
            agenda.take(at, &key);
            busy.insert(key.clone());
            let task = work(key.clone());
            tasks.spawn(async move { (key, task.await) });
            due = agenda.next(&busy);
        }
        let alarm = due.filter(|_| busy.len() < concurrency).map(|(at, _)| at);
        tokio::select! {
            key = keys.recv() => match key {
                Some(key) => agenda.put(key, Instant::now()),
                None => return,
            },
            Some(done) = tasks.join_next(), if !busy.is_empty() => match done {
                Ok((key, next)) => {
                    busy.remove(&key);
                    settle(&mut agenda, &mut failures, key, next);
                }
                // Which key it was is lost with the panic; the process must not go on half.
                Err(error) => {
                    tracing::error!(%error, "a reconcile did not return");
                    return;
                }
            },
            () = tokio::time::sleep_until(alarm.unwrap_or(now)), if alarm.is_some() => {}
        }
    }
}

fn settle(agenda: &mut Agenda, failures: &mut HashMap<Key, u32>, key: Key, next: Next) {
    let now = Instant::now();
    match next {
        Next::Idle => {
            failures.remove(&key);
        }
        Next::After(pause) => {
            failures.remove(&key);
            agenda.put(key, now + pause);
        }
        Next::Retry => {
            let count = failures.entry(key.clone()).or_default();
            let pause = FIRST_PAUSE.saturating_mul(1 << (*count).min(10)).min(LONGEST_PAUSE);
            *count += 1;
            agenda.put(key, now + pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    fn key(name: &str) -> Key {
        Key::Event(name.into())
    }

    #[test]
    fn a_key_stands_in_line_once_at_its_earliest_time() {
        let now = Instant::now();
        let mut agenda = Agenda::default();
        agenda.put(key("a"), now + Duration::from_secs(5));
        agenda.put(key("a"), now + Duration::from_secs(1));
        agenda.put(key("a"), now + Duration::from_secs(9));
        assert_eq!(agenda.by_time.len(), 1);
        assert_eq!(agenda.next(&HashSet::new()), Some((now + Duration::from_secs(1), key("a"))));
        assert_eq!(agenda.next(&HashSet::from([key("a")])), None);
    }

    #[tokio::test]
    async fn a_trigger_during_work_makes_it_run_once_more_and_never_at_once() {
        let (sender, keys) = mpsc::channel(16);
        let (started, mut starts) = mpsc::unbounded_channel();
        let gate = Arc::new(Semaphore::new(0));
        let door = gate.clone();
        let test = async {
            sender.send(key("a")).await.unwrap();
            starts.recv().await.unwrap();
            for _ in 0..3 {
                sender.send(key("a")).await.unwrap();
            }
            // Another key goes past it, so the queue has seen all that was sent before.
            sender.send(key("b")).await.unwrap();
            assert_eq!(starts.recv().await, Some(key("b")));
            gate.add_permits(2);
            assert_eq!(starts.recv().await, Some(key("a")));
            assert!(starts.try_recv().is_err(), "three triggers during work are one more run");
            gate.add_permits(1);
            drop(sender);
        };
        let work = move |key: Key| {
            let (started, door) = (started.clone(), door.clone());
            async move {
                started.send(key).unwrap();
                door.acquire().await.unwrap().forget();
                Next::Idle
            }
        };
        tokio::join!(test, run(keys, 4, work));
    }
}
