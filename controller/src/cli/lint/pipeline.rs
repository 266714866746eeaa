//! What a schema cannot say about a Pipeline: order, uniqueness, selectors that can be judged.

use std::collections::BTreeMap;

use tidegate_pipelines::api::{MetricsSource, PipelineSpec, Span, Strategy};
use tidegate_pipelines::judge::selector;
use tidegate_pipelines::release;
use tidegate_policies::image::ImageRef;

use super::schema::{Finding, is_name};

/// As the hub has it: a release's name adds a dash, ten digits and its attempt.
const LONGEST_NAME: usize = 48;

/// `sources` are those of environments that the same files describe, by name.
pub fn check(name: &str, spec: &PipelineSpec, sources: &BTreeMap<String, MetricsSource>, findings: &mut Vec<Finding>) {
    if name.len() > LONGEST_NAME {
        let message = format!(
            "has {} characters: releases are named after it, and at most {LONGEST_NAME} fit into their label",
            name.len()
        );
        findings.push(Finding::new("metadata.name", message));
    }
    images(spec, findings);
    stages(spec, findings);
    strategy(&spec.strategy, findings);
    repositories(spec, findings);
    let mut names = BTreeMap::new();
    for (i, objective) in spec.objectives.iter().enumerate() {
        unique(&mut names, &objective.name, &format!("spec.objectives[{i}].name"), findings);
    }
    objectives(spec, sources, findings);
    if let Some(namespace) = spec.target_namespace.as_deref().filter(|name| !is_name(name, 63)) {
        findings.push(Finding::new("spec.targetNamespace", format!("'{namespace}' is no namespace")));
    }
}

fn unique(seen: &mut BTreeMap<String, String>, value: &str, path: &str, findings: &mut Vec<Finding>) {
    if let Some(before) = seen.insert(value.to_owned(), path.to_owned()) {
        findings.push(Finding::new(path, format!("'{value}' is that of {before} too: choose another")));
    }
}

fn images(spec: &PipelineSpec, findings: &mut Vec<Finding>) {
    let mut containers = BTreeMap::new();
    for (i, image) in spec.images.iter().enumerate() {
        unique(&mut containers, &image.container, &format!("spec.images[{i}].container"), findings);
        let path = format!("spec.images[{i}].repository");
        if let Some(message) = repository_problem(&image.repository) {
            findings.push(Finding::new(path, message));
        }
    }
}

/// Why a text is not `registry/path` in full.
pub fn repository_problem(text: &str) -> Option<String> {
    match text.parse::<ImageRef>() {
        Err(error) => Some(error.to_string()),
        Ok(image) if image.digest.is_some() || text.rsplit('/').next().is_some_and(|last| last.contains(':')) => Some(
            format!("'{text}' names a version: write {} only, the event brings the digest", image.repository_path()),
        ),
        Ok(image) if image.repository_path() != text => {
            Some(format!("'{text}' leaves its registry out: write {}", image.repository_path()))
        }
        Ok(_) => None,
    }
}

fn stages(spec: &PipelineSpec, findings: &mut Vec<Finding>) {
    let mut names = BTreeMap::new();
    let mut environments = BTreeMap::new();
    for (i, stage) in spec.stages.iter().enumerate() {
        let path = format!("spec.stages[{i}].name");
        if stage.name == release::DOWNGRADE_STAGE {
            let message = format!("'{}' is the name of the approval for older releases: choose another", stage.name);
            findings.push(Finding::new(&path, message));
        }
        unique(&mut names, &stage.name, &path, findings);
        for (j, environment) in stage.environments.iter().enumerate() {
            let path = format!("spec.stages[{i}].environments[{j}]");
            if !is_name(environment, 40) {
                findings.push(Finding::new(&path, format!("'{environment}' is no environment's name")));
            }
            unique(&mut environments, environment, &path, findings);
        }
    }
}

