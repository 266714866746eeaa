//! What a rollback goes back to: the digest that was stable at the start, else the newest older
//! release with an Allow. Each environment chooses its own.

use crate::api::{ReleaseImage, RolloutReason};

use super::draft::Draft;
use super::observed::VerdictView;

pub(super) fn quarantined(d: &Draft<'_>, images: &[ReleaseImage]) -> bool {
    images.iter().any(|image| d.seen.quarantined.contains(&image.digest))
}

/// The images to go back to, if any may run.
pub(super) fn choose(d: &Draft<'_>) -> Option<Vec<ReleaseImage>> {
    own(d).or_else(|| older(d))
}

fn own(d: &Draft<'_>) -> Option<Vec<ReleaseImage>> {
    let (images, allowed) = match d.seen.spec.reason {
        RolloutReason::Rollback => (&d.seen.spec.images, d.seen.verdict.allows() || graced(d, &d.seen.verdict)),
        RolloutReason::Ship | RolloutReason::Retire => {
            (&d.status.target, d.seen.target_verdict.allows() || graced(d, &d.seen.target_verdict))
        }
    };
    (!images.is_empty() && allowed && !quarantined(d, images)).then(|| images.clone())
}

/// What had its Allow when the way was entered keeps it through an error of the verifier, never through a denial.
fn graced(d: &Draft<'_>, verdict: &VerdictView) -> bool {
    d.status.target_allowed && matches!(verdict, VerdictView::Error { .. } | VerdictView::Pending)
}

fn older(d: &Draft<'_>) -> Option<Vec<ReleaseImage>> {
    let bad = match d.seen.spec.reason {
        RolloutReason::Ship | RolloutReason::Retire => &d.seen.spec.images,
        RolloutReason::Rollback => &d.status.target,
    };
    let window = usize::try_from(d.strategy().rollback_window).unwrap_or(usize::MAX);
    d.seen
        .candidates
        .iter()
        .take(window)
        .find(|one| one.verdict.allows() && one.images != *bad && !quarantined(d, &one.images))
        .map(|one| one.images.clone())
}

/// Release of the images chosen, where one of the candidates is it.
pub(super) fn release_of(d: &Draft<'_>, images: &[ReleaseImage]) -> Option<String> {
    d.seen.candidates.iter().find(|one| one.images == images).map(|one| one.release.clone())
}

pub(super) enum Gate {
    Open,
    /// Its verdict is not there.
    Wait(String),
    Refused(String),
}

/// Whether promotion may begin: from then on a way back needs images that may run.
pub(super) fn gate(d: &Draft<'_>) -> Gate {
    if d.strategy().unsafe_allow_unverified_rollback_target || choose(d).is_some() {
        return Gate::Open;
    }
    match &d.seen.target_verdict {
        verdict @ (VerdictView::Error { .. } | VerdictView::Pending)
            if !d.status.target.is_empty() && !quarantined(d, &d.status.target) =>
        {
            Gate::Wait(format!("the verdict of the images that stable runs is {verdict}"))
        }
        _ if d.status.target.is_empty() => Gate::Refused(
            "stable's images name no digest, and no older release has an Allow: nothing to go back to".into(),
        ),
        verdict => Gate::Refused(format!(
            "the images that stable runs have no Allow ({verdict}) and no older release has one: nothing to go back to"
        )),
    }
}
