//! SBOMs, reduced to what is judged: which image a document speaks of, and what it lists. Tolerant
//! where the standards are; a document that names no image is about none.

mod cyclonedx;
mod spdx;

use super::package::{Ban, Coordinates, Package};
use crate::digest::Digest;
use crate::json::JsonError;
use crate::model::SbomFormat;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sbom {
    format: SbomFormat,
    /// As the document says it: `CycloneDX 1.6`, `SPDX-2.3`.
    version: String,
    /// What the document says it describes.
    described: Vec<Described>,
    packages: Vec<Package>,
}

/// One thing that an SBOM describes, by whatever names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Described {
    name: String,
    version: Option<String>,
    purls: Vec<String>,
    /// SHA-256 only, lower-case hex.
    hashes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SbomError {
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error("{0} is not a format that is read: CycloneDX 1.2 to 1.7 and SPDX 2.2 and 2.3 as JSON are")]
    Version(String),
}

impl Sbom {
    pub fn format(&self) -> SbomFormat {
        self.format
    }

    pub fn version(&self) -> &str {
        &self.version
    }

    pub fn package_count(&self) -> usize {
        self.packages.len()
    }

    /// Whether the document itself says that it is about this image: by a purl's version, a
    /// version, or a hash. A name or tag alone could mean any build.
    pub fn names(&self, image: &Digest) -> bool {
        self.described.iter().any(|it| {
            it.hashes.iter().any(|hex| hex == image.hex())
                || it.version.as_deref() == Some(image.as_str())
                || it.purls.iter().any(|purl| {
                    Coordinates::parse(purl).is_ok_and(|(_, version)| version.as_deref() == Some(image.as_str()))
                })
        })
    }

    /// What the document says it is about, for people.
    pub fn described(&self) -> String {
        let all: Vec<String> = self
            .described
            .iter()
            .take(3)
            .map(|it| match &it.version {
                Some(version) => format!("{} {version}", it.name),
                None => it.name.clone(),
            })
            .collect();
        if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
    }

    /// The first package that this ban meets.
    pub fn banned_by(&self, ban: &Ban) -> Option<&Package> {
        self.packages.iter().find(|package| ban.matches(package))
    }

    pub(super) fn format_of(predicate_type: &str) -> Option<SbomFormat> {
        let is = |base: &str| {
            predicate_type.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with("/v"))
        };
        if is("https://cyclonedx.org/bom") {
            Some(SbomFormat::CycloneDX)
        } else if is("https://spdx.dev/Document") {
            Some(SbomFormat::SPDX)
        } else {
            None
        }
    }

    /// From the payload of a statement.
    pub(super) fn parse(format: SbomFormat, payload: &[u8]) -> Result<Self, SbomError> {
        match format {
            SbomFormat::CycloneDX => cyclonedx::parse(super::statement::Statement::predicate(payload, "the SBOM")?),
            SbomFormat::SPDX => spdx::parse(super::statement::Statement::predicate(payload, "the SBOM")?),
        }
    }

    /// From a document that stands alone; it is not evidence.
    pub fn read(format: SbomFormat, document: &[u8]) -> Result<Self, SbomError> {
        match format {
            SbomFormat::CycloneDX => cyclonedx::parse(crate::json::parse(document, "the SBOM")?),
            SbomFormat::SPDX => spdx::parse(crate::json::parse(document, "the SBOM")?),
        }
    }
}

/// A listed package from what both formats have: a purl that cannot be read leaves the name.
fn package(purl: Option<&str>, name: String, group: Option<String>, version: Option<String>) -> Package {
    match purl.map(Coordinates::parse) {
        Some(Ok((coordinates, stated))) => {
            Package { purl: Some(coordinates), name, group, version: stated.or(version) }
        }
        _ => Package { purl: None, name, group, version },
    }
}
