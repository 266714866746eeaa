//! Keeps the route and the record of it together: writes what is recorded and not yet there,
//! notices what others wrote, lowers. Never raises without a decision in the status.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

use crate::api::{Breach, BreachKind, Ending, PromotingStep, RolloutPhase, RolloutSpec, Span};

use super::action::{Action, RuleWeights};
use super::draft::Draft;
use super::marks::RouteDecision;
use super::observed::{Odd, RouteView, RuleView};
use super::{blind, capacity, interrupt};

/// One step, resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Weight(u8),
    Pause(Option<Span>),
}

/// The spec's steps, and weight 100 at their end where the spec leaves it out: promotion rolls stable
/// with no traffic on it.
pub(super) fn stages(spec: &RolloutSpec) -> Vec<Stage> {
    let mut stages: Vec<Stage> = spec
        .strategy
        .steps
        .iter()
        .filter_map(|step| match (step.set_weight, &step.pause) {
            (Some(weight), _) => Some(Stage::Weight(weight.min(100))),
            (None, Some(pause)) => Some(Stage::Pause(pause.duration)),
            (None, None) => None,
        })
        .collect();
    let last = stages.iter().rev().find_map(|stage| match stage {
        Stage::Weight(weight) => Some(*weight),
        Stage::Pause(_) => None,
    });
    if last != Some(100) {
        stages.push(Stage::Weight(100));
    }
    stages
}

/// Why a weight goes to 0; with the decision's number it is written on the route, so that a crash
/// before the status write loses neither the fact nor the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lowering {
    JudgeBreach,
    HealthBreach,
    HardStop,
    BurnGuard,
    Aborted,
    Superseded,
    Denied,
    Inconclusive,
    GaveUpBlind,
    Failed,
    /// A retreat that is not an end.
    Blind,
    /// A retreat that is not an end.
    HubLost,
    /// A foreign writer had raised it from 0.
    Foreign,
}

impl Lowering {
    const ALL: [Lowering; 13] = [
        Lowering::JudgeBreach,
        Lowering::HealthBreach,
        Lowering::HardStop,
        Lowering::BurnGuard,
        Lowering::Aborted,
        Lowering::Superseded,
        Lowering::Denied,
        Lowering::Inconclusive,
        Lowering::GaveUpBlind,
        Lowering::Failed,
        Lowering::Blind,
        Lowering::HubLost,
        Lowering::Foreign,
    ];

    fn breach(self) -> Option<BreachKind> {
        match self {
            Lowering::JudgeBreach => Some(BreachKind::Judge),
            Lowering::HealthBreach => Some(BreachKind::Health),
            Lowering::HardStop => Some(BreachKind::HardStop),
            Lowering::BurnGuard => Some(BreachKind::BurnGuard),
            _ => None,
        }
    }

    fn end(self) -> Option<(RolloutPhase, bool)> {
        match self {
            Lowering::JudgeBreach | Lowering::HealthBreach | Lowering::HardStop | Lowering::BurnGuard => {
                Some((RolloutPhase::RolledBack, true))
            }
            Lowering::Aborted => Some((RolloutPhase::Withdrawn, false)),
            Lowering::Superseded => Some((RolloutPhase::Superseded, false)),
            Lowering::Denied => Some((RolloutPhase::Denied, false)),
            Lowering::Inconclusive => Some((RolloutPhase::Inconclusive, false)),
            Lowering::GaveUpBlind => Some((RolloutPhase::Blind, false)),
            Lowering::Failed => Some((RolloutPhase::Failed, false)),
            Lowering::Blind | Lowering::HubLost | Lowering::Foreign => None,
        }
    }
}

/// The evaluation itself died with the process that made it.
fn lost_breach(kind: BreachKind, message: &str, at: Time) -> Breach {
    Breach {
        kind,
        message: message.to_owned(),
        sample_at: MicroTime(at.0),
        decided_at: MicroTime(at.0),
        written_at: None,
    }
}

/// What was decided before the crash was not decided, nor seen, after it was written.
fn written_at(breach: Breach, at: Option<Timestamp>) -> Breach {
    let Some(at) = at else { return breach };
    Breach {
        sample_at: MicroTime(breach.sample_at.0.min(at)),
        decided_at: MicroTime(breach.decided_at.0.min(at)),
        written_at: Some(MicroTime(at)),
        ..breach
    }
}

