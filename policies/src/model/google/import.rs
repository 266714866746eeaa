//! Classic policies and attestors turned into ours. What has no counterpart is an error with its
//! path; what changes its meaning a little is told.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::attestor::Attestor as ClassicAttestor;
use super::policy::{
    AdmissionRule, EnforcementMode, EvaluationMode, GlobalPolicyEvaluationMode, Policy as Classic, attestor_id,
};
use crate::model::{
    Attestor, Check, CheckSet, CheckSetScope, ImageAllowlist, Mode, Policy, PolicyError, PublicKey,
    SimpleSigningAttestationCheck,
};

#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// `location.cluster` whose rule is wanted: one of our policies holds for one environment.
    pub cluster: Option<String>,
    /// Attestors that exist already; a policy that names others is refused.
    pub known_attestors: Vec<String>,
    /// Name of the policy that is made.
    pub name: String,
}

/// What was made of the documents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    pub policies: Vec<(String, Policy)>,
    /// By the last segment of their names.
    pub attestors: BTreeMap<String, Attestor>,
    /// What a reader must know because it is not quite as at Google.
    pub notes: Vec<String>,
}

/// Reads documents (separated by `---`), each a policy or an attestor.
pub fn import(yaml: &str, options: &ImportOptions) -> Result<Imported, Vec<PolicyError>> {
    let mut errors = Vec::new();
    let mut policies = Vec::new();
    let mut attestors = Vec::new();
    for (i, document) in serde_yaml_ng::Deserializer::from_str(yaml).enumerate() {
        let path = format!("document {}", i + 1);
        // After a syntax error the reader yields the same error for ever.
        let value = match serde_yaml_ng::Value::deserialize(document) {
            Ok(value) => value,
            Err(error) => {
                errors.push(PolicyError { path, message: error.to_string() });
                break;
            }
        };
        match read(value) {
            Ok(Document::Policy(policy)) => policies.push((i, policy)),
            Ok(Document::Attestor(attestor)) => attestors.push((i, attestor)),
            Ok(Document::Empty) => {}
            Err(message) => errors.push(PolicyError { path, message }),
        }
    }
    let mut imported = Imported::default();
    for (i, attestor) in attestors {
        let at = |e: PolicyError| PolicyError { path: format!("document {}: {}", i + 1, e.path), ..e };
        match attestor.validate().and_then(|()| convert_attestor(&attestor)) {
            Ok((id, converted)) => {
                if imported.attestors.insert(id.clone(), converted).is_some() {
                    errors.push(at(PolicyError {
                        path: "name".into(),
                        message: format!(
                            "two attestors end in `{id}`, and ours are told apart by that: import them apart"
                        ),
                    }));
                }
            }
            Err(found) => errors.extend(found.into_iter().map(at)),
        }
    }
    for (i, policy) in policies {
        let at = |e: PolicyError| PolicyError { path: format!("document {}: {}", i + 1, e.path), ..e };
        let known = |id: &str| imported.attestors.contains_key(id) || options.known_attestors.iter().any(|k| k == id);
        match policy.validate().and_then(|()| convert(&policy, options, known)) {
            Ok((converted, notes)) => {
                imported.policies.push((options.name.clone(), converted));
                imported.notes.extend(notes);
            }
            Err(found) => errors.extend(found.into_iter().map(at)),
        }
    }
    if imported.policies.len() > 1 {
        errors.push(PolicyError {
            path: "documents".into(),
            message: "hold more than one policy: import them one by one, each under a name of its own".into(),
        });
    }
    if errors.is_empty() { Ok(imported) } else { Err(errors) }
}

enum Document {
    Policy(Classic),
    Attestor(ClassicAttestor),
    Empty,
}

fn read(value: serde_yaml_ng::Value) -> Result<Document, String> {
    if value.is_null() {
        return Ok(Document::Empty);
    }
    if value.get("userOwnedGrafeasNote").is_some() {
        return serde_yaml_ng::from_value(value).map(Document::Attestor).map_err(|e| e.to_string());
    }
    if value.get("apiVersion").is_some() {
        return Err("is a Kubernetes object, not a Binary Authorization policy or attestor".to_owned());
    }
    if value.get("gkePolicy").is_some() {
        return Err("is a platform policy (gkePolicy): only classic policies are imported yet".to_owned());
    }
    serde_yaml_ng::from_value(value).map(Document::Policy).map_err(|e| e.to_string())
}

