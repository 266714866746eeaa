//! Everything that the spoke saw, as plain data: the planner's only input.
//! Knows how to read it; decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use crate::api::{BreachKind, ReleaseImage, RolloutPhase, RolloutReason, RolloutSpec, RolloutStatus};
use crate::judge::state::JudgeState;

use super::marks::{LoweredMark, RouteDecision};

/// One look at a Rollout and all that it touches.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    pub now: Timestamp,
    /// Epoch of this process's leadership: never lower than any seen on the Rollout or the route.
    pub epoch: u64,
    pub rollout: Identity,
    pub spec: &'a RolloutSpec,
    pub status: &'a RolloutStatus,
    pub hub: Hub,
    /// The hub said explicitly that the intent is withdrawn (a tombstone, never mere absence).
    pub withdrawn: bool,
    /// The pipeline is gone: our canary Deployment, Service and backendRef go with this rollout.
    pub retire: bool,
    /// `spec.namespace` is among the environment's `targetNamespaces` or, where it lists none, the pipeline's own.
    pub namespace_allowed: bool,
    /// This environment's own verdict over all of `spec.images`: the worst one.
    pub verdict: VerdictView,
    /// The same over all of `status.target`.
    pub target_verdict: VerdictView,
    pub stable: Option<Arm>,
    pub canary: Option<Arm>,
    pub canary_service: bool,
    pub hpa: Option<Hpa>,
    pub route: Option<RouteView>,
    pub data_plane: DataPlane,
    /// What the judge says; none when the metrics could not be read at all.
    pub judge: Option<JudgeView>,
    pub health: Health,
    /// Other Rollouts of the same workload that have not ended.
    pub others: Vec<OtherRollout>,
    /// Older releases promoted here, newest first, with this environment's verdict of each.
    pub candidates: Vec<TargetCandidate>,
    /// Digests that a Quarantine not lifted names for this environment.
    pub quarantined: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub generation: i64,
    pub deleting: bool,
    /// Our finalizer is on it.
    pub finalizer: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hub {
    pub reachable: bool,
    pub away_since: Option<Timestamp>,
}

/// An error never allows, and is no denial either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerdictView {
    Allow,
    /// `revoked`: a revocation or quarantine, which no grace covers.
    Deny {
        reason: String,
        revoked: bool,
    },
    Error {
        reason: String,
    },
    /// The guard has not answered yet.
    Pending,
}

impl VerdictView {
    pub fn allows(&self) -> bool {
        matches!(self, VerdictView::Allow)
    }

    /// The word for `status.verdict`.
    pub fn word(&self) -> &'static str {
        match self {
            VerdictView::Allow => "Allow",
            VerdictView::Deny { .. } => "Deny",
            VerdictView::Error { .. } => "Error",
            VerdictView::Pending => "Pending",
        }
    }
}

impl fmt::Display for VerdictView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VerdictView::Allow => f.write_str("Allow"),
            VerdictView::Deny { reason, .. } => write!(f, "Deny ({reason})"),
            VerdictView::Error { reason } => write!(f, "Error ({reason})"),
            VerdictView::Pending => f.write_str("not there yet"),
        }
    }
}

/// A Deployment as one arm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arm {
    pub uid: String,
    pub resource_version: String,
    pub generation: i64,
    pub observed_generation: i64,
    /// `spec.replicas`.
    pub wanted: u32,
    /// Ready pods, of any template.
    pub ready: u32,
    /// Ready pods of the present template (0 while `observedGeneration` lags).
    pub updated_ready: u32,
    /// Pods that exist, ready or not, of any template.
    pub pods: u32,
    /// Image reference per container of the template.
    pub images: BTreeMap<String, String>,
    /// Annotation `tidegate.io/rollout` of the Deployment: which write of ours its template is from.
    pub stamp: Option<String>,
}

impl Arm {
    /// Whether the template names exactly these digests for these containers.
    pub fn carries(&self, images: &[ReleaseImage]) -> bool {
        images.iter().all(|image| {
            self.images
                .get(&image.container)
                .and_then(|reference| reference.rsplit_once('@'))
                .is_some_and(|(_, digest)| digest == image.digest)
        })
    }

