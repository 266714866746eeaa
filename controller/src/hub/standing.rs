//! What keeps each pipeline from shipping: examined once per change and kept, so that a reconcile only looks its own
//! up. Parsing objectives is what costs; one pipeline's are read again only when something of its own changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tidegate_pipelines::release::{Claim, Refusal, ambiguous};

/// What keeps a pipeline from shipping; nothing if it is sound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub refusals: Vec<Refusal>,
    pub ambiguous_with: Vec<String>,
}

impl Standing {
    /// One line, or none if it ships.
    pub fn refused(&self) -> Option<String> {
        (!self.refusals.is_empty()).then(|| self.refusals.iter().map(Refusal::to_string).collect::<Vec<_>>().join("; "))
    }
}

/// Which version of an object this is; none: there is none of that name.
pub type Version = Option<(Option<String>, Option<String>)>;

/// All that an examination of one pipeline rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Basis {
    pub pipeline: Version,
    pub deleting: bool,
    pub namespace: Version,
    pub environments: Vec<Version>,
}

/// One pipeline by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Examined {
    pub refusals: Vec<Refusal>,
    pub claims: BTreeSet<Claim>,
}

/// Standings of all pipelines at one time, by `namespace/name`.
#[derive(Debug, Default)]
pub struct Snapshot {
    examined: BTreeMap<String, (Basis, Arc<Examined>)>,
    standings: BTreeMap<String, Arc<Standing>>,
}

impl Snapshot {
    pub fn of(&self, full_name: &str) -> Option<Arc<Standing>> {
        self.standings.get(full_name).cloned()
    }

    /// Whether this pipeline was examined as it is.
    pub fn knows(&self, full_name: &str, basis: &Basis) -> bool {
        self.examined.get(full_name).is_some_and(|(examined, _)| examined == basis)
    }

    /// `present`: every pipeline that there is. `examine` is asked about those only whose basis is another than before.
    fn next<P>(
        &self,
        present: impl IntoIterator<Item = (String, Basis, P)>,
        mut examine: impl FnMut(&P) -> Examined,
    ) -> Snapshot {
        let examined: BTreeMap<String, (Basis, Arc<Examined>)> = present
            .into_iter()
            .map(|(name, basis, pipeline)| {
                let kept =
                    self.examined.get(&name).filter(|(before, _)| *before == basis).map(|(_, kept)| kept.clone());
                let one = kept.unwrap_or_else(|| Arc::new(examine(&pipeline)));
                (name, (basis, one))
            })
            .collect();
        let rivals = ambiguous(examined.iter().map(|(name, (_, one))| (name.as_str(), &one.claims)));
        let standing = |name: &str, one: &Examined| {
            let others = rivals.get(name).into_iter().flatten();
            let ambiguous_with: Vec<String> = others.map(|&other| other.to_owned()).collect();
            let mut refusals = one.refusals.clone();
            if !ambiguous_with.is_empty() {
                refusals.push(Refusal::AmbiguousPipelines { others: ambiguous_with.join(", ") });
            }
            Arc::new(Standing { refusals, ambiguous_with })
        };
        let standings = examined.iter().map(|(name, (_, one))| (name.clone(), standing(name, one))).collect();
        Snapshot { examined, standings }
    }
}

/// The newest snapshot, and how many changes it has seen. Clones share it.
#[derive(Clone, Default)]
pub struct Standings {
    changes: Arc<AtomicU64>,
    newest: Arc<RwLock<(Option<u64>, Arc<Snapshot>)>>,
}

