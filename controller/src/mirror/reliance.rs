//! First copies of what this environment relies on already: an attestor or trust root that a policy here names and
//! that never was here, or is no more. While it is missing its signatures vouch for nothing, so bringing it in lets
//! something pass that was refused. Never fetches and never writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use kube::ResourceExt;
use tidegate_pipelines::api::Environment;
use tidegate_pipelines::api::policy::{Attestor, VerificationPolicy};

use super::kinds::Kind;

/// What holds in this cluster at present.
pub struct Ground<'a> {
    pub environment: Option<&'a Environment>,
    pub policies: &'a [Arc<VerificationPolicy>],
    pub attestors: &'a [Arc<Attestor>],
}

impl Ground<'_> {
    /// Whether a policy here names it. Before the environment's own policy is here nothing may ship, so that nothing
    /// can be loosened: a fresh environment is furnished at once, whatever order things come in. From then on any
    /// policy counts, since pods may start under each that an Environment may be turned to.
    pub fn names(&self, kind: Kind, name: &str) -> bool {
        let governed = self.environment.is_some_and(|e| self.policies.iter().any(|p| p.name_any() == e.spec.policy));
        if !governed {
            return false;
        }
        let named = self.attestors_named();
        match kind {
            Kind::Attestor => named.contains(name),
            Kind::TrustRoot => {
                let resting = self.attestors.iter().filter(|a| named.contains(a.name_any().as_str()));
                resting.map(|a| a.spec.attestor.trust_root_name()).any(|root| root == name)
            }
            Kind::Environment | Kind::Policy | Kind::Quarantine => false,
        }
    }

    fn attestors_named(&self) -> BTreeSet<&str> {
        self.policies.iter().flat_map(|p| p.spec.policy.attestor_names()).collect()
    }
}

/// The attestors that this policy names and its local copy does not.
pub fn newly_named(source: &VerificationPolicy, local: Option<&VerificationPolicy>) -> Vec<String> {
    let known = local.map(|p| p.spec.policy.attestor_names()).unwrap_or_default();
    source.spec.policy.attestor_names().difference(&known).map(|&name| name.to_owned()).collect()
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

    #[test]
    fn what_a_policy_in_force_names_is_relied_on_and_nothing_else() {
        let east = environment("strict");
        let policies = [policy("strict", &["ci"]), policy("next", &["qa"])];
        let attestors = [attestor("qa", Some("corporate")), attestor("unused", Some("elsewhere"))];
        let ground = Ground { environment: Some(&east), policies: &policies, attestors: &attestors };
        for (kind, name, expected, case) in [
            (Kind::Attestor, "ci", true, "the environment's policy names it"),
            (Kind::Attestor, "qa", true, "another policy that is here names it"),
            (Kind::Attestor, "eve", false, "nobody names it"),
            (Kind::TrustRoot, "corporate", true, "an attestor that is named rests on it"),
            (Kind::TrustRoot, "elsewhere", false, "the attestor that rests on it is not named"),
            (Kind::TrustRoot, "default", false, "nobody rests on it"),
            (Kind::Policy, "ci", false, "a policy is not named by policies"),
        ] {
            assert_eq!(ground.names(kind, name), expected, "{case}");
        }
        let rootless = [attestor("ci", None)];
        let ground = Ground { attestors: &rootless, ..ground };
        assert!(ground.names(Kind::TrustRoot, "default"), "the root that is meant where none is written");
    }

    #[test]
    fn in_an_environment_that_nothing_governs_yet_nothing_is_relied_on() {
        let policies = [policy("strict", &["ci"])];
        let ground = Ground { environment: None, policies: &policies, attestors: &[] };
        assert!(!ground.names(Kind::Attestor, "ci"), "no Environment yet");
        let east = environment("other");
        let ground = Ground { environment: Some(&east), ..ground };
        assert!(!ground.names(Kind::Attestor, "ci"), "its policy is not here yet");
    }

    #[test]
    fn a_policy_brings_only_what_it_did_not_name_before() {
        let (old, new) = (policy("strict", &["ci"]), policy("strict", &["ci", "qa"]));
        assert_eq!(newly_named(&new, None), ["ci", "qa"]);
        assert_eq!(newly_named(&new, Some(&old)), ["qa"]);
        assert_eq!(newly_named(&old, Some(&new)), Vec::<String>::new());
    }
}
