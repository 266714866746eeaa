//! Image name patterns, with Google's meaning: a `*` only at the end, `*` within a level, `**`
//! across levels. Never a regular expression.

use std::str::FromStr;

use crate::image::ImageRef;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagePattern {
    prefix: String,
    tail: Tail,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tail {
    Exact,
    WithinLevel,
    AcrossLevels,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("`{0}`: `*` or `**` may stand at the end only")]
    WildcardInside(String),
    #[error("`{0}` does not name a registry: write `registry/path`")]
    NoRegistry(String),
}

impl FromStr for ImagePattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (prefix, tail) = if let Some(prefix) = text.strip_suffix("**") {
            (prefix, Tail::AcrossLevels)
        } else if let Some(prefix) = text.strip_suffix('*') {
            (prefix, Tail::WithinLevel)
        } else {
            (text, Tail::Exact)
        };
        if prefix.contains('*') {
            return Err(PatternError::WildcardInside(text.to_owned()));
        }
        // A wildcard within the registry's name would trust whoever registers a host like it.
        match prefix.split_once('/') {
            Some((registry, _)) if !registry.is_empty() => Ok(Self { prefix: prefix.to_owned(), tail }),
            _ => Err(PatternError::NoRegistry(text.to_owned())),
        }
    }
}

impl ImagePattern {
    /// Whether the image's name, or its name with tag or digest, is meant.
    pub fn matches(&self, image: &ImageRef) -> bool {
        let name = image.repository_path();
        let mut spellings = vec![name.clone()];
        match (&image.digest, &image.tag) {
            // Beside a digest a tag is what the author of the pod made of it.
            (Some(digest), _) => spellings.push(format!("{name}@{digest}")),
            (None, Some(tag)) => spellings.push(format!("{name}:{tag}")),
            (None, None) => {}
        }
        spellings.iter().any(|spelling| self.matches_text(spelling))
    }

    fn matches_text(&self, name: &str) -> bool {
        match (self.tail, name.strip_prefix(self.prefix.as_str())) {
            (_, None) => false,
            (Tail::Exact, Some(rest)) => rest.is_empty(),
            (Tail::WithinLevel, Some(rest)) => !rest.contains('/'),
            (Tail::AcrossLevels, Some(_)) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_google_says_they_mean() {
        for (pattern, image, expected) in [
            ("gcr.io/p/nginx*", "gcr.io/p/nginx:latest", true),
            ("gcr.io/p/nginx*", "gcr.io/p/nginx-images/nginx", false),
            ("gcr.io/p/nginx**", "gcr.io/p/nginx-1.14.2/image:latest", true),
            ("gcr.io/p/nginx", "gcr.io/p/nginx:latest", true),
            ("gcr.io/p/nginx:1.0", "gcr.io/p/nginx:1.1", false),
            ("gcr.io/p/nginx", "gcr.io/p/nginx2", false),
            ("gcr.io/*", "gcr.io/p/nginx", false),
            ("gcr.io/**", "gcr.io/p/nginx", true),
            ("gcr.io/**", "gcr.io.evil.example/p/nginx", false),
        ] {
            let pattern: ImagePattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(&image.parse().unwrap()), expected, "{pattern:?} {image}");
        }
    }

    #[test]
    fn a_tag_beside_a_digest_does_not_count() {
        let pattern: ImagePattern = "gcr.io/p/nginx:1.0".parse().unwrap();
        let digest = crate::digest::Digest::of(b"other");
        assert!(pattern.matches(&"gcr.io/p/nginx:1.0".parse().unwrap()));
        assert!(!pattern.matches(&format!("gcr.io/p/nginx:1.0@{digest}").parse().unwrap()));
    }

    #[test]
    fn wildcards_inside_or_without_a_registry_are_refused() {
        for bad in ["gcr.io/p/n*x", "*", "**", "gcr*", "", "/x", "gcr.io/***", "nginx"] {
            assert!(bad.parse::<ImagePattern>().is_err(), "{bad}");
        }
    }
}
