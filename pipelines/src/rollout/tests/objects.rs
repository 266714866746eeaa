//! Deployment and HTTPRoute of the model cluster.

use jiff::Timestamp;

use super::world::images;
use crate::api::ReleaseImage;
use crate::rollout::{LoweredMark, RouteDecision, RuleView};

#[derive(Clone, Debug)]
pub struct Deployment {
    pub rv: u64,
    pub generation: i64,
    pub images: Vec<ReleaseImage>,
    pub stamp: Option<String>,
    pub wanted: u32,
    pub ready: u32,
    pub updated_ready: u32,
    pub changed: Timestamp,
}

impl Deployment {
    pub fn scale(&mut self, wanted: u32, now: Timestamp) {
        self.wanted = wanted;
        self.ready = self.ready.min(wanted);
        self.updated_ready = self.updated_ready.min(wanted);
        self.rv += 1;
        self.generation += 1;
        self.changed = now;
    }
}

#[derive(Clone, Debug)]
pub struct Route {
    pub rv: u64,
    pub generation: i64,
    pub stable: u32,
    pub canary: Option<u32>,
    pub rollout: Option<String>,
    pub decision: Option<RouteDecision>,
    pub promoting: bool,
    pub lowered: Option<LoweredMark>,
    pub foreign: bool,
    /// Remembered of stable's weight before ours.
    pub users: Option<u32>,
    /// Weight of a second ref of stable in the same rule.
    pub twice: Option<u32>,
    /// Stable's ref was taken out of the rule.
    pub stable_gone: bool,
    /// A rule that came later: weights of stable and of our ref.
    pub late: Option<(u32, Option<u32>)>,
    pub changed: Timestamp,
}

impl Route {
    /// Percent of the requests that each rule sends to the canary.
    pub fn percents(&self) -> Vec<f64> {
        let percent = |stable: u32, canary: Option<u32>| {
            let canary = canary.unwrap_or(0);
            if stable + canary == 0 { 0.0 } else { 100.0 * f64::from(canary) / f64::from(stable + canary) }
        };
        let stable = if self.stable_gone { 0 } else { self.stable + self.twice.unwrap_or(0) };
        let mut all = vec![percent(stable, self.canary)];
        all.extend(self.late.map(|(stable, canary)| percent(stable, canary)));
        all
    }

    /// Stable stands alone with a canary without weight.
    fn unshared(&self) -> bool {
        !self.foreign && self.twice.is_none() && !self.stable_gone && self.canary.unwrap_or(0) == 0
    }

    /// With a guarded write of ours, before it.
    pub fn remember(&mut self) {
        if self.unshared() && !matches!(self.stable, 0 | RuleView::OURS) {
            self.users.get_or_insert(self.stable);
        }
    }

    pub fn give_back(&mut self) {
        let users = self.users.take();
        if let Some(own) = users.filter(|_| self.unshared() && self.stable == RuleView::OURS) {
            self.stable = own;
        }
    }

    /// Somebody writes it.
    pub fn touch(&mut self, now: Timestamp) {
        (self.rv, self.generation, self.changed) = (self.rv + 1, self.generation + 1, now);
    }

    /// All our annotations are gone.
    pub fn strip(&mut self) {
        (self.rollout, self.decision, self.promoting, self.lowered) = (None, None, false, None);
        self.users = None;
    }
}

pub fn deployment(now: Timestamp, of: &str, pods: u32) -> Deployment {
    Deployment {
        rv: 1,
        generation: 1,
        images: images(of),
        stamp: None,
        wanted: pods,
        ready: pods,
        updated_ready: pods,
        changed: now,
    }
}
