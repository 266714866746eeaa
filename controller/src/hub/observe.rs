//! Step 1: what is there now. Reads stores, and where an answer must be fresh the API server or a
//! registry. Decides nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use kube::api::ListParams;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use tidegate_pipelines::api::{
    Approval, BuildEvent, BuildEventPhase, EventSource, Pipeline, PipelineSpec, Quarantine, Release, ReleasePhase,
    Rollout, names,
};
use tidegate_pipelines::release::{Lookup, PipelineView, Wanted, reference};
use tidegate_policies::image::ImageRef;
use tidegate_policies::model::Registry;
use tidegate_policies::registry::{Fetch, Location};

use super::Hub;
use super::verify::Findings;
use crate::connect::{CallError, bounded};

#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    #[error("the releases of {namespace} could not be listed: {source}")]
    Releases { namespace: String, source: CallError },
}

pub struct ObservedEvent {
    pub now: Timestamp,
    pub event: Arc<BuildEvent>,
    pub source: Option<Arc<EventSource>>,
    pub pipelines: Vec<Arc<Pipeline>>,
    pub releases: Vec<Arc<Release>>,
    pub quarantines: Vec<Arc<Quarantine>>,
}

/// An event that is not settled yet.
pub fn event(hub: &Hub, name: &str) -> Option<ObservedEvent> {
    let event = hub.index.event(name)?;
    let phase = event.status.as_ref().and_then(|s| s.phase);
    if phase.is_some_and(|p| p != BuildEventPhase::Waiting) || event.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let source = ObjectRef::new(&event.spec.source).within(names::SYSTEM_NAMESPACE);
    Some(ObservedEvent {
        now: hub.clock.now(),
        source: hub.index.sources.get(&source),
        pipelines: hub.index.pipelines.state(),
        releases: hub.index.releases.state(),
        quarantines: hub.index.quarantines.state(),
        event,
    })
}

