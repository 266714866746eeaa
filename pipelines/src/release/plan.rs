//! What the hub does next for one Release: the rows of the lifecycle's Release table. One call
//! looks at everything anew; a second call on the outcome of the first writes nothing.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::draft::Draft;
use super::order::admitted_at;
use super::world::{PipelineState, World};
use crate::api::{PipelineSpec, QuarantineSpec, Release, ReleasePhase, ReleaseStatus, RolloutSpec};

/// The next status, what is to be written for it, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub status: ReleaseStatus,
    pub writes: Vec<Write>,
    pub notes: Vec<Note>,
    /// When to look again although nothing changed.
    pub wake_after: Option<SignedDuration>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// A new intent in `env-<environment>`.
    Create {
        name: String,
        spec: Box<RolloutSpec>,
    },
    /// An intent whose environment is gone: nobody will ever answer it.
    Remove {
        environment: String,
        name: String,
    },
    Supersede {
        environment: String,
        name: String,
        by: String,
    },
    Abort {
        environment: String,
        name: String,
    },
    /// Mark it: its pipeline is gone, so it goes back and takes what is ours along.
    Retire {
        environment: String,
        name: String,
    },
    /// The pipeline as it is now, for an attempt that has not been admitted yet. Stands alone: what follows is
    /// planned over it.
    Snapshot {
        spec: Box<PipelineSpec>,
    },
    /// Hold it because its release is held, and remember that this is why.
    Pause {
        environment: String,
        name: String,
    },
    Resume {
        environment: String,
        name: String,
    },
    Quarantine {
        name: String,
        spec: Box<QuarantineSpec>,
    },
}

/// One decision for people: also the Event's reason and the metric's label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub reason: &'static str,
    pub environment: Option<String>,
    pub message: String,
}

pub fn plan(world: &World<'_>) -> Plan {
    let mut draft = Draft::new(world);
    let spec = &world.release.spec;
    let phase = draft.phase();
    if let Some(current) = outdated(world, &draft) {
        let mut plan = draft.rest();
        let attempt = spec.attempt;
        let message = format!("attempt {attempt} ships by the pipeline as it is now");
        plan.notes.push(Note { reason: "PipelineTaken", environment: None, message });
        plan.writes.push(Write::Snapshot { spec: Box::new(current.clone()) });
        return plan;
    }
    let undoable = matches!(phase, ReleasePhase::Promoted | ReleasePhase::RolledBack | ReleasePhase::Stopped);
    if phase.is_terminal() && !(spec.undo && undoable) {
        draft.call_off_late();
        return draft.rest();
    }
    draft.follow_rollouts();
    if spec.undo {
        draft.undo();
    } else if draft.breached().is_some() && world.pipeline != PipelineState::Going {
        draft.go_back();
    } else if spec.abort {
        draft.withdraw("withdrawn by a person");
    } else if world.pipeline == PipelineState::Going {
        draft.retire();
    } else if let Some(newer) = superseding(world) {
        draft.give_way(&newer.name_any());
    } else if draft.overdue() {
        draft.withdraw("another attempt was asked for: what is under way goes back first");
    } else if draft.ended_badly().is_some() {
        draft.stop();
    } else if draft.status.admitted_at.is_none() {
        draft.verify();
        if draft.status.admitted_at.is_some() {
            draft.ship();
        }
    } else {
        draft.ship();
    }
    draft.call_off_late();
    draft.follow_pause();
    // After what moves traffic: each spoke that saw a breach has its own quarantine already.
    draft.quarantine_breaches();
    draft.finish()
}

/// The pipeline as it is now, if a further attempt is still to take it: whoever mended the pipeline and retries
/// means the mended one. The first attempt ships what was there when the event came.
fn outdated<'a>(world: &World<'a>, draft: &Draft<'_, '_>) -> Option<&'a PipelineSpec> {
    let spec = &world.release.spec;
    let open = draft.status.admitted_at.is_none() && !draft.phase().is_terminal() && !spec.abort && !spec.undo;
    let again = spec.attempt > 1 && open && world.pipeline != PipelineState::Going;
    world.current.filter(|current| again && **current != spec.snapshot)
}

/// The release that was admitted after this one and ships or has shipped.
pub(super) fn superseding<'a>(world: &World<'a>) -> Option<&'a Release> {
    let mine: Timestamp = admitted_at(world.release)?;
    world
        .others
        .iter()
        .filter(|other| admitted_at(other).is_some_and(|theirs| theirs > mine))
        .filter(|other| super::order::phase(other).is_some_and(|p| p.is_shipping() || p == ReleasePhase::Promoted))
        .max_by_key(|other| admitted_at(other))
        .copied()
}
