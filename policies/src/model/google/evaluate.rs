//! A classic policy judged as Google judges it: allowlist, then the one most specific rule, all of
//! whose attestors must have attested. Break-glass labels are never honoured here.

use std::collections::BTreeSet;

use super::policy::{AdmissionRule, EnforcementMode, EvaluationMode, Policy};
use crate::image::ImageRef;
use crate::model::ImagePattern;

/// The pod an image is meant for, as far as a rule may ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassicSubject {
    /// `location.cluster`.
    pub cluster: Option<String>,
    pub namespace: String,
    pub service_account: String,
    /// The trust domain of the mesh, if there is one.
    pub trust_domain: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conformance {
    Conformant,
    NonConformant,
}

/// What the policy says of an image, and whether that blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    pub conformance: Conformance,
    /// Not conformant, and the rule is enforced.
    pub blocks: bool,
    /// Which rule decided, and what would make it pass.
    pub reason: String,
}

impl Policy {
    /// The rule for this pod and its path.
    fn rule_for(&self, subject: &ClassicSubject) -> (String, &AdmissionRule) {
        let account = format!("{}:{}", subject.namespace, subject.service_account);
        let identity = subject
            .trust_domain
            .as_ref()
            .map(|domain| format!("{domain}/ns/{}/sa/{}", subject.namespace, subject.service_account));
        for (map, rules) in self.rule_maps() {
            let found = rules.iter().find(|(key, _)| match map {
                "clusterAdmissionRules" => subject.cluster.as_ref() == Some(key),
                "kubernetesNamespaceAdmissionRules" => **key == subject.namespace,
                "kubernetesServiceAccountAdmissionRules" => **key == account,
                _ => identity.as_deref() == Some(key.strip_prefix("spiffe://").unwrap_or(key)),
            });
            if let Some((key, rule)) = found {
                return (format!("{map}[{key}]"), rule);
            }
        }
        ("defaultAdmissionRule".to_owned(), &self.default_admission_rule)
    }

    /// `attested` are the attestors (full names) with an attestation of this image that verified.
    pub fn evaluate(&self, image: &ImageRef, subject: &ClassicSubject, attested: &BTreeSet<String>) -> Evaluation {
        let exempt = |pattern: &str| pattern.parse::<ImagePattern>().is_ok_and(|p| p.matches(image));
        if let Some(pattern) = self.admission_whitelist_patterns.iter().find(|p| exempt(&p.name_pattern)) {
            return Evaluation {
                conformance: Conformance::Conformant,
                blocks: false,
                reason: format!("admissionWhitelistPatterns exempts it by `{}`", pattern.name_pattern),
            };
        }
        let (path, rule) = self.rule_for(subject);
        let missing: Vec<&str> =
            rule.require_attestations_by.iter().filter(|name| !attested.contains(*name)).map(String::as_str).collect();
        let (conformance, reason) = match rule.evaluation_mode {
            EvaluationMode::AlwaysAllow => (Conformance::Conformant, format!("{path} always allows")),
            EvaluationMode::AlwaysDeny => (Conformance::NonConformant, format!("{path} always denies")),
            // An attestation can only be of a digest.
            EvaluationMode::RequireAttestation if image.digest.is_none() => {
                (Conformance::NonConformant, format!("{path} requires attestations: name the image by digest"))
            }
            EvaluationMode::RequireAttestation if rule.require_attestations_by.is_empty() => {
                (Conformance::NonConformant, format!("{path} requires attestations and names nobody"))
            }
            EvaluationMode::RequireAttestation if missing.is_empty() => {
                (Conformance::Conformant, format!("{path}: all attestors have attested"))
            }
            EvaluationMode::RequireAttestation => {
                (Conformance::NonConformant, format!("{path} requires an attestation by {}", missing.join(" and by ")))
            }
        };
        let enforced = rule.enforcement_mode == EnforcementMode::EnforcedBlockAndAuditLog;
        Evaluation { conformance, blocks: enforced && conformance == Conformance::NonConformant, reason }
    }
}
