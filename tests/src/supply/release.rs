//! One call from a behaviour to a published image: pushed, signed, attested, as an act's build system would leave it.

use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::Value;

use super::behavior::Behavior;
use super::bundles;
use super::cosign::PredicateType;
use super::image::ImageSpec;
use super::provenance::Provenance;
use super::registry::Registry;
use super::sbom::{self, Component, Subject};
use super::sigstore::Sigstore;

/// Which bill of materials is attested, and to what.
#[derive(Debug, Clone)]
pub enum Sbom {
    Missing,
    CycloneDx(Vec<Component>),
    Spdx(Vec<Component>),
    /// A document that describes another image, properly attested to this one.
    OfAnotherImage(Subject),
    /// The attestation of another image, of the same repository, attached to this one by hand.
    CopiedFrom(Published),
}

#[derive(Debug, Clone)]
pub struct PublishSpec {
    pub repo: String,
    pub tag: String,
    pub behavior: Behavior,
    /// 40 hex digits; also in the image's label.
    pub revision: String,
    pub signed: bool,
    pub provenance: Option<Provenance>,
    pub sbom: Sbom,
}

impl PublishSpec {
    /// All in order: signed, with a CycloneDX SBOM of harmless components and without provenance.
    pub fn new(repo: &str, tag: &str, behavior: Behavior, revision: &str) -> Self {
        Self {
            repo: repo.to_owned(),
            tag: tag.to_owned(),
            behavior,
            revision: revision.to_owned(),
            signed: true,
            provenance: None,
            sbom: Sbom::CycloneDx(sbom::harmless()),
        }
    }

    pub fn unsigned(mut self) -> Self {
        self.signed = false;
        self
    }

    pub fn provenance(mut self, provenance: Provenance) -> Self {
        self.provenance = Some(provenance);
        self
    }

    pub fn sbom(mut self, sbom: Sbom) -> Self {
        self.sbom = sbom;
        self
    }

    pub fn with_component(mut self, component: Component) -> Self {
        if let Sbom::CycloneDx(components) | Sbom::Spdx(components) = &mut self.sbom {
            components.push(component);
        }
        self
    }
}

#[derive(Debug, Clone)]
pub struct Published {
    pub digest: String,
    /// `host:port/repo`
    pub repository: String,
    pub tag: String,
    pub revision: String,
}

impl Published {
    /// `host:port/repo@digest`
    pub fn by_digest(&self) -> String {
        format!("{}@{}", self.repository, self.digest)
    }

    /// `host:port/repo:tag`
    pub fn by_tag(&self) -> String {
        format!("{}:{}", self.repository, self.tag)
    }
}

#[derive(Clone)]
pub struct Publisher {
    pub registry: Arc<Registry>,
    pub sigstore: Arc<Sigstore>,
}

impl Publisher {
    /// The tag appears last, when the evidence is there, as in a build that signs before it releases.
    pub async fn publish(&self, spec: &PublishSpec) -> Result<Published> {
        let image = ImageSpec::new(spec.behavior.clone()).revision(&spec.revision);
        let digest = self.registry.push_untagged(&spec.repo, &image).await?.digest;
        let repository = format!("{}/{}", self.registry.host(), spec.repo);
        let published = Published { digest, repository, tag: spec.tag.clone(), revision: spec.revision.clone() };
        self.vouch(spec, &published).await?;
        self.registry.tag(&spec.repo, &published.digest, &spec.tag).await?;
        Ok(published)
    }

    async fn vouch(&self, spec: &PublishSpec, published: &Published) -> Result<()> {
        let image = &published.by_digest();
        let subject = Subject::new(&published.repository, &published.digest);
        let sign = async { if spec.signed { self.sigstore.sign(image).await } else { Ok(()) } };
        let provenance = async {
            match &spec.provenance {
                Some(provenance) => self.sigstore.attest(image, &PredicateType::SlsaV1, &provenance.v1()).await,
                None => Ok(()),
            }
        };
        let sbom = async {
            if let Sbom::CopiedFrom(other) = &spec.sbom {
                return self.copy_sbom(&spec.repo, other, &published.digest).await;
            }
            match document(&spec.sbom, &subject) {
                Some((kind, document)) => self.sigstore.attest(image, &kind, &document).await,
                None => Ok(()),
            }
        };
        if self.registry.serves_referrers() {
            tokio::try_join!(sign, provenance, sbom)?;
        } else {
            // The fallback tag is read, changed and written back by each client: two at once lose one's entry.
            sign.await?;
            provenance.await?;
            sbom.await?;
        }
        Ok(())
    }

    async fn copy_sbom(&self, repo: &str, from: &Published, to: &str) -> Result<()> {
        let wanted = PredicateType::CycloneDx;
        let found = bundles::fetch(&self.registry, repo, &from.digest).await?;
        let sbom = found.iter().find(|referrer| referrer.predicate_type() == Some(wanted.uri()));
        let sbom = sbom.with_context(|| format!("{} has no CycloneDX attestation", from.by_digest()))?;
        bundles::attach(&self.registry, repo, to, &sbom.bundle, wanted.uri()).await.map(drop)
    }
}

fn document(sbom: &Sbom, subject: &Subject) -> Option<(PredicateType, Value)> {
    match sbom {
        Sbom::Missing | Sbom::CopiedFrom(_) => None,
        Sbom::CycloneDx(components) => Some((PredicateType::CycloneDx, sbom::cyclonedx(subject, components))),
        Sbom::Spdx(components) => Some((PredicateType::Spdx, sbom::spdx(subject, components))),
        Sbom::OfAnotherImage(other) => Some((PredicateType::CycloneDx, sbom::cyclonedx(other, &sbom::harmless()))),
    }
}
