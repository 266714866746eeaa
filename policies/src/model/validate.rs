//! What is wrong with a policy or attestor, with its path and what would make it right. The API
//! server checks shapes; this checks meaning. Never repairs.

use std::collections::BTreeSet;
use std::fmt;

use super::{Attestor, Check, CheckSet, CheckSetScope, DeployerKind, ImageAllowlist, ImagePattern, Policy};
use crate::evidence::package::Ban;
use crate::evidence::public_key_id;

/// One thing wrong, at `path`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PolicyError {
    pub path: String,
    /// What is wrong, and what would make it right.
    pub message: String,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

#[derive(Default)]
struct Findings(Vec<PolicyError>);

impl Findings {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(PolicyError { path: path.into(), message: message.into() });
    }

    fn into_result(self) -> Result<(), Vec<PolicyError>> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0) }
    }
}

impl Policy {
    pub fn validate(&self) -> Result<(), Vec<PolicyError>> {
        let mut findings = Findings::default();
        allowlist(&self.image_allowlist, "imageAllowlist", &mut findings);
        scopes(&self.check_sets, &mut findings);
        for (i, set) in self.check_sets.iter().enumerate() {
            let path = format!("checkSets[{i}]");
            if set.display_name.is_empty() {
                findings.add(format!("{path}.displayName"), "is empty: name the set, verdicts speak of it");
            }
            allowlist(&set.image_allowlist, &format!("{path}.imageAllowlist"), &mut findings);
            let mut names = BTreeSet::new();
            for (j, check) in set.checks.iter().enumerate() {
                let path = format!("{path}.checks[{j}]");
                if !names.insert(&check.display_name) {
                    findings
                        .add(format!("{path}.displayName"), "is that of an earlier check of this set: choose another");
                }
                self::check(check, &path, &mut findings);
            }
        }
        for (i, registry) in self.registries.iter().enumerate() {
            if registry.host.is_empty() || registry.host.contains('/') {
                findings.add(format!("registries[{i}].host"), "is a host, or host:port, without scheme and path");
            }
        }
        for (i, deployer) in self.deployers.iter().enumerate() {
            let account = deployer.kind == DeployerKind::ServiceAccount;
            if deployer.name.is_empty() || (account && !is_account(&deployer.name)) {
                findings.add(
                    format!("deployers[{i}].name"),
                    if account { "must be `namespace:name` of a service account" } else { "is empty" },
                );
            }
        }
        findings.into_result()
    }
}

fn is_account(name: &str) -> bool {
    name.split_once(':').is_some_and(|(ns, sa)| !ns.is_empty() && !sa.is_empty() && !sa.contains(':'))
}

fn scopes(sets: &[CheckSet], findings: &mut Findings) {
    let mut seen = BTreeSet::new();
    let mut namespace_before: Option<usize> = None;
    for (i, set) in sets.iter().enumerate() {
        let path = format!("checkSets[{i}].scope");
        let key = match &set.scope {
            None if i + 1 < sets.len() => {
                findings
                    .add(&path, "only the last set may be without scope: the sets after this one would never be used");
                continue;
            }
            None => continue,
            Some(CheckSetScope { kubernetes_namespace: Some(ns), kubernetes_service_account: None }) => {
                namespace_before = namespace_before.or(Some(i));
                format!("namespace {ns}")
            }
            Some(CheckSetScope { kubernetes_namespace: None, kubernetes_service_account: Some(account) }) => {
                if !is_account(account) {
                    findings.add(format!("{path}.kubernetesServiceAccount"), "must be `namespace:name`");
                }
                if let Some(before) = namespace_before {
                    findings.add(
                        &path,
                        format!("a service account is more specific than the namespace of checkSets[{before}]: list it before"),
                    );
                }
                format!("account {account}")
            }
            Some(_) => {
                findings.add(&path, "must have exactly one of kubernetesNamespace and kubernetesServiceAccount");
                continue;
            }
        };
        if !seen.insert(key) {
            findings.add(&path, "is that of an earlier set, so this one would never be used");
        }
    }
}

