//! First step: everything the planner wants to know, from caches that are never older than our own writes.
//! Decides nothing and writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tidegate_pipelines::api::{
    Breach, Environment, ReleaseImage, Rollout, RolloutPhase, RolloutReason, RolloutSpec, RolloutStatus, names,
};
use tidegate_pipelines::judge::{Arms, JudgeConfig, Scene, Watch};
use tidegate_pipelines::release::reaches;
use tidegate_pipelines::rollout::{
    Arm, DataPlane, Health, Hpa, Hub, Identity, JudgeView, Observed, OtherRollout, RouteDecision, Share,
    TargetCandidate, VerdictView,
};

use super::evidence::{Answer, Question};
use super::httproute::Route;
use super::pods::{self, SeenReady};
use super::verdict;
use super::world::{InForce, World};
use crate::metrics::ReadRequest;

/// How long a data plane without stated lag may take to follow a route; Traefik takes 1-2 s.
const DEFAULT_LAG: Duration = Duration::from_secs(3);

/// As the admission policy `tidegate-epoch` reads them: at most fifteen digits.
const PLAUSIBLE_EPOCHS: u64 = 1_000_000_000_000_000;

#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    #[error("the Rollout is gone")]
    Gone,
    #[error("the Environment '{0}' is not in this cluster yet: its mirror brings it")]
    NoEnvironment(String),
}

/// What a rollout's task remembers between looks.
#[derive(Default)]
pub struct Memory {
    pub epoch: Option<u64>,
    pub seen_ready: SeenReady,
    /// Weight 0 is on the route, and the status could not be written.
    pub unrecorded: Option<Breach>,
}

/// One look: owned, so that the planner's view can borrow from it.
pub struct Seen {
    pub now: Timestamp,
    pub epoch: u64,
    pub rollout: Arc<Rollout>,
    /// With what the hub's intent says on top of what is set here.
    pub spec: RolloutSpec,
    pub status: RolloutStatus,
    pub environment: Arc<Environment>,
    pub in_force: Option<InForce>,
    /// None: there is none. One that cannot be driven is there, and says so.
    pub route: Option<Route>,
    pub stable: Option<Arm>,
    pub canary: Option<Arm>,
    pub autoscaler: Option<Arc<HorizontalPodAutoscaler>>,
    identity: Identity,
    hub: Hub,
    withdrawn: bool,
    retire: bool,
    namespace_allowed: bool,
    verdict: VerdictView,
    target_verdict: VerdictView,
    canary_service: bool,
    /// An object of somebody else that stands where the canary arm would.
    pub taken: Option<String>,
    data_plane: DataPlane,
    judge: Option<JudgeView>,
    health: Health,
    others: Vec<OtherRollout>,
    candidates: Vec<TargetCandidate>,
    quarantined: BTreeSet<String>,
    pub question: Option<Question>,
}

impl Seen {
    pub fn observed(&self) -> Observed<'_> {
        Observed {
            now: self.now,
            epoch: self.epoch,
            rollout: self.identity.clone(),
            spec: &self.spec,
            status: &self.status,
            hub: self.hub,
            withdrawn: self.withdrawn,
            retire: self.retire,
            namespace_allowed: self.namespace_allowed,
            verdict: self.verdict.clone(),
            target_verdict: self.target_verdict.clone(),
            stable: self.stable.clone(),
            canary: self.canary.clone(),
            canary_service: self.canary_service,
            hpa: self.autoscaler.as_deref().map(hpa),
            route: self.route.as_ref().map(|route| route.view.clone()),
            data_plane: self.data_plane,
            judge: self.judge.clone(),
            health: self.health,
            others: self.others.clone(),
            candidates: self.candidates.clone(),
            quarantined: self.quarantined.clone(),
        }
    }

    pub fn namespace(&self) -> &str {
        &self.identity.namespace
    }

    pub fn uid(&self) -> &str {
        &self.identity.uid
    }
}

