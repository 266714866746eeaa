//! Step 4: the writes that a plan names, one call each, bounded. Makes no choices; a repeat of a
//! write that arrived already is no error. Asks before every write whether this process still leads: a reconcile may
//! have waited for a registry meanwhile.

use std::sync::Arc;

use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tidegate_pipelines::api::{BuildEvent, Pipeline, PipelineSpec, Quarantine, Release, Rollout, names};
use tidegate_pipelines::release::{MAX_EVENTS_KEPT, Outcome, ReleaseAction, Write};

use super::Hub;
use super::plan::Finalizer;
use crate::connect::{CallError, bounded};

#[derive(Debug, thiserror::Error)]
#[error("{verb} {what}: {source}")]
pub struct ApplyError {
    verb: &'static str,
    what: String,
    source: CallError,
}

impl ApplyError {
    pub fn is_conflict(&self) -> bool {
        self.source.is_conflict()
    }
}

/// Right before a write; verification, another call or a pause of the whole process may have used the lease up.
pub fn leading(hub: &Hub, what: &str) -> Result<(), ApplyError> {
    if hub.permit.held() { Ok(()) } else { Err(failed("write", what)(CallError::Deposed)) }
}

fn failed(verb: &'static str, what: &str) -> impl FnOnce(CallError) -> ApplyError {
    let what = what.to_owned();
    move |source| ApplyError { verb, what, source }
}

fn created() -> PostParams {
    PostParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PostParams::default() }
}

async fn merge<K>(api: &Api<K>, name: &str, patch: Value) -> Result<(), ApplyError>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let params = PatchParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PatchParams::default() };
    bounded(api.patch(name, &params, &Patch::Merge(patch))).await.map(|_| ()).map_err(failed("patch", name))
}

/// Creates it unless it is there already.
async fn create<K>(api: &Api<K>, object: &K) -> Result<bool, ApplyError>
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    match bounded(api.create(&created(), object)).await {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some(409) => Ok(false),
        Err(error) => Err(failed("create", &object.name_any())(error)),
    }
}

/// The releases that an event makes, each marked with the event.
pub async fn event(
    hub: &Hub,
    event: &BuildEvent,
    pipelines: &[Arc<Pipeline>],
    outcome: &Outcome,
) -> Result<(), ApplyError> {
    let mark = event.name_any();
    for action in &outcome.actions {
        leading(hub, &mark)?;
        match action {
            ReleaseAction::Known(_) => {}
            ReleaseAction::Create { namespace, name, spec } => {
                let api: Api<Release> = Api::namespaced(hub.client.clone(), namespace);
                let mut release = Release::new(name, (**spec).clone());
                let owner = pipelines.iter().find(|p| p.uid().as_deref() == Some(spec.pipeline_uid.as_str()));
                release.metadata = ObjectMeta {
                    name: Some(name.clone()),
                    namespace: Some(namespace.clone()),
                    labels: Some([(names::PIPELINE_LABEL.to_owned(), spec.pipeline.clone())].into()),
                    annotations: Some([(names::EVENTS_ANNOTATION.to_owned(), mark.clone())].into()),
                    owner_references: owner.and_then(|p| p.owner_ref(&())).map(|o| vec![o]),
                    ..ObjectMeta::default()
                };
                bounded(api.create(&created(), &release)).await.map_err(failed("create", name))?;
            }
            ReleaseAction::Attempt { namespace, name, attempt } => {
                let api: Api<Release> = Api::namespaced(hub.client.clone(), namespace);
                let Some(known) = hub.index.release(namespace, name) else { continue };
                let mut marks: Vec<&str> = known
                    .annotations()
                    .get(names::EVENTS_ANNOTATION)
                    .map(|m| m.split(',').collect())
                    .unwrap_or_default();
                marks.push(&mark);
                let kept = marks.len().saturating_sub(MAX_EVENTS_KEPT);
                let patch = json!({
                    // Of two events for one digest the later write meets a conflict and looks again.
                    "metadata": {
                        "resourceVersion": known.resource_version(),
                        "annotations": {names::EVENTS_ANNOTATION: marks.split_off(kept).join(",")},
                    },
                    "spec": {"attempt": attempt},
                });
                merge(&api, name, patch).await?;
            }
        }
    }
    Ok(())
}

/// All of them, whichever fails: an environment that refuses a write keeps no other from its rollback. The first
/// error is told, and the status is not written over it, so the next look plans what is missing.
pub async fn release(hub: &Hub, release: &Release, writes: &[Write]) -> Result<(), ApplyError> {
    let mut outcome = Ok(());
    for write in writes {
        leading(hub, &release.name_any())?;
        let written = match write {
            Write::Snapshot { spec } => snapshot(hub, release, spec).await,
            write => one(hub, write).await,
        };
        outcome = outcome.and(written);
    }
    outcome
}

