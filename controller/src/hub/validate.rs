//! Step 2: what was observed, made sense of: which pipelines are sound, what each environment
//! permits. Reads only what it is given.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use tidegate_pipelines::api::{BuildEventSpec, Environment, EventSourceSpec, MetricsSource, Pipeline};
use tidegate_pipelines::release::{
    Claim, PipelineState, PipelineView, Place, Spot, claims, namespace_allowed, refusals, target_namespace, wanted,
};

use super::index::Index;
use super::observe::ObservedRelease;
use super::standing::{Basis, Examined, Snapshot, Standing, Version};

#[derive(Debug, thiserror::Error)]
pub enum ValidateError {
    #[error("{0} has no uid: it did not come from an API server")]
    NoUid(String),
    /// It changed while it was looked at. Neither sound nor broken: the next look tells.
    #[error("pipeline {0} is not examined yet")]
    NotExamined(String),
}

impl ValidateError {
    /// A fresh look will do.
    pub fn is_conflict(&self) -> bool {
        matches!(self, ValidateError::NotExamined(_))
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

/// An object's version as far as its spec goes.
fn version<K: Resource>(object: &K) -> Version {
    Some((object.meta().uid.clone(), object.meta().generation.map(|g| g.to_string())))
}

/// The environments that its stages name, in their order; none: there is no such one.
fn environments<'a>(index: &'a Index, pipeline: &'a Pipeline) -> impl Iterator<Item = Option<Arc<Environment>>> + 'a {
    let named = pipeline.spec.stages.iter().flat_map(|stage| &stage.environments);
    named.map(|name| index.environments.get(&ObjectRef::new(name)))
}

fn basis(index: &Index, pipeline: &Pipeline) -> Basis {
    let namespace = index.namespaces.get(&ObjectRef::new(&pipeline.namespace().unwrap_or_default()));
    Basis {
        pipeline: version(pipeline),
        deleting: pipeline.metadata.deletion_timestamp.is_some(),
        // Labels are metadata: they leave the generation as it is.
        namespace: namespace.map(|n| (n.uid(), n.resource_version())),
        environments: environments(index, pipeline).map(|e| e.and_then(|e| version(e.as_ref()))).collect(),
    }
}

fn examine(index: &Index, pipeline: &Pipeline) -> Examined {
    let metrics: BTreeMap<String, MetricsSource> =
        environments(index, pipeline).flatten().map(|e| (e.name_any(), e.spec.metrics.clone())).collect();
    let going = pipeline.metadata.deletion_timestamp.is_some();
    Examined {
        refusals: refusals(&pipeline.name_any(), &pipeline.spec, Some(&metrics)),
        claims: if going { BTreeSet::new() } else { claims_of(index, pipeline) },
    }
}

/// What keeps this pipeline from shipping.
pub fn standing(index: &Index, pipeline: &Pipeline) -> Result<Arc<Standing>, ValidateError> {
    let name = full_name(pipeline);
    if let Some(found) = known(index, pipeline, &name) {
        return Ok(found);
    }
    // The store is a moment ahead of the word that it changed.
    index.standings.changed();
    // Still another one: the store has a newer one by now, or none. What is not examined must not pass for sound.
    known(index, pipeline, &name).ok_or(ValidateError::NotExamined(name))
}

/// Its standing, if it was examined as it is.
fn known(index: &Index, pipeline: &Pipeline, name: &str) -> Option<Arc<Standing>> {
    let snapshot = standings(index);
    snapshot.knows(name, &basis(index, pipeline)).then(|| snapshot.of(name)).flatten()
}

/// All standings, as of the last change.
fn standings(index: &Index) -> Arc<Snapshot> {
    let present = || {
        let all = index.pipelines.state();
        all.into_iter().map(|pipeline| (full_name(&pipeline), basis(index, &pipeline), pipeline)).collect::<Vec<_>>()
    };
    index.standings.now(present, |pipeline| examine(index, pipeline))
}

/// The pipelines as the planner of events takes them. One that is not examined yet keeps this event from being settled
/// only if the event asks for something of it: anybody may change theirs at any time, and nobody else waits for that.
pub fn views<'a>(
    index: &Index,
    pipelines: &'a [Arc<Pipeline>],
    event: &BuildEventSpec,
    source: Option<&EventSourceSpec>,
) -> Result<Vec<PipelineView<'a>>, ValidateError> {
    let asks = |pipeline: &Pipeline| {
        let view = view(pipeline, &Standing::default());
        view.is_some_and(|view| wanted(event, source, &[view]).is_ok_and(|wanted| !wanted.is_empty()))
    };
    let mut views = Vec::new();
    for pipeline in pipelines {
        let standing = match standing(index, pipeline) {
            Ok(standing) => standing,
            Err(error) => {
                let newer = index.pipelines.get(&ObjectRef::from_obj(pipeline.as_ref()));
                if asks(pipeline) || newer.is_some_and(|newer| asks(&newer)) {
                    return Err(error);
                }
                // What nothing is asked of ships nothing, however it stands.
                Arc::default()
            }
        };
        views.extend(view(pipeline, &standing));
    }
    Ok(views)
}

