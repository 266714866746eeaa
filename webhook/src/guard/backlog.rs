//! What requests could not wait for, and whose turn it is: one verification of a namespace at a time, namespaces in
//! turn, so that images at a registry that hangs hold up nobody but who names them; and what took long for nothing
//! rests before its registry is asked again. Pure: reads no clock, starts nothing, asks nobody.

use std::collections::{HashMap, VecDeque};

use jiff::{SignedDuration, Timestamp};
use tidegate_policies::digest::Digest;

use super::assess::Want;

/// As many namespaces have to collude to hold up the others, and these get their turns still.
const AT_ONCE: usize = 8;
/// A rollout beside Tidegate has a few images; whoever has more comes back with the next try of its ReplicaSet.
pub const PER_NAMESPACE: usize = 16;
/// A megabyte or so; more than whoever makes namespaces for it will have.
const IN_ALL: usize = 1024;

/// About the time in which a verification gives up, so that a hanging image costs half of it at most.
const FIRST_REST: SignedDuration = SignedDuration::from_secs(30);
/// A registry that is back goes unnoticed for so long.
const LONGEST_REST: SignedDuration = SignedDuration::from_secs(300);
/// Some 2 KB each at most. All turns taken by hanging images make a fifth of it.
const MOST_RESTS: usize = 1024;

/// Of a namespace: an image there is verified once, under whichever of its pods. Not of all of them: who
/// makes their own verification fail must not silence another's.
type Question = (String, Digest);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It is, or will be, verified.
    Waits,
    /// It is not: so many of its namespace wait already.
    NamespaceFull,
    /// It is not: so many of all namespaces wait already.
    Full,
    /// It is not yet: it was, for long and for nothing.
    Rests(Resting),
}

/// What is not asked for yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resting {
    /// For so long.
    pub left: SignedDuration,
    /// What its last verification ended with.
    pub why: String,
}

#[derive(Default)]
pub struct Backlog {
    /// Of namespaces that have something waiting.
    waiting: HashMap<String, VecDeque<(Digest, Want)>>,
    /// The same, in the order of their turns.
    turns: VecDeque<String>,
    /// What is being verified of each namespace.
    busy: HashMap<String, Digest>,
    resting: HashMap<Question, Rest>,
}

#[derive(Clone, Debug)]
struct Rest {
    whole: SignedDuration,
    until: Timestamp,
    why: String,
}

impl Backlog {
    pub fn offer(&mut self, key: Digest, want: &Want, now: Timestamp) -> Offered {
        if let Some(resting) = self.rests(&key, want, now) {
            return Offered::Rests(resting);
        }
        let namespace = &want.scope.namespace;
        let own = self.waiting.get(namespace);
        if self.busy.get(namespace) == Some(&key) || own.is_some_and(|own| own.iter().any(|(other, _)| *other == key)) {
            return Offered::Waits;
        }
        if own.is_some_and(|own| own.len() >= PER_NAMESPACE) {
            return Offered::NamespaceFull;
        }
        if self.waiting.values().map(VecDeque::len).sum::<usize>() >= IN_ALL {
            return Offered::Full;
        }
        if own.is_none() {
            self.turns.push_back(namespace.clone());
        }
        self.waiting.entry(namespace.clone()).or_default().push_back((key, want.clone()));
        Offered::Waits
    }

    /// What to verify now; `ended` must follow.
    pub fn take(&mut self) -> Option<(Digest, Want)> {
        if self.busy.len() >= AT_ONCE {
            return None;
        }
        let turn = self.turns.iter().position(|namespace| !self.busy.contains_key(namespace))?;
        let namespace = self.turns.remove(turn)?;
        let own = self.waiting.get_mut(&namespace)?;
        let (key, want) = own.pop_front()?;
        if own.is_empty() {
            self.waiting.remove(&namespace);
        } else {
            self.turns.push_back(namespace.clone());
        }
        self.busy.insert(namespace, key.clone());
        Some((key, want))
    }

