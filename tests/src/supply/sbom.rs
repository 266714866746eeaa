//! Bills of materials for an image: CycloneDX 1.6 and SPDX 2.3 documents as a build system writes them.
//! Pure: the document depends on its arguments only.

use serde_json::{Value, json};

/// The image that a document describes.
#[derive(Debug, Clone)]
pub struct Subject {
    /// `host:port/repo`, without tag or digest.
    pub repository: String,
    /// `sha256:<hex>`
    pub digest: String,
}

impl Subject {
    pub fn new(repository: &str, digest: &str) -> Self {
        Self { repository: repository.to_owned(), digest: digest.to_owned() }
    }

    fn name(&self) -> &str {
        self.repository.rsplit('/').next().unwrap_or(&self.repository)
    }

    fn hex(&self) -> &str {
        self.digest.trim_start_matches("sha256:")
    }

    /// purl-spec type `oci`: the version is the digest, percent-encoded; the repository is a qualifier.
    pub fn purl(&self) -> String {
        format!("pkg:oci/{}@sha256%3A{}?repository_url={}", self.name(), self.hex(), self.repository)
    }
}

#[derive(Debug, Clone)]
pub struct Component {
    pub group: String,
    pub name: String,
    pub version: String,
    /// SPDX expression.
    pub license: String,
}

impl Component {
    pub fn maven(group: &str, name: &str, version: &str) -> Self {
        Self {
            group: group.to_owned(),
            name: name.to_owned(),
            version: version.to_owned(),
            license: "Apache-2.0".into(),
        }
    }

    /// The package that the acts' policy bans below 2.17.1.
    pub fn log4j_core(version: &str) -> Self {
        Self::maven("org.apache.logging.log4j", "log4j-core", version)
    }

    pub fn purl(&self) -> String {
        format!("pkg:maven/{}/{}@{}", self.group, self.name, self.version)
    }
}

/// What a harmless service of the rig is made of.
pub fn harmless() -> Vec<Component> {
    vec![
        Component::maven("org.slf4j", "slf4j-api", "2.0.16"),
        Component::maven("com.fasterxml.jackson.core", "jackson-databind", "2.18.2"),
        // The banned package in a version that is not: a ban without its range would deny it.
        Component::log4j_core("2.24.3"),
    ]
}

/// CycloneDX 1.6: the image stands in `metadata.component`.
pub fn cyclonedx(subject: &Subject, components: &[Component]) -> Value {
    let entry = |component: &Component| {
        json!({
            "type": "library",
            "bom-ref": component.purl(),
            "group": component.group,
            "name": component.name,
            "version": component.version,
            "purl": component.purl(),
            "licenses": [{"expression": component.license}],
        })
    };
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": serial(subject),
        "version": 1,
        "metadata": {
            "timestamp": "2026-01-01T00:00:00Z",
            "lifecycles": [{"phase": "build"}],
            "tools": {"components": [{"type": "application", "name": "tidegate-tests", "version": "0.1.0"}]},
            "component": {
                "type": "container",
                "bom-ref": subject.purl(),
                "name": subject.name(),
                "version": subject.digest,
                "purl": subject.purl(),
                "hashes": [{"alg": "SHA-256", "content": subject.hex()}],
            },
        },
        "components": components.iter().map(entry).collect::<Vec<_>>(),
        "dependencies": [{
            "ref": subject.purl(),
            "dependsOn": components.iter().map(Component::purl).collect::<Vec<_>>(),
        }],
    })
}

/// SPDX 2.3: the image is the package that the document describes.
pub fn spdx(subject: &Subject, components: &[Component]) -> Value {
    let purl = |locator: String| {
        json!([{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": locator,
        }])
    };
    let mut packages = vec![json!({
        "SPDXID": "SPDXRef-image",
        "name": subject.name(),
        "versionInfo": subject.digest,
        "supplier": "Organization: build.example",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "primaryPackagePurpose": "CONTAINER",
        "checksums": [{"algorithm": "SHA256", "checksumValue": subject.hex()}],
        "externalRefs": purl(subject.purl()),
    })];
    let mut relationships = vec![json!({
        "spdxElementId": "SPDXRef-DOCUMENT",
        "relationshipType": "DESCRIBES",
        "relatedSpdxElement": "SPDXRef-image",
    })];
    for (number, component) in components.iter().enumerate() {
        let id = format!("SPDXRef-package-{number}");
        packages.push(json!({
            "SPDXID": id,
            "name": component.name,
            "versionInfo": component.version,
            "supplier": "NOASSERTION",
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
            "licenseConcluded": component.license,
            "licenseDeclared": component.license,
            "externalRefs": purl(component.purl()),
        }));
        relationships.push(json!({
            "spdxElementId": "SPDXRef-image",
            "relationshipType": "CONTAINS",
            "relatedSpdxElement": id,
        }));
    }
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": subject.name(),
        "documentNamespace": format!("https://build.example/spdx/{}", subject.hex()),
        "creationInfo": {"created": "2026-01-01T00:00:00Z", "creators": ["Tool: tidegate-tests-0.1.0"]},
        "documentDescribes": ["SPDXRef-image"],
        "packages": packages,
        "relationships": relationships,
    })
}

/// A serial number must be a UUID; the digest makes it one, so that the document repeats byte for byte.
fn serial(subject: &Subject) -> String {
    let hex = format!("{:0<32}", subject.hex());
    // Version 8 and variant 8 of RFC 9562: a UUID whose bits are the maker's own.
    format!("urn:uuid:{}-{}-8{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject() -> Subject {
        Subject::new("10.244.254.1:5000/shop/portal", &format!("sha256:{}", "ab".repeat(32)))
    }

    #[test]
    fn both_formats_name_the_image_by_purl_and_hash() {
        let (subject, hex) = (subject(), "ab".repeat(32));
        let purl = format!("pkg:oci/portal@sha256%3A{hex}?repository_url=10.244.254.1:5000/shop/portal");
        let cyclonedx = cyclonedx(&subject, &harmless());
        assert_eq!(cyclonedx["metadata"]["component"]["purl"], purl);
        assert_eq!(cyclonedx["metadata"]["component"]["hashes"][0]["content"], hex);
        let spdx = spdx(&subject, &harmless());
        assert_eq!(spdx["packages"][0]["externalRefs"][0]["referenceLocator"], purl);
        assert_eq!(spdx["packages"][0]["checksums"][0]["checksumValue"], hex);
        assert_eq!(spdx["packages"].as_array().unwrap().len(), 1 + harmless().len());
    }

    #[test]
    fn serial_number_is_a_uuid() {
        let serial = serial(&subject());
        let groups: Vec<usize> = serial.trim_start_matches("urn:uuid:").split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12]);
    }
}