impl Standings {
    /// A pipeline, namespace or environment changed, and its store shows it already.
    pub fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// What stands now; `present` and `examine` as in [`Snapshot::next`], asked only after a change.
    pub fn now<P, I>(&self, present: impl FnOnce() -> I, examine: impl FnMut(&P) -> Examined) -> Arc<Snapshot>
    where
        I: IntoIterator<Item = (String, Basis, P)>,
    {
        // Before the stores are read: a change in between is found by the next one who asks.
        let changes = self.changes.load(Ordering::Acquire);
        {
            let newest = self.newest.read().unwrap_or_else(PoisonError::into_inner);
            if newest.0 == Some(changes) {
                return newest.1.clone();
            }
        }
        let mut newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
        if newest.0.is_none_or(|seen| seen < changes) {
            *newest = (Some(changes), Arc::new(newest.1.next(present(), examine)));
        }
        newest.1.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number, generation, and the workload it claims.
    type Fake = (usize, u64, &'static str);

    fn present(all: &[Fake]) -> Vec<(String, Basis, Fake)> {
        let basis = |(number, generation, _): &Fake| Basis {
            pipeline: Some((Some(format!("uid-{number}")), Some(generation.to_string()))),
            deleting: false,
            namespace: None,
            environments: vec![],
        };
        all.iter().map(|fake| (format!("shop/p{:04}", fake.0), basis(fake), *fake)).collect()
    }

    fn examined((number, _, workload): &Fake) -> Examined {
        let workload = if workload.is_empty() { format!("w{number}") } else { (*workload).to_owned() };
        let claim = Claim { environment: "east".into(), namespace: "shop".into(), workload };
        Examined { refusals: vec![], claims: [claim].into() }
    }

    #[test]
    fn a_pipeline_is_examined_once_per_change_of_its_own_however_many_there_are_and_ask() {
        let standings = Standings::default();
        let mut all: Vec<Fake> = (0..1000).map(|n| (n, 1, "")).collect();
        let looked = |all: &[Fake]| {
            let mut count = 0;
            for _ in 0..1000 {
                standings.now(
                    || present(all),
                    |fake| {
                        count += 1;
                        examined(fake)
                    },
                );
            }
            count
        };
        assert_eq!(looked(&all), 1000, "each once at first");
        assert_eq!(looked(&all), 0, "nothing changed");
        standings.changed();
        assert_eq!(looked(&all), 0, "something changed that is nothing of theirs");
        all[7].1 = 2;
        standings.changed();
        assert_eq!(looked(&all), 1, "the one that changed");
        all.remove(3);
        standings.changed();
        assert_eq!(looked(&all), 0, "one that went costs nothing");
    }

    #[test]
    fn who_claims_what_another_claims_is_told_of_it_until_one_of_them_goes() {
        let standings = Standings::default();
        let now = |all: &[Fake]| standings.now(|| present(all), examined);
        let all = [(1, 1, "portal"), (2, 1, "portal"), (3, 1, "")];
        let snapshot = now(&all);
        let of = |name| snapshot.of(name).unwrap();
        assert_eq!(of("shop/p0001").ambiguous_with, ["shop/p0002"]);
        assert_eq!(of("shop/p0002").ambiguous_with, ["shop/p0001"]);
        assert!(of("shop/p0002").refused().is_some_and(|why| why.contains("shop/p0001")));
        assert_eq!(*of("shop/p0003"), Standing::default());
        standings.changed();
        assert_eq!(*now(&all[1..]).of("shop/p0002").unwrap(), Standing::default(), "it stands alone now");
    }

    #[test]
    fn whatever_an_examination_rests_on_calls_for_another() {
        let before = present(&[(1, 1, "")]).remove(0).1;
        let environment = |generation: &str| Some((Some("e".to_owned()), Some(generation.to_owned())));
        let one = |basis: Basis| [("shop/p".to_owned(), basis, ())];
        for (basis, case) in [
            (Basis { pipeline: None, ..before.clone() }, "the pipeline"),
            (Basis { deleting: true, ..before.clone() }, "its deletion"),
            (Basis { namespace: environment("1"), ..before.clone() }, "its namespace's labels"),
            (Basis { environments: vec![environment("1")], ..before.clone() }, "an environment that it names"),
        ] {
            let (mut count, first) = (0, Snapshot::default().next(one(before.clone()), |()| Examined::default()));
            first.next(one(basis), |()| {
                count += 1;
                Examined::default()
            });
            assert_eq!(count, 1, "{case}");
        }
    }
}
