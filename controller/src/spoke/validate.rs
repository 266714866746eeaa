//! Second step: what makes a rollout impossible whatever the planner wants. Looks only, and says what to change.

use tidegate_pipelines::api::{RolloutPhase, RolloutReason};
use tidegate_pipelines::rollout::{Odd, Reason};

use super::canary::CanaryError;
use super::observe::Seen;

#[derive(Debug, thiserror::Error)]
pub enum ValidateError {
    /// The rollout is of another environment: its mirror is wrong, and nothing here is touched.
    #[error("the Rollout is for environment '{asked}', and this is '{here}'")]
    OtherEnvironment { asked: String, here: String },
}

/// None: the planner may go on. A refusal ends the rollout while nothing has moved.
pub fn validate(seen: &Seen, environment: &str) -> Result<Option<Reason>, ValidateError> {
    if seen.spec.environment != environment {
        return Err(ValidateError::OtherEnvironment {
            asked: seen.spec.environment.clone(),
            here: environment.to_owned(),
        });
    }
    let untouched = matches!(seen.status.phase, None | Some(RolloutPhase::Waiting)) && seen.status.started_at.is_none();
    if !untouched {
        return Ok(None);
    }
    Ok(refusal(seen))
}

/// What only a person can mend. A canary's ref without stable is lowered by the rollout itself.
fn ambiguous(seen: &Seen) -> Option<(&'static str, String)> {
    let view = &seen.route.as_ref()?.view;
    view.rules.iter().any(|rule| rule.odd == Some(Odd::Ambiguous)).then(|| view.odd())?
}

fn refusal(seen: &Seen) -> Option<Reason> {
    if seen.spec.namespace != seen.namespace() {
        let message =
            format!("spec.namespace is '{}': a Rollout lives in the namespace it acts on", seen.spec.namespace);
        return Some(Reason::new("WrongNamespace", message));
    }
    if seen.spec.reason == RolloutReason::Retire {
        // It ships nothing: what else may be wrong does not matter any more.
        return None;
    }
    if let Some((code, why)) = ambiguous(seen) {
        return Some(Reason::new(code, why));
    }
    if let Some(taken) = &seen.taken {
        let error = CanaryError::Foreign(taken.clone());
        return Some(Reason::new(error.reason(), error.to_string()));
    }
    let stable = seen.stable.as_ref()?;
    for image in &seen.spec.images {
        if !stable.images.contains_key(&image.container) {
            let workload = &seen.spec.workload.name;
            let message = format!("Deployment {workload} has no container '{}'", image.container);
            return Some(Reason::new("ContainerNotFound", message));
        }
    }
    None
}
