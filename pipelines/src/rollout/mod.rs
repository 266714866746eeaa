//! What a Rollout does next: a pure planner over what the spoke saw. It never
//! holds a client, reads a clock or leaves the executor a choice.
//!
//! `plan` dispatches on the phase; `interrupt` holds what may happen at any time,
//! `steer` keeps the route and the record of it together, `draft` collects a plan.

pub mod action;
pub mod invariants;
pub mod observed;
pub mod plan;
pub mod report;

mod baking;
mod blind;
mod canary;
mod capacity;
mod draft;
mod ending;
mod first;
mod interrupt;
mod marks;
mod preparing;
mod promoting;
mod retire;
mod rollback;
mod steer;
mod target;
mod waiting;

pub use action::{Action, Order, Ordered, Plan, RuleWeights};
pub use marks::{LoweredMark, RouteDecision};
pub use observed::{
    Arm, DataPlane, Health, Hpa, Hub, Identity, JudgeSays, JudgeView, Observed, Odd, OtherRollout, PodTrouble,
    RouteView, RuleView, Share, TargetCandidate, VerdictView,
};
pub use plan::plan;
pub use report::Reason;

#[cfg(test)]
mod tests;
