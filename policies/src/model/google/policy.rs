//! `google.cloud.binaryauthorization.v1.Policy` as YAML, with the rules that Google holds it to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{ImagePattern, PolicyError};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    /// Output only at Google, and in what it exports: `projects/*/policy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_time: Option<String>,
    #[serde(default)]
    pub global_policy_evaluation_mode: GlobalPolicyEvaluationMode,
    #[serde(default)]
    pub admission_whitelist_patterns: Vec<AdmissionWhitelistPattern>,
    /// By `location.cluster`.
    #[serde(default)]
    pub cluster_admission_rules: BTreeMap<String, AdmissionRule>,
    #[serde(default)]
    pub kubernetes_namespace_admission_rules: BTreeMap<String, AdmissionRule>,
    /// By `namespace:serviceaccount`.
    #[serde(default)]
    pub kubernetes_service_account_admission_rules: BTreeMap<String, AdmissionRule>,
    /// By `spiffe://domain/ns/namespace/sa/account`, the scheme may be missing.
    #[serde(default)]
    pub istio_service_identity_admission_rules: BTreeMap<String, AdmissionRule>,
    pub default_admission_rule: AdmissionRule,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum GlobalPolicyEvaluationMode {
    #[default]
    GlobalPolicyEvaluationModeUnspecified,
    Enable,
    Disable,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdmissionWhitelistPattern {
    pub name_pattern: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdmissionRule {
    pub evaluation_mode: EvaluationMode,
    /// `projects/*/attestors/*`; all of them must have attested.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub require_attestations_by: Vec<String>,
    pub enforcement_mode: EnforcementMode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EvaluationMode {
    AlwaysAllow,
    RequireAttestation,
    AlwaysDeny,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnforcementMode {
    #[serde(rename = "ENFORCED_BLOCK_AND_AUDIT_LOG")]
    EnforcedBlockAndAuditLog,
    #[serde(rename = "DRYRUN_AUDIT_LOG_ONLY")]
    DryrunAuditLogOnly,
}

impl Policy {
    /// The four maps by their names; Google allows at most one of them to have entries.
    pub(super) fn rule_maps(&self) -> [(&'static str, &BTreeMap<String, AdmissionRule>); 4] {
        [
            ("clusterAdmissionRules", &self.cluster_admission_rules),
            ("kubernetesNamespaceAdmissionRules", &self.kubernetes_namespace_admission_rules),
            ("kubernetesServiceAccountAdmissionRules", &self.kubernetes_service_account_admission_rules),
            ("istioServiceIdentityAdmissionRules", &self.istio_service_identity_admission_rules),
        ]
    }

    /// All rules with their paths.
    pub(super) fn rules(&self) -> impl Iterator<Item = (String, &AdmissionRule)> {
        let mapped = self
            .rule_maps()
            .into_iter()
            .flat_map(|(map, rules)| rules.iter().map(move |(key, rule)| (format!("{map}[{key}]"), rule)));
        std::iter::once(("defaultAdmissionRule".to_owned(), &self.default_admission_rule)).chain(mapped)
    }

    /// What Google refuses in a policy by itself; whether its attestors exist is seen on import.
    pub fn validate(&self) -> Result<(), Vec<PolicyError>> {
        let mut errors = Vec::new();
        let mut add = |path: String, message: &str| errors.push(PolicyError { path, message: message.to_owned() });
        let filled: Vec<&str> =
            self.rule_maps().into_iter().filter(|(_, rules)| !rules.is_empty()).map(|(map, _)| map).collect();
        if filled.len() > 1 {
            add(
                filled[1..].join(", "),
                &format!("only one kind of specific rules is allowed beside the default, and {} is there", filled[0]),
            );
        }
        for (i, pattern) in self.admission_whitelist_patterns.iter().enumerate() {
            if let Err(error) = pattern.name_pattern.parse::<ImagePattern>() {
                add(format!("admissionWhitelistPatterns[{i}].namePattern"), &error.to_string());
            }
        }
        for (map, rules) in self.rule_maps() {
            for key in rules.keys() {
                if let Some(form) = key_form(map, key) {
                    add(format!("{map}[{key}]"), &format!("the key must be {form}"));
                }
            }
        }
        for (path, rule) in self.rules() {
            let path = format!("{path}.requireAttestationsBy");
            let required = rule.evaluation_mode == EvaluationMode::RequireAttestation;
            match (required, rule.require_attestations_by.is_empty()) {
                (true, true) => {
                    add(path.clone(), "is empty, but evaluationMode REQUIRE_ATTESTATION needs at least one")
                }
                (false, false) => add(path.clone(), "is for evaluationMode REQUIRE_ATTESTATION only"),
                _ => {}
            }
            for (i, name) in rule.require_attestations_by.iter().enumerate() {
                if attestor_id(name).is_none() {
                    add(format!("{path}[{i}]"), &format!("`{name}` is not of the form projects/*/attestors/*"));
                }
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
}

/// The form a key must have, if this one has not.
fn key_form(map: &str, key: &str) -> Option<&'static str> {
    let parts = |separator: char| -> Option<(&str, &str)> {
        key.split_once(separator).filter(|(a, b)| !a.is_empty() && !b.is_empty() && !b.contains(separator))
    };
    match map {
        "clusterAdmissionRules" => parts('.').is_none().then_some("`location.cluster`"),
        "kubernetesNamespaceAdmissionRules" => (key.is_empty() || key.contains([':', '/'])).then_some("a namespace"),
        "kubernetesServiceAccountAdmissionRules" => parts(':').is_none().then_some("`namespace:serviceaccount`"),
        _ => {
            let path = key.strip_prefix("spiffe://").unwrap_or(key);
            let segments: Vec<&str> = path.split('/').collect();
            let good = matches!(segments.as_slice(), [domain, "ns", ns, "sa", sa]
                if ![domain, ns, sa].iter().any(|s| s.is_empty()));
            (!good).then_some("`spiffe://domain/ns/namespace/sa/account`, with or without scheme")
        }
    }
}

/// The last segment of `projects/*/attestors/*`. A tutorial's placeholders are no names.
pub(super) fn attestor_id(name: &str) -> Option<&str> {
    let segments: Vec<&str> = name.split('/').collect();
    let plain = |s: &str| !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:".contains(c));
    match segments.as_slice() {
        ["projects", project, "attestors", id] if plain(project) && plain(id) => Some(id),
        _ => None,
    }
}