fn strategy(strategy: &Strategy, findings: &mut Vec<Finding>) {
    let mut before = 0;
    for (i, step) in strategy.steps.iter().enumerate() {
        let path = format!("spec.strategy.steps[{i}]");
        match (step.set_weight, &step.pause) {
            (Some(_), Some(_)) | (None, None) => {
                findings.push(Finding::new(path, "must have exactly one of setWeight and pause"));
            }
            (Some(weight), None) if weight <= before => {
                let message = format!("{weight} does not rise above {before}, the weight before it: put them in order");
                findings.push(Finding::new(format!("{path}.setWeight"), message));
            }
            (Some(weight), None) => before = weight,
            (None, Some(_)) => {}
        }
    }
    if !strategy.steps.iter().any(|step| step.set_weight.is_some_and(|weight| weight < 100)) {
        let message = "have no weight below 100, so nothing would be judged: add e.g. {setWeight: 5}";
        findings.push(Finding::new("spec.strategy.steps", message));
    }
    if strategy.step_min_time > strategy.step_max_time {
        let message = format!("{} is longer than stepMaxTime ({})", strategy.step_min_time, strategy.step_max_time);
        findings.push(Finding::new("spec.strategy.stepMinTime", message));
    }
    if strategy.mask >= strategy.step_max_time {
        let message = format!(
            "{} is not below stepMaxTime ({}): a step would end before anything of it is judged",
            strategy.mask, strategy.step_max_time
        );
        findings.push(Finding::new("spec.strategy.mask", message));
    }
    if f64::from(strategy.progress_deadline_seconds) < strategy.step_min_time.as_secs_f64() {
        let message = "ends before the first step's least time: raise it above stepMinTime";
        findings.push(Finding::new("spec.strategy.progressDeadlineSeconds", message));
    }
}

fn repositories(spec: &PipelineSpec, findings: &mut Vec<Finding>) {
    for (i, source) in spec.sources.iter().enumerate() {
        if source.repository.contains("://") || source.repository.ends_with(".git") {
            let message = format!("'{}' is a URL: write owner/name", source.repository);
            findings.push(Finding::new(format!("spec.sources[{i}].repository"), message));
        }
        if source.branch.starts_with("refs/") {
            let message = format!("'{}' is a ref: write the branch's name only, such as main", source.branch);
            findings.push(Finding::new(format!("spec.sources[{i}].branch"), message));
        }
    }
}

fn objectives(spec: &PipelineSpec, sources: &BTreeMap<String, MetricsSource>, findings: &mut Vec<Finding>) {
    let of_stages: Vec<(&String, &MetricsSource)> = spec
        .stages
        .iter()
        .flat_map(|stage| &stage.environments)
        .filter_map(|name| sources.get_key_value(name))
        .collect();
    let mut told: Vec<String> = Vec::new();
    if of_stages.is_empty() {
        told = selector::lint(&spec.objectives, &usual());
    }
    for (environment, source) in of_stages {
        for line in selector::lint(&spec.objectives, source) {
            if !told.iter().any(|before| before.starts_with(&line)) {
                told.push(format!("{line} (labels of environment {environment})"));
            }
        }
        if spec.strategy.blind_limit.as_duration() < source.scrape_interval.as_duration() * 2 {
            let message = format!(
                "{} is less than two scrapes of environment {environment} ({} each): one late scrape would turn the canary back",
                spec.strategy.blind_limit, source.scrape_interval
            );
            findings.push(Finding::new("spec.strategy.blindLimit", message));
        }
    }
    findings.extend(told.into_iter().map(|line| Finding::new("spec.objectives", line)));
}

/// For reading selectors where no environment's label names are known: the defaults of the kind.
fn usual() -> MetricsSource {
    MetricsSource {
        prometheus: String::new(),
        pod_label: "pod".into(),
        namespace_label: "namespace".into(),
        scrape_interval: Span::from_secs(15),
        gateway: None,
    }
}