/// What became of the route's care in this look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Route and record agree (or a foreign writer's lower weight is kept).
    Settled,
    /// Something is being written or awaited; nothing else may be decided on top of it.
    Unsettled,
    Missing,
}

/// Representable within half a percent in every rule.
pub(super) fn fits(route: &RouteView, percent: u8) -> bool {
    unfit(route, percent).is_none()
}

/// The first rule in which it is not.
pub(super) fn unfit(route: &RouteView, percent: u8) -> Option<usize> {
    let fits = |rule: &RuleView| {
        let total = rule.total();
        let canary = part(total, percent);
        total > 0
            && (percent == 0 || canary > 0)
            && (100.0 * f64::from(canary) / f64::from(total) - f64::from(percent)).abs() < 0.5
    };
    route.rules.iter().find(|rule| rule.odd.is_none() && !fits(rule)).map(|rule| rule.rule)
}

/// The nearest that is at most half a percent above: a small whole cannot be cut finely, and more than was decided is
/// more than there are pods for.
fn part(total: u32, percent: u8) -> u32 {
    let (whole, percent) = (u64::from(total), u64::from(percent.min(100)));
    let nearest = (whole * percent + 50) / 100;
    let above = 200 * nearest > whole * (2 * percent + 1);
    u32::try_from(if above { whole * percent / 100 } else { nearest }).unwrap_or(total)
}

pub(super) fn weights(route: &RouteView, percent: u8) -> Vec<RuleWeights> {
    route
        .rules
        .iter()
        .map(|rule| {
            // Without stable in it there is no share: all of it, or (below 100) nothing, and stable takes its place.
            let gone = rule.odd == Some(Odd::StableGone);
            let canary = if gone && percent < 100 { 0 } else { part(rule.total(), percent) };
            RuleWeights { rule: rule.rule, stable: rule.total().saturating_sub(canary), canary }
        })
        .collect()
}

/// `percent`, or what the least of the rules has where others lowered it: written, it raises none.
pub(super) fn no_higher(route: &RouteView, percent: u8) -> u8 {
    (0..=percent).rev().find(|one| f64::from(*one) < route.least() + 0.5).unwrap_or(0)
}

/// `percent` for the rules that have more; what has less stays.
fn capped(route: &RouteView, percent: u8) -> Vec<RuleWeights> {
    let mut rules = weights(route, percent);
    for (new, rule) in rules.iter_mut().zip(&route.rules) {
        if rule.odd.is_none() && rule.percent() <= f64::from(percent) {
            *new = RuleWeights { rule: rule.rule, stable: rule.stable_weight, canary: rule.canary_weight.unwrap_or(0) };
        }
    }
    rules
}

