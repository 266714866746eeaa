//! What documents rely on by name. An attestor, a trust root or an environment's policy that is missing where something
//! names it lets nothing pass, so that bringing it in loosens, as does naming it for the first time: both waits run in
//! the open, each its whole length, in whatever order the hub says things. Never fetches and never writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tidegate_pipelines::api::policy::{Attestor, TrustRoot, VerificationPolicy};
use tidegate_pipelines::api::{Environment, Quarantine, names};

use super::kinds::Kind;

/// What one document names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    policy: Option<String>,
    pub attestors: BTreeSet<String>,
    root: Option<String>,
}

/// A kind that holds here by name.
pub trait Mirrored:
    Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
    fn named(&self) -> Named {
        Named::default()
    }
}

impl Mirrored for Environment {
    fn named(&self) -> Named {
        Named { policy: Some(self.spec.policy.clone()), ..Named::default() }
    }
}

impl Mirrored for VerificationPolicy {
    fn named(&self) -> Named {
        let attestors = self.spec.policy.attestor_names().into_iter().map(str::to_owned).collect();
        Named { attestors, ..Named::default() }
    }
}

impl Mirrored for Attestor {
    fn named(&self) -> Named {
        Named { root: Some(self.spec.attestor.trust_root_name().to_owned()), ..Named::default() }
    }
}

impl Mirrored for TrustRoot {}
impl Mirrored for Quarantine {}

impl Named {
    /// What this document names and its local copy does not.
    pub fn newly<K: Mirrored>(source: &K, local: Option<&K>) -> Self {
        let (mut new, known) = (source.named(), local.map(K::named).unwrap_or_default());
        new.policy = new.policy.filter(|policy| known.policy.as_ref() != Some(policy));
        new.root = new.root.filter(|root| known.root.as_ref() != Some(root));
        new.attestors.retain(|attestor| !known.attestors.contains(attestor));
        new
    }

    pub fn is_nothing(&self) -> bool {
        *self == Named::default()
    }
}

/// Since when what a document newly relies on is known here; in the order of how long that has to be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Footing {
    /// It relies on nothing new. What is not here does not count: it is missed from then on and has its own wait.
    Firm,
    /// The youngest of it.
    Since(Timestamp),
    /// The policy that an Environment is turned to is not here, or one cannot tell since when.
    Open,
}

/// Local copies change only by what tightens or has waited, so what one lets pass is no younger than the copy.
fn known(object: &impl ResourceExt) -> Footing {
    let seen = object.annotations().get(names::FIRST_SEEN).and_then(|at| at.parse().ok());
    let since = seen.or_else(|| object.creation_timestamp().map(|made| made.0));
    since.map_or(Footing::Open, Footing::Since)
}

/// What holds in this cluster at present.
pub struct Ground {
    pub environment: Option<Arc<Environment>>,
    pub policies: Vec<Arc<VerificationPolicy>>,
    pub attestors: Vec<Arc<Attestor>>,
    pub trust_roots: Vec<Arc<TrustRoot>>,
}

impl Ground {
    /// Whether something that holds here names it, and so misses it where there is no copy. Before a policy governed
    /// the environment nothing may ship, so that nothing can be loosened: a fresh environment is furnished at once,
    /// whatever order things come in. From then on any policy counts, since pods may start under each that an
    /// Environment may be turned to, and an Environment that is not there is missed itself.
    pub fn names(&self, kind: Kind, name: &str) -> bool {
        if !self.governed() {
            return false;
        }
        let named = self.attestors_named();
        match kind {
            Kind::Environment => self.environment.is_none(),
            Kind::Policy => self.environment.as_ref().is_some_and(|e| e.spec.policy == name),
            Kind::Attestor => named.contains(name),
            Kind::TrustRoot => {
                let resting = self.attestors.iter().filter(|a| named.contains(a.name_any().as_str()));
                resting.map(|a| a.spec.attestor.trust_root_name()).any(|root| root == name)
            }
            Kind::Quarantine => false,
        }
    }

    /// Neither a policy nor an Environment that was taken away leaves a fresh environment behind: each keeps it of the
    /// other.
    fn governed(&self) -> bool {
        let marked = |annotations: &BTreeMap<String, String>| annotations.contains_key(names::GOVERNED);
        self.in_force().is_some()
            || self.environment.as_ref().is_some_and(|e| marked(e.annotations()))
            || self.policies.iter().any(|p| marked(p.annotations()))
    }

    /// The copy of the policy that the Environment names.
    pub fn in_force(&self) -> Option<&Arc<VerificationPolicy>> {
        let environment = self.environment.as_ref()?;
        self.policies.iter().find(|p| p.name_any() == environment.spec.policy)
    }