/// Looks once.
pub fn observe(
    world: &World,
    key: (&str, &str),
    now: Timestamp,
    hub: Hub,
    answer: Option<&Answer>,
    memory: &mut Memory,
) -> Result<Seen, ObserveError> {
    let rollout = world.rollouts.get(Some(key.0), key.1).ok_or(ObserveError::Gone)?;
    let environment = world
        .environments
        .get(None, &rollout.spec.environment)
        .ok_or_else(|| ObserveError::NoEnvironment(rollout.spec.environment.clone()))?;
    let spec = effective(&rollout);
    let status = rollout.status.clone().unwrap_or_default();
    let namespace = key.0;
    let canary_name = names::canary_name(&spec.workload.name);
    let canary_service = names::canary_name(&spec.service);

    let route = world.routes.get(Some(namespace), &spec.route.http_route);
    let route = route.map(|route| Route::read(&route, &spec.service, &canary_service));
    let on_route = route.as_ref().and_then(|r| r.view.decision.as_ref());
    let epoch = *memory.epoch.get_or_insert(next_epoch(status.epoch, on_route, rollout.uid().as_deref()));

    let stable = world.deployments.get(Some(namespace), &spec.workload.name);
    let canary = world.deployments.get(Some(namespace), &canary_name);
    let (stable_pods, canary_pods) = (pods_of(world, stable.as_deref()), pods_of(world, canary.as_deref()));
    memory.seen_ready.look(&stable_pods);
    memory.seen_ready.look(&canary_pods);
    let baking = status.phase == Some(RolloutPhase::Baking);
    let health = health(&status, baking, &stable_pods, &canary_pods, &memory.seen_ready);

    let in_force = world.in_force(&environment);
    let quarantined = verdict::quarantined(world, &spec.environment);
    let asked = |images: &[ReleaseImage], revision: Option<&str>| match in_force.as_ref() {
        Some(in_force) => {
            let kept = |image: &ReleaseImage| verdict::kept(world, in_force, namespace, image);
            verdict::of(images, revision, &quarantined, &kept, now)
        }
        None => VerdictView::Error { reason: "no verification policy is in force in this environment".into() },
    };
    let verdict_of = |images: &[ReleaseImage]| asked(images, None);
    // What it goes back to was held to its own revision when it was shipped.
    let revision = spec.revision.as_deref().filter(|_| spec.reason == RolloutReason::Ship);

    let watch = watch_of(&status);
    let scene = Scene {
        arms: Arms { stable: pods::for_judge(&stable_pods), canary: pods::for_judge(&canary_pods) },
        watch: watch.unwrap_or(Watch::Before),
    };
    let interval = environment.spec.metrics.scrape_interval.as_duration();
    let port = route.as_ref().and_then(|r| r.port);
    let port = port.or_else(|| service_port(world, namespace, &spec.service)).unwrap_or(80);
    let question = watch.map(|_| question(&environment, &spec, &status, scene.clone(), port));
    let lag = environment.spec.metrics.gateway.as_ref().map(|g| g.lag.as_duration()).filter(|lag| !lag.is_zero());

    let taken = taken(world, namespace, &canary_name, &canary_service);
    let seen = Seen {
        now,
        epoch,
        identity: Identity {
            uid: rollout.uid().unwrap_or_default(),
            namespace: namespace.to_owned(),
            name: key.1.to_owned(),
            generation: rollout.metadata.generation.unwrap_or_default(),
            deleting: rollout.metadata.deletion_timestamp.is_some(),
            finalizer: rollout.finalizers().iter().any(|f| f == names::FINALIZER),
        },
        hub,
        withdrawn: annotated(&rollout, names::WITHDRAWN),
        retire: annotated(&rollout, names::RETIRE),
        namespace_allowed: namespace_allowed(&environment, &spec),
        verdict: asked(&spec.images, revision),
        target_verdict: verdict_of(&status.target),
        stable: stable.as_deref().map(|d| pods::arm(d, &stable_pods)),
        canary: canary.as_deref().map(|d| pods::arm(d, &canary_pods)),
        canary_service: taken.is_none() && world.services.get(Some(namespace), &canary_service).is_some(),
        taken,
        autoscaler: autoscaler(world, namespace, &spec.workload.name),
        data_plane: DataPlane {
            share: answer.map_or(Share::Unknown, |a| a.share),
            lag: lag.unwrap_or(DEFAULT_LAG),
            catching_up: world.reach.others_catch_up(),
        },
        judge: answer.map(|a| a.view(watch.unwrap_or(Watch::Before), interval, &scene.arms.canary, now)),
        health,
        others: others(world, &rollout),
        candidates: candidates(world, &rollout, &verdict_of),
        quarantined: quarantined.clone(),
        question,
        route,
        in_force: in_force.clone(),
        environment: environment.clone(),
        spec,
        status,
        rollout: rollout.clone(),
    };
    Ok(seen)
}

