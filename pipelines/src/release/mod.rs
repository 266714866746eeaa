//! From a build event to a version's way through the environments: which Release an event makes
//! ([`resolve`]), and what the hub does next for a Release ([`plan`]). Pure: never fetches,
//! writes or reads a clock; every answer comes with its reason.

mod allowed;
mod back;
pub mod check;
mod draft;
mod lint;
mod order;
mod plan;
mod quarantine;
mod resolve;
mod retire;
mod ship;
mod verify;
mod wanted;
mod world;

pub use allowed::{Claim, NotAllowed, ambiguous, claims, namespace_allowed, reaches, target_namespace};
pub use lint::{Refusal, refusals};
pub use order::{built_at, current, is_newer};
pub use plan::{Note, Plan, Write, plan};
pub use quarantine::{Held, Version, quarantine_names, quarantined};
pub use resolve::{Ignored, Known, MAX_EVENTS_KEPT, Outcome, ReleaseAction, ResolveInput, resolve};
pub use retire::{PATIENCE, Retirement, Spot, retire, retire_name};
pub use wanted::{Lookup, PipelineView, Wanted, bound_to, reference, wanted};
pub use world::{Finding, PipelineState, Place, World};

use sha2::Digest as _;

use crate::api::ReleaseImage;

/// Approvals of this stage name let an older release ship.
pub const DOWNGRADE_STAGE: &str = "downgrade";

/// `<pipeline>-<first 10 hex of sha256(pipeline uid, sorted "container=repository@digest")>`.
pub fn release_name(pipeline: &str, pipeline_uid: &str, images: &[ReleaseImage]) -> String {
    let mut parts: Vec<String> = images.iter().map(|i| format!("{}={}", i.container, i.reference())).collect();
    parts.sort();
    let text = format!("{pipeline_uid}\n{}", parts.join("\n"));
    let hash = hex::encode(sha2::Sha256::digest(text.as_bytes()));
    format!("{pipeline}-{}", hash.get(..10).unwrap_or_default())
}

/// The Rollout that ships `attempt` of a release.
pub fn rollout_name(release: &str, attempt: u32) -> String {
    format!("{release}-{attempt}")
}

/// The Rollout that takes `attempt` of a release back where it had passed.
pub fn rollback_name(release: &str, attempt: u32) -> String {
    format!("{release}-{attempt}-rb")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(container: &str, digit: &str) -> ReleaseImage {
        ReleaseImage {
            container: container.into(),
            repository: "reg/acme/portal".into(),
            digest: format!("sha256:{}", digit.repeat(64)),
        }
    }

    #[test]
    fn a_release_is_named_by_its_pipeline_and_digests_in_any_order() {
        let (a, b) = (image("app", "1"), image("proxy", "2"));
        let name = release_name("portal", "uid", &[a.clone(), b.clone()]);
        assert_eq!(name, release_name("portal", "uid", &[b.clone(), a.clone()]));
        assert!(name.starts_with("portal-") && name.len() == "portal-".len() + 10, "{name}");
        assert_ne!(name, release_name("portal", "other uid", &[a.clone(), b]));
        assert_ne!(name, release_name("portal", "uid", &[a, image("proxy", "3")]));
    }
}
