//! Image references, split the way a container runtime splits them. Never guesses: what the
//! grammar does not allow is an error, and a digest must be one that [`Digest`] accepts.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use oci_distribution::Reference;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::digest::{Digest, DigestError};

/// `registry/repository[:tag][@digest]`. Short names are completed as runtimes do it (`nginx` is
/// `docker.io/library/nginx`); without tag and digest the tag is `latest`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageRef {
    /// Host, with its port if one is named. Lower case.
    pub registry: String,
    /// Path below the registry.
    pub repository: String,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageRefError {
    #[error("`{image}` is not an image reference: {reason}")]
    Grammar { image: String, reason: String },
    #[error("`{image}`: {source}")]
    Digest { image: String, source: DigestError },
    #[error("an image reference has at most 512 characters, this one has {0}")]
    Length(usize),
}

impl ImageRef {
    /// `registry/repository`: the name without tag and digest.
    pub fn repository_path(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The same name pinned to this digest. The tag is dropped: beside a digest it says nothing.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    pub fn with_tag(&self, tag: impl Into<String>) -> Self {
        Self { tag: Some(tag.into()), digest: None, ..self.clone() }
    }
}

impl JsonSchema for ImageRef {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ImageRef".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            "maxLength": 512,
        })
    }
}

impl FromStr for ImageRef {
    type Err = ImageRefError;

    fn from_str(text: &str) -> Result<Self, ImageRefError> {
        if text.len() > 512 {
            return Err(ImageRefError::Length(text.len()));
        }
        let grammar = |reason: &str| ImageRefError::Grammar { image: text.to_owned(), reason: reason.to_owned() };
        // The grammar's `\w` is Unicode's here; a registry's is not.
        if !text.is_ascii() {
            return Err(grammar("it has characters beyond ASCII"));
        }
        // The digest first: its error says more than the grammar's.
        let digest = match text.split_once('@') {
            None => None,
            Some((_, digest)) => {
                Some(digest.parse().map_err(|source| ImageRefError::Digest { image: text.to_owned(), source })?)
            }
        };
        let reference: Reference = text.parse().map_err(|error| grammar(&format!("{error}")))?;
        Ok(Self {
            registry: reference.registry().to_ascii_lowercase(),
            repository: reference.repository().to_owned(),
            tag: reference.tag().map(str::to_owned),
            digest,
        })
    }
}

impl TryFrom<String> for ImageRef {
    type Error = ImageRefError;

    fn try_from(text: String) -> Result<Self, ImageRefError> {
        text.parse()
    }
}

impl From<ImageRef> for String {
    fn from(image: ImageRef) -> Self {
        image.to_string()
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_split_as_runtimes_split_them() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (text, registry, repository, tag, pinned) in [
            ("nginx", "docker.io", "library/nginx", Some("latest"), false),
            ("acme/portal:1", "docker.io", "acme/portal", Some("1"), false),
            ("localhost/portal", "localhost", "portal", Some("latest"), false),
            ("127.0.0.1:5000/acme/portal:abc", "127.0.0.1:5000", "acme/portal", Some("abc"), false),
            ("Registry.Local:5000/portal:x", "registry.local:5000", "portal", Some("x"), false),
            (&format!("registry:5000/portal@{digest}"), "registry:5000", "portal", None, true),
            (&format!("ghcr.io/acme/portal:v1@{digest}"), "ghcr.io", "acme/portal", Some("v1"), true),
        ] {
            let image: ImageRef = text.parse().unwrap();
            assert_eq!(
                (image.registry.as_str(), image.repository.as_str(), image.tag.as_deref(), image.digest.is_some()),
                (registry, repository, tag, pinned),
                "{text}"
            );
            assert_eq!(image.to_string().parse::<ImageRef>().unwrap(), image);
        }
    }

    #[test]
    fn what_the_grammar_does_not_allow_is_refused() {
        for bad in [
            "",
            "ghcr.io/Acme/portal",
            "ghcr.io/acme/portal:",
            "ghcr.io/acme/portal@",
            "ghcr.io/acme/portal@sha256:abcdef",
            "ghcr.io/acme/portal@sha512:00",
            "https://ghcr.io/acme/portal",
            "ghcr.io/acme/portal:t\u{e4}g",
            "ghcr.io/acme/../portal",
            "ghcr.io/acme/portal:a b",
        ] {
            assert!(bad.parse::<ImageRef>().is_err(), "{bad}");
        }
    }
}
