//! What is wrong with a pipeline beyond its shape: said before anything ships.

use std::collections::BTreeSet;

use crate::api::PipelineSpec;

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
    #[error("objective '{objective}', {field}: {why}")]
    Selector { objective: String, field: &'static str, why: String },
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
            Refusal::Selector { .. } => "BadSelector",
            Refusal::StepsFall { .. } => "StepsFall",
        }
    }
}

/// Everything that is wrong. `environments`: those that exist; none given skips that check (a file
/// that is linted away from its hub).
pub fn refusals(name: &str, spec: &PipelineSpec, environments: Option<&BTreeSet<String>>) -> Vec<Refusal> {
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
            if environments.is_some_and(|known| !known.contains(environment)) {
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
    for objective in &spec.objectives {
        for (field, text) in [("total", &objective.ratio.total), ("errors", &objective.ratio.errors)] {
            if let Err(why) = plain_selector(text) {
                found.push(Refusal::Selector { objective: objective.name.clone(), field, why });
            }
        }
    }
    found
}

/// A selector of raw counters: no function, no range, no offset.
fn plain_selector(text: &str) -> Result<(), String> {
    use promql_parser::parser::{Expr, parse};
    match parse(text).map_err(|error| format!("not PromQL: {error}"))? {
        Expr::VectorSelector(selector) if selector.offset.is_some() || selector.at.is_some() => {
            Err("offset and @ are not allowed: counters are read as they are now".into())
        }
        Expr::VectorSelector(_) => Ok(()),
        _ => {
            Err("only a plain selector of a raw counter is allowed, such as http_requests_total{code=~\"5..\"}".into())
        }
    }
}
