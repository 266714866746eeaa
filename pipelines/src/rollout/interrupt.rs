//! What may happen at any time and overrules the walk: breach, denial, a person's word, supersession.
//! Only looks and ends; never raises.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use crate::api::{Breach, BreachKind, RolloutPhase};

use super::draft::{Draft, clip, signed};
use super::observed::{JudgeSays, PodTrouble, VerdictView};
use super::steer::Lowering;
use super::{ending, target};

/// A pod that is unready for less is a blip of its probe.
const UNREADY_SETTLE: Duration = Duration::from_secs(10);

/// What the evidence says, if it is a breach.
pub(super) fn breach(d: &mut Draft<'_>) -> Option<Breach> {
    let health = health_breach(d).map(|why| (BreachKind::Health, why));
    let judged = d.status.decision > 0 || d.status.phase == Some(RolloutPhase::Baking);
    let says = d.seen.judge.as_ref().filter(|_| judged).and_then(|judge| match &judge.says {
        JudgeSays::RollBack { kind, why } => Some((*kind, why.clone())),
        _ => None,
    });
    let (kind, message) = says.or(health)?;
    let newest = d.seen.judge.as_ref().and_then(|judge| judge.newest_sample_at).unwrap_or(d.seen.now);
    Some(Breach {
        kind,
        message: clip(message),
        sample_at: MicroTime(newest),
        decided_at: MicroTime(d.seen.now),
        written_at: None,
    })
}

fn lowering(kind: BreachKind) -> Lowering {
    match kind {
        BreachKind::Judge => Lowering::JudgeBreach,
        BreachKind::Health => Lowering::HealthBreach,
        BreachKind::HardStop => Lowering::HardStop,
        BreachKind::BurnGuard => Lowering::BurnGuard,
    }
}

/// Trouble of the new pods beyond the old ones' rate: a canary that dies counts no errors itself.
fn health_breach(d: &mut Draft<'_>) -> Option<String> {
    let health = d.seen.health;
    let (new, old) = (health.new, health.old);
    if new.pods == 0 {
        return None;
    }
    let rate = |trouble: PodTrouble, count: u32| f64::from(count) / f64::from(trouble.pods.max(1));
    let told = |what: &str, new_count: u32, old_count: u32| {
        Some(format!("{what}: {new_count} on {} new pods, {old_count} on {} old ones", new.pods, old.pods))
    };
    if rate(new, new.crash_looping) > rate(old, old.crash_looping) {
        return told("pods in a crash loop", new.crash_looping, old.crash_looping);
    }
    if new.oom_kills > 0 && rate(new, new.oom_kills) > 2.0 * rate(old, old.oom_kills) {
        return told("out-of-memory kills", new.oom_kills, old.oom_kills);
    }
    // One restart happens to good versions too.
    if new.restarts > 1 && rate(new, new.restarts) > 2.0 * rate(old, old.restarts) {
        return told("restarts", new.restarts, old.restarts);
    }
    if rate(new, new.lost_readiness) > rate(old, old.lost_readiness) {
        let since = health.unready_since?;
        let left = signed(UNREADY_SETTLE) - d.seen.now.duration_since(since);
        if !left.is_positive() {
            return told("pods that were ready and are not", new.lost_readiness, old.lost_readiness);
        }
        d.wake_in(left.unsigned_abs());
    }
    None
}

/// A person or the hub wants the release gone, wherever it has come to.
pub(super) fn called_back(d: &Draft<'_>) -> Option<&'static str> {
    if d.seen.spec.abort {
        Some("a person aborted it")
    } else if d.seen.withdrawn {
        Some("the hub withdrew the intent")
    } else {
        None
    }
}

/// The same, or the object itself goes: reason to stop before promotion, none to take back what has passed.
pub(super) fn unwanted(d: &Draft<'_>) -> Option<&'static str> {
    called_back(d).or(if d.seen.rollout.deleting {
        Some("the Rollout is being deleted")
    } else if d.seen.retire {
        Some("the pipeline is gone")
    } else {
        None
    })
}

/// The new digest may not run: (why, whether no grace covers it).
pub(super) fn denied(d: &Draft<'_>) -> Option<(String, bool)> {
    if target::quarantined(d, &d.seen.spec.images) {
        return Some(("the digest is quarantined".into(), true));
    }
    match &d.seen.verdict {
        VerdictView::Deny { reason, revoked } => Some((reason.clone(), *revoked)),
        _ => None,
    }
}

/// In `Preparing` and `Canary`. True: the end has begun.
pub(super) fn before_promoting(d: &mut Draft<'_>) -> bool {
    if d.recover_lowering() {
        return true;
    }
    if let Some(breach) = breach(d) {
        let (why, kind) = (breach.message.clone(), breach.kind);
        d.status.breach = Some(breach);
        ending::begin(d, RolloutPhase::RolledBack, "Breach", lowering(kind), true, format!("{kind:?} breach: {why}"));
        return true;
    }
    if let Some((why, _)) = denied(d) {
        ending::begin(d, RolloutPhase::Denied, "Denied", Lowering::Denied, false, format!("the verdict turned: {why}"));
        return true;
    }
    if let Some(why) = unwanted(d) {
        ending::begin(d, RolloutPhase::Withdrawn, "Aborted", Lowering::Aborted, false, why);
        return true;
    }
    if let Some(newer) = d.seen.spec.superseded_by.clone() {
        let message = format!("{newer} takes over");
        ending::begin(d, RolloutPhase::Superseded, "Superseded", Lowering::Superseded, false, message);
        return true;
    }
    if !d.seen.namespace_allowed {
        let message = format!("the environment no longer allows namespace {}", d.seen.spec.namespace);
        ending::begin(d, RolloutPhase::Failed, "NamespaceNotAllowed", Lowering::Failed, false, message);
        return true;
    }
    let lost = d.seen.canary.as_ref().is_none_or(|canary| !canary.carries(&d.seen.spec.images));
    if d.status.weight > 0 && lost {
        let message = "the canary Deployment is gone or carries other images while requests go to it";
        ending::begin(d, RolloutPhase::Failed, "CanaryLost", Lowering::Failed, false, message);
        return true;
    }
    false
}

/// A reason not to take a step forward now.
pub(super) fn held(d: &Draft<'_>) -> Option<(&'static str, String)> {
    use crate::api::OnHubLost;
    if d.seen.spec.paused {
        return Some(("Paused", "a person paused it: the weight stays".into()));
    }
    if hub_lost(d) && d.strategy().on_hub_lost != OnHubLost::Finish {
        return Some(("HubLost", "the hub is away: the weight stays (onHubLost)".into()));
    }
    None
}

/// Three missed heartbeats of 5 s: less is a blip.
const HUB_LOST: Duration = Duration::from_secs(15);

pub(super) fn hub_lost(d: &Draft<'_>) -> bool {
    let hub = d.seen.hub;
    !hub.reachable && hub.away_since.is_some_and(|since| d.seen.now.duration_since(since) >= signed(HUB_LOST))
}
