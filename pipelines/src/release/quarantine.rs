//! Which digests no automation ships again, and what a breach adds to them.

use std::collections::BTreeMap;

use kube::ResourceExt;

use super::world::World;
use crate::api::{ImageIndex, Quarantine, QuarantineSpec, ReleaseImage, ReleaseSpec, Rollout};

/// What is asked about: the images of a release, what is inside them, and where they come from.
#[derive(Clone, Copy, Debug)]
pub struct Version<'a> {
    pub images: &'a [ReleaseImage],
    pub indexes: &'a [ImageIndex],
    pub revision: Option<&'a str>,
}

impl<'a> From<&'a ReleaseSpec> for Version<'a> {
    fn from(spec: &'a ReleaseSpec) -> Self {
        Version { images: &spec.images, indexes: &spec.indexes, revision: spec.revision.as_deref() }
    }
}

/// A Quarantine that holds a version back, and what of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Of the Quarantine.
    pub name: String,
    pub why: String,
}

/// The quarantine that holds `version` back in one of `environments`: its digests, those inside its indexes, or
/// another build of its source revision.
pub fn quarantined<'a>(
    quarantines: impl IntoIterator<Item = &'a Quarantine>,
    version: &Version<'_>,
    environments: &[&str],
) -> Option<Held> {
    quarantines.into_iter().find_map(|quarantine| {
        let spec = &quarantine.spec;
        let here = spec.environments.is_empty() || spec.environments.iter().any(|e| environments.contains(&e.as_str()));
        if spec.lifted.is_some() || !here {
            return None;
        }
        let why = by_digest(spec, version).or_else(|| by_revision(spec, version))?;
        Some(Held { name: quarantine.name_any(), why })
    })
}

fn by_digest(spec: &QuarantineSpec, version: &Version<'_>) -> Option<String> {
    if version.images.iter().any(|image| spec.digests.contains(&image.digest)) {
        return Some(spec.reason.clone());
    }
    let inside = version.indexes.iter().filter(|index| version.images.iter().any(|i| i.digest == index.digest));
    let child = inside.flat_map(|index| &index.children).find(|child| spec.digests.contains(child))?;
    Some(format!("{child} inside it: {}", spec.reason))
}

fn by_revision(spec: &QuarantineSpec, version: &Version<'_>) -> Option<String> {
    let revision = spec.revision.as_deref().filter(|revision| version.revision == Some(revision))?;
    let of = |image: &ReleaseImage| spec.repositories.is_empty() || spec.repositories.contains(&image.repository);
    let image = version.images.iter().find(|image| of(image))?;
    Some(format!("source revision {revision} of {}: {}", image.repository, spec.reason))
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
pub(super) fn adopt(rollout: &Rollout, world: &World<'_>, everywhere: bool) -> Vec<(String, QuarantineSpec)> {
    let environment = &rollout.spec.environment;
    let mut added = Vec::new();
    for (name, digest) in quarantine_names(rollout) {
        let origin = rollout.metadata.name.as_deref().unwrap_or_default();
        let origin = format!("{environment}/{}/{origin}", rollout.spec.namespace);
        let known = world.quarantines.iter().find(|q| q.metadata.name.as_deref() == Some(name.as_str()));
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
        let repository = rollout.spec.images.iter().find(|i| i.digest == digest).map(|i| i.repository.clone());
        let mut digests = vec![digest.clone()];
        digests.extend(children(rollout, world, &digest));
        // What is held already stays held: taking a digest out of a quarantine is a person's right alone.
        for held in known.iter().flat_map(|known| &known.spec.digests) {
            if !digests.contains(held) {
                digests.push(held.clone());
            }
        }
        let spec = QuarantineSpec {
            digests,
            revision: rollout.spec.revision.clone(),
            repositories: repository.into_iter().collect(),
            environments,
            reason: reason.chars().take(1024).collect(),
            origin: Some(origin),
            lifted: None,
        };
        added.push((name, spec));
    }
    added
}

/// What is inside the index that failed, but for what stable ran before as well: that was not what failed.
fn children(rollout: &Rollout, world: &World<'_>, digest: &str) -> Vec<String> {
    let releases = || std::iter::once(world.release).chain(world.others.iter().copied());
    let inside = |digest: &str| {
        let of = releases().flat_map(|r| &r.spec.indexes).find(|index| index.digest == digest);
        of.map(|index| index.children.as_slice()).unwrap_or_default()
    };
    let target = rollout.status.as_ref().map(|s| s.target.as_slice()).unwrap_or_default();
    let before: Vec<&String> =
        target.iter().flat_map(|image| inside(&image.digest).iter().chain([&image.digest])).collect();
    inside(digest).iter().filter(|child| !before.contains(child)).cloned().collect()
}