/// What clears up after a deleted pipeline.
pub async fn intents(hub: &Hub, writes: &[Write]) -> Result<(), ApplyError> {
    for write in writes {
        leading(hub, "intents")?;
        one(hub, write).await?;
    }
    Ok(())
}

/// Replaced whole, over the very object that was looked at: a merge would keep what the pipeline dropped.
async fn snapshot(hub: &Hub, release: &Release, spec: &PipelineSpec) -> Result<(), ApplyError> {
    let api: Api<Release> = Api::namespaced(hub.client.clone(), &release.namespace().unwrap_or_default());
    let mut changed = release.clone();
    changed.spec.snapshot = spec.clone();
    let name = release.name_any();
    bounded(api.replace(&name, &created(), &changed)).await.map(|_| ()).map_err(failed("replace", &name))
}

async fn one(hub: &Hub, write: &Write) -> Result<(), ApplyError> {
    let intents = |environment: &str| -> Api<Rollout> {
        Api::namespaced(hub.client.clone(), &names::environment_namespace(environment))
    };
    match write {
        Write::Create { name, spec } => {
            let mut rollout = Rollout::new(name, (**spec).clone());
            rollout.metadata.labels = Some(
                [
                    (names::PIPELINE_LABEL.to_owned(), spec.pipeline.clone()),
                    (names::RELEASE_LABEL.to_owned(), spec.release.clone()),
                    (names::ENVIRONMENT_LABEL.to_owned(), spec.environment.clone()),
                ]
                .into(),
            );
            if create(&intents(&spec.environment), &rollout).await? {
                hub.metrics.intent(&spec.environment);
            }
            Ok(())
        }
        Write::Remove { environment, name } => {
            match bounded(intents(environment).delete(name, &DeleteParams::default())).await {
                Ok(_) => Ok(()),
                Err(error) if error.is_not_found() => Ok(()),
                Err(error) => Err(failed("delete", name)(error)),
            }
        }
        Write::Supersede { environment, name, by } => {
            merge(&intents(environment), name, json!({"spec": {"supersededBy": by}})).await
        }
        Write::Abort { environment, name } => {
            merge(&intents(environment), name, json!({"spec": {"abort": true}})).await
        }
        Write::Retire { environment, name } => {
            let patch = json!({"metadata": {"annotations": {names::RETIRE: "true"}}});
            match merge(&intents(environment), name, patch).await {
                Err(error) if error.source.is_not_found() => Ok(()),
                outcome => outcome,
            }
        }
        // Of its own Release, not of an environment.
        Write::Snapshot { .. } => Ok(()),
        Write::Pause { environment, name } => {
            let patch =
                json!({"metadata": {"annotations": {names::PAUSED_BY_RELEASE: "true"}}, "spec": {"paused": true}});
            merge(&intents(environment), name, patch).await
        }
        Write::Resume { environment, name } => {
            let patch =
                json!({"metadata": {"annotations": {names::PAUSED_BY_RELEASE: null}}, "spec": {"paused": false}});
            merge(&intents(environment), name, patch).await
        }
        Write::Quarantine { name, spec } => {
            let api: Api<Quarantine> = Api::all(hub.client.clone());
            if create(&api, &Quarantine::new(name, (**spec).clone())).await? {
                return Ok(());
            }
            let mut patch = json!({"spec": spec});
            // A merge leaves out what is absent; an earlier lifting must go.
            if let Some(spec) = patch.get_mut("spec").and_then(Value::as_object_mut) {
                spec.insert("lifted".into(), Value::Null);
            }
            merge(&api, name, patch).await
        }
    }
}

/// Aborts intents of an environment that is deleted at the hub.
pub async fn abort_all(hub: &Hub, environment: &str, rollouts: &[String]) -> Result<(), ApplyError> {
    let api: Api<Rollout> = Api::namespaced(hub.client.clone(), &names::environment_namespace(environment));
    for name in rollouts {
        leading(hub, name)?;
        merge(&api, name, json!({"spec": {"abort": true}})).await?;
    }
    Ok(())
}

/// Adds or removes our finalizer; others' stay.
pub async fn finalizer<K>(api: &Api<K>, object: &K, change: Finalizer) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut finalizers = object.finalizers().to_vec();
    match change {
        Finalizer::Keep => return Ok(()),
        Finalizer::Add => finalizers.push(names::FINALIZER.into()),
        Finalizer::Remove => finalizers.retain(|f| f != names::FINALIZER),
    }
    let patch = json!({"metadata": {"resourceVersion": object.resource_version(), "finalizers": finalizers}});
    match merge(api, &object.name_any(), patch).await {
        Err(error) if error.source.is_not_found() => Ok(()),
        outcome => outcome,
    }
}
