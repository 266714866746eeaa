//! SBOMs: one must be there, of an accepted format, about this image, and no SBOM of the attestors
//! about this image may list what is banned. A second, cleaner document does not lift a ban.

use super::{Finding, Subject, missing, of_kind, short};
use crate::evidence::package::Ban;
use crate::evidence::{Content, Evidence, Kind, Sbom, Verified};
use crate::model::SbomCheck;

pub(super) fn judge(check: &SbomCheck, subject: Subject<'_>, evidence: &Evidence) -> Finding {
    let bans: Vec<Ban> = match check.banned_packages.iter().map(Ban::parse).collect() {
        Ok(bans) => bans,
        Err(error) => return Finding::error(format!("a banned package of the policy cannot be read: {error}")),
    };
    let mut accepted = Vec::new();
    let mut refused = Vec::new();
    let mut unread = None;
    for verified in of_kind(evidence, Kind::Sbom, &check.attestors) {
        let sbom = match verified.content() {
            Content::Sbom(sbom) => sbom,
            Content::Unreadable { reason, .. } => {
                unread.get_or_insert((verified, reason));
                refused.push((verified, format!("cannot be read: {reason}")));
                continue;
            }
            _ => continue,
        };
        if let Some(ban) = bans.iter().find_map(|ban| sbom.banned_by(ban).map(|package| (ban, package))) {
            return banned(verified, sbom, ban);
        }
        match suits(check, subject, sbom) {
            Ok(()) => accepted.push((verified, sbom)),
            Err(reason) => refused.push((verified, reason)),
        }
    }
    if let (false, Some((_, sbom)), Some(first)) = (bans.is_empty(), accepted.first(), evidence.unavailable.first()) {
        // What could not be fetched may be the document that lists what is banned.
        return Finding::error(format!("{} lists nothing banned, but another document may: {first}", sbom.version()));
    }
    if let (false, Some((_, sbom)), Some((verified, reason))) = (bans.is_empty(), accepted.first(), unread) {
        // Signed by whom the policy trusts and about this image: nobody can say that it lists nothing banned.
        return Finding {
            evidence: vec![verified.describe()],
            ..Finding::fail(format!(
                "{} lists nothing banned, but SBOM {} cannot be read ({reason}) and may: delete it, or attest it anew",
                sbom.version(),
                short(verified.source())
            ))
        };
    }
    if let Some((_, sbom)) = accepted.first() {
        return Finding::pass(
            format!(
                "{} names the image and lists {} packages, none of them banned",
                sbom.version(),
                sbom.package_count()
            ),
            accepted.iter().map(|(v, _)| v.describe()).collect(),
        );
    }
    if refused.is_empty() {
        let remedy =
            format!("attest a CycloneDX or SPDX document to {} (`cosign attest --type cyclonedx`)", subject.image);
        return missing("SBOM attestation", &remedy, Kind::Sbom, &check.attestors, evidence);
    }
    let told: Vec<String> = refused.iter().map(|(v, why)| format!("SBOM {} {why}", short(v.source()))).collect();
    Finding {
        evidence: refused.iter().map(|(v, _)| v.describe()).collect(),
        ..match evidence.unavailable.first() {
            Some(first) => Finding::error(format!("{}; and {first}", told.join("; "))),
            None => Finding::fail(told.join("; ")),
        }
    }
}

fn banned(verified: &Verified, sbom: &Sbom, (ban, package): (&Ban, &crate::evidence::package::Package)) -> Finding {
    Finding {
        evidence: vec![verified.describe()],
        ..Finding::fail(format!(
            "the SBOM ({}) lists {package}, which is banned ({}): ship an image without it",
            sbom.version(),
            ban.describe()
        ))
    }
}

fn suits(check: &SbomCheck, subject: Subject<'_>, sbom: &Sbom) -> Result<(), String> {
    if !check.formats.is_empty() && !check.formats.contains(&sbom.format()) {
        let wanted: Vec<String> = check.formats.iter().map(|f| format!("{f:?}")).collect();
        return Err(format!("is {}; the policy accepts {}", sbom.version(), wanted.join(" or ")));
    }
    if !sbom.names(subject.digest) {
        return Err(format!(
            "is about {}, not about this image: it must name {} (CycloneDX metadata.component, SPDX described package) \
             by purl, version or hash",
            sbom.described(),
            subject.digest
        ));
    }
    Ok(())
}