    /// What was taken is over; what took long for nothing rests, longer each time, and remembers `in_vain`.
    pub fn ended(&mut self, key: Digest, want: &Want, in_vain: Option<String>, now: Timestamp) {
        self.busy.remove(&want.scope.namespace);
        let Some(why) = in_vain else { return self.answered(key, want) };
        // What could have been asked for again for as long as that starts anew; and so does a clock that was set back.
        self.resting.retain(|_, rest| now.duration_since(rest.until).abs() <= LONGEST_REST);
        let question = question(key, want);
        let whole = self.resting.get(&question).map_or(FIRST_REST, |rest| (rest.whole * 2).min(LONGEST_REST));
        if self.resting.len() >= MOST_RESTS
            && let Some(first) = self.resting.iter().min_by_key(|(_, rest)| rest.until).map(|(first, _)| first.clone())
        {
            self.resting.remove(&first);
        }
        let until = now.checked_add(whole).unwrap_or(Timestamp::MAX);
        self.resting.insert(question, Rest { whole, until, why });
    }

    /// There was an answer, whoever asked.
    pub fn answered(&mut self, key: Digest, want: &Want) {
        self.resting.remove(&question(key, want));
    }

    /// Whether it is not to be asked for yet.
    pub fn rests(&self, key: &Digest, want: &Want, now: Timestamp) -> Option<Resting> {
        let Rest { until, why, .. } = self.resting.get(&question(key.clone(), want))?;
        let left = until.duration_since(now);
        // More is left only by a clock that was set back.
        (left.is_positive() && left <= LONGEST_REST).then(|| Resting { left, why: why.clone() })
    }
}

