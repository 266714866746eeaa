//! CycloneDX JSON 1.2 to 1.7: the subset that is judged.

use serde::Deserialize;

use super::{Described, Sbom, SbomError, package};
use crate::evidence::package::Package;
use crate::model::SbomFormat;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    bom_format: String,
    spec_version: String,
    #[serde(default)]
    metadata: Option<Metadata>,
    #[serde(default)]
    components: Vec<Component>,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    component: Option<Component>,
}

#[derive(Deserialize)]
struct Component {
    name: String,
    #[serde(default)]
    group: Option<String>,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    purl: Option<String>,
    #[serde(default)]
    hashes: Vec<Hash>,
    /// What it contains; bans reach inside.
    #[serde(default)]
    components: Vec<Component>,
}

#[derive(Deserialize)]
struct Hash {
    alg: String,
    content: String,
}

pub(super) fn parse(document: Document) -> Result<Sbom, SbomError> {
    let known = matches!(document.spec_version.as_str(), "1.2" | "1.3" | "1.4" | "1.5" | "1.6" | "1.7");
    let version = format!("{} {}", document.bom_format, document.spec_version);
    if document.bom_format != "CycloneDX" || !known {
        return Err(SbomError::Version(version));
    }
    let mut packages = Vec::new();
    let mut described = Vec::new();
    if let Some(component) = document.metadata.and_then(|m| m.component) {
        described.push(Described {
            name: component.name.clone(),
            version: component.version.clone(),
            purls: component.purl.iter().cloned().collect(),
            hashes: component
                .hashes
                .iter()
                .filter(|h| h.alg == "SHA-256")
                .map(|h| h.content.to_ascii_lowercase())
                .collect(),
        });
        list(component, &mut packages);
    }
    for component in document.components {
        list(component, &mut packages);
    }
    Ok(Sbom { format: SbomFormat::CycloneDX, version, described, packages })
}

/// The component and all within it. The depth is that of the document, which is bounded.
fn list(component: Component, out: &mut Vec<Package>) {
    out.push(package(component.purl.as_deref(), component.name, component.group, component.version));
    for inner in component.components {
        list(inner, out);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::package::Ban;
    use super::*;
    use crate::digest::Digest;
    use crate::model::BannedPackage;

    fn read(text: &str) -> Result<Sbom, SbomError> {
        Sbom::read(SbomFormat::CycloneDX, text.as_bytes())
    }

    fn describing(component: &str) -> Sbom {
        read(&format!(
            r#"{{"bomFormat":"CycloneDX","specVersion":"1.6","metadata":{{"component":{component}}},"components":[]}}"#
        ))
        .unwrap()
    }

    #[test]
    fn a_document_names_its_image_by_purl_version_or_hash() {
        let image = Digest::of(b"image");
        let hex = image.hex();
        for (component, expected) in [
            (format!(r#"{{"type":"container","name":"portal","version":"sha256:{hex}"}}"#), true),
            (
                format!(
                    r#"{{"name":"portal","purl":"pkg:oci/portal@sha256%3A{hex}?repository_url=ghcr.io/acme/portal"}}"#
                ),
                true,
            ),
            (format!(r#"{{"name":"portal","purl":"pkg:oci/portal@sha256:{hex}"}}"#), true),
            (format!(r#"{{"name":"portal","hashes":[{{"alg":"SHA-256","content":"{hex}"}}]}}"#), true),
            (format!(r#"{{"name":"portal","hashes":[{{"alg":"SHA-512","content":"{hex}"}}]}}"#), false),
            (r#"{"name":"portal","version":"1.0"}"#.to_owned(), false),
            (format!(r#"{{"name":"sha256:{hex}"}}"#), false),
            (format!(r#"{{"name":"portal","version":"{}"}}"#, Digest::of(b"other")), false),
        ] {
            assert_eq!(describing(&component).names(&image), expected, "{component}");
        }
        let silent = read(r#"{"bomFormat":"CycloneDX","specVersion":"1.5","components":[]}"#).unwrap();
        assert!(!silent.names(&image));
    }

    #[test]
    fn bans_reach_into_nested_components() {
        let sbom = read(
            r#"{"bomFormat":"CycloneDX","specVersion":"1.4","components":[{"type":"library","name":"app.jar","components":[
                {"type":"library","group":"org.apache.logging.log4j","name":"log4j-core","version":"2.14.1",
                 "purl":"pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1"}]}]}"#,
        )
        .unwrap();
        let ban = Ban::parse(&BannedPackage {
            purl: "pkg:maven/org.apache.logging.log4j/log4j-core".into(),
            versions: "<2.17.1".into(),
            reason: String::new(),
        })
        .unwrap();
        assert_eq!(
            sbom.banned_by(&ban).map(ToString::to_string).as_deref(),
            Some("pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1")
        );
    }

    #[test]
    fn other_formats_and_versions_are_refused() {
        for bad in [
            r#"{"bomFormat":"CycloneDX","specVersion":"1.1","components":[]}"#,
            r#"{"bomFormat":"CycloneDX","specVersion":"2.0","components":[]}"#,
            r#"{"bomFormat":"Other","specVersion":"1.6"}"#,
            r#"{"specVersion":"1.6"}"#,
            r#"{"bomFormat":"CycloneDX","specVersion":"1.6","components":[{"version":"1"}]}"#,
            r#"{"bomFormat":"CycloneDX","specVersion":"1.6","components":[],"components":[]}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
