//! `Pipeline`: what one service ships, and how. The strategy types are shared
//! with `Rollout`, which carries the whole resolved strategy.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::span::Span;

/// What one service ships: sources, images, workload, route, ordered stages, objectives.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "tidegate.io",
    version = "v1alpha1",
    kind = "Pipeline",
    namespaced,
    status = "PipelineStatus",
    shortname = "tpl",
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Release","type":"string","jsonPath":".status.currentRelease"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.images.all(a, self.images.exists_one(b, b.container == a.container))", "message": "images name a container twice: one container runs one image"},
    {"rule": "self.stages.all(a, self.stages.exists_one(b, b.name == a.name))", "message": "two stages have the same name"},
    {"rule": "self.stages.all(a, a.environments.all(e, self.stages.exists_one(b, e in b.environments)))", "message": "an environment stands in two stages: a release reaches each environment once"},
    {"rule": "self.objectives.all(a, self.objectives.exists_one(b, b.name == a.name))", "message": "two objectives have the same name"}
]))]
pub struct PipelineSpec {
    /// Source repositories whose pushes concern this pipeline, e.g. `acme/portal`.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub sources: Vec<SourceRepository>,
    /// Which container runs which image repository.
    #[schemars(length(min = 1, max = 16))]
    pub images: Vec<PipelineImage>,
    pub workload: WorkloadRef,
    /// The Service that the route's stable backendRef names. Its canary's is `<name>-canary`.
    #[schemars(length(min = 1, max = 56))]
    pub service: String,
    pub route: RouteRef,
    /// Ordered: a stage starts when the one before it has finished and soaked.
    #[schemars(length(min = 1, max = 16))]
    pub stages: Vec<Stage>,
    #[serde(default)]
    pub strategy: Strategy,
    #[schemars(length(min = 1, max = 8))]
    pub objectives: Vec<Objective>,
    /// What a breach in one environment does to the others. Default `environment`.
    #[serde(default)]
    pub rollback: RollbackScope,
    /// How long evidence may arrive after the image before the release is denied. Default `10m`.
    #[serde(default = "evidence_deadline")]
    pub evidence_deadline: Span,
    /// Namespace in the environments. Default: this pipeline's own namespace name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub target_namespace: Option<String>,
}

fn evidence_deadline() -> Span {
    Span::from_secs(600)
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SourceRepository {
    /// Name of the EventSource that speaks for it.
    #[schemars(length(min = 1, max = 253))]
    pub event_source: String,
    /// `owner/name` at GitHub, or the Cloud Build trigger's repository.
    #[schemars(length(min = 1, max = 255))]
    pub repository: String,
    /// Only pushes to this branch ship. Default: every branch's pushes are ignored but `main`'s.
    #[serde(default = "main_branch")]
    #[schemars(length(min = 1, max = 255))]
    pub branch: String,
}

fn main_branch() -> String {
    "main".into()
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PipelineImage {
    /// Container name in the workload's pod template.
    #[schemars(length(min = 1, max = 63))]
    pub container: String,
    /// `registry/path` without tag or digest.
    #[schemars(length(min = 3, max = 255), extend("x-kubernetes-validations" = [
        {"rule": "!self.contains('@') && !self.matches(':[^/]*$')", "message": "an image repository is written without tag and digest: the build event says which version, the registry which digest"},
        {"rule": "self.matches('^[^/]*[.:][^/]*/.|^localhost/.')", "message": "an image repository begins with its registry's host, such as registry.example/team/app"}
    ]))]
    pub repository: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadRef {
    #[serde(default)]
    pub kind: WorkloadKind,
    #[schemars(length(min = 1, max = 56))]
    pub name: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WorkloadKind {
    #[default]
    Deployment,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteRef {
    /// Name of the HTTPRoute in the target namespace.
    #[schemars(length(min = 1, max = 253))]
    pub http_route: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stage {
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub environments: Vec<String>,
    /// How long the stage must have run well before the next one starts.
    #[serde(default)]
    pub soak: Span,
    /// Whether a person's Approval is needed before this stage starts.
    #[serde(default)]
    pub require_approval: bool,
    /// How many environments of this stage have a rollout under way at once. Default: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub max_concurrent: Option<u32>,
}

/// Argo Rollouts' step words. Exactly one field of a step is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "(has(self.setWeight) ? 1 : 0) + (has(self.pause) ? 1 : 0) == 1",
    "message": "a step has exactly one of setWeight and pause"
}]))]
pub struct Step {
    /// Percent of requests for the canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub set_weight: Option<u8>,
    /// Hold; without a duration until a person promotes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
}

