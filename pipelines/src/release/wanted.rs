//! What must be looked up at registries before an event can become releases, and for which
//! pipelines. Only images that the event's source may speak for are ever asked for.

use crate::api::{BuildEventSpec, EventImage, EventSourceSpec, PipelineSpec, names};

use super::resolve::Ignored;

/// A pipeline as the hub sees it.
#[derive(Clone, Debug)]
pub struct PipelineView<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub uid: &'a str,
    pub spec: &'a PipelineSpec,
    pub deleting: bool,
    /// Why it ships nothing at present.
    pub refused: Option<String>,
    /// Others that claim the same workload, as `namespace/name`.
    pub ambiguous_with: Vec<String>,
}

impl PipelineView<'_> {
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether it still ships, and stands where the event may ship.
    fn is_meant_by(&self, event: &BuildEventSpec) -> bool {
        !self.deleting && event.pipeline_namespace.as_deref().is_none_or(|namespace| namespace == self.namespace)
    }
}

/// What a registry said of one [`EventImage`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The digest it names.
    Found(String),
    NotThere,
    /// Not knowing is neither yes nor no; says why.
    Away(String),
}

/// One image that a pipeline needs from the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Index into the pipelines given.
    pub pipeline: usize,
    pub container: String,
    pub ask: EventImage,
}

/// `repository:tag` or `repository@digest`: what is asked for, and the key of its [`Lookup`].
pub fn reference(ask: &EventImage) -> String {
    match (&ask.digest, &ask.tag) {
        (Some(digest), _) => format!("{}@{digest}", ask.repository),
        (None, Some(tag)) => format!("{}:{tag}", ask.repository),
        (None, None) => ask.repository.clone(),
    }
}

/// Whether a source with these `images` may speak for `repository`: exactly, or below `/**`.
pub fn bound_to(images: &[String], repository: &str) -> bool {
    images.iter().any(|pattern| match pattern.strip_suffix("/**") {
        Some(stem) => repository.strip_prefix(stem).is_some_and(|rest| rest.starts_with('/') && rest.len() > 1),
        None => pattern == repository,
    })
}

