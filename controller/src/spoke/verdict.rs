//! What this environment's own guard says of a rollout's images, read from its Verdicts. Judges nothing itself: what
//! is not there, expired or of another question is no answer.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use tidegate_pipelines::api::{ReleaseImage, Verdict, VerdictDecision, VerdictSpec};
use tidegate_pipelines::rollout::VerdictView;
use tidegate_policies::image::ImageRef;

use super::world::{InForce, World};

/// Digests that no Quarantine in force here lets run.
pub(super) fn quarantined(world: &World, environment: &str) -> BTreeSet<String> {
    let holds = world.quarantines.select(|q| {
        q.spec.lifted.is_none()
            && (q.spec.environments.is_empty() || q.spec.environments.iter().any(|e| e == environment))
    });
    holds.iter().flat_map(|q| q.spec.digests.iter().cloned()).collect()
}

/// What the guard found of this image under the policy in force; the newest, should a name's scheme ever give two.
pub(super) fn kept(world: &World, in_force: &InForce, namespace: &str, image: &ReleaseImage) -> Option<Arc<Verdict>> {
    let parsed: ImageRef = image.reference().parse().ok()?;
    let named = format!("{}@{}", parsed.repository_path(), image.digest);
    let found = world.verdicts.select(|v| speaks_of(&v.spec, &image.digest, &named, namespace, in_force));
    found.into_iter().max_by_key(|v| v.spec.verified_at.0)
}

/// The same digest in another repository is another image (`named`): its evidence lies elsewhere.
fn speaks_of(verdict: &VerdictSpec, digest: &str, named: &str, namespace: &str, in_force: &InForce) -> bool {
    verdict.digest == digest
        && verdict.image == named
        && verdict.namespace == namespace
        && verdict.policy_digest == in_force.policy
        && verdict.trust_root_digest == in_force.trust_root
}

/// The worst verdict over all images. With a `revision` an Allow for another one does not count.
pub(super) fn of(
    images: &[ReleaseImage],
    revision: Option<&str>,
    quarantined: &BTreeSet<String>,
    kept: &dyn Fn(&ReleaseImage) -> Option<Arc<Verdict>>,
    now: Timestamp,
) -> VerdictView {
    let (mut error, mut pending) = (None, images.is_empty());
    for image in images {
        if quarantined.contains(&image.digest) {
            return VerdictView::Deny { reason: format!("{} is quarantined", image.digest), revoked: true };
        }
        let Some(found) = kept(image) else {
            pending = true;
            continue;
        };
        let expired = found.spec.expires_at.as_ref().is_some_and(|t| t.0 <= now);
        match found.spec.decision {
            VerdictDecision::Allow if expired || speaks_of_another(&found.spec, revision) => pending = true,
            VerdictDecision::Allow => {}
            VerdictDecision::Deny => return VerdictView::Deny { reason: found.spec.summary.clone(), revoked: false },
            VerdictDecision::Error => error = Some(found.spec.summary.clone()),
        }
    }
    match (error, pending) {
        (Some(reason), _) => VerdictView::Error { reason },
        (None, true) => VerdictView::Pending,
        (None, false) => VerdictView::Allow,
    }
}

/// The same digest may have been let in for another commit than this rollout says it ships: the guard looks at it
/// anew for this one, and until then there is no answer.
fn speaks_of_another(verdict: &VerdictSpec, revision: Option<&str>) -> bool {
    match (verdict.revision.as_deref(), revision) {
        (Some(verified), Some(asked)) => verified != asked,
        // No provenance was asked for, or nothing is said about where it comes from.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DIGEST: &str = "sha256:aa";

    fn image() -> ReleaseImage {
        ReleaseImage { container: "app".into(), repository: "r/portal".into(), digest: DIGEST.into() }
    }

    fn verdict(decision: &str, revision: Option<&str>, expires: Option<&str>) -> Arc<Verdict> {
        Arc::new(
            serde_json::from_value(json!({
                "apiVersion": "tidegate.io/v1alpha1", "kind": "Verdict", "metadata": {"name": "v"},
                "spec": {
                    "image": format!("r/portal@{DIGEST}"), "digest": DIGEST, "policyDigest": "p", "trustRootDigest": "t",
                    "namespace": "shop", "decision": decision, "summary": "because", "revision": revision,
                    "verifiedAt": "2026-01-01T00:00:00Z", "expiresAt": expires
                }
            }))
            .unwrap(),
        )
    }

    fn seen(kept: Option<Arc<Verdict>>, revision: Option<&str>) -> VerdictView {
        let now = "2026-01-02T00:00:00Z".parse().unwrap();
        of(&[image()], revision, &BTreeSet::new(), &|_| kept.clone(), now)
    }

    #[test]
    fn a_verdict_on_another_image_place_or_policy_is_none_on_this() {
        let kept = verdict("Allow", None, None);
        let in_force = |policy: &str, root: &str| InForce {
            policy: policy.into(),
            trust_root: root.into(),
            mode: "Enforce".into(),
        };
        let (named, elsewhere) = (format!("r/portal@{DIGEST}"), format!("evil/portal@{DIGEST}"));
        for (digest, named, namespace, in_force, expected, case) in [
            (DIGEST, &named, "shop", in_force("p", "t"), true, "this one"),
            ("sha256:bb", &named, "shop", in_force("p", "t"), false, "another digest"),
            (DIGEST, &elsewhere, "shop", in_force("p", "t"), false, "the same digest in another repository"),
            (DIGEST, &named, "other", in_force("p", "t"), false, "another namespace"),
            (DIGEST, &named, "shop", in_force("q", "t"), false, "another policy"),
            (DIGEST, &named, "shop", in_force("p", "u"), false, "another trust root"),
        ] {
            assert_eq!(speaks_of(&kept.spec, digest, named, namespace, &in_force), expected, "{case}");
        }
    }

    #[test]
    fn an_allow_for_another_revision_never_counts() {
        for (verified, asked, allows) in [
            (Some("old"), Some("new"), false),
            (Some("new"), Some("new"), true),
            (None, Some("new"), true),
            (Some("old"), None, true),
        ] {
            let view = seen(Some(verdict("Allow", verified, None)), asked);
            let expected = if allows { VerdictView::Allow } else { VerdictView::Pending };
            assert_eq!(view, expected, "verified for {verified:?}, asked for {asked:?}");
        }
        let denied = seen(Some(verdict("Deny", Some("old"), None)), Some("new"));
        assert!(matches!(denied, VerdictView::Deny { .. }), "a no holds whatever it was asked for: {denied:?}");
    }

    #[test]
    fn what_is_not_there_or_expired_is_no_answer() {
        assert_eq!(seen(None, None), VerdictView::Pending);
        let expired = verdict("Allow", None, Some("2026-01-01T12:00:00Z"));
        assert_eq!(seen(Some(expired), None), VerdictView::Pending);
        let now = "2026-01-02T00:00:00Z".parse().unwrap();
        assert_eq!(of(&[], None, &BTreeSet::new(), &|_| None, now), VerdictView::Pending);
        let held = of(&[image()], None, &[DIGEST.to_owned()].into(), &|_| None, now);
        assert!(matches!(held, VerdictView::Deny { revoked: true, .. }), "{held:?}");
    }
}
