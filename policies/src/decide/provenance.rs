//! Provenance: which builder made the image from which source. One statement must satisfy all of
//! it: builder of one and source of another prove nothing together.

use super::{Finding, Subject, missing, of_kind, short};
use crate::evidence::provenance::normalise_source;
use crate::evidence::{Content, Evidence, Kind, Provenance, Verified};
use crate::model::{Check, SlsaCheck};

pub(super) fn judge(check: &SlsaCheck, subject: Subject<'_>, evidence: &Evidence) -> Finding {
    let mut refused = Vec::new();
    for verified in of_kind(evidence, Kind::Provenance, &check.attestors) {
        match examine(check, subject, verified) {
            Ok(message) => return Finding::pass(message, vec![verified.describe()]),
            Err(reason) => refused.push((verified, reason)),
        }
    }
    if refused.is_empty() {
        let remedy =
            format!("attest SLSA provenance v0.2 or v1 to {} (`cosign attest --type slsaprovenance1`)", subject.image);
        return missing("SLSA provenance", &remedy, Kind::Provenance, &check.attestors, evidence);
    }
    let told: Vec<String> = refused.iter().map(|(v, why)| format!("provenance {} {why}", short(v.source()))).collect();
    // Signed, bound to the image, and it says otherwise: no later evidence makes that untrue, but
    // what could not be fetched may.
    Finding {
        evidence: refused.iter().map(|(v, _)| v.describe()).collect(),
        ..match evidence.unavailable.first() {
            Some(first) => Finding::error(format!("{}; and {first}", told.join("; "))),
            None => Finding::fail(told.join("; ")),
        }
    }
}

/// The revision that provenance satisfying this check names.
pub(super) fn revision(check: &Check, subject: Subject<'_>, evidence: &Evidence) -> Option<String> {
    let check = check.slsa_check.as_ref()?;
    of_kind(evidence, Kind::Provenance, &check.attestors)
        .filter(|v| examine(check, subject, v).is_ok())
        .find_map(|v| provenance(v)?.revision().map(str::to_owned))
}

fn provenance(verified: &Verified) -> Option<&Provenance> {
    match verified.content() {
        Content::Provenance(provenance) => Some(provenance),
        _ => None,
    }
}

fn examine(check: &SlsaCheck, subject: Subject<'_>, verified: &Verified) -> Result<String, String> {
    let provenance = match verified.content() {
        Content::Provenance(provenance) => provenance,
        Content::Unreadable { reason, .. } => return Err(format!("cannot be read: {reason}")),
        _ => return Err("is none".to_owned()),
    };
    if !check.builders.iter().any(|builder| builder == provenance.builder()) {
        return Err(format!(
            "names builder {}; it must be built by {}",
            provenance.builder(),
            check.builders.join(" or ")
        ));
    }
    if !check.sources.is_empty() {
        let trusted = |source: &str| check.sources.iter().any(|s| normalise_source(s) == source);
        if !provenance.source().is_some_and(trusted) {
            return Err(format!(
                "names source {}; it must be built from {}",
                provenance.source().unwrap_or("none"),
                check.sources.join(" or ")
            ));
        }
    }
    if check.require_revision {
        let Some(found) = provenance.revision() else {
            return Err("names no source revision; the builder must record the commit it built".to_owned());
        };
        if let Some(expected) = subject.expected_revision
            && !found.eq_ignore_ascii_case(expected)
        {
            return Err(format!("is of revision {found}, the build event names {expected}: they must be the same"));
        }
    }
    Ok(format!(
        "built by {} from {} at {}",
        provenance.builder(),
        provenance.source().unwrap_or("a source it does not name"),
        provenance.revision().unwrap_or("a revision it does not name"),
    ))
}