    /// Whether the policy that governed here last said just this.
    pub fn governed_by(&self, fingerprint: &str) -> bool {
        let last = self.environment.as_ref().and_then(|e| e.annotations().get(names::GOVERNED));
        last.is_some_and(|last| last == fingerprint)
    }

    fn attestors_named(&self) -> BTreeSet<&str> {
        self.policies.iter().flat_map(|p| p.spec.policy.attestor_names()).collect()
    }

    /// An attestor is known no longer than the root that its signatures are held against.
    pub fn footing(&self, newly: &Named) -> Footing {
        let policy = newly.policy.iter().map(|name| {
            self.policies.iter().find(|p| p.name_any() == *name).map_or(Footing::Open, |p| known(p.as_ref()))
        });
        let attestors: Vec<_> = self.attestors.iter().filter(|a| newly.attestors.contains(&a.name_any())).collect();
        let resting = attestors.iter().map(|a| a.spec.attestor.trust_root_name());
        let roots: BTreeSet<&str> = resting.chain(newly.root.as_deref()).collect();
        let roots = self.trust_roots.iter().filter(|r| roots.contains(r.name_any().as_str()));
        let attestors = attestors.iter().map(|a| known(a.as_ref()));
        policy.chain(attestors).chain(roots.map(|r| known(r.as_ref()))).max().unwrap_or(Footing::Firm)
    }
}

/// By kind and name: the digest of the document that waits, and since when.
type Table = BTreeMap<(Kind, String), (String, Timestamp)>;

/// First copies whose delay runs. There is no local object that could carry the mark; a restart begins the delay anew.
#[derive(Clone, Default)]
pub struct Waiting(Arc<RwLock<Table>>);

