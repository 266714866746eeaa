//! What becomes of a build event: releases, a wait, or a line that says why nothing ships. Works
//! over what the registry answered; never asks it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::order::{self, downgrade_of};
use super::wanted::{Lookup, PipelineView, Wanted, reference, wanted};
use super::{Version, quarantined, release_name};
use crate::api::{
    BuildEventPhase, BuildEventSpec, BuildEventStatus, EventImage, EventSourceSpec, ImageIndex, Quarantine, Release,
    ReleaseImage, ReleasePhase, ReleaseSpec, Span, names,
};

/// How many events a Release remembers to have answered.
pub const MAX_EVENTS_KEPT: usize = 8;

pub struct ResolveInput<'a> {
    /// Name of the BuildEvent.
    pub name: &'a str,
    pub event: &'a BuildEventSpec,
    pub status: Option<&'a BuildEventStatus>,
    pub source: Option<&'a EventSourceSpec>,
    pub pipelines: &'a [PipelineView<'a>],
    /// By [`reference`].
    pub lookups: &'a BTreeMap<String, Lookup>,
    /// What the indexes among the digests found list, by their digest.
    pub indexes: &'a BTreeMap<String, Vec<String>>,
    pub releases: &'a [&'a Release],
    pub quarantines: &'a [&'a Quarantine],
    pub now: Timestamp,
}

/// Why an event ships nothing. The variant's name is the reason that is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    #[error("nothing to ship: {why}")]
    NothingToShip { why: String },
    #[error("its EventSource '{name}' is gone")]
    UnknownSource { name: String },
    #[error("no pipeline ships {what}")]
    UnknownPipeline { what: String },
    #[error("the EventSource '{name}' may not speak for {image}: add it to spec.images there if it should")]
    ForeignImage { image: String, name: String },
    #[error("'{git_ref}' is not a branch that ships ({ships})")]
    OtherBranch { git_ref: String, ships: String },
    #[error("{pipeline} and {others} claim the same workload: only one may")]
    AmbiguousPipelines { pipeline: String, others: String },
    #[error("{pipeline} is refused: {why}")]
    PipelineRefused { pipeline: String, why: String },
    #[error("{release} is quarantined ({quarantine}): {why}")]
    Quarantined { release: String, quarantine: String, why: String },
    #[error("{release} is under way already ({phase})")]
    AlreadyUnderWay { release: String, phase: String },
    #[error("{release} already runs everywhere")]
    AlreadyRuns { release: String },
    #[error("{release} was withdrawn by a person: `retry` ships it again")]
    Withdrawn { release: String },
    #[error("{release} is older than {newer}: `retry` and an Approval of stage 'downgrade' for that attempt ship it")]
    Downgrade { release: String, newer: String },
}

impl Ignored {
    /// PascalCase.
    pub fn reason(&self) -> &'static str {
        match self {
            Ignored::NothingToShip { .. } => "NothingToShip",
            Ignored::UnknownSource { .. } => "UnknownSource",
            Ignored::UnknownPipeline { .. } => "UnknownPipeline",
            Ignored::ForeignImage { .. } => "ForeignImage",
            Ignored::OtherBranch { .. } => "OtherBranch",
            Ignored::AmbiguousPipelines { .. } => "AmbiguousPipelines",
            Ignored::PipelineRefused { .. } => "PipelineRefused",
            Ignored::Quarantined { .. } => "Quarantined",
            Ignored::AlreadyUnderWay { .. } => "AlreadyUnderWay",
            Ignored::AlreadyRuns { .. } => "AlreadyRuns",
            Ignored::Withdrawn { .. } => "Withdrawn",
            Ignored::Downgrade { .. } => "Downgrade",
        }
    }
}

/// What is to be written for one pipeline.
#[derive(Clone, Debug, PartialEq)]
pub enum ReleaseAction {
    Create {
        namespace: String,
        name: String,
        spec: Box<ReleaseSpec>,
    },
    /// Ship the same digests once more.
    Attempt {
        namespace: String,
        name: String,
        attempt: u32,
    },
    /// This very event is answered by it already.
    Known(Known),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub namespace: String,
    pub name: String,
}

impl ReleaseAction {
    pub fn full_name(&self) -> String {
        match self {
            ReleaseAction::Create { namespace, name, .. }
            | ReleaseAction::Attempt { namespace, name, .. }
            | ReleaseAction::Known(Known { namespace, name }) => format!("{namespace}/{name}"),
        }
    }
}

/// What became of the event, and what is to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub phase: BuildEventPhase,
    /// PascalCase.
    pub reason: &'static str,
    pub message: String,
    pub waiting_until: Option<Timestamp>,
    pub resolved: Vec<EventImage>,
    pub actions: Vec<ReleaseAction>,
}