impl Draft<'_> {
    pub fn owns_route(&self) -> bool {
        self.seen.route.as_ref().is_some_and(|route| route.rollout.as_deref() == Some(self.seen.rollout.uid.as_str()))
    }

    /// What the users of a route that we drive have to know of their weights.
    pub fn keeps_ours(&self) -> Option<String> {
        self.seen.route.as_ref().filter(|_| self.owns_route())?.keeps_ours()
    }

    /// Number of our decision that the route carries.
    fn written(&self) -> Option<(u64, u64)> {
        let decision = self.seen.route.as_ref()?.decision.as_ref()?;
        (decision.rollout == self.seen.rollout.uid).then_some((decision.epoch, decision.n))
    }

    /// A decision on the weight: recorded first, written after. Guarded by the route's resourceVersion.
    pub fn set_weight(&mut self, percent: u8, code: &'static str, why: impl Into<String>) {
        self.status.weight = percent;
        self.status.decision += 1;
        self.status.weight_since = Some(self.now());
        self.status.step_since = None;
        self.decide(code, why);
        self.write_weight();
    }

    fn write_weight(&mut self) {
        let Some(route) = &self.seen.route else { return };
        self.after(Action::SetWeights {
            resource_version: route.resource_version.clone(),
            percent: self.status.weight,
            rules: weights(route, self.status.weight),
            decision: self.stamp(),
        });
    }

    /// Weight 0 before anything else. Leaves the number of the decision alone.
    pub fn lower(&mut self, why: Lowering) {
        let Some(route) = &self.seen.route else {
            self.status.weight = 0;
            return;
        };
        let lowered = self.lowered().map(|(done, _)| done);
        let there = route.most() == 0.0 && (self.status.weight == 0 || lowered == Some(why));
        if !there {
            let rules = weights(route, 0);
            if self.owns_route() && !route.promoting {
                let reason = format!("{why:?}.{}", self.status.decision);
                self.before(Action::LowerToZero { rollout: self.seen.rollout.uid.clone(), reason, rules });
            } else {
                let decision = self.stamp();
                let resource_version = route.resource_version.clone();
                self.before(Action::SetWeights { resource_version, percent: 0, rules, decision });
            }
        }
        if self.status.weight > 0 {
            self.status.weight_since = Some(self.now());
        }
        self.status.weight = 0;
    }

    /// Our own lowering that the route carries for the recorded decision, and when it was written.
    fn lowered(&self) -> Option<(Lowering, Option<Timestamp>)> {
        let mark = self.seen.route.as_ref()?.lowered.as_ref()?;
        let (word, n) = mark.reason.rsplit_once('.')?;
        if mark.rollout != self.seen.rollout.uid || n.parse() != Ok(self.status.decision) {
            return None;
        }
        let why = Lowering::ALL.into_iter().find(|why| format!("{why:?}") == word)?;
        Some((why, mark.at))
    }

    /// A lowering of ours whose record was lost in a crash: it is recorded now, never undone.
    pub fn recover_lowering(&mut self) -> bool {
        if self.status.weight == 0 || self.status.ending.is_some() {
            return false;
        }
        let Some((why, at)) = self.lowered() else { return false };
        self.status.weight = 0;
        self.status.weight_since = Some(self.now());
        let message = format!("the weight had been lowered to 0 ({why:?}) before the record was written");
        match why.end() {
            Some((end, quarantine)) => {
                let reason = format!("{why:?}");
                if let Some(kind) = why.breach() {
                    let found = interrupt::breach(self).unwrap_or_else(|| lost_breach(kind, &message, self.now()));
                    self.status.breach = Some(written_at(found, at.map(|at| at.min(self.seen.now))));
                }
                self.status.ending = Some(Ending { end, reason, message: message.clone(), quarantine });
            }
            None => {
                self.status.step = 0;
                self.status.certified_weight = 0;
                self.status.step_since = None;
                if why == Lowering::Blind {
                    self.status.blind_retreat_at = Some(self.now());
                }
            }
        }
        self.decide("Recovered", message);
        true
    }

    /// Brings the route to the record, or tells who else wrote it. `needs`: pods for the recorded weight.
    pub fn steer(&mut self) -> Route {
        let Some(route) = &self.seen.route else {
            self.say("RouteMissing", format!("HTTPRoute {} is not there", self.seen.spec.route.http_route));
            return Route::Missing;
        };
        if self.stale_view() {
            self.say("StaleView", "the route carries a later decision than the status seen: waiting for a fresh view");
            return Route::Unsettled;
        }
        if let Some((_, why)) = route.odd() {
            self.foreign(why);
        }
        // A weight of 0 and nothing there: what follows takes the marks off anyway.
        let returned = self.status.promoting == Some(PromotingStep::Returning) && self.status.weight == 0;
        if returned && route.most() == 0.0 && !self.owns_route() {
            return Route::Settled;
        }
        let written = self.written();
        let stripped = written.is_none() && self.status.decision > 0;
        let (epoch, n) = written.unwrap_or((0, 0));
        if !stripped && n < self.status.decision {
            let up = f64::from(self.status.weight) > route.most() + 0.5;
            if up && self.status.going_back.is_none() && self.status.weight > self.seen.spec.max_weight {
                let why =
                    "the hub's ceiling fell before the recorded weight was written: what stands there is recorded";
                self.set_weight(no_higher(route, self.seen.spec.max_weight), "WeightLowered", why);
                return Route::Unsettled;
            }
            if up && let Some((code, why)) = route.odd() {
                self.say(code, format!("the recorded weight is not written: {why}"));
                return Route::Unsettled;
            }
            if up && self.status.going_back.is_none() && !capacity::held(self) {
                self.say("StableCapacity", "the recorded weight is not written before stable's capacity is held");
                return Route::Unsettled;
            }
            if up && self.status.going_back.is_none() && blind::is_blind(self) {
                self.say("NoFreshSamples", "the recorded weight is not written without fresh samples");
                return Route::Unsettled;
            }
            // What was decided before the API server went away may be written after it.
            if up && let Some((code, why)) = self.gateway_lacks() {
                self.say(code, why);
                return Route::Unsettled;
            }
            if up && !capacity::ready_for(self, self.status.weight) {
                self.say("CapacityNotReady", "the recorded weight is not written before its pods are ready");
                return Route::Unsettled;
            }
            if up && !self.seen.verdict.allows() && self.status.going_back.is_none() {
                self.say("VerdictMissing", "the recorded weight is not written without an Allow");
                return Route::Unsettled;
            }
            if self.status.weight > 0 && route.lacks_ref() {
                self.adopt_as(
                    route,
                    n,
                    "our backend is missing in a rule: it is put back before the weight is written",
                );
                return Route::Unsettled;
            }
            self.say("WritingWeight", format!("writing the recorded weight {} to the route", self.status.weight));
            self.write_weight();
            return Route::Unsettled;
        }
        let recorded = f64::from(self.status.weight);
        let higher = route.most() > if self.status.weight == 0 { 0.0 } else { recorded + 0.5 };
        if stripped && !higher {
            // The decision was written once: what the route lost since is not written again.
            let found = route.least().round();
            self.foreign(format!("someone else took our marks off the route; the canary's weight {found} stands"));
            self.adopt(route, "our marks were taken off the route: it is marked again, its weights stay");
            return Route::Unsettled;
        }
        if !stripped && (!self.owns_route() || epoch < self.status.epoch) {
            self.adopt(route, "a new leader marks the route with its epoch");
            return Route::Unsettled;
        }
        if higher {
            let found = route.most().round();
            self.foreign(format!("someone else set the canary's weight to {found}; recorded is {recorded}"));
            if self.status.weight == 0 && !route.promoting {
                self.lower(Lowering::Foreign);
            } else {
                let (resource_version, rules) = (route.resource_version.clone(), capped(route, self.status.weight));
                let (percent, decision) = (self.status.weight, self.stamp());
                self.before(Action::SetWeights { resource_version, percent, rules, decision });
            }
            self.say("ForeignWriter", format!("lowering a foreign weight {found} to the recorded {recorded}"));
            return Route::Unsettled;
        }
        if route.lacks_ref() && !returned {
            self.foreign("a rule of the route lacks our backend: it is put there at weight 0, until a new decision");
            self.adopt(route, "our backend is missing in a rule: it is put there");
            return Route::Unsettled;
        }
        if route.least() + 0.5 < recorded {
            let found = route.least().round();
            self.foreign(format!(
                "someone else lowered the canary's weight to {found} (recorded: {recorded}); it is kept until a new decision"
            ));
        }
        Route::Settled
    }

    /// The status seen is older than what the route carries.
    pub fn stale_view(&self) -> bool {
        self.written().is_some_and(|(_, n)| n > self.status.decision)
    }

    pub fn adopt(&mut self, route: &RouteView, why: &str) {
        self.adopt_as(route, self.status.decision, why);
    }

    /// `n`: the decision that the route is to carry; a recorded one that is not written yet stays due.
    fn adopt_as(&mut self, route: &RouteView, n: u64, why: &str) {
        let missing = |rule: &&RuleView| rule.canary_weight.is_none() && rule.odd.is_none();
        let add_canary_ref = route.rules.iter().filter(missing).map(|rule| rule.rule).collect();
        self.say("AdoptingRoute", why);
        self.after(Action::AdoptRoute {
            resource_version: route.resource_version.clone(),
            decision: RouteDecision { n, ..self.stamp() },
            add_canary_ref,
        });
    }
}