/// The look-ups that this event calls for, or why it ships nothing.
pub fn wanted(
    event: &BuildEventSpec,
    source: Option<&EventSourceSpec>,
    pipelines: &[PipelineView<'_>],
) -> Result<Vec<Wanted>, Ignored> {
    if let Some(why) = &event.nothing_to_ship {
        return Err(Ignored::NothingToShip { why: why.clone() });
    }
    match source {
        Some(source) if event.images.is_empty() => by_push(event, source, pipelines),
        Some(source) => by_image(event, &|repository| bound_to(&source.images, repository), pipelines),
        // Not a machine's word: the API server knew the person who made it, and its RBAC let them.
        None if event.source == names::PERSON_SOURCE => by_image(event, &|_| true, pipelines),
        None => Err(Ignored::UnknownSource { name: event.source.clone() }),
    }
}

/// A push names a revision: `{repository}:{revision}` is waited for, of every image of the pipeline
/// that this source may speak for.
fn by_push(
    event: &BuildEventSpec,
    source: &EventSourceSpec,
    pipelines: &[PipelineView<'_>],
) -> Result<Vec<Wanted>, Ignored> {
    let (Some(repository), Some(revision)) = (&event.repository, &event.revision) else {
        return Err(Ignored::NothingToShip {
            why: "it names neither an image nor a repository with a revision".into(),
        });
    };
    let mut found = Vec::new();
    let mut branches = Vec::new();
    let mut unbound = Vec::new();
    for (index, pipeline) in pipelines.iter().enumerate().filter(|(_, p)| p.is_meant_by(event)) {
        let of_repository: Vec<_> = pipeline
            .spec
            .sources
            .iter()
            .filter(|s| s.event_source == event.source && s.repository.eq_ignore_ascii_case(repository))
            .collect();
        if of_repository.is_empty() {
            continue;
        }
        if !of_repository.iter().any(|s| event.git_ref.as_deref() == Some(s.branch.as_str())) {
            branches.extend(of_repository.iter().map(|s| s.branch.clone()));
            continue;
        }
        for image in &pipeline.spec.images {
            if bound_to(&source.images, &image.repository) {
                let ask =
                    EventImage { repository: image.repository.clone(), tag: Some(revision.clone()), digest: None };
                found.push(Wanted { pipeline: index, container: image.container.clone(), ask });
            } else {
                unbound.push(image.repository.clone());
            }
        }
    }
    match (found.is_empty(), branches.is_empty(), unbound.into_iter().next()) {
        (false, ..) => Ok(found),
        (true, _, Some(image)) => Err(Ignored::ForeignImage { image, name: event.source.clone() }),
        (true, false, None) => {
            let git_ref = event.git_ref.clone().unwrap_or_else(|| "no branch".into());
            Err(Ignored::OtherBranch { git_ref, ships: branches.join(", ") })
        }
        (true, true, None) => Err(Ignored::UnknownPipeline { what: format!("pushes to {repository}") }),
    }
}

fn by_image(
    event: &BuildEventSpec,
    bound: &dyn Fn(&str) -> bool,
    pipelines: &[PipelineView<'_>],
) -> Result<Vec<Wanted>, Ignored> {
    // What the source may not speak for is no hint at all, whoever would ship it.
    let (bound, foreign): (Vec<_>, Vec<_>) = event.images.iter().partition(|i| bound(&i.repository));
    if let (true, Some(image)) = (bound.is_empty(), foreign.first()) {
        let (image, name) = (image.repository.clone(), event.source.clone());
        return Err(Ignored::ForeignImage { image, name });
    }
    let mut found: Vec<Wanted> = Vec::new();
    let mut branches = Vec::new();
    for (index, pipeline) in pipelines.iter().enumerate().filter(|(_, p)| p.is_meant_by(event)) {
        let mut of_pipeline = Vec::new();
        for image in &pipeline.spec.images {
            // The last of several is the newest by the senders' habit; one container has one image.
            if let Some(named) = bound.iter().rev().find(|i| i.repository == image.repository) {
                of_pipeline.push(Wanted { pipeline: index, container: image.container.clone(), ask: pinned(named) });
            }
        }
        match foreign_branch(event, pipeline.spec) {
            Some(ships) if !of_pipeline.is_empty() => branches.push(ships),
            _ => found.extend(of_pipeline),
        }
    }
    match (found.is_empty(), branches.is_empty()) {
        (false, _) => Ok(found),
        (true, false) => {
            let git_ref = event.git_ref.clone().unwrap_or_default();
            Err(Ignored::OtherBranch { git_ref, ships: branches.join(", ") })
        }
        (true, true) => {
            let mut what = bound.iter().map(|i| i.repository.as_str()).collect::<Vec<_>>().join(", ");
            if let Some(namespace) = &event.pipeline_namespace {
                what.push_str(&format!(" in namespace '{namespace}'"));
            }
            Err(Ignored::UnknownPipeline { what })
        }
    }
}

/// A digest is what will be looked up; a tag beside it says nothing more.
fn pinned(named: &EventImage) -> EventImage {
    let tag = match (&named.digest, &named.tag) {
        (Some(_), _) => None,
        (None, Some(tag)) => Some(tag.clone()),
        (None, None) => Some("latest".into()),
    };
    EventImage { repository: named.repository.clone(), tag, digest: named.digest.clone() }
}

/// The branches that ship, if the event tells of a branch of this pipeline's source that does not.
fn foreign_branch(event: &BuildEventSpec, spec: &PipelineSpec) -> Option<String> {
    let (repository, git_ref) = (event.repository.as_ref()?, event.git_ref.as_ref()?);
    let known: Vec<_> = spec
        .sources
        .iter()
        .filter(|s| s.event_source == event.source && s.repository.eq_ignore_ascii_case(repository))
        .collect();
    if known.is_empty() || known.iter().any(|s| s.branch == *git_ref) {
        return None;
    }
    Some(known.iter().map(|s| s.branch.as_str()).collect::<Vec<_>>().join(", "))
}