pub fn resolve(input: &ResolveInput<'_>) -> Outcome {
    let wanted = match wanted(input.event, input.source, input.pipelines) {
        Ok(wanted) => wanted,
        Err(ignored) => return Outcome::ignored(&ignored),
    };
    let mut open: Vec<String> = Vec::new();
    let mut ignored: Vec<Ignored> = Vec::new();
    let mut actions: Vec<ReleaseAction> = Vec::new();
    let mut resolved: Vec<EventImage> = Vec::new();
    let concerned: BTreeSet<usize> = wanted.iter().map(|w| w.pipeline).collect();
    for (index, pipeline) in input.pipelines.iter().enumerate().filter(|(i, _)| concerned.contains(i)) {
        let mine: Vec<&Wanted> = wanted.iter().filter(|w| w.pipeline == index).collect();
        if let Some(refusal) = refusal(pipeline) {
            ignored.push(refusal);
            continue;
        }
        let mut images = Vec::new();
        for want in &mine {
            match input.lookups.get(&reference(&want.ask)) {
                Some(Lookup::Found(digest)) => {
                    let found = EventImage { digest: Some(digest.clone()), ..want.ask.clone() };
                    if !resolved.contains(&found) {
                        resolved.push(found);
                    }
                    images.push(ReleaseImage {
                        container: want.container.clone(),
                        repository: want.ask.repository.clone(),
                        digest: digest.clone(),
                    });
                }
                Some(Lookup::NotThere) => open.push(format!("{} is not there yet", reference(&want.ask))),
                Some(Lookup::Away(why)) => open.push(format!("{}: {why}", reference(&want.ask))),
                None => open.push(format!("{} was not asked for yet", reference(&want.ask))),
            }
        }
        if images.len() == mine.len() {
            match for_pipeline(input, pipeline, images) {
                Ok(action) => actions.push(action),
                Err(why) => ignored.push(why),
            }
        }
    }
    conclude(input, open, &ignored, actions, resolved)
}

fn refusal(pipeline: &PipelineView<'_>) -> Option<Ignored> {
    if !pipeline.ambiguous_with.is_empty() {
        let others = pipeline.ambiguous_with.join(", ");
        return Some(Ignored::AmbiguousPipelines { pipeline: pipeline.full_name(), others });
    }
    let why = pipeline.refused.clone()?;
    Some(Ignored::PipelineRefused { pipeline: pipeline.full_name(), why })
}

/// The digests of this event together with the last released ones of the containers it does not
/// name. A container that was never released stays as it is in the workload.
fn completed(input: &ResolveInput<'_>, pipeline: &PipelineView<'_>, named: Vec<ReleaseImage>) -> Vec<ReleaseImage> {
    let mut earlier: Vec<&Release> = of_pipeline(input, pipeline)
        .into_iter()
        .filter(|r| order::phase(r).is_some_and(|p| p == ReleasePhase::Promoted || p.is_shipping()))
        .collect();
    earlier.sort_by_key(|r| std::cmp::Reverse((order::admitted_at(r), order::built_at(r))));
    let mut images = named;
    for wish in &pipeline.spec.images {
        if images.iter().any(|i| i.container == wish.container) {
            continue;
        }
        let same = |i: &&ReleaseImage| i.container == wish.container && i.repository == wish.repository;
        images.extend(earlier.iter().find_map(|r| r.spec.images.iter().find(same)).cloned());
    }
    images.sort_by(|a, b| a.container.cmp(&b.container));
    images
}

fn of_pipeline<'a>(input: &ResolveInput<'a>, pipeline: &PipelineView<'_>) -> Vec<&'a Release> {
    let mine =
        |r: &&&Release| r.namespace().as_deref() == Some(pipeline.namespace) && r.spec.pipeline_uid == pipeline.uid;
    input.releases.iter().filter(mine).copied().collect()
}

