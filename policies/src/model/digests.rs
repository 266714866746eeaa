//! Digests of policies and trust roots: what a verdict is kept under. Two documents that judge
//! differently never share one; a document is digested as it is written, defaults filled in.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Attestor, Policy, TrustRoot};
use crate::digest::Digest;

#[derive(Serialize)]
struct Canonical<'a> {
    policy: &'a Policy,
    /// A missing attestor is part of it: once it is there, the answer may differ.
    attestors: BTreeMap<&'a str, Option<&'a Attestor>>,
}

impl Policy {
    /// Digest of the policy with the attestors it names.
    pub fn digest(&self, attestors: &BTreeMap<String, Attestor>) -> Digest {
        let canonical = Canonical {
            policy: self,
            attestors: self.attestor_names().into_iter().map(|name| (name, attestors.get(name))).collect(),
        };
        of_json(&canonical)
    }

    /// All attestors that any check names.
    pub fn attestor_names(&self) -> BTreeSet<&str> {
        self.check_sets
            .iter()
            .flat_map(|set| &set.checks)
            .flat_map(|check| check.attestors())
            .map(String::as_str)
            .collect()
    }
}

/// Digest of the trust roots that the policy's attestors rest on.
pub fn trust_root_digest(
    policy: &Policy,
    attestors: &BTreeMap<String, Attestor>,
    roots: &BTreeMap<String, TrustRoot>,
) -> Digest {
    let used: BTreeMap<&str, Option<&TrustRoot>> = policy
        .attestor_names()
        .into_iter()
        .filter_map(|name| attestors.get(name))
        .map(|attestor| (attestor.trust_root_name(), roots.get(attestor.trust_root_name())))
        .collect();
    of_json(&used)
}

/// Struct fields serialise in the order they are declared in and maps here are sorted, so equal
/// values give equal text.
fn of_json(value: &impl Serialize) -> Digest {
    // Serialising plain data into memory cannot fail; were it to, the error's own digest matches no
    // verdict that is kept.
    match serde_json::to_vec(value) {
        Ok(bytes) => Digest::of(&bytes),
        Err(error) => Digest::of(format!("not serialisable: {error}").as_bytes()),
    }
}