fn allowlist(list: &ImageAllowlist, path: &str, findings: &mut Findings) {
    patterns(&list.allow_pattern, &format!("{path}.allowPattern"), findings);
}

fn patterns(list: &[String], path: &str, findings: &mut Findings) {
    for (i, pattern) in list.iter().enumerate() {
        if let Err(error) = pattern.parse::<ImagePattern>() {
            findings.add(format!("{path}[{i}]"), error.to_string());
        }
    }
}

fn check(check: &Check, path: &str, findings: &mut Findings) {
    if check.display_name.is_empty() {
        findings.add(format!("{path}.displayName"), "is empty: name the check, verdicts speak of it");
    }
    allowlist(&check.image_allowlist, &format!("{path}.imageAllowlist"), findings);
    match check.kinds() {
        1 => {}
        0 => findings.add(path, "says nothing: set one of the ...Check fields, or alwaysDeny: true"),
        n => findings.add(path, format!("sets {n} kinds of check: make each one of its own")),
    }
    let distinct: BTreeSet<&String> = check.attestors().iter().collect();
    if distinct.len() < check.attestors().len() {
        findings.add(path, "names an attestor twice: name each once");
    }
    if let Some(it) = &check.sigstore_signature_check {
        needs_some(&it.attestors, &format!("{path}.sigstoreSignatureCheck.attestors"), findings);
        if it.threshold == Some(0) {
            findings.add(
                format!("{path}.sigstoreSignatureCheck.threshold"),
                "is 0, so nothing would be needed: use 1 or more, or leave it out to ask for all attestors",
            );
        }
    }
    if let Some(it) = &check.slsa_check {
        needs_some(&it.attestors, &format!("{path}.slsaCheck.attestors"), findings);
        needs_some(&it.builders, &format!("{path}.slsaCheck.builders"), findings);
    }
    if let Some(it) = &check.sbom_check {
        needs_some(&it.attestors, &format!("{path}.sbomCheck.attestors"), findings);
        for (i, banned) in it.banned_packages.iter().enumerate() {
            if let Err(error) = Ban::parse(banned) {
                findings.add(format!("{path}.sbomCheck.bannedPackages[{i}]"), error.to_string());
            }
        }
    }
    if let Some(it) = &check.simple_signing_attestation_check {
        needs_some(&it.attestors, &format!("{path}.simpleSigningAttestationCheck.attestors"), findings);
    }
    if let Some(it) = &check.trusted_directory_check {
        let path = format!("{path}.trustedDirectoryCheck.trustedDirPatterns");
        needs_some(&it.trusted_dir_patterns, &path, findings);
        patterns(&it.trusted_dir_patterns, &path, findings);
    }
}

fn needs_some(list: &[String], path: &str, findings: &mut Findings) {
    if list.is_empty() {
        findings.add(path, "is empty, so it could never pass: name at least one");
    }
}

impl Attestor {
    pub fn validate(&self) -> Result<(), Vec<PolicyError>> {
        let mut findings = Findings::default();
        match (&self.keyless, self.keys.is_empty()) {
            (Some(_), false) => findings.add("keys", "stand beside keyless: make two attestors"),
            (None, true) => {
                findings.add("keyless", "neither keyless nor keys is set, so nobody could ever attest: set one")
            }
            _ => {}
        }
        if let Some(keyless) = &self.keyless {
            for (field, value) in [("identity", &keyless.identity), ("issuer", &keyless.issuer)] {
                if value.trim().is_empty() {
                    findings.add(format!("keyless.{field}"), "is empty: anyone would match");
                } else if value.contains('*') {
                    findings.add(format!("keyless.{field}"), "is compared exactly: patterns are not read");
                }
            }
        }
        let mut ids = BTreeSet::new();
        for (i, key) in self.keys.iter().enumerate() {
            match public_key_id(&key.pem) {
                Err(reason) => findings.add(format!("keys[{i}].pem"), format!("is no PEM PUBLIC KEY: {reason}")),
                Ok(id) if !ids.insert(id.clone()) => {
                    findings.add(format!("keys[{i}].pem"), "is an earlier key again: name each once")
                }
                Ok(_) => {}
            }
        }
        findings.into_result()
    }
}
