//! Signatures: who signed, and whether that is enough. One key or identity counts once, however
//! often it signed and however many attestors name it.

use std::collections::BTreeSet;

use super::{Finding, Subject, missing, of_kind};
use crate::evidence::{Evidence, Kind};
use crate::model::{SigstoreSignatureCheck, SimpleSigningAttestationCheck};

pub(super) fn sigstore(check: &SigstoreSignatureCheck, subject: Subject<'_>, evidence: &Evidence) -> Finding {
    // Whether it is a child of an index cannot be seen from below.
    let remedy = format!(
        "sign {} as one of them (`cosign sign`); if it is one platform of a multi-platform image, name the index that was signed",
        subject.image
    );
    threshold(&check.attestors, check.threshold, Kind::Signature, "signature", &remedy, evidence)
}

pub(super) fn simple_signing(
    check: &SimpleSigningAttestationCheck,
    subject: Subject<'_>,
    evidence: &Evidence,
) -> Finding {
    let remedy = format!("attach an attestation of {} signed with one of their keys", subject.image);
    threshold(&check.attestors, None, Kind::SimpleSigning, "attestation", &remedy, evidence)
}

fn threshold(
    attestors: &[String],
    threshold: Option<u32>,
    kind: Kind,
    what: &str,
    remedy: &str,
    evidence: &Evidence,
) -> Finding {
    let signers: BTreeSet<&str> = of_kind(evidence, kind, attestors).map(|v| v.signer().id()).collect();
    let satisfied: BTreeSet<&str> = of_kind(evidence, kind, attestors).map(|v| v.signer().attestor()).collect();
    let wanted = threshold.map_or(attestors.len(), |n| n as usize).max(1);
    let absent: Vec<String> = match threshold {
        Some(_) => vec![],
        None => attestors.iter().filter(|a| !satisfied.contains(a.as_str())).cloned().collect(),
    };
    if signers.len() >= wanted && absent.is_empty() {
        let mut seen = BTreeSet::new();
        let used: Vec<String> = of_kind(evidence, kind, attestors)
            .filter(|v| seen.insert((v.signer().id(), v.signer().attestor())))
            .map(|v| v.describe())
            .collect();
        let who: Vec<&str> = signers.into_iter().collect();
        return Finding::pass(format!("{what} by {}", who.join(", ")), used);
    }
    // Say of whom it is missing: of the absent ones if all are asked for.
    let of = if absent.is_empty() { attestors } else { &absent };
    let mut finding = missing(what, remedy, kind, of, evidence);
    if !signers.is_empty() {
        let who: Vec<&str> = signers.into_iter().collect();
        finding.message = format!(
            "{} of {wanted} distinct signers ({}); {}",
            who.len(),
            who.join(", "),
            finding.message.replacen(&format!("no {what}"), &format!("no further {what}"), 1)
        );
    }
    finding
}
