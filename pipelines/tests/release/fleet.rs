//! A hub in memory: releases, intents, environments. Carries out plans to the letter, holds every
//! one against the invariants, and lets a test speak for the spokes.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::ResourceExt;
use kube::api::ObjectMeta;
use tidegate_pipelines::api::*;
use tidegate_pipelines::release::{Finding, PipelineState, Place, Plan, World, Write, check, plan, release_name};

pub fn digest(digit: char) -> String {
    format!("sha256:{}", digit.to_string().repeat(64))
}

pub fn image(digit: char) -> ReleaseImage {
    ReleaseImage { container: "app".into(), repository: "reg:5000/shop/portal".into(), digest: digest(digit) }
}

pub fn judged(now: Timestamp) -> Breach {
    Breach {
        kind: BreachKind::Judge,
        message: "15 % errors against 4 %".into(),
        sample_at: MicroTime(now),
        decided_at: MicroTime(now),
        written_at: None,
    }
}

pub fn pipeline() -> PipelineSpec {
    let stage = |name: &str, environments: &[&str]| Stage {
        name: name.into(),
        environments: environments.iter().map(|e| (*e).to_owned()).collect(),
        soak: Span::from_secs(5),
        require_approval: false,
        max_concurrent: None,
    };
    PipelineSpec {
        sources: vec![SourceRepository {
            event_source: "github".into(),
            repository: "shop/portal".into(),
            branch: "main".into(),
        }],
        images: vec![PipelineImage { container: "app".into(), repository: "reg:5000/shop/portal".into() }],
        workload: WorkloadRef { kind: WorkloadKind::Deployment, name: "portal".into() },
        service: "portal".into(),
        route: RouteRef { http_route: "portal".into() },
        stages: vec![stage("staging", &["staging"]), stage("east", &["prod-east"]), stage("west", &["prod-west"])],
        strategy: Strategy::default(),
        objectives: vec![Objective {
            name: "availability".into(),
            target: 0.9,
            ratio: RatioMetric { total: "requests_total".into(), errors: "requests_total{code=\"500\"}".into() },
        }],
        rollback: RollbackScope::Environment,
        evidence_deadline: Span::from_secs(600),
        target_namespace: None,
    }
}

pub struct Fleet {
    pub now: Timestamp,
    pub pipeline: PipelineSpec,
    pub state: PipelineState,
    pub releases: Vec<Release>,
    pub rollouts: Vec<Rollout>,
    pub environments: BTreeMap<String, Place>,
    /// By release and environment; an Allow where nothing stands.
    pub verdicts: BTreeMap<(String, String), Finding>,
    pub approvals: Vec<Approval>,
    pub quarantines: Vec<Quarantine>,
    /// While the hub's view lags, it does not see what it writes.
    pub lags: bool,
    /// Intents that the hub wrote and does not see yet: name and environment.
    pub hidden: BTreeSet<(String, String)>,
    /// What stable runs, by environment; nothing where no version ever ran.
    pub stable: BTreeMap<String, Vec<ReleaseImage>>,
    pub writes: usize,
    pub notes: Vec<String>,
}

impl Fleet {
    pub fn new(pipeline: PipelineSpec) -> Self {
        let names = pipeline.stages.iter().flat_map(|s| s.environments.clone());
        let stable = names.clone().map(|n| (n, vec![image('0')])).collect();
        let place = Place { deleting: false, spoke: Ok(()), allowed: Ok(()) };
        Fleet {
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            environments: names.map(|n| (n, place.clone())).collect(),
            pipeline,
            stable,
            state: PipelineState::Present,
            releases: vec![],
            rollouts: vec![],
            verdicts: BTreeMap::new(),
            approvals: vec![],
            quarantines: vec![],
            lags: false,
            hidden: BTreeSet::new(),
            writes: 0,
            notes: vec![],
        }
    }

    pub fn pass(&mut self, seconds: i64) -> &mut Self {
        self.now += SignedDuration::from_secs(seconds);
        self
    }

    /// A release of this digit's digest, built now.
    pub fn release(&mut self, digit: char) -> String {
        self.release_built(digit, self.now)
    }