/// Asks the registries, each thing once, some at a time. What the event's status holds already is
/// not asked again: a tag may have moved since.
pub async fn lookups(
    hub: &Hub,
    event: &BuildEvent,
    pipelines: &[PipelineView<'_>],
    wanted: &[Wanted],
) -> BTreeMap<String, Lookup> {
    let known = event.status.as_ref().map(|s| s.resolved.as_slice()).unwrap_or_default();
    let mut answers = BTreeMap::new();
    let mut open: BTreeMap<String, Vec<&PipelineSpec>> = BTreeMap::new();
    for want in wanted {
        let asked = reference(&want.ask);
        let same = |k: &&tidegate_pipelines::api::EventImage| {
            k.repository == want.ask.repository
                && k.tag == want.ask.tag
                && (want.ask.digest.is_none() || k.digest == want.ask.digest)
        };
        match known.iter().find(same).and_then(|k| k.digest.clone()) {
            Some(digest) => {
                answers.insert(asked, Lookup::Found(digest));
            }
            None => {
                // One that is refused ships nothing, and has no say in how others' images are asked for.
                let asking = pipelines.get(want.pipeline).filter(|p| p.refused.is_none());
                if let Some(pipeline) = asking.filter(|p| p.ambiguous_with.is_empty()) {
                    open.entry(asked).or_default().push(pipeline.spec);
                }
            }
        }
    }
    let mut asked: Vec<BoxFuture<'_, (String, Lookup)>> = Vec::new();
    for (reference, specs) in open {
        let registries = registries(hub, &specs);
        let fetch = hub.verdicts.verifier.fetch().clone();
        asked.push(
            async move {
                let answer = look_up(&*fetch, &reference, &registries).await;
                (reference, answer)
            }
            .boxed(),
        );
    }
    let found: Vec<_> = futures::stream::iter(asked).buffer_unordered(4).collect().await;
    answers.extend(found);
    answers
}

/// What the indexes among the digests found list, by digest. One that cannot be read now is not known as found
/// either: what is inside it must be in the Release from the start, for the day on which it is quarantined.
pub async fn indexes(
    hub: &Hub,
    pipelines: &[PipelineView<'_>],
    wanted: &[Wanted],
    lookups: &mut BTreeMap<String, Lookup>,
) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    for want in wanted {
        let asked = reference(&want.ask);
        let Some(Lookup::Found(digest)) = lookups.get(&asked).cloned() else { continue };
        if found.contains_key(&digest) {
            continue;
        }
        let Some(pipeline) = pipelines.get(want.pipeline) else { continue };
        let has = |r: &Release| r.spec.pipeline_uid == pipeline.uid && r.spec.images.iter().any(|i| i.digest == digest);
        // An earlier release of this pipeline says it already.
        if !hub.index.releases.state_filter(has).is_empty() {
            continue;
        }
        let repository = format!("{}@{digest}", want.ask.repository);
        match children(hub.verdicts.verifier.fetch().as_ref(), &repository, &registries(hub, &[pipeline.spec])).await {
            Ok(children) => drop(found.insert(digest, children)),
            Err(why) => drop(lookups.insert(asked, Lookup::Away(why))),
        }
    }
    found
}

/// Most that a Release keeps of one index.
const CHILDREN: usize = 256;

async fn children(fetch: &dyn Fetch, reference: &str, registries: &[Registry]) -> Result<Vec<String>, String> {
    let image: ImageRef = reference.parse().map_err(|error| format!("{reference}: {error}"))?;
    let Some(digest) = image.digest.clone() else { return Ok(vec![]) };
    let manifest = fetch.manifest(&Location::of(&image, registries), &digest).await;
    let manifest = manifest.map_err(|error| error.to_string())?;
    let children = manifest.children().map_err(|error| format!("{reference}: {error}"))?;
    Ok(children.iter().take(CHILDREN).map(ToString::to_string).collect())
}

async fn look_up(fetch: &dyn Fetch, reference: &str, registries: &[Registry]) -> Lookup {
    let image: ImageRef = match reference.parse() {
        Ok(image) => image,
        Err(error) => return Lookup::Away(error.to_string()),
    };
    let location = Location::of(&image, registries);
    match fetch.resolve(&location, &image).await {
        Ok(digest) => Lookup::Found(digest.to_string()),
        Err(error) if error.is_not_found() => Lookup::NotThere,
        Err(error) => Lookup::Away(error.to_string()),
    }
}

/// What the policies of all environments of these pipelines say of registries.
fn registries(hub: &Hub, specs: &[&PipelineSpec]) -> Vec<Registry> {
    let policies: Vec<_> = specs
        .iter()
        .flat_map(|spec| &spec.stages)
        .flat_map(|s| &s.environments)
        .filter_map(|name| hub.index.environments.get(&ObjectRef::new(name)))
        .filter_map(|environment| hub.index.policies.get(&ObjectRef::new(&environment.spec.policy)))
        .collect();
    agreed(&policies.iter().map(|p| p.spec.policy.registries.as_slice()).collect::<Vec<_>>())
}

/// A registry that any of them wants spoken to over TLS is: the answer is for all who ask, and nobody's pipeline
/// takes TLS away from another's.
fn agreed(all: &[&[Registry]]) -> Vec<Registry> {
    let insecure = |of: &[Registry], host: &str| of.iter().any(|r| r.insecure && r.host.eq_ignore_ascii_case(host));
    let hosts = all.iter().flat_map(|of| of.iter()).map(|r| r.host.clone());
    hosts.map(|host| Registry { insecure: all.iter().all(|of| insecure(of, &host)), host }).collect()
}

pub struct ObservedRelease {
    pub now: Timestamp,
    pub release: Arc<Release>,
    pub pipeline: Option<Arc<Pipeline>>,
    pub others: Vec<Arc<Release>>,
    pub rollouts: Vec<Arc<Rollout>>,
    pub approvals: Vec<Arc<Approval>>,
    pub quarantines: Vec<Arc<Quarantine>>,
    pub findings: Findings,
}

pub async fn release(hub: &Hub, namespace: &str, name: &str) -> Option<ObservedRelease> {
    let release = hub.index.release(namespace, name)?;
    if release.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let spec = &release.spec;
    let rollouts =
        hub.index.rollouts.state_filter(|r| r.spec.pipeline_namespace == namespace && r.spec.pipeline == spec.pipeline);
    let findings = if needs_findings(&release, &rollouts) {
        hub.verdicts.of(hub, &release).await
    } else {
        hub.verdicts.kept(hub, &release).await
    };
    Some(ObservedRelease {
        now: hub.clock.now(),
        pipeline: hub.index.pipeline(namespace, &spec.pipeline),
        others: hub.index.releases.state_filter(|r| {
            r.spec.pipeline_uid == spec.pipeline_uid
                && r.namespace().as_deref() == Some(namespace)
                && r.name_any() != name
        }),
        approvals: hub.index.approvals.state_filter(|a| a.namespace().as_deref() == Some(namespace)),
        quarantines: hub.index.quarantines.state(),
        rollouts,
        findings,
        release,
    })
}

/// Verification may wait for a slow registry. While something of the release is in flight nobody
/// waits for that: a breach is to be answered at once, and nothing new starts meanwhile.
fn needs_findings(release: &Release, rollouts: &[Arc<Rollout>]) -> bool {
    let status = release.status.as_ref().filter(|s| s.attempt == release.spec.attempt);
    let phase = status.and_then(|s| s.phase).unwrap_or(ReleasePhase::Verifying);
    let name = release.name_any();
    let over = |r: &Rollout| r.status.as_ref().and_then(|s| s.phase).is_some_and(|p| p.is_terminal());
    let in_flight = rollouts.iter().any(|r| r.spec.release == name && !over(r));
    let stopping = release.spec.abort || release.spec.undo;
    // Another attempt was asked for in mid-flight: what is under way comes to its end first.
    let earlier = release.status.as_ref().is_some_and(|s| s.attempt < release.spec.attempt);
    match phase {
        ReleasePhase::Verifying | ReleasePhase::Downgrade => !(stopping || earlier && in_flight),
        ReleasePhase::Shipping | ReleasePhase::Waiting => !stopping && !in_flight,
        _ => false,
    }
}

/// The same, with the siblings as the API server has them now.
pub async fn freshened(hub: &Hub, observed: ObservedRelease) -> Result<ObservedRelease, ObserveError> {
    let namespace = observed.release.namespace().unwrap_or_default();
    let api: Api<Release> = Api::namespaced(hub.client.clone(), &namespace);
    let listed = bounded(api.list(&ListParams::default()))
        .await
        .map_err(|source| ObserveError::Releases { namespace, source })?;
    let (name, uid) = (observed.release.name_any(), observed.release.spec.pipeline_uid.clone());
    let siblings = listed.items.into_iter().filter(|r| r.spec.pipeline_uid == uid && r.name_any() != name);
    Ok(ObservedRelease { others: siblings.map(Arc::new).collect(), ..observed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_spoken_only_where_everybody_who_asks_says_so() {
        let registry = |host: &str, insecure| Registry { host: host.into(), insecure };
        let (plain, tls) = ([registry("r.example", true)], [registry("R.example", false)]);
        let insecure = |all: &[&[Registry]]| agreed(all).iter().any(|r| r.insecure);
        assert!(insecure(&[&plain]) && insecure(&[&plain, &plain]));
        for all in [&[&plain[..], &tls[..]], &[&tls[..], &plain[..]], &[&plain[..], &[]], &[&[], &plain[..]]] {
            assert!(!insecure(all), "{all:?}");
        }
    }
}
