//! The local quarantine, made at once on a breach; the hub adopts it from the Rollout's status. Never deletes
//! or lifts one.

use kube::Api;
use kube::api::PostParams;
use tidegate_pipelines::api::{Quarantine, QuarantineSpec, names};

use super::apply::{ApplyError, Hand, called};
use super::observe::Seen;
use crate::connect::bounded;

/// `sha256-<first 40 hex of the first digest>`.
pub fn name_of(digest: &str) -> String {
    let hex: String = digest.strip_prefix("sha256:").unwrap_or(digest).chars().take(40).collect();
    format!("sha256-{hex}")
}

pub(super) async fn create(
    hand: &Hand<'_>,
    seen: &Seen,
    digests: &[String],
    revision: Option<&str>,
    message: &str,
) -> Result<(), ApplyError> {
    const WHAT: &str = "quarantine the digest";
    let Some(first) = digests.first() else { return Ok(()) };
    let rollout = seen.rollout.metadata.name.as_deref().unwrap_or_default();
    let spec = QuarantineSpec {
        digests: digests.to_vec(),
        revision: revision.map(str::to_owned),
        environments: vec![hand.environment.to_owned()],
        reason: message.chars().take(1024).collect(),
        origin: Some(format!("{}/{}/{rollout}", hand.environment, seen.namespace())),
        lifted: None,
    };
    let api: Api<Quarantine> = Api::all(hand.world.client.clone());
    let uid: String = seen.uid().chars().take(8).collect();
    // A lifted one of that name is a record of somebody's decision: a new breach is told beside it.
    for name in [name_of(first), format!("{}-{uid}", name_of(first))] {
        let mut object = Quarantine::new(&name, spec.clone());
        object.metadata.labels =
            Some([(names::PIPELINE_LABEL.to_owned(), seen.spec.pipeline.chars().take(63).collect())].into());
        match bounded(api.create(&PostParams::default(), &object)).await {
            Ok(written) => {
                hand.world.quarantines.wrote(written);
                return Ok(());
            }
            Err(error) if error.code() == Some(409) => {
                let existing = bounded(api.get(&name)).await.map_err(called(WHAT))?;
                let holds = existing.spec.lifted.is_none()
                    && (existing.spec.environments.is_empty()
                        || existing.spec.environments.iter().any(|e| e == hand.environment));
                if holds {
                    hand.world.quarantines.wrote(existing);
                    return Ok(());
                }
            }
            Err(error) => return Err(called(WHAT)(error)),
        }
    }
    Err(ApplyError::Stale { what: WHAT })
}