    pub fn release_built(&mut self, digit: char, built: Timestamp) -> String {
        let images = vec![image(digit)];
        let name = release_name("portal", "uid", &images);
        let mut release = Release::new(
            &name,
            ReleaseSpec {
                pipeline: "portal".into(),
                pipeline_uid: "uid".into(),
                images,
                revision: Some(digit.to_string().repeat(40)),
                repository: Some("shop/portal".into()),
                built_at: Some(Time(built)),
                event_source: Some("github".into()),
                indexes: vec![],
                snapshot: self.pipeline.clone(),
                attempt: 1,
                abort: false,
                paused: false,
                undo: false,
            },
        );
        release.metadata = ObjectMeta {
            name: Some(name.clone()),
            namespace: Some("shop".into()),
            uid: Some(format!("uid-{digit}")),
            generation: Some(1),
            creation_timestamp: Some(Time(self.now)),
            ..ObjectMeta::default()
        };
        self.releases.push(release);
        name
    }

    pub fn verdict(&mut self, release: &str, environment: &str, decision: VerdictDecision, retryable: bool) {
        let finding = Finding { decision, reasons: vec![format!("signature: {decision:?}")], retryable };
        self.verdicts.insert((release.into(), environment.into()), finding);
    }

    fn world<'a>(&'a self, release: &'a Release) -> World<'a> {
        let name = release.name_any();
        let allow = || Finding { decision: VerdictDecision::Allow, reasons: vec![], retryable: false };
        let verdicts = self.environments.keys().map(|environment| {
            let said = self.verdicts.get(&(name.clone(), environment.clone()));
            (environment.clone(), said.cloned().unwrap_or_else(allow))
        });
        World {
            now: self.now,
            release,
            others: self.releases.iter().filter(|r| r.name_any() != name).collect(),
            rollouts: self.rollouts.iter().filter(|r| self.sees(r)).collect(),
            environments: self.environments.clone(),
            verdicts: verdicts.collect(),
            approvals: self.approvals.iter().collect(),
            quarantines: self.quarantines.iter().collect(),
            pipeline: self.state.clone(),
            current: Some(&self.pipeline),
        }
    }

    fn sees(&self, rollout: &Rollout) -> bool {
        !self.hidden.contains(&(rollout.name_any(), rollout.spec.environment.clone()))
    }

    /// The view has caught up, and what it shows is looked at.
    pub fn catch_up(&mut self) -> &mut Self {
        self.lags = false;
        self.hidden.clear();
        self.settle()
    }

    /// What no plan has answered although it has come to rest and nothing is hidden.
    pub fn unanswered(&self) -> Vec<String> {
        assert!(self.hidden.is_empty());
        self.releases.iter().flat_map(|release| check::unanswered(&self.world(release))).collect()
    }

    /// Plans one release, checks the plan and carries it out; whether anything changed.
    pub fn step(&mut self, name: &str) -> bool {
        let Some(index) = self.releases.iter().position(|r| r.name_any() == name) else { return false };
        let release = &self.releases[index];
        let world = self.world(release);
        let plan: Plan = plan(&world);
        assert_eq!(check::violations(&world, &plan), Vec::<String>::new(), "{name} at {}", self.now);
        let mut changed = release.status.as_ref() != Some(&plan.status);
        self.notes.extend(plan.notes.iter().map(|n| n.reason.to_owned()));
        self.writes += plan.writes.len();
        for write in plan.writes {
            match write {
                Write::Snapshot { spec } => {
                    self.releases[index].spec.snapshot = *spec;
                    changed = true;
                }
                write => changed |= self.apply(write),
            }
        }
        self.releases[index].status = Some(plan.status);
        changed
    }

    /// Until nothing changes any more: a planner that never rests is a bug.
    pub fn settle(&mut self) -> &mut Self {
        for _ in 0..50 {
            let names: Vec<String> = self.releases.iter().map(|r| r.name_any()).collect();
            let changed: Vec<bool> = names.iter().map(|n| self.step(n)).collect();
            if !changed.contains(&true) {
                return self;
            }
        }
        panic!("the plans do not come to rest");
    }

