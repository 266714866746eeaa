//! In-toto statements v0.1 and v1: what a signed attestation says of which artifact. Reading one
//! does not make it evidence; [`super::bundle`] does, once the signature is verified.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::digest::Digest;
use crate::json::{self, JsonError};

const MAX_SUBJECTS: usize = 1024;
const MAX_DIGESTS: usize = 32;

/// The parts that every statement has. The predicate is read when its type is known.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    pub predicate_type: String,
    subjects: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StatementError {
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error("`{0}` is no in-toto statement of version 0.1 or 1")]
    Type(String),
    #[error("it has no subject, so it speaks of nothing")]
    NoSubject,
    #[error("it has more than {MAX_SUBJECTS} subjects, or more than {MAX_DIGESTS} digests for one")]
    TooManySubjects,
    #[error("it speaks of {0}, not of this image")]
    OtherSubject(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    #[serde(rename = "_type")]
    type_: String,
    subject: Vec<WireSubject>,
    predicate_type: String,
    /// Named so that a statement is read in one pass without keeping it.
    #[serde(default, rename = "predicate")]
    _predicate: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct WireSubject {
    #[serde(default)]
    digest: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct WirePredicate<T> {
    predicate: T,
}

impl Statement {
    pub fn parse(payload: &[u8]) -> Result<Self, StatementError> {
        let wire: Wire = json::parse(payload, "the statement")?;
        if !matches!(wire.type_.as_str(), "https://in-toto.io/Statement/v0.1" | "https://in-toto.io/Statement/v1") {
            return Err(StatementError::Type(wire.type_.chars().take(80).collect()));
        }
        if wire.subject.is_empty() {
            return Err(StatementError::NoSubject);
        }
        if wire.subject.len() > MAX_SUBJECTS || wire.subject.iter().any(|s| s.digest.len() > MAX_DIGESTS) {
            return Err(StatementError::TooManySubjects);
        }
        // Only sha256 binds: the image is named by it, and another algorithm's value proves nothing.
        let subjects = wire.subject.into_iter().filter_map(|mut s| s.digest.remove("sha256")).collect();
        Ok(Self { predicate_type: wire.predicate_type, subjects })
    }

    /// The image must be one of the subjects.
    pub fn must_speak_of(&self, image: &Digest) -> Result<(), StatementError> {
        if self.subjects.iter().any(|hex| hex == image.hex()) {
            return Ok(());
        }
        let named: Vec<String> = self.subjects.iter().take(3).map(|hex| format!("sha256:{hex:.64}")).collect();
        Err(StatementError::OtherSubject(match named.len() {
            0 => "subjects without a sha256 digest".to_owned(),
            _ => named.join(", "),
        }))
    }

    /// The predicate of a payload that [`Self::parse`] accepted.
    pub fn predicate<T: DeserializeOwned>(payload: &[u8], what: &'static str) -> Result<T, JsonError> {
        json::parse_checked::<WirePredicate<T>>(payload, what).map(|wire| wire.predicate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(type_: &str, subject: &str) -> String {
        format!(r#"{{"_type":"{type_}","subject":{subject},"predicateType":"p","predicate":{{}}}}"#)
    }

    #[test]
    fn only_a_subject_with_the_images_digest_binds() {
        let image = Digest::of(b"image");
        let v1 = "https://in-toto.io/Statement/v1";
        let subject = |algorithm: &str, hex: &str| format!(r#"[{{"name":"x","digest":{{"{algorithm}":"{hex}"}}}}]"#);
        let other = Digest::of(b"other");
        for (text, expected) in [
            (statement(v1, &subject("sha256", image.hex())), true),
            (statement("https://in-toto.io/Statement/v0.1", &subject("sha256", image.hex())), true),
            (statement(v1, &subject("sha256", other.hex())), false),
            (statement(v1, &subject("sha512", image.hex())), false),
            (statement(v1, &subject("sha256", &image.hex().to_uppercase())), false),
            (statement(v1, "[]"), false),
            (statement(v1, r#"[{"name":"x"}]"#), false),
            (statement("https://example.com/Statement", &subject("sha256", image.hex())), false),
        ] {
            let bound = Statement::parse(text.as_bytes()).and_then(|s| s.must_speak_of(&image));
            assert_eq!(bound.is_ok(), expected, "{text}: {bound:?}");
        }
    }

    #[test]
    fn a_second_subject_key_is_refused() {
        let text = format!(
            r#"{{"_type":"https://in-toto.io/Statement/v1","subject":[],"subject":[{{"digest":{{"sha256":"{}"}}}}],"predicateType":"p"}}"#,
            Digest::of(b"image").hex()
        );
        assert!(matches!(Statement::parse(text.as_bytes()), Err(StatementError::Json(_))));
    }

    #[test]
    fn subjects_are_bounded() {
        let one = format!(r#"{{"digest":{{"sha256":"{}"}}}}"#, Digest::of(b"image").hex());
        let many = format!("[{}]", vec![one; 1025].join(","));
        let text = statement("https://in-toto.io/Statement/v1", &many);
        assert_eq!(Statement::parse(text.as_bytes()).unwrap_err(), StatementError::TooManySubjects);
    }
}
