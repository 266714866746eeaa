//! Policy and evidence in, verdict out. Pure: fetches nothing, reads no clock. What is not known is
//! an `Error`, never an `Allow`; a certain "no" outranks an `Error`.

mod provenance;
mod sbom;
mod signature;

use crate::digest::Digest;
use crate::evidence::{Evidence, Kind, Verified};
use crate::image::ImageRef;
use crate::model::{Check, CheckSet, ImagePattern, Policy, Scope};
use crate::verdict::{CheckResult, Decision, Outcome, Verdict};

/// What is judged.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub image: &'a ImageRef,
    pub digest: &'a Digest,
    pub scope: &'a Scope,
    /// The source revision that the build event named, if there was one.
    pub expected_revision: Option<&'a str>,
}

/// What the verdict is kept under, besides the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    pub policy: Digest,
    pub trust_root: Digest,
}

/// Whether an allowlist or the lack of a check set decides without any evidence.
pub fn decide_without_evidence(policy: &Policy, subject: Subject<'_>, digests: &Digests) -> Option<Verdict> {
    let single = |name: &str, outcome, message: String, set: &str| {
        let decision = if outcome == Outcome::Passed { Decision::Allow } else { Decision::Deny };
        Some(verdict(subject, digests, set, decision, vec![result(name, outcome, message, vec![], false)]))
    };
    if let Some(pattern) = policy.image_allowlist.matching(subject.image) {
        return single(
            "imageAllowlist",
            Outcome::Passed,
            format!("`{pattern}` of the policy's imageAllowlist exempts it"),
            "",
        );
    }
    let Some(set) = policy.check_set(subject.scope) else {
        let message = format!(
            "no check set of the policy is for namespace {}: add one for it, or a last one without scope",
            subject.scope.namespace
        );
        return single("checkSets", Outcome::Failed, message, "");
    };
    if let Some(pattern) = set.image_allowlist.matching(subject.image) {
        return single(
            "imageAllowlist",
            Outcome::Passed,
            format!("`{pattern}` of the imageAllowlist of check set {} exempts it", set.display_name),
            &set.display_name,
        );
    }
    let needs_evidence =
        set.checks.iter().any(|c| !c.attestors().is_empty() && c.image_allowlist.matching(subject.image).is_none());
    (!needs_evidence).then(|| decide_set(set, subject, &Evidence::default(), digests))
}

/// The verdict on one image.
pub fn decide(policy: &Policy, subject: Subject<'_>, evidence: &Evidence, digests: &Digests) -> Verdict {
    if let Some(verdict) = decide_without_evidence(policy, subject, digests) {
        return verdict;
    }
    match policy.check_set(subject.scope) {
        Some(set) => decide_set(set, subject, evidence, digests),
        None => error(subject, digests, "checkSets", "no check set is for this scope"),
    }
}

/// A verdict of which only is known why there is none.
pub fn error(subject: Subject<'_>, digests: &Digests, what: &str, message: impl Into<String>) -> Verdict {
    let check = result(what, Outcome::Error, message.into(), vec![], true);
    verdict(subject, digests, "", Decision::Error, vec![check])
}

fn decide_set(set: &CheckSet, subject: Subject<'_>, evidence: &Evidence, digests: &Digests) -> Verdict {
    let checks: Vec<CheckResult> = set.checks.iter().map(|check| judge(check, subject, evidence)).collect();
    let any = |outcome| checks.iter().any(|c| c.outcome == outcome);
    let decision = if any(Outcome::Failed) {
        Decision::Deny
    } else if any(Outcome::Error) {
        Decision::Error
    } else {
        Decision::Allow
    };
    let revision = set.checks.iter().find_map(|c| provenance::revision(c, subject, evidence));
    Verdict { revision, ..verdict(subject, digests, &set.display_name, decision, checks) }
}

fn judge(check: &Check, subject: Subject<'_>, evidence: &Evidence) -> CheckResult {
    let finding = match check.image_allowlist.matching(subject.image) {
        Some(pattern) => Finding::pass(format!("`{pattern}` of the check's imageAllowlist exempts it"), vec![]),
        None => judge_kind(check, subject, evidence),
    };
    let dry = check.dry_run && finding.outcome != Outcome::Passed;
    CheckResult {
        name: check.display_name.clone(),
        outcome: if dry { Outcome::DryRun } else { finding.outcome },
        message: if dry { format!("dry run, not enforced: {}", finding.message) } else { finding.message },
        evidence: finding.evidence,
        retryable: finding.retryable,
    }
}