    /// Whether it had an effect.
    fn apply(&mut self, write: Write) -> bool {
        match write {
            Write::Create { name, spec } => {
                let place = (name.clone(), spec.environment.clone());
                let there = self.rollouts.iter().any(|r| (r.name_any(), r.spec.environment.clone()) == place);
                if there {
                    // As the API server does: what is there already stays as it is.
                    assert!(self.hidden.contains(&place), "{name} is created twice in {}", spec.environment);
                    return false;
                }
                let mut rollout = Rollout::new(&name, *spec);
                rollout.metadata.creation_timestamp = Some(Time(self.now));
                self.rollouts.push(rollout);
                if self.lags {
                    self.hidden.insert(place);
                }
            }
            Write::Remove { environment, name } => {
                self.rollouts.retain(|r| !(r.spec.environment == environment && r.name_any() == name));
            }
            Write::Supersede { environment, name, by } => {
                self.intent(&environment, &name).spec.superseded_by = Some(by)
            }
            Write::Abort { environment, name } => self.intent(&environment, &name).spec.abort = true,
            Write::Retire { environment, name } => {
                self.intent(&environment, &name).annotations_mut().insert(names::RETIRE.into(), "true".into());
            }
            Write::Snapshot { spec } => unreachable!("{spec:?} is the step's business"),
            Write::Pause { environment, name } => {
                let rollout = self.intent(&environment, &name);
                rollout.spec.paused = true;
                rollout.annotations_mut().insert(names::PAUSED_BY_RELEASE.into(), "true".into());
            }
            Write::Resume { environment, name } => {
                let rollout = self.intent(&environment, &name);
                rollout.spec.paused = false;
                rollout.annotations_mut().remove(names::PAUSED_BY_RELEASE);
            }
            Write::Quarantine { name, spec } => {
                self.quarantines.retain(|q| q.name_any() != name);
                self.quarantines.push(Quarantine::new(&name, *spec));
            }
        }
        true
    }

    fn intent(&mut self, environment: &str, name: &str) -> &mut Rollout {
        let found = self.rollouts.iter_mut().find(|r| r.spec.environment == environment && r.name_any() == name);
        found.unwrap_or_else(|| panic!("no intent {name} in {environment}"))
    }

    /// The latest intent in an environment.
    pub fn rollout(&self, environment: &str) -> Option<&Rollout> {
        self.rollouts.iter().rfind(|r| r.spec.environment == environment)
    }

    /// What the spoke reports of its latest intent.
    pub fn report(&mut self, environment: &str, phase: RolloutPhase) -> &mut Self {
        let target = image('0');
        let rollout = self.rollouts.iter_mut().rfind(|r| r.spec.environment == environment);
        let rollout = rollout.unwrap_or_else(|| panic!("nothing was sent to {environment}"));
        let status = rollout.status.get_or_insert_default();
        status.phase = Some(phase);
        status.target = vec![target];
        self
    }

    pub fn breach(&mut self, environment: &str, phase: RolloutPhase) -> &mut Self {
        let (now, reported) = (self.now, self.report(environment, phase));
        let rollout = reported.rollouts.iter_mut().rfind(|r| r.spec.environment == environment).unwrap();
        rollout.status.get_or_insert_default().breach = Some(judged(now));
        self
    }

    /// Promoted in this environment, soaked, and what follows begun.
    pub fn promote(&mut self, environment: &str) -> &mut Self {
        self.report(environment, RolloutPhase::Promoted).settle().pass(6).settle()
    }

    pub fn phase(&self, name: &str) -> ReleasePhase {
        self.status(name).phase.unwrap_or(ReleasePhase::Verifying)
    }

    pub fn status(&self, name: &str) -> ReleaseStatus {
        self.releases.iter().find(|r| r.name_any() == name).unwrap().status.clone().unwrap_or_default()
    }

    pub fn message(&self, name: &str) -> String {
        self.status(name).message.unwrap_or_default()
    }

    pub fn told(&self, name: &str, environment: &str) -> String {
        let status = self.status(name);
        status
            .environments
            .into_iter()
            .find(|e| e.environment == environment)
            .and_then(|e| e.message)
            .unwrap_or_default()
    }

    pub fn change(&mut self, name: &str, change: impl FnOnce(&mut ReleaseSpec)) -> &mut Self {
        change(&mut self.releases.iter_mut().find(|r| r.name_any() == name).unwrap().spec);
        self
    }

    pub fn approve(&mut self, release: &str, stage: &str) -> &mut Self {
        self.approve_attempt(release, stage, 1)
    }

    pub fn approve_attempt(&mut self, release: &str, stage: &str, attempt: u32) -> &mut Self {
        let (release, stage) = (release.to_owned(), stage.to_owned());
        let name = format!("{release}-{attempt}-{stage}");
        let spec = ApprovalSpec { release, stage, attempt, user: "anna".into(), comment: None };
        let mut approval = Approval::new(&name, spec);
        approval.metadata.creation_timestamp = Some(Time(self.now));
        self.approvals.push(approval);
        self
    }
}

/// A fleet whose releases go back everywhere.
pub fn everywhere() -> Fleet {
    let mut pipeline = pipeline();
    pipeline.rollback = RollbackScope::Release;
    Fleet::new(pipeline)
}
