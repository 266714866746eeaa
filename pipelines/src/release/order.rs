//! Which of two releases is newer, and which one is what runs.

use jiff::Timestamp;

use crate::api::{Release, ReleasePhase};

/// When it was built, as its event said; for one without an event, when it was made.
pub fn built_at(release: &Release) -> Timestamp {
    let made = release.metadata.creation_timestamp.as_ref().map(|t| t.0);
    release.spec.built_at.as_ref().map(|t| t.0).or(made).unwrap_or(Timestamp::MIN)
}

/// Later build time; releases of one time are neither newer nor older.
pub fn is_newer(a: &Release, b: &Release) -> bool {
    built_at(a) > built_at(b)
}

pub(super) fn admitted_at(release: &Release) -> Option<Timestamp> {
    let status = release.status.as_ref()?;
    // The status of an earlier attempt says nothing about this one.
    if status.attempt != release.spec.attempt {
        return None;
    }
    status.admitted_at.as_ref().map(|t| t.0)
}

pub(super) fn phase(release: &Release) -> Option<ReleasePhase> {
    let status = release.status.as_ref()?;
    if status.attempt != release.spec.attempt { Some(ReleasePhase::Verifying) } else { status.phase }
}

/// What runs by the hub's wish: the promoted release that was admitted last.
pub fn current<'a>(releases: impl IntoIterator<Item = &'a Release>) -> Option<&'a Release> {
    releases
        .into_iter()
        .filter(|r| phase(r) == Some(ReleasePhase::Promoted))
        .max_by_key(|r| (admitted_at(r), built_at(r)))
}

/// The newer release that `release` would step back behind: what runs, or one that is in flight.
pub(super) fn downgrade_of<'a>(release: &Release, others: &[&'a Release]) -> Option<&'a Release> {
    let running = current(others.iter().copied());
    let in_flight = others.iter().copied().filter(|o| phase(o).is_some_and(ReleasePhase::is_shipping));
    running.into_iter().chain(in_flight).filter(|other| is_newer(other, release)).max_by_key(|o| built_at(o))
}
