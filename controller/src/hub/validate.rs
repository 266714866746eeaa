//! Step 2: what was observed, made sense of: which pipelines are sound, what each environment
//! permits. Reads only what it is given.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use tidegate_pipelines::api::{Environment, MetricsSource, Pipeline};
use tidegate_pipelines::release::{
    Claim, PipelineState, PipelineView, Place, Refusal, Spot, ambiguous, claims, namespace_allowed, refusals,
    target_namespace,
};

use super::index::Index;
use super::observe::ObservedRelease;

#[derive(Debug, thiserror::Error)]
pub enum ValidateError {
    #[error("{0} has no uid: it did not come from an API server")]
    NoUid(String),
}

/// What keeps a pipeline from shipping; nothing if it is sound.
#[derive(Debug, Default)]
pub struct Standing {
    pub refusals: Vec<Refusal>,
    pub ambiguous_with: Vec<String>,
}

impl Standing {
    /// One line, or none if it ships.
    pub fn refused(&self) -> Option<String> {
        (!self.refusals.is_empty()).then(|| self.refusals.iter().map(Refusal::to_string).collect::<Vec<_>>().join("; "))
    }
}

/// Whether an environment lets pipelines of `namespace` act on `target`.
pub fn allowed(index: &Index, environment: &Environment, namespace: &str, target: &str) -> Result<(), String> {
    let labels = index.namespaces.get(&ObjectRef::new(namespace)).map(|n| n.labels().clone()).unwrap_or_default();
    namespace_allowed(&environment.spec, namespace, &labels, target).map_err(|why| why.to_string())
}

fn claims_of(index: &Index, pipeline: &Pipeline) -> BTreeSet<Claim> {
    let namespace = pipeline.namespace().unwrap_or_default();
    let target = target_namespace(&pipeline.spec, &namespace);
    claims(&pipeline.spec, &namespace, |environment| {
        let object = index.environments.get(&ObjectRef::new(environment));
        object.is_some_and(|object| allowed(index, &object, &namespace, target).is_ok())
    })
}

fn full_name(pipeline: &Pipeline) -> String {
    format!("{}/{}", pipeline.namespace().unwrap_or_default(), pipeline.name_any())
}

/// The standing of all pipelines, by `namespace/name`.
pub fn standings(index: &Index, pipelines: &[Arc<Pipeline>]) -> BTreeMap<String, Standing> {
    let metrics: BTreeMap<String, MetricsSource> =
        index.environments.state().iter().map(|e| (e.name_any(), e.spec.metrics.clone())).collect();
    let claimed: BTreeMap<String, BTreeSet<Claim>> = pipelines
        .iter()
        .filter(|p| p.metadata.deletion_timestamp.is_none())
        .map(|p| (full_name(p), claims_of(index, p)))
        .collect();
    let mut standings = BTreeMap::new();
    for pipeline in pipelines {
        let name = full_name(pipeline);
        let mut refusals = refusals(&pipeline.name_any(), &pipeline.spec, Some(&metrics));
        let nothing = BTreeSet::new();
        let mine = claimed.get(&name).unwrap_or(&nothing);
        let ambiguous_with = ambiguous(&name, mine, claimed.iter().map(|(n, c)| (n.as_str(), c)));
        if !ambiguous_with.is_empty() {
            refusals.push(Refusal::AmbiguousPipelines { others: ambiguous_with.join(", ") });
        }
        standings.insert(name, Standing { refusals, ambiguous_with });
    }
    standings
}

/// The pipelines as the planner of events takes them.
pub fn views<'a>(index: &Index, pipelines: &'a [Arc<Pipeline>]) -> Vec<PipelineView<'a>> {
    let mut standings = standings(index, pipelines);
    pipelines
        .iter()
        .filter_map(|pipeline| {
            let standing = standings.remove(&full_name(pipeline)).unwrap_or_default();
            let metadata = &pipeline.metadata;
            Some(PipelineView {
                namespace: metadata.namespace.as_deref()?,
                name: metadata.name.as_deref()?,
                uid: metadata.uid.as_deref()?,
                spec: &pipeline.spec,
                deleting: metadata.deletion_timestamp.is_some(),
                refused: standing.refused(),
                ambiguous_with: standing.ambiguous_with,
            })
        })
        .collect()
}

/// A release's environments and pipeline, as far as its planner cares.
pub struct Surroundings {
    pub environments: BTreeMap<String, Place>,
    pub pipeline: PipelineState,
}

pub fn release(index: &Index, observed: &ObservedRelease) -> Result<Surroundings, ValidateError> {
    let release = &observed.release;
    let name = release.name_any();
    if release.uid().is_none() {
        return Err(ValidateError::NoUid(name));
    }
    let namespace = release.namespace().unwrap_or_default();
    let target = target_namespace(&release.spec.snapshot, &namespace);
    let named = release.spec.snapshot.stages.iter().flat_map(|s| &s.environments);
    let environments = named
        .filter_map(|name| index.environments.get(&ObjectRef::new(name)))
        .map(|environment| {
            let place = Place {
                deleting: environment.metadata.deletion_timestamp.is_some(),
                spoke: spoke(&environment),
                allowed: allowed(index, &environment, &namespace, target),
            };
            (environment.name_any(), place)
        })
        .collect();
    let pipeline = match observed.pipeline.as_ref() {
        Some(pipeline) if pipeline.metadata.deletion_timestamp.is_some() => PipelineState::Going,
        // Deleted and made anew under its name: another pipeline.
        Some(pipeline) if pipeline.uid().as_deref() != Some(release.spec.pipeline_uid.as_str()) => PipelineState::Going,
        None => PipelineState::Going,
        Some(pipeline) => {
            let mut standings = standings(index, &index.pipelines.state());
            match standings.remove(&full_name(pipeline)).and_then(|s| s.refused()) {
                Some(why) => PipelineState::Refused(why),
                None => PipelineState::Present,
            }
        }
    };
    Ok(Surroundings { environments, pipeline })
}

/// The environments that exist, as far as clearing up after a pipeline is concerned.
pub fn spots(index: &Index) -> BTreeMap<String, Spot> {
    let spot = |e: &Arc<Environment>| Spot { answers: spoke(e).is_ok(), decommissioned: e.spec.decommissioned };
    index.environments.state().iter().map(|e| (e.name_any(), spot(e))).collect()
}

/// The condition that the environment's own reconcile keeps.
pub fn spoke(environment: &Environment) -> Result<(), String> {
    let conditions = environment.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    match conditions.iter().find(|c| c.type_ == super::plan::SPOKE_READY) {
        Some(condition) if condition.status == "True" => Ok(()),
        Some(condition) => Err(condition.message.clone()),
        None => Err("its spoke has not reported yet".to_owned()),
    }
}
