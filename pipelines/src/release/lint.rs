//! What is wrong with a pipeline beyond its shape: said before anything ships.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::{MetricsSource, PipelineSpec, Span};
use crate::judge::selector::lint;

/// Why a pipeline ships nothing until it is mended; the variant's name is the reason told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("its name has {0} characters; releases are named after it and at most 48 fit into a label")]
    NameTooLong(usize),
    #[error("stage '{stage}' names the environment '{environment}', which does not exist")]
    UnknownEnvironment { stage: String, environment: String },
    #[error("the environment '{environment}' stands in two stages; each may stand in one")]
    EnvironmentTwice { environment: String },
    #[error("two stages are called '{stage}'")]
    StageTwice { stage: String },
    #[error("'{stage}' is the name of the approval for older releases; call the stage otherwise")]
    ReservedStage { stage: String },
    #[error("the container '{container}' is named twice")]
    ContainerTwice { container: String },
    #[error("{others} claims the same workload: only one pipeline may")]
    AmbiguousPipelines { others: String },
    #[error("{0}")]
    Objective(String),
    #[error("the weights of strategy.steps must rise: {from} is followed by {to}")]
    StepsFall { from: u8, to: u8 },
}

impl Refusal {
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::NameTooLong(_) => "NameTooLong",
            Refusal::UnknownEnvironment { .. } => "UnknownEnvironment",
            Refusal::EnvironmentTwice { .. } => "EnvironmentTwice",
            Refusal::StageTwice { .. } => "StageTwice",
            Refusal::ReservedStage { .. } => "ReservedStage",
            Refusal::ContainerTwice { .. } => "ContainerTwice",
            Refusal::AmbiguousPipelines { .. } => "AmbiguousPipelines",
            Refusal::Objective(_) => "BadObjective",
            Refusal::StepsFall { .. } => "StepsFall",
        }
    }
}

/// Everything that is wrong. `environments`: those that exist; none given skips that check (a file
/// that is linted away from its hub).
pub fn refusals(
    name: &str,
    spec: &PipelineSpec,
    environments: Option<&BTreeMap<String, MetricsSource>>,
) -> Vec<Refusal> {
    let mut found = Vec::new();
    if name.len() > 48 {
        found.push(Refusal::NameTooLong(name.len()));
    }
    let (mut stages, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for stage in &spec.stages {
        if stage.name == super::DOWNGRADE_STAGE {
            found.push(Refusal::ReservedStage { stage: stage.name.clone() });
        }
        if !stages.insert(stage.name.as_str()) {
            found.push(Refusal::StageTwice { stage: stage.name.clone() });
        }
        for environment in &stage.environments {
            if !seen.insert(environment.as_str()) {
                found.push(Refusal::EnvironmentTwice { environment: environment.clone() });
            }
            if environments.is_some_and(|known| !known.contains_key(environment)) {
                let (stage, environment) = (stage.name.clone(), environment.clone());
                found.push(Refusal::UnknownEnvironment { stage, environment });
            }
        }
    }
    let mut containers = BTreeSet::new();
    for image in &spec.images {
        if !containers.insert(image.container.as_str()) {
            found.push(Refusal::ContainerTwice { container: image.container.clone() });
        }
    }
    let weights: Vec<u8> = spec.strategy.steps.iter().filter_map(|s| s.set_weight).collect();
    for pair in weights.windows(2) {
        if let [from, to] = pair
            && to <= from
        {
            found.push(Refusal::StepsFall { from: *from, to: *to });
        }
    }
    let any = any_source();
    let mut sources: Vec<&MetricsSource> =
        environments.map(|known| seen.iter().filter_map(|e| known.get(*e)).collect()).unwrap_or_default();
    if sources.is_empty() {
        sources.push(&any);
    }
    let mut lines = BTreeSet::new();
    for source in sources {
        lines.extend(lint(&spec.objectives, source));
    }
    found.extend(lines.into_iter().map(Refusal::Objective));
    found
}

/// The label names that most servers use, where no environment says otherwise.
fn any_source() -> MetricsSource {
    MetricsSource {
        prometheus: "http://prometheus".into(),
        pod_label: "pod".into(),
        namespace_label: "namespace".into(),
        scrape_interval: Span::from_secs(15),
        gateway: None,
    }
}