/// One above every epoch under which this rollout was driven. What is on the route counts where it can be our own:
/// many may write an annotation, and nobody leads a rollout often enough for a number of sixteen digits.
fn next_epoch(recorded: u64, on_route: Option<&RouteDecision>, uid: Option<&str>) -> u64 {
    let ours = on_route.filter(|d| Some(d.rollout.as_str()) == uid && d.epoch < PLAUSIBLE_EPOCHS);
    recorded.max(ours.map_or(0, |d| d.epoch)).saturating_add(1)
}

/// Our label is what makes an object under our name ours.
fn taken(world: &World, namespace: &str, deployment: &str, service: &str) -> Option<String> {
    let ours = |labels: &BTreeMap<String, String>| labels.get(names::ROLE_LABEL).is_some_and(|role| role == "canary");
    let foreign = |kind: &str, name: &str| Some(format!("{kind} {name}"));
    match (world.deployments.get(Some(namespace), deployment), world.services.get(Some(namespace), service)) {
        (Some(found), _) if !ours(found.labels()) => foreign("Deployment", deployment),
        (_, Some(found)) if !ours(found.labels()) => foreign("Service", service),
        _ => None,
    }
}

fn annotated(rollout: &Rollout, key: &str) -> bool {
    rollout.annotations().get(key).is_some_and(|v| v == "true")
}

/// `abort` latches and `paused` ORs over both copies.
fn effective(rollout: &Rollout) -> RolloutSpec {
    let mut spec = rollout.spec.clone();
    spec.abort |= annotated(rollout, names::HUB_ABORT);
    spec.paused |= annotated(rollout, names::HUB_PAUSED);
    spec
}

/// What the judge is asked in this phase; none: nothing is read.
fn watch_of(status: &RolloutStatus) -> Option<Watch> {
    use RolloutPhase::*;
    let time = |t: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| t.as_ref().map(|t| t.0);
    match status.phase {
        Some(Preparing) => Some(Watch::Before),
        Some(Canary | Promoting | RollingBack | RollbackBlocked) => {
            Some(Watch::Canary { step: status.step, since: time(&status.step_since) })
        }
        Some(Baking) => time(&status.phase_since).map(|since| Watch::Baking { since }),
        None
        | Some(Waiting | Promoted | RolledBack | Superseded | Withdrawn | Inconclusive | Blind | Failed | Denied) => {
            None
        }
    }
}

fn question(
    environment: &Environment,
    spec: &RolloutSpec,
    status: &RolloutStatus,
    scene: Scene,
    port: u16,
) -> Question {
    let source = environment.spec.metrics.clone();
    let lag = source.gateway.as_ref().map(|g| g.lag);
    Question {
        config: JudgeConfig::new(&spec.strategy, &spec.objectives, spec.alpha_share, source.scrape_interval, lag),
        request: ReadRequest {
            source,
            namespace: spec.namespace.clone(),
            objectives: spec.objectives.clone(),
            arms: scene.arms.clone(),
            stable_service: spec.service.clone(),
            canary_service: names::canary_name(&spec.service),
            service_port: port,
            watermark: None,
            large: false,
            history_until: status.started_at.as_ref().map(|t| t.0),
        },
        scene,
    }
}

fn service_port(world: &World, namespace: &str, name: &str) -> Option<u16> {
    let service = world.services.get(Some(namespace), name)?;
    let port = service.spec.as_ref()?.ports.as_ref()?.first()?.port;
    u16::try_from(port).ok()
}

fn pods_of(world: &World, deployment: Option<&Deployment>) -> Vec<Arc<Pod>> {
    let Some(deployment) = deployment else { return vec![] };
    let namespace = deployment.namespace();
    let sets = world.replica_sets.select(|set| set.metadata.namespace == namespace);
    let sets = pods::sets_of(deployment, &sets);
    world.pods.select(|pod| pods::belongs_to(pod, deployment, &sets))
}