fn judge_kind(check: &Check, subject: Subject<'_>, evidence: &Evidence) -> Finding {
    if check.kinds() != 1 {
        return Finding::error("the check must set exactly one kind: mend the policy");
    }
    if let Some(it) = &check.sigstore_signature_check {
        signature::sigstore(it, subject, evidence)
    } else if let Some(it) = &check.simple_signing_attestation_check {
        signature::simple_signing(it, subject, evidence)
    } else if let Some(it) = &check.slsa_check {
        provenance::judge(it, subject, evidence)
    } else if let Some(it) = &check.sbom_check {
        sbom::judge(it, subject, evidence)
    } else if let Some(it) = &check.trusted_directory_check {
        let inside = |p: &String| p.parse::<ImagePattern>().is_ok_and(|p| p.matches(subject.image));
        match it.trusted_dir_patterns.iter().find(|p| inside(p)) {
            Some(pattern) => Finding::pass(format!("it lies in `{pattern}`"), vec![]),
            None => Finding::fail(format!(
                "{} lies in none of the trusted directories ({}): push it to one of them",
                subject.image.repository_path(),
                it.trusted_dir_patterns.join(", ")
            )),
        }
    } else {
        Finding::fail("the policy always denies here".to_owned())
    }
}

/// How one check came out, before dry run is thought of.
struct Finding {
    outcome: Outcome,
    message: String,
    evidence: Vec<String>,
    retryable: bool,
}

impl Finding {
    fn pass(message: String, evidence: Vec<String>) -> Self {
        Self { outcome: Outcome::Passed, message, evidence, retryable: false }
    }

    fn fail(message: String) -> Self {
        Self { outcome: Outcome::Failed, message, evidence: vec![], retryable: false }
    }

    fn error(message: impl Into<String>) -> Self {
        Self { outcome: Outcome::Error, message: message.into(), evidence: vec![], retryable: true }
    }
}

/// All verified evidence of this kind by one of these attestors.
fn of_kind<'e>(evidence: &'e Evidence, kind: Kind, attestors: &'e [String]) -> impl Iterator<Item = &'e Verified> {
    evidence
        .verified
        .iter()
        .filter(move |v| v.content().kind() == kind && attestors.iter().any(|a| a == v.signer().attestor()))
}

/// The evidence asked for is not there: an `Error` while something that could not be looked at may
/// hold it, else a failure that says what was refused and what to attach.
fn missing(what: &str, remedy: &str, kind: Kind, attestors: &[String], evidence: &Evidence) -> Finding {
    let unusable: Vec<&str> =
        attestors.iter().filter_map(|a| evidence.unusable_attestors.get(a)).map(String::as_str).collect();
    if !unusable.is_empty() {
        return Finding::error(unusable.join("; "));
    }
    if let Some(first) = evidence.unavailable.first() {
        return Finding::error(format!("{what} cannot be looked for: {first}"));
    }
    let relevant: Vec<_> = evidence
        .rejected
        .iter()
        .filter(|r| r.kind.is_none_or(|k| k == kind))
        .filter(|r| r.attestor.as_ref().is_none_or(|a| attestors.contains(a)))
        .collect();
    let mut message = format!("no {what} by {} was found with the image", attestors.join(" or "));
    let mut told: Vec<String> = Vec::new();
    // Forgeries first: they are why it is final.
    for forged in [true, false] {
        for rejected in relevant.iter().filter(|r| r.forged == forged) {
            let line = format!("{} was refused: {}", short(&rejected.source), rejected.reason);
            if !told.contains(&line) {
                told.push(line);
            }
        }
    }
    if !told.is_empty() {
        let more = told.len().saturating_sub(3);
        told.truncate(3);
        message.push_str(&format!(" ({}", told.join("; ")));
        if more > 0 {
            message.push_str(&format!("; and {more} more"));
        }
        message.push(')');
    }
    message.push_str(&format!(": {remedy}"));
    Finding {
        outcome: Outcome::Failed,
        message,
        evidence: relevant.iter().take(8).map(|r| r.source.to_string()).collect(),
        retryable: !relevant.iter().any(|r| r.forged),
    }
}

fn short(digest: &Digest) -> String {
    format!("sha256:{}", digest.short())
}

fn result(name: &str, outcome: Outcome, message: String, evidence: Vec<String>, retryable: bool) -> CheckResult {
    CheckResult { name: name.to_owned(), outcome, message, evidence, retryable }
}

fn verdict(
    subject: Subject<'_>,
    digests: &Digests,
    set: &str,
    decision: Decision,
    checks: Vec<CheckResult>,
) -> Verdict {
    Verdict {
        image: subject.image.with_digest(subject.digest.clone()),
        decision,
        check_set: set.to_owned(),
        checks,
        policy_digest: digests.policy.clone(),
        trust_root_digest: digests.trust_root.clone(),
        revision: None,
        expires: None,
    }
}

#[cfg(test)]
mod tests;