fn convert_attestor(classic: &ClassicAttestor) -> Result<(String, Attestor), Vec<PolicyError>> {
    let mut errors = Vec::new();
    let id = classic.id().unwrap_or_default().to_owned();
    if !is_object_name(&id) {
        let message = format!("`{id}` cannot be the name of a Kubernetes object: rename the attestor");
        errors.push(PolicyError { path: "name".into(), message });
    }
    let mut keys = Vec::new();
    for (i, key) in classic.user_owned_grafeas_note.public_keys.iter().enumerate() {
        let path = format!("userOwnedGrafeasNote.publicKeys[{i}]");
        match &key.pkix_public_key {
            Some(pkix) => keys.push(PublicKey {
                id: key.id.clone(),
                pem: pkix.public_key_pem.clone(),
                signature_algorithm: Some(pkix.signature_algorithm),
            }),
            None => errors.push(PolicyError {
                path: format!("{path}.asciiArmoredPgpPublicKey"),
                message: "PGP keys are not verified: give the attestor a PKIX key".into(),
            }),
        }
    }
    if classic.user_owned_grafeas_note.public_keys.is_empty() {
        errors.push(PolicyError {
            path: "userOwnedGrafeasNote.publicKeys".into(),
            message: "is empty, so nothing could ever satisfy it, and ours must have a key: add one".into(),
        });
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    // Attestations of this kind are in no transparency log.
    Ok((id, Attestor { keys, unsafe_skip_transparency_log: true, ..Attestor::default() }))
}

fn is_object_name(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    name.len() <= 253
        && edge(name.chars().next())
        && edge(name.chars().last())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.')
}

fn convert(
    classic: &Classic,
    options: &ImportOptions,
    known: impl Fn(&str) -> bool,
) -> Result<(Policy, Vec<String>), Vec<PolicyError>> {
    let mut errors = Vec::new();
    let mut notes = Vec::new();
    for (path, rule) in classic.rules() {
        for (i, name) in rule.require_attestations_by.iter().enumerate() {
            if !attestor_id(name).is_some_and(&known) {
                let path = format!("{path}.requireAttestationsBy[{i}]");
                errors.push(PolicyError { path, message: format!("{name} is not known: import it with the policy") });
            }
        }
    }
    for key in classic.istio_service_identity_admission_rules.keys() {
        errors.push(PolicyError {
            path: format!("istioServiceIdentityAdmissionRules[{key}]"),
            message: "an Istio identity is no scope here: write a rule for its service account (`namespace:account`)"
                .into(),
        });
    }
    let mut last = &classic.default_admission_rule;
    if !classic.cluster_admission_rules.is_empty() {
        match &options.cluster {
            Some(cluster) => last = classic.cluster_admission_rules.get(cluster).unwrap_or(last),
            None => errors.push(PolicyError {
                path: "clusterAdmissionRules".into(),
                message: format!(
                    "a policy here holds for one environment: say which cluster's rule is wanted ({}, or another for the default)",
                    classic.cluster_admission_rules.keys().cloned().collect::<Vec<_>>().join(", ")
                ),
            }),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    if classic.global_policy_evaluation_mode == GlobalPolicyEvaluationMode::Enable {
        notes.push(
            "globalPolicyEvaluationMode ENABLE exempts Google's system images by a list that is not public: \
             add those of your clusters to imageAllowlist (often gke.gcr.io/**)"
                .to_owned(),
        );
    }
    if classic.rules().any(|(_, rule)| rule.evaluation_mode == EvaluationMode::RequireAttestation) {
        notes.push(format!(
            "attestations are looked for at the image's registry, as referrers of type {}: copy them from Container Analysis",
            crate::evidence::ATTESTATION_MEDIA_TYPE
        ));
    }
    let mut check_sets = Vec::new();
    for (account, rule) in &classic.kubernetes_service_account_admission_rules {
        let scope = CheckSetScope { kubernetes_service_account: Some(account.clone()), ..CheckSetScope::default() };
        check_sets.push(check_set(account, Some(scope), rule));
    }
    for (namespace, rule) in &classic.kubernetes_namespace_admission_rules {
        let scope = CheckSetScope { kubernetes_namespace: Some(namespace.clone()), ..CheckSetScope::default() };
        check_sets.push(check_set(namespace, Some(scope), rule));
    }
    check_sets.push(check_set("default", None, last));
    let allow_pattern = classic.admission_whitelist_patterns.iter().map(|p| p.name_pattern.clone()).collect();
    let policy = Policy {
        // At Google a classic policy is enforced, rule by rule; dry runs stay dry runs.
        mode: Mode::Enforce,
        image_allowlist: ImageAllowlist { allow_pattern },
        check_sets,
        ..Policy::default()
    };
    policy.validate().map(|()| (policy, notes))
}

fn check_set(name: &str, scope: Option<CheckSetScope>, rule: &AdmissionRule) -> CheckSet {
    let dry_run = rule.enforcement_mode == EnforcementMode::DryrunAuditLogOnly;
    let checks = match rule.evaluation_mode {
        EvaluationMode::AlwaysAllow => vec![],
        EvaluationMode::AlwaysDeny => {
            vec![Check { display_name: "always deny".into(), dry_run, always_deny: true, ..Check::default() }]
        }
        // One check each: two attestors with one key are two at Google, and are so here.
        EvaluationMode::RequireAttestation => rule
            .require_attestations_by
            .iter()
            .filter_map(|name| attestor_id(name))
            .map(|id| Check {
                display_name: format!("attested by {id}"),
                dry_run,
                simple_signing_attestation_check: Some(SimpleSigningAttestationCheck {
                    attestors: vec![id.to_owned()],
                }),
                ..Check::default()
            })
            .collect(),
    };
    CheckSet { display_name: name.to_owned(), scope, checks, ..CheckSet::default() }
}

impl Imported {
    /// As Kubernetes objects of ours, attestors first; notes as comments.
    pub fn to_yaml(&self) -> Result<String, serde_yaml_ng::Error> {
        let object = |kind: &str, name: &str, spec: serde_yaml_ng::Value| {
            serde_yaml_ng::to_string(&serde_json::json!({
                "apiVersion": "tidegate.io/v1alpha1",
                "kind": kind,
                "metadata": { "name": name },
                "spec": spec,
            }))
        };
        let mut documents = Vec::new();
        for (name, attestor) in &self.attestors {
            documents.push(object("Attestor", name, serde_yaml_ng::to_value(attestor)?)?);
        }
        for (name, policy) in &self.policies {
            documents.push(object("VerificationPolicy", name, serde_yaml_ng::to_value(policy)?)?);
        }
        let notes: String = self.notes.iter().map(|note| format!("# {note}\n")).collect();
        Ok(format!("{notes}{}", documents.join("---\n")))
    }
}