fn health(status: &RolloutStatus, baking: bool, stable: &[Arc<Pod>], canary: &[Arc<Pod>], seen: &SeenReady) -> Health {
    let start = status.started_at.as_ref().map(|t| t.0);
    if baking {
        let since = status.phase_since.as_ref().map(|t| t.0).or(start);
        let (new, unready_since) = pods::trouble(stable, since, seen);
        return Health { new, old: Default::default(), unready_since };
    }
    let (new, unready_since) = pods::trouble(canary, start, seen);
    Health { new, old: pods::trouble(stable, start, seen).0, unready_since }
}

fn hpa(autoscaler: &HorizontalPodAutoscaler) -> Hpa {
    let number = |n: i32| u32::try_from(n).unwrap_or(0);
    let keda = autoscaler.metadata.owner_references.iter().flatten().find(|o| o.kind == "ScaledObject");
    Hpa {
        min: autoscaler.spec.as_ref().and_then(|s| s.min_replicas).map_or(1, number),
        max: autoscaler.spec.as_ref().map_or(1, |s| number(s.max_replicas)),
        ours: autoscaler.annotations().get(names::HPA_RAISED).and_then(|v| v.parse().ok()),
        managed_by: keda.map(|o| format!("{} {}", o.kind, o.name)),
    }
}

fn autoscaler(world: &World, namespace: &str, workload: &str) -> Option<Arc<HorizontalPodAutoscaler>> {
    let ours = world.autoscalers.select(|a| {
        let target = a.spec.as_ref().map(|s| &s.scale_target_ref);
        a.metadata.namespace.as_deref() == Some(namespace)
            && target.is_some_and(|t| t.kind == "Deployment" && t.name == workload)
    });
    ours.into_iter().next()
}

/// The hub matched the pipeline's namespace before it wrote the intent; where it may act is looked at again here.
pub fn namespace_allowed(environment: &Environment, spec: &RolloutSpec) -> bool {
    let entries = &environment.spec.allowed_pipelines;
    entries.iter().any(|entry| reaches(entry, &spec.pipeline_namespace, &spec.namespace))
}

fn of_workload(one: &Rollout, other: &Rollout) -> bool {
    one.namespace() == other.namespace() && one.spec.workload == other.spec.workload && one.uid() != other.uid()
}

fn phase(rollout: &Rollout) -> Option<RolloutPhase> {
    rollout.status.as_ref().and_then(|s| s.phase)
}

/// Order of creation; the API server's times have whole seconds, so names break ties.
fn born(rollout: &Rollout) -> (Option<Timestamp>, u32, String) {
    (rollout.metadata.creation_timestamp.as_ref().map(|t| t.0), rollout.spec.attempt, rollout.name_any())
}

fn others(world: &World, rollout: &Rollout) -> Vec<OtherRollout> {
    let active = world
        .rollouts
        .select(|other| of_workload(rollout, other) && !phase(other).is_some_and(RolloutPhase::is_terminal));
    let mut others: Vec<OtherRollout> = active
        .iter()
        .map(|other| OtherRollout {
            name: other.name_any(),
            reason: other.spec.reason,
            phase: phase(other),
            started: other.status.as_ref().is_some_and(|s| s.started_at.is_some()),
            newer: born(other) > born(rollout),
        })
        .collect();
    others.sort_by(|a, b| a.name.cmp(&b.name));
    others
}

fn candidates(
    world: &World,
    rollout: &Rollout,
    verdict_of: &dyn Fn(&[ReleaseImage]) -> VerdictView,
) -> Vec<TargetCandidate> {
    let mut promoted = world.rollouts.select(|other| {
        of_workload(rollout, other) && phase(other) == Some(RolloutPhase::Promoted) && born(other) < born(rollout)
    });
    promoted.sort_by_key(|r| std::cmp::Reverse(born(r)));
    promoted
        .iter()
        .map(|r| TargetCandidate {
            release: r.spec.release.clone(),
            images: r.spec.images.clone(),
            verdict: verdict_of(&r.spec.images),
        })
        .collect()
}

#[cfg(test)]
#[path = "observe_tests.rs"]
mod tests;