fn view<'a>(pipeline: &'a Pipeline, standing: &Standing) -> Option<PipelineView<'a>> {
    let metadata = &pipeline.metadata;
    Some(PipelineView {
        namespace: metadata.namespace.as_deref()?,
        name: metadata.name.as_deref()?,
        uid: metadata.uid.as_deref()?,
        spec: &pipeline.spec,
        deleting: metadata.deletion_timestamp.is_some(),
        refused: standing.refused(),
        ambiguous_with: standing.ambiguous_with.clone(),
    })
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
        Some(pipeline) => match standing(index, pipeline)?.refused() {
            Some(why) => PipelineState::Refused(why),
            None => PipelineState::Present,
        },
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

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::future::join_all;
    use serde_json::json;
    use tidegate_pipelines::api::names;
    use tokio::sync::mpsc;

    use super::super::standing::Standings;
    use super::*;
    use crate::memory::{objects, server};

    #[tokio::test]
    async fn a_pipeline_that_comes_into_sight_is_examined_before_it_counts_as_sound() {
        let spec = json!({
            "images": [], "workload": {"name": "portal"}, "service": "portal", "route": {"httpRoute": "portal"},
            "stages": [{"name": "one", "environments": ["nowhere"]}], "objectives": []
        });
        let object = |name: &str| {
            let metadata = json!({"name": name, "namespace": "shop", "uid": name, "generation": 1});
            json!({"apiVersion": "tidegate.io/v1alpha1", "kind": "Pipeline", "metadata": metadata, "spec": spec.clone()})
        };
        let (client, _written) = server(objects(&[object("portal")]));
        let (keys, _work) = mpsc::channel(1024);
        let (index, watches) = Index::open(&client, &keys);
        assert!(standings(&index).of("shop/portal").is_none(), "nothing is listed yet");
        let mut watches = join_all(watches);
        for _ in 0..1000 {
            assert!((&mut watches).now_or_never().is_none(), "the watches ended");
            tokio::task::yield_now().await;
        }
        let refused = standings(&index).of("shop/portal").and_then(|s| s.refused());
        assert!(refused.is_some_and(|why| why.contains("nowhere")), "the change was told");
        // As between a store's change and the word of it.
        let mut behind = index.clone();
        behind.standings = Standings::default();
        behind.standings.now(Vec::<(String, Basis, ())>::new, |()| Examined::default());
        assert!(standings(&behind).of("shop/portal").is_none());
        let pipeline = index.pipeline("shop", "portal").unwrap();
        assert!(standing(&behind, &pipeline).unwrap().refused().is_some());
    }

    /// A reconcile holds what it observed, and the store goes on meanwhile.
    #[tokio::test]
    async fn a_pipeline_that_was_not_examined_as_it_is_counts_neither_as_sound_nor_as_broken() {
        let spec = json!({
            "images": [{"container": "app", "repository": "r.test/shop/portal"}], "workload": {"name": "portal"}, "service": "portal", "route": {"httpRoute": "portal"},
            "stages": [{"name": "one", "environments": ["nowhere"]}], "objectives": []
        });
        let object = |name: &str, generation: u64| {
            let metadata = json!({"name": name, "namespace": "shop", "uid": name, "generation": generation});
            json!({"apiVersion": "tidegate.io/v1alpha1", "kind": "Pipeline", "metadata": metadata, "spec": spec.clone()})
        };
        let (client, _written) = server(objects(&[object("portal", 2)]));
        let (keys, _work) = mpsc::channel(1024);
        let (index, watches) = Index::open(&client, &keys);
        let mut watches = join_all(watches);
        for _ in 0..1000 {
            assert!((&mut watches).now_or_never().is_none(), "the watches ended");
            tokio::task::yield_now().await;
        }
        let held = |name, generation| Arc::new(serde_json::from_value::<Pipeline>(object(name, generation)).unwrap());
        assert!(standing(&index, &held("portal", 2)).unwrap().refused().is_some());
        for (pipeline, case) in [(held("gone", 1), "taken from the store"), (held("portal", 1), "another one by now")] {
            let told = standing(&index, &pipeline).unwrap_err();
            assert!(told.is_conflict(), "{case}: {told}");
            let all = [pipeline, held("portal", 2)];
            let seen = |repository: &str, namespace: Option<&str>| {
                let event = json!({
                    "source": names::PERSON_SOURCE, "type": "image", "key": "k", "pipelineNamespace": namespace,
                    "images": [{"repository": repository, "tag": "v1"}], "receivedAt": "2026-01-01T00:00:00Z"
                });
                let event: BuildEventSpec = serde_json::from_value(event).unwrap();
                views(&index, &all, &event, None).map(|views| views.len())
            };
            for namespace in [None, Some("shop")] {
                let told = seen("r.test/shop/portal", namespace);
                assert!(told.is_err_and(|told| told.is_conflict()), "{case}: an event would be settled without it");
            }
            // Another team's event.
            assert_eq!(seen("r.test/other/portal", None).unwrap(), 2, "{case}");
            assert_eq!(seen("r.test/shop/portal", Some("other")).unwrap(), 2, "{case}");
        }
    }
}