fn for_pipeline(
    input: &ResolveInput<'_>,
    pipeline: &PipelineView<'_>,
    named: Vec<ReleaseImage>,
) -> Result<ReleaseAction, Ignored> {
    let images = completed(input, pipeline, named);
    let name = release_name(pipeline.name, pipeline.uid, &images);
    let namespace = pipeline.namespace.to_owned();
    let siblings = of_pipeline(input, pipeline);
    let existing = siblings.iter().copied().find(|r| r.name_any() == name);
    if let Some(existing) = existing
        && answered(existing).any(|event| event == input.name)
    {
        return Ok(ReleaseAction::Known(Known { namespace, name }));
    }
    let environments: Vec<&str> =
        pipeline.spec.stages.iter().flat_map(|s| &s.environments).map(String::as_str).collect();
    let indexes = indexes(input, &siblings, &images);
    let revision = existing.and_then(|e| e.spec.revision.as_deref()).or(input.event.revision.as_deref());
    let version = Version { images: &images, indexes: &indexes, revision };
    if let Some(found) = quarantined(input.quarantines.iter().copied(), &version, &environments) {
        return Err(Ignored::Quarantined { release: name, quarantine: found.name, why: found.why });
    }
    let Some(existing) = existing else {
        let spec = Box::new(new_spec(input.event, pipeline, images, indexes));
        return Ok(ReleaseAction::Create { namespace, name, spec });
    };
    let others: Vec<&Release> = siblings.iter().copied().filter(|r| r.name_any() != name).collect();
    let withdrawn = existing.spec.abort || existing.spec.undo;
    match order::phase(existing) {
        Some(ReleasePhase::Withdrawn) => return Err(Ignored::Withdrawn { release: name }),
        Some(phase) if phase.is_terminal() && withdrawn => return Err(Ignored::Withdrawn { release: name }),
        Some(ReleasePhase::Promoted)
            if order::current(siblings.iter().copied()).is_some_and(|c| c.name_any() == name) =>
        {
            return Err(Ignored::AlreadyRuns { release: name });
        }
        Some(phase) if phase.is_terminal() => {}
        phase => {
            let phase = format!("{:?}", phase.unwrap_or(ReleasePhase::Verifying));
            return Err(Ignored::AlreadyUnderWay { release: name, phase });
        }
    }
    if let Some(newer) = downgrade_of(existing, &others, &[]) {
        return Err(Ignored::Downgrade { release: name, newer: newer.name_any() });
    }
    Ok(ReleaseAction::Attempt { namespace, name, attempt: existing.spec.attempt + 1 })
}

/// What the indexes among `images` list: as the registry said now, or when an earlier release was made.
fn indexes(input: &ResolveInput<'_>, siblings: &[&Release], images: &[ReleaseImage]) -> Vec<ImageIndex> {
    let known = |digest: &String| {
        let earlier = || siblings.iter().flat_map(|r| &r.spec.indexes).find(|i| i.digest == *digest);
        input.indexes.get(digest).cloned().or_else(|| earlier().map(|i| i.children.clone()))
    };
    let digests: BTreeSet<&String> = images.iter().map(|i| &i.digest).collect();
    digests
        .into_iter()
        .filter_map(|digest| Some(ImageIndex { digest: digest.clone(), children: known(digest)? }))
        .filter(|index| !index.children.is_empty())
        .collect()
}

/// The events that a Release has answered.
fn answered(release: &Release) -> impl Iterator<Item = &str> {
    release.annotations().get(names::EVENTS_ANNOTATION).map(String::as_str).unwrap_or_default().split(',')
}

fn new_spec(
    event: &BuildEventSpec,
    pipeline: &PipelineView<'_>,
    images: Vec<ReleaseImage>,
    indexes: Vec<ImageIndex>,
) -> ReleaseSpec {
    // What the sender says of the time is a hint: a date in the future would make all others old.
    let said = event.occurred_at.as_ref().map_or(event.received_at.0, |t| t.0.min(event.received_at.0));
    ReleaseSpec {
        pipeline: pipeline.name.to_owned(),
        pipeline_uid: pipeline.uid.to_owned(),
        images,
        revision: event.revision.clone(),
        repository: event.repository.clone(),
        built_at: Some(Time(said)),
        event_source: Some(event.source.clone()),
        indexes,
        snapshot: pipeline.spec.clone(),
        attempt: 1,
        abort: false,
        paused: false,
        undo: false,
    }
}

impl Outcome {
    fn ignored(why: &Ignored) -> Outcome {
        Outcome {
            phase: BuildEventPhase::Ignored,
            reason: why.reason(),
            message: why.to_string(),
            waiting_until: None,
            resolved: vec![],
            actions: vec![],
        }
    }
}

fn conclude(
    input: &ResolveInput<'_>,
    open: Vec<String>,
    ignored: &[Ignored],
    actions: Vec<ReleaseAction>,
    resolved: Vec<EventImage>,
) -> Outcome {
    let wait = input.source.map_or(Span::from_secs(900), |s| s.wait).signed();
    let until = input.event.received_at.0.checked_add(wait).unwrap_or(input.now);
    let mut lines: Vec<String> = Vec::new();
    if !actions.is_empty() {
        let made: Vec<String> = actions.iter().map(ReleaseAction::full_name).collect();
        lines.push(format!("released {}", made.join(", ")));
    }
    lines.extend(ignored.iter().map(Ignored::to_string));
    let over = input.now >= until;
    let (phase, reason) = match (open.is_empty(), over) {
        (false, false) => (BuildEventPhase::Waiting, "WaitingForImage"),
        (_, _) if !actions.is_empty() => (BuildEventPhase::Released, "Released"),
        (false, true) => (BuildEventPhase::Expired, "ImageNeverCame"),
        (true, _) => (BuildEventPhase::Ignored, ignored.first().map_or("NothingToShip", Ignored::reason)),
    };
    lines.extend(open);
    Outcome {
        phase,
        reason,
        message: lines.join("; ").chars().take(1024).collect(),
        waiting_until: (phase == BuildEventPhase::Waiting).then_some(until),
        resolved,
        actions,
    }
}
