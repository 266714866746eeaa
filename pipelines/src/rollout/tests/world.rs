//! A model cluster: what the spoke sees of it, how time passes, and a check of the invariants after every
//! plan. Pods and data plane follow with a latency.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::{
    BreachKind, Objective, RatioMetric, ReleaseImage, RolloutPhase, RolloutReason, RolloutSpec, RolloutStatus,
    RouteRef, Span, Step, Strategy, WorkloadRef,
};
use crate::judge::JudgeState;
use crate::rollout::invariants;
use crate::rollout::*;

pub use super::objects::*;

pub const UID: &str = "11111111-2222";
pub const NEW: &str = "aa";
pub const OLD: &str = "bb";
pub const OLDER: &str = "cc";

pub fn images(of: &str) -> Vec<ReleaseImage> {
    let digest = format!("sha256:{}", of.repeat(32));
    vec![ReleaseImage { container: "app".into(), repository: "registry.example/portal".into(), digest }]
}

/// What was written, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Wrote {
    Status(Option<RolloutPhase>),
    Did(Action),
}

#[derive(Clone, Debug)]
pub struct World {
    pub now: Timestamp,
    pub epoch: u64,
    pub spec: RolloutSpec,
    pub status: RolloutStatus,
    pub deleting: bool,
    pub finalizer: bool,
    pub gone: bool,
    pub hub_away: Option<Timestamp>,
    pub withdrawn: bool,
    pub retire: bool,
    pub namespace_allowed: bool,
    pub verdicts: BTreeMap<String, VerdictView>,
    pub stable: Option<Deployment>,
    pub canary: Option<Deployment>,
    pub canary_service: bool,
    pub hpa: Option<Hpa>,
    /// The API server refuses every write of the autoscaler.
    pub hpa_refused: bool,
    /// Pods that the present load needs; the autoscaler follows it by stable's share. None: it does nothing.
    pub load: Option<u32>,
    /// Highest decision that a write of ours brought to the route.
    pub brought: u64,
    pub route: Option<Route>,
    /// A route that was deleted and may come back as it was.
    pub away: Option<Route>,
    pub others: Vec<OtherRollout>,
    pub candidates: Vec<TargetCandidate>,
    pub quarantined: BTreeSet<String>,
    /// Digests whose pods never become ready.
    pub broken: BTreeSet<String>,
    pub health: Health,
    /// The judge: time of a step after which it certifies; none: never.
    pub good_after: Option<Duration>,
    /// It sees a breach as soon as the new images get requests.
    pub bad: Option<BreachKind>,
    pub scraped: bool,
    pub young: bool,
    pub config_errors: Vec<String>,
    pub blind_from: Option<Timestamp>,
    pub metrics_away: bool,
    pub pod_latency: Duration,
    pub lag: Duration,
    /// Until then the gateway may lack what changed in the cluster.
    pub catching_up_until: Option<Timestamp>,
    pub log: Vec<Wrote>,
    /// Dies at this write: (number, whether the write still reaches the server).
    pub crash_at: Option<(usize, bool)>,
    /// Looks at a world of so many passes ago.
    pub stale: usize,
    past: Vec<Snapshot>,
    pub last: Option<Plan>,
}

#[derive(Clone, Debug)]
struct Snapshot {
    stable: Option<Deployment>,
    canary: Option<Deployment>,
    route: Option<Route>,
}

