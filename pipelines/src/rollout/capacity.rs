//! Pods before weight: how many, whether they are ready, whether the data plane follows.
//! Decides no weight.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::ReleaseImage;

use super::action::Action;
use super::draft::{Draft, signed};
use super::observed::{Arm, Hpa, Share};

/// Without counters of the data plane: how long it is given to follow. Above the slowest published lag
/// (some 18 s for endpoints at GKE's load balancer).
const UNSEEN_SETTLE: Duration = Duration::from_secs(60);

/// Pods for this share of stable's capacity: ceil(N x weight), at least one.
pub(super) fn pods_for(stable: u32, percent: u8) -> u32 {
    let pods = (u64::from(stable) * u64::from(percent)).div_ceil(100);
    u32::try_from(pods).unwrap_or(u32::MAX).max(1)
}

/// N: what stable needs to serve everything. Under an autoscaler the most that it had in this rollout, since
/// that shrinks an arm which lost its requests; without one, what a person set.
pub(super) fn whole(d: &Draft<'_>) -> u32 {
    let floor = d.seen.hpa.as_ref().map_or(0, |hpa| d.status.stable_replicas.min(hpa.max));
    d.seen.stable.as_ref().map_or(0, |stable| stable.wanted).max(floor).max(1)
}

/// The images that the canary arm is to carry now, and the mark of the write that puts them there.
pub(super) fn canary_images(d: &Draft<'_>) -> (Vec<ReleaseImage>, String) {
    match &d.status.going_back {
        Some(back) => (back.to.clone(), back_stamp(d)),
        None => (d.seen.spec.images.clone(), d.seen.rollout.uid.clone()),
    }
}

pub(super) fn back_stamp(d: &Draft<'_>) -> String {
    format!("{}/back", d.seen.rollout.uid)
}

/// Ready canary pods that carry the right images.
pub(super) fn canary_ready(d: &Draft<'_>) -> u32 {
    let (images, stamp) = canary_images(d);
    d.seen
        .canary
        .as_ref()
        .filter(|canary| canary.carries(&images) && canary.stamp.as_deref() == Some(stamp.as_str()))
        .map_or(0, Arm::settled_ready)
}

pub(super) fn ready_for(d: &Draft<'_>, percent: u8) -> bool {
    percent == 0 || canary_ready(d) >= pods_for(whole(d), percent)
}

/// Orders what the canary lacks for `percent`; true once its pods are ready. Never scales it down.
pub(super) fn prepare(d: &mut Draft<'_>, percent: u8) -> bool {
    let (images, stamp) = canary_images(d);
    let replicas = pods_for(whole(d), percent);
    if !d.seen.canary_service {
        d.after(Action::EnsureCanaryService);
    }
    match &d.seen.canary {
        Some(canary) if canary.stamp.as_deref() == Some(stamp.as_str()) && canary.carries(&images) => {
            if canary.wanted < replicas {
                d.after(Action::ScaleCanary { replicas });
            }
        }
        other => {
            // Other images for pods that serve requests now: never fewer of them.
            let serving = d.seen.route.as_ref().is_some_and(|route| route.most() > 0.0);
            let now = other.as_ref().filter(|_| serving).map_or(0, |canary| canary.wanted);
            d.after(Action::EnsureCanary { images, replicas: replicas.max(now), stamp });
        }
    }
    d.seen.canary_service && ready_for(d, percent)
}

/// The clock of `capacityDeadline`: starts with the first wait, true when it has run out.
pub(super) fn overdue(d: &mut Draft<'_>) -> bool {
    if d.status.capacity_since.is_none() {
        d.status.capacity_since = Some(d.now());
    }
    let since = d.status.capacity_since.clone();
    d.passed(&since, d.strategy().capacity_deadline.as_duration())
}

/// Stable serves everything again at any moment: all its pods are ready with these images.
pub(super) fn stable_ready_with(d: &Draft<'_>, images: &[ReleaseImage]) -> bool {
    let need = whole(d);
    d.seen.stable.as_ref().is_some_and(|stable| stable.carries(images) && stable.settled_ready() >= need)
}

/// The `minReplicas` that holds N; more than its maximum the API server would refuse.
fn floor(d: &Draft<'_>, hpa: &Hpa) -> u32 {
    whole(d).min(hpa.max.max(1))
}

pub(super) fn held(d: &Draft<'_>) -> bool {
    d.seen.hpa.as_ref().is_none_or(|hpa| hpa.min >= floor(d, hpa))
}

/// Holds stable's capacity against its autoscaler, which would shrink the arm that loses its requests; true when
/// that is done or not needed. Asked at every look: load that grows raises what is held.
pub(super) fn hold_stable(d: &mut Draft<'_>) -> bool {
    let Some(hpa) = &d.seen.hpa else { return true };
    let wanted = d.seen.stable.as_ref().map_or(0, |stable| stable.wanted);
    d.status.stable_replicas = d.status.stable_replicas.max(wanted);
    let need = floor(d, hpa);
    if hpa.min >= need {
        return true;
    }
    if let Some(owner) = &hpa.managed_by {
        d.say(
            "AutoscalerNotOurs",
            format!("the autoscaler belongs to {owner}, which would undo a raised minReplicas: set it to {need} there"),
        );
        return false;
    }
    if hpa.ours.is_some() && d.status.hpa_min.is_some() && hpa.ours != Some(hpa.min) {
        d.foreign(format!("someone else set minReplicas to {}; {need} is needed", hpa.min));
    }
    if d.status.hpa_min.is_none() {
        d.status.hpa_min = Some(hpa.min);
    }
    d.say("HoldingStableCapacity", format!("raising minReplicas from {} to {need} for the rollout", hpa.min));
    d.after(Action::RaiseHpaMin { min: need });
    false
}

/// Whether the data plane sends the recorded share (0 included). `metrics_away`: what to do when its
/// counters do not answer: `false` waits for them, `true` trusts the accepted route after a settling time.
pub(super) fn follows(d: &mut Draft<'_>, metrics_away: bool) -> bool {
    let Some(Time(since)) = d.status.weight_since.clone() else { return d.status.weight == 0 };
    if let Some(route) = &d.seen.route
        && !route.accepted()
    {
        d.say("RouteNotAccepted", "waiting for the gateway to accept the route's new generation");
        return false;
    }
    let plane = d.seen.data_plane;
    let wanted = f64::from(d.status.weight) / 100.0;
    let since_time = Some(Time(since));
    match plane.share {
        Share::Seen { canary, from, .. } => {
            let fresh = from >= since;
            let there = match d.status.weight {
                0 => canary <= 0.005,
                100 => canary >= 0.99,
                // A small window of requests scatters; half the share shows that the write has arrived.
                _ => canary >= wanted * 0.5,
            };
            if !(fresh && there) {
                d.say("AwaitingShare", format!("waiting to see a share of {wanted} in the data plane"));
            }
            fresh && there
        }
        Share::NoTraffic { .. } => d.passed(&since_time, plane.lag),
        Share::Unknown if metrics_away => d.passed(&since_time, (plane.lag * 3).max(UNSEEN_SETTLE)),
        Share::Unknown => {
            d.say("ShareUnknown", "the data plane's counters do not answer");
            false
        }
    }
}

/// At an end the wait for the last request is bounded: the route already says 0.
pub(super) fn drained(d: &mut Draft<'_>) -> bool {
    let Some(Time(since)) = d.status.weight_since.clone() else { return true };
    let limit = (d.seen.data_plane.lag * 3).max(UNSEEN_SETTLE);
    follows(d, true) || d.seen.now.duration_since(since) >= signed(limit)
}