    /// Ready pods of the present template, as far as the controller of the Deployment has seen it.
    pub fn settled_ready(&self) -> u32 {
        if self.observed_generation >= self.generation { self.updated_ready } else { 0 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hpa {
    pub min: u32,
    pub max: u32,
    /// `minReplicas` that our own field manager holds at present.
    pub ours: Option<u32>,
    /// Another operator that owns this HPA and would undo our write (KEDA, for one).
    pub managed_by: Option<String>,
}

/// The HTTPRoute, as far as it is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteView {
    pub uid: String,
    pub resource_version: String,
    pub generation: i64,
    /// The newest generation for which our parent said `Accepted` and `ResolvedRefs`.
    pub accepted_generation: Option<i64>,
    /// The rules that name the stable Service, and those that send requests to the canary without it.
    pub rules: Vec<RuleView>,
    /// Annotation `tidegate.io/rollout`.
    pub rollout: Option<String>,
    /// Annotation `tidegate.io/decision`.
    pub decision: Option<RouteDecision>,
    /// Annotation `tidegate.io/phase` is `promoting`.
    pub promoting: bool,
    /// Annotation `tidegate.io/lowered`, with the time in `tidegate.io/lowered-at`.
    pub lowered: Option<LoweredMark>,
    /// Rules of which a weight is remembered (`tidegate.io/users-weights`) and that stand there no more.
    pub lost_weights: usize,
}

/// One rule that names the stable Service or sends requests to its canary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleView {
    /// Index in `spec.rules`.
    pub rule: usize,
    /// Weight of the ref that names stable first.
    pub stable_weight: u32,
    /// Weight of further refs of stable (`Odd::Ambiguous` only).
    pub stable_elsewhere: u32,
    /// None: our backendRef is not in this rule. The sum, where it stands there more than once.
    pub canary_weight: Option<u32>,
    /// Other backends stand beside our two.
    pub foreign: bool,
    /// Its weights cannot be raised by us. Lowering always can: it needs the canary's refs alone.
    pub odd: Option<Odd>,
    /// What stable's weight was before ours, where that is remembered.
    pub users_weight: Option<u32>,
}

/// What somebody made of a rule, so that no weight of ours can be told from theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Odd {
    /// Stable or canary stands in it more than once.
    Ambiguous,
    /// It sends requests to the canary and no longer names stable.
    StableGone,
}

impl RuleView {
    /// What our two share where nobody else stands in the rule.
    pub const OURS: u32 = 100;

    fn sum(&self) -> u32 {
        self.stable_weight.saturating_add(self.canary_weight.unwrap_or(0))
    }

    /// Weight that our two share: what they have beside foreign backends, else [`RuleView::OURS`].
    pub fn total(&self) -> u32 {
        if self.foreign || self.odd.is_some() { self.sum() } else { RuleView::OURS }
    }

    /// Another backend came while our weight stood in place of the user's.
    fn joined(&self) -> Option<u32> {
        let ours = self.foreign && self.odd.is_none() && self.sum() == RuleView::OURS;
        self.users_weight.filter(|own| ours && *own != RuleView::OURS)
    }

    pub(super) fn percent(&self) -> f64 {
        let canary = f64::from(self.canary_weight.unwrap_or(0));
        let sum = canary + f64::from(self.stable_weight) + f64::from(self.stable_elsewhere);
        if sum == 0.0 { 0.0 } else { 100.0 * canary / sum }
    }
}

impl RouteView {
    /// The greatest share, in percent, that any rule sends to the canary.
    pub fn most(&self) -> f64 {
        self.rules.iter().map(RuleView::percent).fold(0.0, f64::max)
    }

    /// The least such share.
    pub fn least(&self) -> f64 {
        let least = self.rules.iter().map(RuleView::percent).fold(f64::INFINITY, f64::min);
        if least.is_finite() { least } else { 0.0 }
    }

    /// Whether every rule stands at this percentage.
    pub fn stands_at(&self, percent: u8) -> bool {
        !self.rules.is_empty()
            && (self.most() - f64::from(percent)).abs() < 0.5
            && (self.least() - f64::from(percent)).abs() < 0.5
    }

    /// Some rule lacks our backendRef: replaced since it was put there, or a rule that came later.
    pub fn lacks_ref(&self) -> bool {
        self.rules.iter().any(|rule| rule.canary_weight.is_none() && rule.odd.is_none())
    }