pub fn spec() -> RolloutSpec {
    RolloutSpec {
        environment: "east".into(),
        pipeline_namespace: "portal".into(),
        pipeline: "portal".into(),
        release: "portal-new".into(),
        attempt: 1,
        reason: RolloutReason::Ship,
        namespace: "portal".into(),
        images: images(NEW),
        revision: None,
        workload: WorkloadRef { kind: Default::default(), name: "portal".into() },
        service: "portal".into(),
        route: RouteRef { http_route: "portal".into() },
        strategy: Strategy {
            steps: [5, 25, 50, 100].map(Step::weight).to_vec(),
            step_min_time: Span::from_secs(3),
            step_max_time: Span::from_secs(60),
            progress_deadline_seconds: 600,
            capacity_deadline: Span::from_secs(60),
            mask: Span::from_secs(5),
            blind_limit: Span::from_secs(8),
            bake: Span::from_secs(20),
            ..Strategy::default()
        },
        objectives: vec![Objective {
            name: "errors".into(),
            target: 0.999,
            ratio: RatioMetric { total: "requests_total".into(), errors: "requests_total{code=\"500\"}".into() },
        }],
        alpha_share: 1.0,
        max_weight: 100,
        superseded_by: None,
        paused: false,
        abort: false,
        promote_through: None,
    }
}

impl Default for World {
    fn default() -> Self {
        let now: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        let mut verdicts = BTreeMap::new();
        for of in [NEW, OLD, OLDER] {
            verdicts.insert(images(of)[0].digest.clone(), VerdictView::Allow);
        }
        World {
            now,
            epoch: 1,
            spec: spec(),
            status: RolloutStatus::default(),
            deleting: false,
            finalizer: false,
            gone: false,
            hub_away: None,
            withdrawn: false,
            retire: false,
            namespace_allowed: true,
            verdicts,
            stable: Some(deployment(now, OLD, 4)),
            canary: None,
            canary_service: false,
            hpa: Some(Hpa { min: 2, max: 10, ours: None, managed_by: None }),
            route: Some(Route {
                rv: 1,
                generation: 1,
                stable: 1,
                canary: None,
                rollout: None,
                decision: None,
                promoting: false,
                lowered: None,
                foreign: false,
                users: None,
                twice: None,
                stable_gone: false,
                late: None,
                changed: now,
            }),
            hpa_refused: false,
            load: None,
            brought: 0,
            away: None,
            others: Vec::new(),
            candidates: Vec::new(),
            quarantined: BTreeSet::new(),
            broken: BTreeSet::new(),
            health: Health::default(),
            good_after: Some(Duration::from_secs(10)),
            bad: None,
            scraped: true,
            young: false,
            config_errors: Vec::new(),
            blind_from: None,
            metrics_away: false,
            pod_latency: Duration::from_secs(3),
            lag: Duration::from_secs(2),
            catching_up_until: None,
            log: Vec::new(),
            crash_at: None,
            stale: 0,
            past: Vec::new(),
            last: None,
        }
    }
}

impl World {
    pub fn with(change: impl FnOnce(&mut World)) -> World {
        let mut world = World::default();
        change(&mut world);
        world
    }

    pub fn phase(&self) -> RolloutPhase {
        self.status.phase.unwrap_or(RolloutPhase::Waiting)
    }

    pub fn ended(&self) -> bool {
        self.gone || self.phase().is_terminal()
    }

    /// Percent at the route.
    pub fn weight(&self) -> u32 {
        self.route.as_ref().map_or(0, |route| {
            let most = route.percents().into_iter().fold(0.0, f64::max);
            if most > 0.0 && most < 1.0 { 1 } else { most as u32 }
        })
    }

    pub fn stable_runs(&self, of: &str) -> bool {
        self.stable.as_ref().is_some_and(|stable| stable.images == images(of))
    }

