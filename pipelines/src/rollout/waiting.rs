//! Before anything is touched: may it ship here, now? Writes nothing outside its own status until it starts.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::{ReleaseImage, RolloutPhase, RolloutReason};

use super::action::Action;
use super::draft::Draft;
use super::observed::Arm;
use super::{capacity, ending, first, interrupt, rollback, target};

pub(super) fn go(d: &mut Draft<'_>) {
    let back = d.seen.spec.reason == RolloutReason::Rollback;
    if !d.seen.namespace_allowed {
        let message =
            format!("NamespaceNotAllowed: the environment does not allow namespace {}", d.seen.spec.namespace);
        d.decide("NamespaceNotAllowed", message.clone());
        return ending::close(d, RolloutPhase::Failed, message);
    }
    if let Some(why) = interrupt::unwanted(d) {
        return ending::close(d, RolloutPhase::Withdrawn, why);
    }
    if !back {
        if let Some(newer) = d.seen.spec.superseded_by.clone() {
            return ending::close(d, RolloutPhase::Superseded, format!("{newer} takes over"));
        }
        if let Some((why, _)) = interrupt::denied(d) {
            return ending::close(d, RolloutPhase::Denied, why);
        }
    }
    if let Some(other) = other_first(d) {
        d.status.capacity_since = None;
        return d.say("WaitingForOther", format!("{other} acts on this workload: one rollout at a time"));
    }
    if !verdict_there(d, back) {
        return;
    }
    if let Some((code, why)) = interrupt::held(d).filter(|_| !back) {
        d.status.capacity_since = None;
        return d.say(code, why);
    }
    let Some(stable) = d.seen.stable.clone() else {
        d.say("WorkloadMissing", format!("Deployment {} is not there", d.seen.spec.workload.name));
        if capacity::overdue(d) {
            let message = "NoRollbackTarget: the Deployment did not appear in time";
            ending::close(d, RolloutPhase::Failed, message);
        }
        return;
    };
    start(d, &stable, back);
}

/// Another rollout that goes first.
pub(super) fn other_first(d: &Draft<'_>) -> Option<String> {
    let mine = d.seen.spec.reason;
    let goes_first = |other: &&super::observed::OtherRollout| {
        other.started
            || match (mine, other.reason) {
                (RolloutReason::Ship, RolloutReason::Rollback) => true,
                (RolloutReason::Rollback, RolloutReason::Ship) => false,
                _ => !other.newer,
            }
    };
    d.seen.others.iter().find(goes_first).map(|other| other.name.clone())
}

fn verdict_there(d: &mut Draft<'_>, back: bool) -> bool {
    if d.seen.verdict.allows() || (back && (target::choose(d).is_some() || interrupt::denied(d).is_some())) {
        return true;
    }
    d.say("VerdictMissing", format!("this environment's own verdict is {}", d.seen.verdict));
    if d.status.capacity_since.is_none() {
        d.status.capacity_since = Some(d.now());
    }
    let since = d.status.capacity_since.clone();
    if back {
        // A way back that waits is told and paged, as one that lacks its pods is.
        return d.passed(&since, d.strategy().capacity_deadline.as_duration());
    }
    let limit = Duration::from_secs(d.strategy().progress_deadline_seconds.into());
    if d.passed(&since, limit) {
        ending::close(d, RolloutPhase::Failed, "VerdictMissing: this environment's guard gave no verdict in time");
    }
    false
}

fn start(d: &mut Draft<'_>, stable: &Arm, back: bool) {
    let images = &d.seen.spec.images;
    let running = stable.carries(images);
    if running && !back && stable.ready > 0 && stable.settled_ready() >= stable.wanted {
        return ending::close(d, RolloutPhase::Promoted, "stable runs these digests already");
    }
    d.before(Action::EnsureFinalizer);
    d.status.started_at = Some(Time(d.seen.now));
    d.status.target = running_images(stable, images);
    d.status.stable_replicas = stable.wanted;
    if back {
        rollback::start(d);
    } else if stable.ready == 0 || running {
        first::start(d, stable);
    } else {
        d.enter(RolloutPhase::Preparing);
        d.decide("Preparing", "canary and route are prepared; no request moves yet");
    }
}

/// What the same containers run now, if every one of them names a digest.
pub(super) fn running_images(stable: &Arm, images: &[ReleaseImage]) -> Vec<ReleaseImage> {
    let one = |image: &ReleaseImage| {
        let (name, digest) = stable.images.get(&image.container)?.rsplit_once('@')?;
        let path = name.rfind('/').map_or(0, |slash| slash + 1);
        let repository = match name[path..].find(':') {
            Some(colon) => &name[..path + colon],
            None => name,
        };
        Some(ReleaseImage {
            container: image.container.clone(),
            repository: repository.to_owned(),
            digest: digest.to_owned(),
        })
    };
    images.iter().map(one).collect::<Option<Vec<_>>>().unwrap_or_default()
}