    /// Where our weights stand in place of the user's and do not go by themselves, for people.
    pub fn keeps_ours(&self) -> Option<String> {
        let joined = self.rules.iter().find_map(|rule| Some((rule.rule, rule.joined()?)));
        if let Some((index, own)) = joined {
            let ours = RuleView::OURS;
            return Some(format!(
                "rule {index} of the route got another backend in mid-rollout: stable and canary share a weight of {ours} there, where stable's own was {own}, and the other's counts against {ours}. Weigh it against {ours}: stable keeps it as long as it shares the rule"
            ));
        }
        let unknown =
            |rule: &RuleView| rule.users_weight.is_none() && rule.odd.is_none() && rule.sum() == RuleView::OURS;
        let lost = self.lost_weights;
        let stays = lost > 0 && self.rules.iter().any(unknown);
        stays.then(|| format!("the weights that stable had in {lost} rules of the route are not given back: those rules were renamed, got other matches or were removed in mid-rollout"))
    }

    /// The first rule in which no weight can be raised, for people.
    pub fn odd(&self) -> Option<(&'static str, String)> {
        self.rules.iter().find_map(|rule| {
            let index = rule.rule;
            rule.odd.map(|odd| match odd {
                Odd::Ambiguous => (
                    "AmbiguousStable",
                    format!("rule {index} of the route names the stable Service or its canary more than once: which one is stable?"),
                ),
                Odd::StableGone => (
                    "StableNotInRule",
                    format!("rule {index} of the route sends requests to the canary and no longer names the stable Service"),
                ),
            })
        })
    }

    pub fn accepted(&self) -> bool {
        self.accepted_generation.is_some_and(|seen| seen >= self.generation)
    }
}

/// Where requests really go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DataPlane {
    pub share: Share,
    /// How long this kind of gateway may take to follow a write.
    pub lag: Duration,
    /// How long it may still lack what changed in the cluster: its watches were cut when the API server was away, and
    /// start over with a backoff of their own. Zero: it follows.
    pub catching_up: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Share {
    /// Share of requests, 0 to 1, that the canary got since `from`, up to `at`.
    Seen { canary: f64, from: Timestamp, at: Timestamp },
    /// The counters answer, and there are no requests.
    NoTraffic { from: Timestamp },
    /// The counters do not answer.
    Unknown,
}

/// The judge's answer over all objectives.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgeView {
    pub says: JudgeSays,
    /// Time of the newest sample in the evidence.
    pub newest_sample_at: Option<Timestamp>,
    /// How long no witness has given a fresh sample of either arm. Zero requests and masked
    /// data are sight: zero then.
    pub blind_for: Duration,
    /// `up` samples of the canary's pods arrive.
    pub canary_scraped: bool,
    /// The canary's pods are so young that nobody could have scraped them yet.
    pub canary_young: bool,
    /// What is wrong with objectives or metrics source; empty when judgement is possible.
    pub config_errors: Vec<String>,
    /// Evidence so far, to be kept in the status.
    pub state: JudgeState,
}

#[derive(Clone, Debug, PartialEq)]
pub enum JudgeSays {
    /// A breach: judge, hard stop or burn guard.
    RollBack {
        kind: BreachKind,
        why: String,
    },
    Advance {
        why: String,
    },
    /// Nothing decided yet; what is lacking.
    Continue {
        lacks: String,
    },
    /// The data do not allow an answer.
    Inconclusive {
        why: String,
    },
}

/// Workload health of the pods that run the new images (the canary's; stable's own while `Baking`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    pub new: PodTrouble,
    /// Pods of the old images for comparison: stable's (while `Baking`: what they had before).
    pub old: PodTrouble,
    /// Since when some new pod that was ready has not been.
    pub unready_since: Option<Timestamp>,
}

/// Counts since the rollout's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodTrouble {
    pub pods: u32,
    pub restarts: u32,
    pub oom_kills: u32,
    /// Pods in `CrashLoopBackOff` now.
    pub crash_looping: u32,
    /// Pods that were ready and are not now.
    pub lost_readiness: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherRollout {
    pub name: String,
    pub reason: RolloutReason,
    pub phase: Option<RolloutPhase>,
    /// It has touched the workload (its status has `startedAt`).
    pub started: bool,
    /// Created after ours.
    pub newer: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetCandidate {
    pub release: String,
    pub images: Vec<ReleaseImage>,
    pub verdict: VerdictView,
}