impl Step {
    pub fn weight(percent: u8) -> Self {
        Step { set_weight: Some(percent), pause: None }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pause {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<Span>,
}

/// How a canary is walked and judged. Every default is the careful one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.steps.exists(s, has(s.setWeight))", "message": "strategy.steps has no setWeight: nothing would be judged; add e.g. {setWeight: 5}"},
    {"rule": "self.steps.filter(s, has(s.setWeight)).map(s, s.setWeight).isSorted() && self.steps.all(a, !has(a.setWeight) || self.steps.exists_one(b, has(b.setWeight) && b.setWeight == a.setWeight))", "message": "strategy.steps: each setWeight must be above the one before it"}
]))]
pub struct Strategy {
    /// Default: weights 5, 25, 50, 100.
    #[schemars(length(min = 1, max = 20))]
    pub steps: Vec<Step>,
    /// Least time at each weight. Default `30s`.
    pub step_min_time: Span,
    /// Time at a weight after which `onInconclusive` acts. Default `30m`.
    pub step_max_time: Span,
    /// What happens when a step's time is over and nothing is decided.
    pub on_inconclusive: OnInconclusive,
    /// After this long in `Canary` the rollout ends as `Inconclusive`. Default `7200` (seconds, as at Argo Rollouts).
    #[schemars(range(min = 1, max = 2_592_000))]
    pub progress_deadline_seconds: u32,
    /// How long pods may take to be ready before the rollout ends as `Failed`. Default `10m`.
    pub capacity_deadline: Span,
    /// The first such time of a canary's pods is not judged (warm-up), apart from the hard stop. Default `60s`.
    pub mask: Span,
    /// With no fresh sample for this long the weight goes back. Default `60s`.
    pub blind_limit: Span,
    /// Watching after promotion. Default `10m`.
    pub bake: Span,
    /// What an environment does whose hub is away.
    pub on_hub_lost: OnHubLost,
    /// Chance of rolling back a good release (over the release or the environment, by `rollback`). Default 0.01.
    #[schemars(range(min = 0.000_001, max = 0.2))]
    pub alpha: f64,
    /// Chance of letting a bad step go on. Default 0.05.
    #[schemars(range(min = 0.000_001, max = 0.5))]
    pub beta: f64,
    /// Ratio of error rates up to which canary counts as no worse than stable (r0). Default 1.1.
    #[schemars(range(min = 1.0, max = 1.9))]
    pub margin: f64,
    /// How many older releases may be rolled back to. Default 3.
    #[schemars(range(min = 1, max = 20))]
    pub rollback_window: u32,
    /// Ship over a stable digest that has no Allow: there is then nothing verified to go back to. No default but false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unsafe_allow_unverified_rollback_target: bool,
}

impl Default for Strategy {
    fn default() -> Self {
        Strategy {
            steps: [5, 25, 50, 100].map(Step::weight).to_vec(),
            step_min_time: Span::from_secs(30),
            step_max_time: Span::from_secs(1800),
            on_inconclusive: OnInconclusive::default(),
            progress_deadline_seconds: 7200,
            capacity_deadline: Span::from_secs(600),
            mask: Span::from_secs(60),
            blind_limit: Span::from_secs(60),
            bake: Span::from_secs(600),
            on_hub_lost: OnHubLost::default(),
            alpha: 0.01,
            beta: 0.05,
            margin: 1.1,
            rollback_window: 3,
            unsafe_allow_unverified_rollback_target: false,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnInconclusive {
    /// Stay at the weight until `progressDeadlineSeconds`.
    #[default]
    Hold,
    /// Give the step its time once more.
    Longer,
    /// Go back at once, without quarantine.
    Rollback,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnHubLost {
    Retreat,
    #[default]
    Hold,
    Finish,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RollbackScope {
    #[default]
    Environment,
    Release,
}

/// A service level objective as a ratio of raw counters (OpenSLO's `ratioMetric` with `counter: true`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Objective {
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Share of good requests to reach, in (0, 1).
    #[schemars(range(min = 0.000_001, max = 0.999_999_9))]
    pub target: f64,
    pub ratio: RatioMetric,
}

/// Plain selectors of raw counters, e.g. `http_requests_total{code=~"5.."}`; no functions, no ranges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.total != self.errors", "message": "ratio.errors is ratio.total: every request would count as an error"},
    {"rule": "[self.total, self.errors].all(s, s.matches('^[^({[]*([{].*[}])?$'))", "message": "a ratio's selectors are plain, such as http_requests_total{code=~\"5..\"}: without functions and ranges, which the judge adds itself"}
]))]
pub struct RatioMetric {
    #[schemars(length(min = 1, max = 500))]
    pub total: String,
    #[schemars(length(min = 1, max = 500))]
    pub errors: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PipelineStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Shipping`, `Refused`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_release: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
}
