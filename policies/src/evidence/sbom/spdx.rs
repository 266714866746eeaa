//! SPDX JSON 2.2 and 2.3: the subset that is judged.

use std::collections::HashSet;

use serde::Deserialize;

use super::{Described, Sbom, SbomError, package};
use crate::model::SbomFormat;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    spdx_version: String,
    #[serde(default, rename = "SPDXID")]
    id: Option<String>,
    #[serde(default)]
    packages: Vec<Package>,
    #[serde(default)]
    document_describes: Vec<String>,
    #[serde(default)]
    relationships: Vec<Relationship>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Package {
    #[serde(rename = "SPDXID")]
    id: String,
    name: String,
    #[serde(default)]
    version_info: Option<String>,
    #[serde(default)]
    checksums: Vec<Checksum>,
    #[serde(default)]
    external_refs: Vec<ExternalRef>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Checksum {
    algorithm: String,
    checksum_value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExternalRef {
    reference_type: String,
    reference_locator: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Relationship {
    spdx_element_id: String,
    relationship_type: String,
    related_spdx_element: String,
}

impl Package {
    fn purls(&self) -> impl Iterator<Item = &str> {
        self.external_refs.iter().filter(|r| r.reference_type == "purl").map(|r| r.reference_locator.as_str())
    }

    fn described(&self) -> Described {
        Described {
            name: self.name.clone(),
            version: self.version_info.clone(),
            purls: self.purls().map(str::to_owned).collect(),
            hashes: self
                .checksums
                .iter()
                .filter(|c| c.algorithm == "SHA256")
                .map(|c| c.checksum_value.to_ascii_lowercase())
                .collect(),
        }
    }
}

pub(super) fn parse(document: Document) -> Result<Sbom, SbomError> {
    if !matches!(document.spdx_version.as_str(), "SPDX-2.2" | "SPDX-2.3") {
        return Err(SbomError::Version(document.spdx_version.chars().take(40).collect()));
    }
    let root = document.id.as_deref().unwrap_or("SPDXRef-DOCUMENT");
    let mut roots: HashSet<&str> = document.document_describes.iter().map(String::as_str).collect();
    for relation in &document.relationships {
        match relation.relationship_type.as_str() {
            "DESCRIBES" if relation.spdx_element_id == root => roots.insert(&relation.related_spdx_element),
            "DESCRIBED_BY" if relation.related_spdx_element == root => roots.insert(&relation.spdx_element_id),
            _ => false,
        };
    }
    let described =
        document.packages.iter().filter(|p| roots.contains(p.id.as_str())).map(Package::described).collect();
    let packages = document
        .packages
        .iter()
        .flat_map(|p| {
            // A package with several purls is each of them.
            let mut purls: Vec<Option<&str>> = p.purls().map(Some).collect();
            if purls.is_empty() {
                purls.push(None);
            }
            purls
                .into_iter()
                .map(|purl| package(purl, p.name.clone(), None, p.version_info.clone()))
                .collect::<Vec<_>>()
        })
        .collect();
    Ok(Sbom { format: SbomFormat::SPDX, version: document.spdx_version, described, packages })
}

#[cfg(test)]
mod tests {
    use super::super::super::package::Ban;
    use super::*;
    use crate::digest::Digest;
    use crate::model::BannedPackage;

    fn read(text: &str) -> Result<Sbom, SbomError> {
        Sbom::read(SbomFormat::SPDX, text.as_bytes())
    }

    #[test]
    fn only_the_described_package_names_the_image() {
        let image = Digest::of(b"image");
        let hex = image.hex();
        let document = |package: &str, describes: &str| {
            format!(
                r#"{{"spdxVersion":"SPDX-2.3","SPDXID":"SPDXRef-DOCUMENT","packages":[{package},{{"SPDXID":"SPDXRef-x","name":"x"}}],{describes}}}"#
            )
        };
        let by_hash = format!(
            r#"{{"SPDXID":"SPDXRef-image","name":"portal","checksums":[{{"algorithm":"SHA256","checksumValue":"{hex}"}}]}}"#
        );
        let by_purl = format!(
            r#"{{"SPDXID":"SPDXRef-image","name":"portal","externalRefs":[{{"referenceCategory":"PACKAGE-MANAGER","referenceType":"purl","referenceLocator":"pkg:oci/portal@sha256%3A{hex}"}}]}}"#
        );
        let by_version = format!(r#"{{"SPDXID":"SPDXRef-image","name":"portal","versionInfo":"sha256:{hex}"}}"#);
        let listed = r#""documentDescribes":["SPDXRef-image"]"#;
        let related = r#""relationships":[{"spdxElementId":"SPDXRef-DOCUMENT","relationshipType":"DESCRIBES","relatedSpdxElement":"SPDXRef-image"}]"#;
        let other = r#""documentDescribes":["SPDXRef-x"]"#;
        for (text, expected) in [
            (document(&by_hash, listed), true),
            (document(&by_hash, related), true),
            (document(&by_purl, related), true),
            (document(&by_version, listed), true),
            (document(&by_hash, other), false),
            (document(&by_hash, r#""relationships":[]"#), false),
        ] {
            assert_eq!(read(&text).unwrap().names(&image), expected, "{text}");
        }
    }

    #[test]
    fn bans_meet_purls_and_names() {
        let ban = Ban::parse(&BannedPackage {
            purl: "pkg:maven/org.apache.logging.log4j/log4j-core".into(),
            versions: "<2.17.1".into(),
            reason: String::new(),
        })
        .unwrap();
        for (package, expected) in [
            (
                r#"{"SPDXID":"a","name":"log4j","versionInfo":"9","externalRefs":[{"referenceType":"purl","referenceLocator":"pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1"}]}"#,
                true,
            ),
            (r#"{"SPDXID":"a","name":"log4j-core","versionInfo":"2.14.1"}"#, true),
            (r#"{"SPDXID":"a","name":"log4j-core","versionInfo":"2.17.1"}"#, false),
        ] {
            let sbom = read(&format!(r#"{{"spdxVersion":"SPDX-2.2","packages":[{package}]}}"#)).unwrap();
            assert_eq!(sbom.banned_by(&ban).is_some(), expected, "{package}");
        }
    }

    #[test]
    fn other_versions_are_refused() {
        assert!(read(r#"{"spdxVersion":"SPDX-3.0","packages":[]}"#).is_err());
        assert!(read(r#"{"packages":[]}"#).is_err());
    }
}
