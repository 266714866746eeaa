//! Packages as SBOMs list them, and the bans that match them. An unreadable or missing version is
//! never outside a banned range.

use std::str::FromStr;

use packageurl::PackageUrl;

use crate::model::BannedPackage;
use crate::version::{Range, RangeError, Scheme};

/// One component of an SBOM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    pub(super) purl: Option<Coordinates>,
    pub(super) name: String,
    /// CycloneDX `group`; what a name without purl is held against.
    pub(super) group: Option<String>,
    pub(super) version: Option<String>,
}

/// A package URL without its version, qualifiers and subpath, in its canonical spelling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coordinates {
    pub(super) ty: String,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
}

/// A ban that was understood.
#[derive(Clone, Debug)]
pub struct Ban {
    coordinates: Coordinates,
    range: Range,
    written: BannedPackage,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BanError {
    #[error("`{purl}` is not a package URL: {reason}")]
    Purl { purl: String, reason: String },
    #[error("`{0}` names a version: write the range into `versions`")]
    Version(String),
    #[error(transparent)]
    Range(#[from] RangeError),
}

impl Coordinates {
    /// With the version that the package URL names.
    pub(super) fn parse(purl: &str) -> Result<(Self, Option<String>), packageurl::Error> {
        let parsed = PackageUrl::from_str(purl)?;
        let ty = parsed.ty().to_ascii_lowercase();
        let mut name = parsed.name().to_owned();
        let mut namespace = parsed.namespace().map(str::to_owned);
        // Types whose names are case-insensitive by the purl specification.
        if matches!(ty.as_str(), "github" | "bitbucket" | "pypi" | "deb" | "rpm" | "composer" | "apk" | "oci") {
            name = name.to_ascii_lowercase();
            namespace = namespace.map(|n| n.to_ascii_lowercase());
        }
        if ty == "pypi" {
            name = name.replace(['_', '.'], "-");
        }
        Ok((Self { ty, namespace, name }, parsed.version().map(str::to_owned)))
    }
}

impl Ban {
    pub fn parse(written: &BannedPackage) -> Result<Self, BanError> {
        let (coordinates, version) = Coordinates::parse(&written.purl)
            .map_err(|e| BanError::Purl { purl: written.purl.clone(), reason: e.to_string() })?;
        if version.is_some() {
            return Err(BanError::Version(written.purl.clone()));
        }
        Ok(Self { coordinates, range: written.versions.parse()?, written: written.clone() })
    }

    /// Whether this package is banned; a package of that name without a version is.
    pub fn matches(&self, package: &Package) -> bool {
        self.same_package(package)
            && (self.range.is_every_version()
                || package
                    .version
                    .as_deref()
                    .filter(|v| !v.trim().is_empty())
                    .is_none_or(|v| self.range.contains(v, Scheme::of_purl_type(&self.coordinates.ty))))
    }

    /// A component without purl is held against the name, else leaving it out would lift the ban.
    fn same_package(&self, package: &Package) -> bool {
        let ban = &self.coordinates;
        if let Some(purl) = &package.purl {
            return purl == ban;
        }
        let full = |sep: char| ban.namespace.as_ref().map(|ns| format!("{ns}{sep}{}", ban.name));
        match &package.group {
            Some(group) if !group.is_empty() => {
                Some(group) == ban.namespace.as_ref() && package.name.eq_ignore_ascii_case(&ban.name)
            }
            _ => {
                package.name.eq_ignore_ascii_case(&ban.name)
                    || [full(':'), full('/')].iter().flatten().any(|name| package.name.eq_ignore_ascii_case(name))
            }
        }
    }

    /// What was banned and why, as the policy says it.
    pub fn describe(&self) -> String {
        let versions = if self.written.versions.is_empty() { "every version" } else { &self.written.versions };
        let reason = match self.written.reason.as_str() {
            "" => String::new(),
            reason => format!(", {reason}"),
        };
        format!("{} {versions}{reason}", self.written.purl)
    }
}

impl std::fmt::Display for Package {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.purl, &self.group) {
            (Some(purl), _) => {
                write!(f, "pkg:{}/", purl.ty)?;
                if let Some(namespace) = &purl.namespace {
                    write!(f, "{namespace}/")?;
                }
                f.write_str(&purl.name)?;
            }
            (None, Some(group)) => write!(f, "{group}:{}", self.name)?,
            (None, None) => f.write_str(&self.name)?,
        }
        match &self.version {
            Some(version) => write!(f, "@{version}"),
            None => f.write_str(" (no version stated)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(purl: Option<&str>, group: Option<&str>, name: &str, version: Option<&str>) -> Package {
        let parsed = purl.map(|p| Coordinates::parse(p).unwrap());
        let stated = parsed.as_ref().and_then(|(_, v)| v.clone());
        Package {
            purl: parsed.map(|(c, _)| c),
            name: name.to_owned(),
            group: group.map(str::to_owned),
            version: stated.or(version.map(str::to_owned)),
        }
    }

    #[test]
    fn a_ban_meets_its_package_and_no_other() {
        let ban = Ban::parse(&BannedPackage {
            purl: "pkg:maven/org.apache.logging.log4j/log4j-core".into(),
            versions: "<2.17.1".into(),
            reason: "CVE-2021-44228".into(),
        })
        .unwrap();
        let log4j = "pkg:maven/org.apache.logging.log4j/log4j-core";
        for (found, expected) in [
            (package(Some(&format!("{log4j}@2.14.1")), None, "log4j-core", None), true),
            (package(Some(&format!("{log4j}@2.14.1?type=jar")), None, "log4j-core", None), true),
            (package(Some(&format!("{log4j}@2.17.1")), None, "log4j-core", None), false),
            (package(Some(&format!("{log4j}@2.17.2")), None, "log4j-core", None), false),
            (package(Some(log4j), None, "log4j-core", None), true),
            (package(Some(log4j), None, "log4j-core", Some("2.20.0")), false),
            (package(Some("pkg:maven/org.apache.logging.log4j/log4j-api@2.14.1"), None, "log4j-api", None), false),
            (package(Some("pkg:maven/com.example/log4j-core@2.14.1"), None, "log4j-core", None), false),
            (package(Some("pkg:npm/log4j-core@2.14.1"), None, "log4j-core", None), false),
            (package(None, Some("org.apache.logging.log4j"), "log4j-core", Some("2.14.1")), true),
            (package(None, None, "log4j-core", Some("2.14.1")), true),
            (package(None, None, "org.apache.logging.log4j:log4j-core", Some("2.14.1")), true),
            (package(None, Some("com.example"), "log4j-core", Some("2.14.1")), false),
            (package(None, None, "log4j-core", None), true),
            (package(None, None, "log4j-core", Some(" ")), true),
        ] {
            assert_eq!(ban.matches(&found), expected, "{found:?}");
        }
    }

    #[test]
    fn a_ban_that_cannot_be_understood_is_an_error() {
        for (purl, versions) in [("log4j", ""), ("pkg:maven/a/b@1.0", ""), ("pkg:maven/a/b", "2.17.1"), ("pkg:/x", "")]
        {
            let written = BannedPackage { purl: purl.into(), versions: versions.into(), reason: String::new() };
            assert!(Ban::parse(&written).is_err(), "{purl} {versions}");
        }
    }
}
