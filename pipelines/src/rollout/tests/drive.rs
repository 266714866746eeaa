//! How tests drive the model cluster: pass after pass to a state, or to the end and beyond it.

use std::time::Duration;

use super::world::*;
use crate::api::{PromotingStep, RolloutPhase};

impl World {
    /// Passes of a second each until `done` or the limit; true when done.
    pub fn until(&mut self, seconds: u32, done: impl Fn(&World) -> bool) -> bool {
        for _ in 0..seconds {
            self.pass();
            if done(self) {
                return true;
            }
            self.tick(Duration::from_secs(1));
        }
        false
    }

    /// To the end, and then not one more write.
    pub fn run_to_end(&mut self) -> RolloutPhase {
        let ended = self.until(3000, World::ended);
        assert!(ended, "no end: {:?} {} {:?}", self.phase(), self.code(), self.status.message);
        self.pass();
        let writes = self.log.len();
        for _ in 0..20 {
            self.tick(Duration::from_secs(30));
            self.pass();
        }
        assert_eq!(writes, self.log.len(), "writes after the end: {:?}", &self.log[writes..]);
        self.phase()
    }

    /// To this weight at the route, seen by the planner.
    pub fn run_to_weight(&mut self, weight: u32) {
        let there = self.until(600, |world| world.weight() == weight && world.status.step_since.is_some());
        assert!(there, "weight {} {} {:?}", self.weight(), self.code(), self.status);
    }

    pub fn run_to_promoting(&mut self, step: PromotingStep) {
        let there = self.until(900, |world| world.status.promoting == Some(step));
        assert!(there, "{:?} {} {:?}", self.phase(), self.code(), self.status);
    }

    /// Nothing of ours is left.
    pub fn is_clean(&self) {
        assert_eq!(self.weight(), 0);
        assert_eq!(self.canary.as_ref().map_or(0, |canary| canary.wanted), 0);
        let route = self.route.as_ref().unwrap();
        assert_eq!((&route.rollout, &route.decision, route.promoting), (&None, &None, false));
        assert_eq!(self.hpa.as_ref().map(|hpa| (hpa.min, hpa.ours)), Some((2, None)));
        assert!(!self.finalizer);
    }
}
