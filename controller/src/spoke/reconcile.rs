//! One pass over one rollout: observe, validate, plan, apply, status, report. Takes no hint of what changed.

use std::time::Duration;

use tidegate_pipelines::api::RolloutPhase;
use tidegate_pipelines::rollout::{Hub, Order};
use tokio::sync::watch;

use super::apply::{Applied, ApplyError, Hand};
use super::evidence::{Answer, Question};
use super::observe::{self, Memory, ObserveError};
use super::plan;
use super::report::Teller;
use super::status::{self, StatusError, Written};
use super::validate::{ValidateError, validate};
use crate::step::reconcile_error;

reconcile_error! {
    Observe(ObserveError) = "observe",
    Validate(ValidateError) = "validate",
    Apply(ApplyError) = "apply",
    Status(StatusError) = "status",
}

impl ReconcileError {
    /// The API server did not answer, which its client tells for all.
    pub fn is_unanswered(&self) -> bool {
        match self {
            ReconcileError::Apply(ApplyError::Call { source, .. }) => source.is_unanswered(),
            ReconcileError::Status(StatusError::Call(source)) => source.is_unanswered(),
            _ => false,
        }
    }
}

/// What a pass leaves to its task.
#[derive(Debug)]
pub struct Outcome {
    /// Look again after this long even if nothing changes.
    pub wake_after: Duration,
    /// Nothing is left to do, ever.
    pub finished: bool,
    pub changed: bool,
}

/// The tools of one rollout's passes.
pub struct Pass<'a> {
    pub hand: Hand<'a>,
    pub teller: &'a Teller,
    pub hub: Hub,
    pub answer: Option<Answer>,
    pub questions: &'a watch::Sender<Option<Question>>,
}

/// `key` is (namespace, name).
pub async fn reconcile(
    pass: &Pass<'_>,
    key: (&str, &str),
    memory: &mut Memory,
    written: &mut Written,
) -> Result<Outcome, ReconcileError> {
    let Pass { hand, teller, .. } = pass;
    let now = hand.clock.now();
    let mut seen = observe::observe(hand.world, key, now, pass.hub, pass.answer.as_ref(), memory)?;
    pass.questions.send_replace(seen.question.take());
    let refusal = validate(&seen, hand.environment)?;
    let plan = plan::plan(&seen, refusal);
    let mut applied = Applied::default();
    let done = hand.apply(&plan, Order::BeforeStatus, &seen, &mut applied).await;
    // Also when a later action failed: that weight 0 was acknowledged is not to be forgotten.
    let status = status::complete(plan.next_status.clone(), &seen.status, &applied, &mut memory.unrecorded);
    done?;
    let wrote = status::write(hand, &seen, status.clone(), written).await?;
    if wrote {
        teller.report(&seen, &plan, &status, &applied);
    }
    hand.apply(&plan, Order::AfterStatus, &seen, &mut applied).await?;
    let terminal = status.phase.is_some_and(RolloutPhase::is_terminal);
    let changed = wrote || !plan.actions.is_empty();
    Ok(Outcome { wake_after: plan.wake_after, finished: terminal && !changed, changed })
}