fn question(key: Digest, want: &Want) -> Question {
    (want.scope.namespace.clone(), key)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidegate_policies::model::Scope;

    use super::*;

    const HUNG: &str = "could not be verified: registry: it took longer than 20 s";

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn of(namespace: &str, n: usize) -> (Digest, Want) {
        let key = Digest::of(n.to_string().as_bytes());
        let image = format!("r.test/portal@{key}").parse().unwrap();
        let scope = Scope { namespace: namespace.to_owned(), service_account: None };
        (key, Want { image, scope, revision: None })
    }

    fn offer(backlog: &mut Backlog, namespace: &str, n: usize) -> Offered {
        let (key, want) = of(namespace, n);
        backlog.offer(key, &want, at(0))
    }

    /// Begins what is next, and says whose that is.
    fn begin(backlog: &mut Backlog) -> Option<String> {
        backlog.take().map(|(_, want)| want.scope.namespace)
    }

    fn end(backlog: &mut Backlog, namespace: &str, n: usize, answered: bool, now: Timestamp) {
        let (key, want) = of(namespace, n);
        backlog.ended(key, &want, (!answered).then(|| HUNG.to_owned()), now);
    }

    fn rests(backlog: &Backlog, namespace: &str, n: usize, now: Timestamp) -> Option<i64> {
        let (key, want) = of(namespace, n);
        backlog.rests(&key, &want, now).map(|resting| resting.left.as_secs())
    }

    #[test]
    fn what_is_asked_for_again_waits_once() {
        let mut backlog = Backlog::default();
        for _ in 0..PER_NAMESPACE * 2 {
            assert_eq!(offer(&mut backlog, "portal", 1), Offered::Waits);
        }
        assert_eq!(begin(&mut backlog).as_deref(), Some("portal"));
        assert_eq!(offer(&mut backlog, "portal", 1), Offered::Waits, "it is being verified");
        end(&mut backlog, "portal", 1, true, at(0));
        assert_eq!(begin(&mut backlog), None);
    }

    #[test]
    fn a_namespace_has_one_turn_at_a_time_and_the_next_after_everybody_else() {
        let mut backlog = Backlog::default();
        for n in 0..3 {
            offer(&mut backlog, "noisy", n);
        }
        offer(&mut backlog, "a", 0);
        offer(&mut backlog, "b", 0);
        let begun: Vec<_> = std::iter::from_fn(|| begin(&mut backlog)).collect();
        assert_eq!(begun, ["noisy", "a", "b"]);
        end(&mut backlog, "a", 0, true, at(0));
        assert_eq!(begin(&mut backlog), None, "its first one hangs");
        offer(&mut backlog, "a", 1);
        end(&mut backlog, "noisy", 0, false, at(0));
        offer(&mut backlog, "c", 0);
        let begun: Vec<_> = std::iter::from_fn(|| begin(&mut backlog)).collect();
        assert_eq!(begun, ["noisy", "a", "c"]);
    }

    #[test]
    fn of_many_namespaces_that_wait_each_has_as_many_turns_as_the_others() {
        let mut backlog = Backlog::default();
        let names: Vec<String> = (0..AT_ONCE * 2).map(|n| format!("ns-{n}")).collect();
        for (n, name) in (0..4).flat_map(|n| names.iter().map(move |name| (n, name))) {
            offer(&mut backlog, name, n);
        }
        let mut turns: BTreeMap<String, usize> = BTreeMap::new();
        let mut under_way = VecDeque::new();
        for _ in 0..names.len() * 2 {
            while let Some(one) = backlog.take() {
                under_way.push_back(one);
            }
            assert_eq!(under_way.len(), AT_ONCE);
            let (key, want) = under_way.pop_front().unwrap();
            backlog.ended(key, &want, None, at(0));
            *turns.entry(want.scope.namespace).or_default() += 1;
        }
        assert!(turns.len() == names.len() && turns.values().all(|turns| *turns == 2), "{turns:?}");
    }

    #[test]
    fn a_namespace_fills_its_own_share_and_nobody_elses() {
        let mut backlog = Backlog::default();
        let taken = (0..100).filter(|n| offer(&mut backlog, "noisy", *n) == Offered::Waits).count();
        assert_eq!(taken, PER_NAMESPACE);
        assert_eq!(offer(&mut backlog, "noisy", 100), Offered::NamespaceFull);
        assert_eq!(offer(&mut backlog, "quiet", 0), Offered::Waits);
        let all = (0..IN_ALL).filter(|n| offer(&mut backlog, &format!("ns-{n}"), 0) == Offered::Waits).count();
        assert_eq!(all, IN_ALL - PER_NAMESPACE - 1);
        assert_eq!(offer(&mut backlog, "late", 0), Offered::Full);
    }

    #[test]
    fn what_took_long_for_nothing_rests_longer_each_time_until_it_is_answered() {
        let mut backlog = Backlog::default();
        let mut now = 0;
        for rest in [30, 60, 120, 240, 300, 300] {
            end(&mut backlog, "portal", 1, false, at(now));
            let (key, want) = of("portal", 1);
            let resting = Resting { left: SignedDuration::from_secs(rest), why: HUNG.to_owned() };
            assert_eq!(backlog.offer(key, &want, at(now)), Offered::Rests(resting));
            assert_eq!(rests(&backlog, "portal", 1, at(now + rest - 1)), Some(1));
            assert_eq!(rests(&backlog, "portal", 1, at(now + rest)), None);
            assert_eq!(rests(&backlog, "portal", 2, at(now)), None, "another image");
            assert_eq!(rests(&backlog, "other", 1, at(now)), None, "another namespace");
            now += rest;
        }
        end(&mut backlog, "portal", 1, true, at(now));
        end(&mut backlog, "portal", 1, false, at(now));
        assert_eq!(rests(&backlog, "portal", 1, at(now)), Some(30));
        let (key, want) = of("portal", 1);
        backlog.answered(key, &want);
        assert_eq!(rests(&backlog, "portal", 1, at(now)), None, "a request had the answer");
    }

    #[test]
    fn rests_are_forgotten_after_a_while_and_are_never_too_many() {
        let mut backlog = Backlog::default();
        for n in 0..MOST_RESTS + 10 {
            end(&mut backlog, "portal", n, false, at(n as i64 / 10));
        }
        assert_eq!(backlog.resting.len(), MOST_RESTS);
        assert!(rests(&backlog, "portal", MOST_RESTS + 9, at(103)).is_some(), "the newest stays");
        end(&mut backlog, "portal", 0, false, at(10_000));
        assert_eq!(backlog.resting.len(), 1);
        assert_eq!(rests(&backlog, "portal", 0, at(10_000)), Some(30), "what was long ago makes none longer");
    }

    #[test]
    fn a_clock_that_is_set_back_prolongs_no_rest() {
        let mut backlog = Backlog::default();
        end(&mut backlog, "portal", 1, false, at(100_000));
        assert_eq!(rests(&backlog, "portal", 1, at(0)), None);
    }
}
