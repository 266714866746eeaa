//! What the executor is to do, without any choice left to it.
//!
//! The executor's contract: the `BeforeStatus` actions in order, then the status write (only if
//! `next_status` differs), then the `AfterStatus` actions in order. The first failure ends the
//! pass; a 409, a 422 or an unknown answer means: observe again and plan anew. Scaling or removing
//! what is not there is a success. When a `LowerToZero` of a plan with a breach was acknowledged, the
//! executor puts that time into `next_status.breach.written_at`.

use std::time::Duration;

use crate::api::{DecisionEntry, ReleaseImage, RolloutStatus};

use super::marks::RouteDecision;
use super::report::Reason;

#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub next_status: RolloutStatus,
    pub actions: Vec<Ordered>,
    /// What it does or waits for and why; the first is the headline.
    pub report: Vec<Reason>,
    /// Decisions made by this plan, each one DecisionRecord and one Event.
    pub decisions: Vec<DecisionEntry>,
    /// A person must look: `RollbackBlocked`, blindness while promoting.
    pub page: Option<Reason>,
    /// Look again after this long even if nothing changes.
    pub wake_after: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Ordered {
    pub order: Order,
    pub action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    BeforeStatus,
    AfterStatus,
}

/// Weights of our two backendRefs in one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleWeights {
    /// Index in `spec.rules`.
    pub rule: usize,
    pub stable: u32,
    pub canary: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Put our finalizer on the Rollout.
    EnsureFinalizer,
    /// Take it off: nothing of ours is left behind.
    ReleaseFinalizer,
    EnsureCanaryService,
    /// Create or update the canary Deployment from stable's present template with these images,
    /// `maxUnavailable: 0`, annotated `tidegate.io/rollout: <stamp>`.
    EnsureCanary {
        images: Vec<ReleaseImage>,
        replicas: u32,
        stamp: String,
    },
    /// Replicas of the canary Deployment only.
    ScaleCanary {
        replicas: u32,
    },
    /// Delete canary Deployment and Service (pipeline gone).
    RemoveCanary,
    /// Write `tidegate.io/rollout` and `tidegate.io/decision`, put our backendRef at weight 0 into
    /// the rules named, take a foreign `lowered` away. Weights already there stay. Guarded by `resource_version`.
    AdoptRoute {
        resource_version: String,
        decision: RouteDecision,
        add_canary_ref: Vec<usize>,
    },
    /// The weights of every rule, with `tidegate.io/rollout` and the decision's annotation; takes `lowered` away.
    /// Guarded by `resource_version`, `test`s on both refs' names, and the epoch at the receiver.
    SetWeights {
        resource_version: String,
        percent: u8,
        rules: Vec<RuleWeights>,
        decision: RouteDecision,
    },
    /// Canary weight 0, stable takes what the two shared; writes `tidegate.io/lowered: <rollout>/<reason>` and its
    /// time, leaves the decision alone. No resourceVersion: `test`s `tidegate.io/rollout: <uid>`, the absence of
    /// `tidegate.io/phase`, and both refs' names. Retried at once.
    LowerToZero {
        rollout: String,
        reason: String,
        rules: Vec<RuleWeights>,
    },
    /// Write `tidegate.io/phase: promoting` (and the decision). Guarded by `resource_version`.
    MarkPromoting {
        resource_version: String,
        decision: RouteDecision,
    },
    /// Images of stable's template, with annotations `tidegate.io/rollout: <stamp>` and, if known,
    /// `tidegate.io/release`. Forced for these fields only, `uid` and `resource_version` in the body.
    SetStableTemplate {
        images: Vec<ReleaseImage>,
        uid: String,
        resource_version: String,
        stamp: String,
        release: Option<String>,
    },
    RaiseHpaMin {
        min: u32,
    },
    /// `minReplicas` as it was before us.
    RestoreHpaMin {
        min: u32,
    },
    /// Take our annotations off the route, and give back the weights that the user's rules had where that moves no
    /// request; with `remove_canary_ref` our backendRef goes too. Guarded.
    ClearRoute {
        resource_version: String,
        remove_canary_ref: bool,
    },
    Quarantine {
        digests: Vec<String>,
        revision: Option<String>,
        message: String,
    },
}