    pub fn code(&self) -> &'static str {
        self.last.as_ref().and_then(|plan| plan.report.first()).map_or("", |reason| reason.code)
    }

    pub fn codes(&self) -> Vec<String> {
        self.status.history.iter().map(|entry| entry.reason.clone()).collect()
    }

    pub fn verdict(&mut self, of: &str, verdict: VerdictView) {
        self.verdicts.insert(images(of)[0].digest.clone(), verdict);
    }

    fn worst(&self, of: &[ReleaseImage]) -> VerdictView {
        of.iter()
            .map(|image| self.verdicts.get(&image.digest).cloned().unwrap_or(VerdictView::Pending))
            .find(|verdict| !verdict.allows())
            .unwrap_or(VerdictView::Allow)
    }

    fn arm(deployment: &Deployment, uid: &str) -> Arm {
        Arm {
            uid: uid.into(),
            resource_version: deployment.rv.to_string(),
            generation: deployment.generation,
            observed_generation: deployment.generation,
            wanted: deployment.wanted,
            ready: deployment.ready,
            updated_ready: deployment.updated_ready,
            pods: deployment.wanted,
            images: deployment.images.iter().map(|one| (one.container.clone(), one.reference())).collect(),
            stamp: deployment.stamp.clone(),
        }
    }

    fn judge(&self, weight: u32) -> Option<JudgeView> {
        if self.metrics_away {
            return None;
        }
        let seconds = |from: Timestamp| self.now.duration_since(from).unsigned_abs();
        let new_served = weight > 0 || self.phase() == RolloutPhase::Baking;
        let seen = self.status.step_since.as_ref().map(|time| seconds(time.0));
        let says = match (self.bad, self.good_after, seen) {
            (Some(kind), _, _) if new_served => JudgeSays::RollBack { kind, why: "E=120 of 100".into() },
            (_, Some(after), Some(seen)) if seen >= after => JudgeSays::Advance { why: "E'=21 of 20".into() },
            _ => JudgeSays::Continue { lacks: "more requests".into() },
        };
        let says = if self.blind_from.is_some() { JudgeSays::Inconclusive { why: "no data".into() } } else { says };
        Some(JudgeView {
            says,
            newest_sample_at: Some(self.blind_from.unwrap_or(self.now)),
            blind_for: self.blind_from.map_or(Duration::ZERO, seconds),
            canary_scraped: self.scraped,
            canary_young: self.young,
            config_errors: self.config_errors.clone(),
            state: JudgeState { watermark: Some(Time(self.blind_from.unwrap_or(self.now))), ..JudgeState::default() },
        })
    }

    fn view(route: &Route, accepted: bool) -> RouteView {
        RouteView {
            uid: "route".into(),
            resource_version: route.rv.to_string(),
            generation: route.generation,
            accepted_generation: Some(if accepted { route.generation } else { route.generation - 1 }),
            rules: Self::rules(route),
            rollout: route.rollout.clone(),
            decision: route.decision.clone(),
            promoting: route.promoting,
            lowered: route.lowered.clone(),
            lost_weights: 0,
        }
    }

    fn rules(route: &Route) -> Vec<RuleView> {
        let odd = match (route.stable_gone, route.twice) {
            (true, _) => Some(Odd::StableGone),
            (_, Some(_)) => Some(Odd::Ambiguous),
            _ => None,
        };
        let first = RuleView {
            stable_weight: if route.stable_gone { 0 } else { route.stable },
            stable_elsewhere: route.twice.filter(|_| !route.stable_gone).unwrap_or(0),
            canary_weight: route.canary,
            foreign: route.foreign,
            odd,
            users_weight: route.users,
            ..RuleView::default()
        };
        let late = route.late.map(|(stable_weight, canary_weight)| RuleView {
            rule: 1,
            stable_weight,
            canary_weight,
            ..RuleView::default()
        });
        // A rule that names neither is nothing to us.
        let first = Some(first).filter(|_| !route.stable_gone || route.canary.unwrap_or(0) > 0);
        first.into_iter().chain(late).collect()
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot { stable: self.stable.clone(), canary: self.canary.clone(), route: self.route.clone() }
    }

    /// Plans from what is seen, checks, and executes as the spoke does.
    pub fn pass(&mut self) -> Plan {
        if self.gone {
            return self.last.clone().unwrap();
        }
        self.past.push(self.snapshot());
        let plan = self.look(|seen| {
            let plan = plan(seen);
            let found = invariants::check(seen, &plan);
            assert!(
                found.is_empty(),
                "{found:?}\nplan: {plan:#?}\nstatus: {:#?}\nroute: {:?}",
                seen.status,
                seen.route
            );
            plan
        });
        self.last = Some(plan.clone());
        self.execute(&plan);
        plan
    }

    fn catching_up(&self) -> Duration {
        let left = self.catching_up_until.map(|until| until.duration_since(self.now));
        left.and_then(|left| Duration::try_from(left).ok()).unwrap_or_default()
    }

    /// What the spoke sees now.
    pub fn look<R>(&self, with: impl FnOnce(&Observed<'_>) -> R) -> R {
        let past = self.past.len().saturating_sub(1 + self.stale);
        let shown = self.past.get(past).filter(|_| self.stale > 0).cloned();
        let shown = shown.unwrap_or_else(|| self.snapshot());
        let (spec, status) = (self.spec.clone(), self.status.clone());
        let lag = SignedDuration::try_from(self.lag).unwrap();
        let truth = self.route.clone();
        let followed = truth.as_ref().is_some_and(|route| self.now.duration_since(route.changed) >= lag);
        let share = match &truth {
            Some(route) if !self.metrics_away && self.blind_from.is_none() && followed => Share::Seen {
                canary: f64::from(self.weight()) / 100.0,
                from: route.changed.saturating_add(lag).unwrap(),
                at: self.now,
            },
            Some(_) if !self.metrics_away && self.blind_from.is_none() => {
                Share::Seen { canary: 0.5, from: Timestamp::UNIX_EPOCH, at: self.now }
            }
            _ => Share::Unknown,
        };
        let mut health = self.health;
        health.new.pods = health.new.pods.max(self.canary.as_ref().map_or(0, |canary| canary.wanted));
        health.old.pods = health.old.pods.max(self.stable.as_ref().map_or(0, |stable| stable.wanted));
        let seen = Observed {
            now: self.now,
            epoch: self.epoch,
            rollout: Identity {
                uid: UID.into(),
                namespace: "portal".into(),
                name: "portal-new-1".into(),
                generation: 1,
                deleting: self.deleting,
                finalizer: self.finalizer,
            },
            spec: &spec,
            status: &status,
            hub: Hub { reachable: self.hub_away.is_none(), away_since: self.hub_away },
            withdrawn: self.withdrawn,
            retire: self.retire,
            namespace_allowed: self.namespace_allowed,
            verdict: self.worst(&spec.images),
            target_verdict: self.worst(&status.target),
            stable: shown.stable.as_ref().map(|one| Self::arm(one, "stable")),
            canary: shown.canary.as_ref().map(|one| Self::arm(one, "canary")),
            canary_service: self.canary_service,
            hpa: self.hpa.clone(),
            route: shown.route.as_ref().map(|route| Self::view(route, followed)),
            data_plane: DataPlane { share, lag: self.lag, catching_up: self.catching_up() },
            judge: self.judge(self.weight()),
            health,
            others: self.others.clone(),
            candidates: self.candidates.clone(),
            quarantined: self.quarantined.clone(),
        };
        with(&seen)
    }

    /// The autoscaler: pods of stable by its share of the load.
    fn autoscale(&mut self) {
        let share = 100 - self.weight().min(100);
        let (Some(load), Some(hpa), Some(stable)) = (self.load, &self.hpa, &mut self.stable) else { return };
        let wanted = (load * share).div_ceil(100).clamp(hpa.min.min(hpa.max), hpa.max);
        if wanted != stable.wanted {
            stable.scale(wanted, self.now);
        }
    }

    /// Time passes; pods become ready.
    pub fn tick(&mut self, span: Duration) {
        self.now = self.now.saturating_add(SignedDuration::try_from(span).unwrap()).unwrap();
        self.autoscale();
        let latency = SignedDuration::try_from(self.pod_latency).unwrap();
        for one in [&mut self.stable, &mut self.canary].into_iter().flatten() {
            let broken = one.images.iter().any(|image| self.broken.contains(&image.digest));
            if !broken && self.now.duration_since(one.changed) >= latency {
                one.ready = one.wanted;
                one.updated_ready = one.wanted;
            }
        }
        if self.past.len() > 64 {
            self.past.drain(..32);
        }
    }
}
