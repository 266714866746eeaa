//! Which digests no automation ships again, and what a breach adds to them.

use std::collections::BTreeMap;

use crate::api::{Quarantine, QuarantineSpec, ReleaseImage, Rollout};

/// The quarantine that holds one of `images` back in one of `environments`.
pub fn quarantined<'a>(
    quarantines: impl IntoIterator<Item = &'a Quarantine>,
    images: &[ReleaseImage],
    environments: &[&str],
) -> Option<&'a Quarantine> {
    quarantines.into_iter().find(|quarantine| {
        let spec = &quarantine.spec;
        let here = spec.environments.is_empty() || spec.environments.iter().any(|e| environments.contains(&e.as_str()));
        spec.lifted.is_none() && here && images.iter().any(|image| spec.digests.contains(&image.digest))
    })
}

/// `sha256-<first 40 hex of the digest>`.
pub(super) fn name_of(digest: &str) -> String {
    let hex: String = digest.trim_start_matches("sha256:").chars().take(40).collect();
    format!("sha256-{hex}")
}

/// The names under which a rollout's digests are quarantined, one per digest that it brought: what
/// stable ran before already was not what failed.
pub fn quarantine_names(rollout: &Rollout) -> BTreeMap<String, String> {
    let target = rollout.status.as_ref().map(|s| s.target.as_slice()).unwrap_or_default();
    let before = |image: &&ReleaseImage| target.iter().any(|t| t.digest == image.digest);
    let mut brought: Vec<&ReleaseImage> = rollout.spec.images.iter().filter(|i| !before(i)).collect();
    if brought.is_empty() {
        brought = rollout.spec.images.iter().collect();
    }
    brought.into_iter().map(|image| (name_of(&image.digest), image.digest.clone())).collect()
}

/// What the breach of `rollout` is to add, beside what is quarantined already. With `everywhere`
/// it holds in all environments.
pub(super) fn adopt(rollout: &Rollout, everywhere: bool, existing: &[&Quarantine]) -> Vec<(String, QuarantineSpec)> {
    let environment = &rollout.spec.environment;
    let mut added = Vec::new();
    for (name, digest) in quarantine_names(rollout) {
        let origin = rollout.metadata.name.as_deref().unwrap_or_default();
        let origin = format!("{environment}/{}/{origin}", rollout.spec.namespace);
        let known = existing.iter().find(|q| q.metadata.name.as_deref() == Some(name.as_str()));
        let environments = match known {
            // Lifted by a person after this very breach: it stays lifted.
            Some(known) if known.spec.lifted.is_some() && known.spec.origin.as_deref() == Some(origin.as_str()) => {
                continue;
            }
            Some(known) if known.spec.lifted.is_some() && everywhere => vec![],
            Some(known) if known.spec.lifted.is_some() => vec![environment.clone()],
            Some(known) if known.spec.environments.is_empty() => continue,
            Some(known) if !everywhere && known.spec.environments.contains(environment) => continue,
            Some(known) if !everywhere => {
                let mut wider = known.spec.environments.clone();
                wider.push(environment.clone());
                wider
            }
            _ if everywhere => vec![],
            _ => vec![environment.clone()],
        };
        let breach = rollout.status.as_ref().and_then(|s| s.breach.as_ref());
        let reason = match breach {
            Some(breach) => format!("{:?} breach in {environment}: {}", breach.kind, breach.message),
            None => format!("rolled back in {environment}"),
        };
        let spec = QuarantineSpec {
            digests: vec![digest],
            revision: rollout.spec.revision.clone(),
            environments,
            reason: reason.chars().take(1024).collect(),
            origin: Some(origin),
            lifted: None,
        };
        added.push((name, spec));
    }
    added
}
