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

/// Of the images that failed: another build of their revision is held back as well.
fn repositories(seen: &Seen, digests: &[String]) -> Vec<String> {
    let failed = seen.spec.images.iter().filter(|image| digests.contains(&image.digest));
    let all: std::collections::BTreeSet<String> = failed.map(|image| image.repository.clone()).collect();
    all.into_iter().collect()
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
        repositories: repositories(seen, digests),
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
                if answers(&existing.spec, &spec) {
                    hand.world.quarantines.wrote(existing);
                    return Ok(());
                }
            }
            Err(error) => return Err(called(WHAT)(error)),
        }
    }
    Err(ApplyError::Stale { what: WHAT })
}

/// Whether what is there makes a quarantine of `wanted` superfluous: it holds here, or it was made for this very
/// rollout and a person has lifted it since.
fn answers(existing: &QuarantineSpec, wanted: &QuarantineSpec) -> bool {
    let here =
        existing.environments.is_empty() || wanted.environments.iter().all(|e| existing.environments.contains(e));
    if existing.lifted.is_none() { here } else { existing.origin == wanted.origin }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_persons_lift_stands_for_the_rollout_it_was_made_for_and_for_no_other() {
        let spec = |environments: &[&str], origin: &str, lifted: bool| -> QuarantineSpec {
            let mut spec =
                json!({"digests": ["sha256:00"], "environments": environments, "reason": "x", "origin": origin});
            if lifted {
                spec["lifted"] = json!({"by": "ann", "reason": "a mistake, see the report"});
            }
            serde_json::from_value(spec).unwrap()
        };
        let wanted = spec(&["east"], "east/shop/portal-1-1", false);
        for (existing, expected, case) in [
            (spec(&[], "hub", false), true, "everywhere"),
            (spec(&["east", "west"], "x", false), true, "here too"),
            (spec(&["west"], "x", false), false, "elsewhere"),
            (spec(&["east"], "east/shop/portal-1-1", true), true, "lifted, this rollout's"),
            (spec(&["east"], "east/shop/portal-1-2", true), false, "lifted, another attempt's"),
        ] {
            assert_eq!(answers(&existing, &wanted), expected, "{case}");
        }
    }
}