impl Waiting {
    pub fn of(&self, kind: Kind, name: &str) -> Option<(String, Timestamp)> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&(kind, name.to_owned())).cloned()
    }

    pub fn begin(&self, kind: Kind, name: &str, digest: String, now: Timestamp) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert((kind, name.to_owned()), (digest, now));
    }

    pub fn end(&self, kind: Kind, name: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&(kind, name.to_owned()));
    }

    /// Ends all of this kind that `gone` names.
    pub fn end_all(&self, kind: Kind, gone: impl Fn(&str) -> bool) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        table.retain(|(of, name), _| *of != kind || !gone(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn environment(policy: &str) -> Environment {
        let spec = json!({"policy": policy, "metrics": {"prometheus": "http://p"}});
        serde_json::from_value(
            json!({"apiVersion": "tidegate.io/v1alpha1", "kind": "Environment", "metadata": {"name": "east"}, "spec": spec}),
        )
        .unwrap()
    }

    fn policy(name: &str, attestors: &[&str]) -> Arc<VerificationPolicy> {
        let check = json!({"displayName": "signed", "sigstoreSignatureCheck": {"attestors": attestors}});
        let spec = json!({"checkSets": [{"displayName": "all", "checks": [check]}]});
        Arc::new(object("VerificationPolicy", name, &spec))
    }

    fn attestor(name: &str, root: Option<&str>) -> Arc<Attestor> {
        Arc::new(object("Attestor", name, &json!({"keys": [{"pem": "x"}], "trustRoot": root})))
    }

    fn object<K: serde::de::DeserializeOwned>(kind: &str, name: &str, spec: &Value) -> K {
        serde_json::from_value(
            json!({"apiVersion": "tidegate.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}),
        )
        .unwrap()
    }

    fn ground(
        environment: Option<Environment>,
        policies: &[Arc<VerificationPolicy>],
        here: &[Arc<Attestor>],
    ) -> Ground {
        let environment = environment.map(Arc::new);
        Ground { environment, policies: policies.to_vec(), attestors: here.to_vec(), trust_roots: vec![] }
    }

    fn made<K: ResourceExt + Clone>(object: &Arc<K>, at: &str) -> Arc<K> {
        let mut object = object.as_ref().clone();
        object.meta_mut().creation_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at.parse().unwrap()));
        Arc::new(object)
    }

    fn since(at: &str) -> Footing {
        Footing::Since(at.parse().unwrap())
    }

    const EARLY: &str = "2026-01-01T00:00:00Z";
    const LATE: &str = "2026-01-01T00:09:00Z";

    #[test]
    fn what_a_policy_in_force_names_is_relied_on_and_nothing_else() {
        let policies = [policy("strict", &["ci"]), policy("next", &["qa"])];
        let attestors = [attestor("qa", Some("corporate")), attestor("unused", Some("elsewhere"))];
        let here = ground(Some(environment("strict")), &policies, &attestors);
        for (kind, name, expected, case) in [
            (Kind::Attestor, "ci", true, "the environment's policy names it"),
            (Kind::Attestor, "qa", true, "another policy that is here names it"),
            (Kind::Attestor, "eve", false, "nobody names it"),
            (Kind::TrustRoot, "corporate", true, "an attestor that is named rests on it"),
            (Kind::TrustRoot, "elsewhere", false, "the attestor that rests on it is not named"),
            (Kind::TrustRoot, "default", false, "nobody rests on it"),
            (Kind::Policy, "strict", true, "the Environment names it"),
            (Kind::Policy, "next", false, "no Environment names it"),
            (Kind::Policy, "ci", false, "a policy is not named by policies"),
        ] {
            assert_eq!(here.names(kind, name), expected, "{case}");
        }
        let here = Ground { attestors: vec![attestor("ci", None)], ..here };
        assert!(here.names(Kind::TrustRoot, "default"), "the root that is meant where none is written");
    }

    #[test]
    fn in_an_environment_that_nothing_governed_yet_nothing_is_relied_on() {
        let policies = [policy("strict", &["ci"])];
        assert!(!ground(None, &policies, &[]).names(Kind::Attestor, "ci"), "no Environment yet");
        let here = ground(Some(environment("other")), &policies, &[]);
        assert!(!here.names(Kind::Attestor, "ci"), "its policy is not here yet");
        assert!(!here.names(Kind::Policy, "other"));
        let mut governed = environment("other");
        governed.annotations_mut().insert(names::GOVERNED.into(), "a digest".into());
        let here = ground(Some(governed), &policies, &[]);
        assert!(here.names(Kind::Attestor, "ci"), "its policy was taken away");
        assert!(here.names(Kind::Policy, "other"));
        assert!(here.governed_by("a digest") && !here.governed_by("another"));
    }

    #[test]
    fn where_a_policy_governed_a_missing_environment_is_missed_and_what_policies_name_stays_so() {
        let mut strict = policy("strict", &["ci"]).as_ref().clone();
        let fresh = ground(None, &[Arc::new(strict.clone())], &[]);
        assert!(!fresh.names(Kind::Environment, "east"), "a policy that came before the first Environment");
        strict.annotations_mut().insert(names::GOVERNED.into(), "east".into());
        let here = ground(None, &[Arc::new(strict)], &[]);
        assert!(here.names(Kind::Environment, "east"));
        assert!(here.names(Kind::Attestor, "ci"), "it would pass as soon as the Environment is there again");
        assert!(!here.names(Kind::Policy, "other"), "nothing says which one governs next");
    }

    #[test]
    fn a_document_is_held_to_the_youngest_of_what_it_did_not_name_before() {
        let old = policy("strict", &["ci"]);
        let new = policy("strict", &["ci", "qa"]);
        let (ci, qa) = (made(&attestor("ci", None), LATE), made(&attestor("qa", Some("corporate")), EARLY));
        let root = Arc::new(object::<TrustRoot>("TrustRoot", "corporate", &json!({"trustedRoot": "{}"})));
        let mut here = ground(Some(environment("strict")), &[], &[ci, qa]);
        assert_eq!(
            here.footing(&Named::newly(old.as_ref(), Some(new.as_ref()))),
            Footing::Firm,
            "it names nothing new"
        );
        let newly = Named::newly(new.as_ref(), Some(old.as_ref()));
        assert_eq!(here.footing(&newly), since(EARLY), "what it named before is its own concern no more");
        assert_eq!(here.footing(&Named::newly(new.as_ref(), None)), since(LATE), "without a copy all of it is new");
        here.trust_roots = vec![made(&root, LATE)];
        assert_eq!(here.footing(&newly), since(LATE), "the root comes with it");
        let elsewhere = attestor("ci", Some("corporate"));
        let turned = Named::newly(elsewhere.as_ref(), Some(attestor("ci", None).as_ref()));
        assert_eq!(here.footing(&turned), since(LATE), "an attestor that is turned to another root");
        assert!(Named::newly(elsewhere.as_ref(), Some(elsewhere.as_ref())).is_nothing());
        here.trust_roots = vec![root];
        assert_eq!(here.footing(&newly), Footing::Open, "one cannot tell since when");
    }

    #[test]
    fn an_environment_is_held_to_the_policy_that_it_is_turned_to() {
        let turned = Named::newly(&environment("lax"), Some(&environment("strict")));
        assert!(Named::newly(&environment("lax"), Some(&environment("lax"))).is_nothing());
        let mut here = ground(Some(environment("strict")), &[], &[]);
        assert_eq!(here.footing(&turned), Footing::Open, "it is not here");
        here.policies = vec![made(&policy("lax", &[]), LATE)];
        assert_eq!(here.footing(&turned), since(LATE));
        let mut waited = here.policies[0].as_ref().clone();
        waited.annotations_mut().insert(names::FIRST_SEEN.into(), EARLY.into());
        here.policies = vec![Arc::new(waited)];
        assert_eq!(here.footing(&turned), since(EARLY), "it waited before its first copy came");
    }
}
