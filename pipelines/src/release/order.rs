//! Which of two releases is newer, and which one is what runs.

use jiff::Timestamp;

use super::rollback_name;
use crate::api::{Release, ReleasePhase, Rollout, RolloutPhase, RolloutReason};

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

/// The release whose version stands in `environment`: promoted there last, and not taken back since. How it fared in
/// other environments does not matter.
fn standing<'a>(environment: &str, rollouts: &[&'a Rollout]) -> Option<&'a str> {
    let phase_of = |r: &Rollout| r.status.as_ref().and_then(|s| s.phase);
    let here = || rollouts.iter().filter(|r| r.spec.environment == environment);
    let taken_back = |ship: &Rollout| {
        let back = rollback_name(&ship.spec.release, ship.spec.attempt);
        let goes = |r: &Rollout| phase_of(r).is_none_or(|p| !p.is_terminal() || p == RolloutPhase::RolledBack);
        here().any(|r| r.metadata.name.as_deref() == Some(back.as_str()) && goes(r))
    };
    here()
        .filter(|r| r.spec.reason == RolloutReason::Ship && phase_of(r) == Some(RolloutPhase::Promoted))
        .filter(|r| !taken_back(r))
        .max_by_key(|r| (r.metadata.creation_timestamp.as_ref().map(|t| t.0), r.spec.attempt))
        .map(|r| r.spec.release.as_str())
}

/// The newer release that `release` would step back behind: what runs, in any of its environments, or one that is in
/// flight.
pub(super) fn downgrade_of<'a>(
    release: &Release,
    others: &[&'a Release],
    rollouts: &[&Rollout],
) -> Option<&'a Release> {
    let environments = release.spec.snapshot.stages.iter().flat_map(|s| &s.environments);
    let stands: Vec<&str> = environments.filter_map(|e| standing(e, rollouts)).collect();
    let named = |other: &&Release| other.metadata.name.as_deref().is_some_and(|name| stands.contains(&name));
    let running = current(others.iter().copied()).into_iter().chain(others.iter().copied().filter(named));
    let in_flight = others.iter().copied().filter(|o| phase(o).is_some_and(ReleasePhase::is_shipping));
    running.chain(in_flight).filter(|other| is_newer(other, release)).max_by_key(|o| built_at(o))
}
