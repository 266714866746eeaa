//! What a Rollout does next: a pure planner over what the spoke saw. It never
//! holds a client, reads a clock or leaves the executor a choice.

pub mod action;
pub mod observed;
pub mod plan;
pub mod report;

pub use action::{Action, Order, Ordered, Plan, RuleWeights};
pub use observed::{
    Arm, DataPlane, Health, Hpa, Hub, Identity, JudgeSays, JudgeView, Observed, OtherRollout, PodTrouble,
    RouteDecision, RouteView, RuleView, Share, TargetCandidate, VerdictView,
};
pub use plan::plan;
pub use report::Reason;
