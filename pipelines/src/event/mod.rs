//! Build events made one: what GitHub, Cloud Build and Artifact Registry send becomes a
//! [`BuildEventSpec`]. Pure: an authenticated payload in, a fact or a refusal out. Never believes
//! more than a hint, and never names a repository or image that its source is not bound to.

pub mod artifactregistry;
pub mod cloudbuild;
pub mod github;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sha2::{Digest as _, Sha256};
use tidegate_policies::digest::Digest;
use tidegate_policies::image::ImageRef;
use tidegate_policies::json::JsonError;

use crate::api::{BuildEventSpec, EventImage, EventSourceSpec};

/// As many as a `BuildEvent` holds.
const MAX_IMAGES: usize = 32;

/// An authenticated delivery's context.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// Name of the EventSource.
    pub source: &'a str,
    pub spec: &'a EventSourceSpec,
    pub received_at: Timestamp,
}

/// What an accepted payload says.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// To be stored; acknowledged once it is.
    Build(Box<BuildEventSpec>),
    /// Nothing that anyone would look up later (a ping, a build under way): acknowledged, not stored.
    Nothing(String),
}

/// Why a payload is refused. The text is one line for its sender.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    #[error("{0}")]
    Malformed(String),
    #[error("{0}")]
    Unbound(String),
    /// A kind of event that is not taken here.
    #[error("{0}")]
    Unknown(String),
}

/// A message as Pub/Sub pushes it, unpacked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub id: String,
    pub data: Vec<u8>,
    pub build_id: Option<String>,
    pub status: Option<String>,
    pub published: Option<String>,
}

/// The object's name: a repeat of the same content meets `AlreadyExists`.
pub fn name(source: &str, key: &str) -> String {
    // Length-prefixed, so that no two pairs join to the same bytes.
    let joined = format!("{}:{source}{}:{key}", source.len(), key.len());
    let hex = hex::encode(Sha256::digest(joined.as_bytes()));
    format!("be-{}", hex.get(..40).unwrap_or(&hex))
}

impl From<JsonError> for EventError {
    fn from(error: JsonError) -> Self {
        // The parser quotes the sender's own keys and strings, line breaks and a megabyte alike.
        EventError::Malformed(shown(&error.to_string()))
    }
}

impl Delivery<'_> {
    fn fact(&self, type_: &str, key: String) -> Result<BuildEventSpec, EventError> {
        if key.is_empty() || key.len() > 200 {
            return Err(EventError::Malformed("its id has not between 1 and 200 characters".to_owned()));
        }
        visible("id", &key)?;
        Ok(BuildEventSpec {
            source: self.source.to_owned(),
            type_: type_.to_owned(),
            key,
            occurred_at: None,
            received_at: Time(self.received_at),
            repository: None,
            git_ref: None,
            revision: None,
            images: Vec::new(),
            pipeline_namespace: None,
            nothing_to_ship: None,
        })
    }

    /// GitHub repositories and Google projects are named without regard to case.
    fn may_speak_for(&self, repository: &str) -> Result<(), EventError> {
        if self.spec.repositories.iter().any(|bound| bound.eq_ignore_ascii_case(repository)) {
            return Ok(());
        }
        Err(EventError::Unbound(format!("this source may not speak for `{}`", shown(repository))))
    }

    fn may_name(&self, image: &ImageRef) -> Result<(), EventError> {
        let path = image.repository_path();
        let covers = |bound: &String| match bound.strip_suffix("/**") {
            Some(above) => path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/')),
            None => *bound == path,
        };
        if self.spec.images.iter().any(covers) {
            return Ok(());
        }
        Err(EventError::Unbound(format!("this source may not name images of `{}`", shown(&path))))
    }

    /// Bound, without repetitions; one digest under several tags is one image.
    fn images(&self, named: Vec<ImageRef>) -> Result<Vec<EventImage>, EventError> {
        let mut images: Vec<EventImage> = Vec::new();
        for image in named {
            self.may_name(&image)?;
            let found = EventImage {
                repository: image.repository_path(),
                tag: image.tag,
                digest: image.digest.map(String::from),
            };
            let known = images.iter().any(|other| {
                other.repository == found.repository
                    && other.digest == found.digest
                    && (found.digest.is_some() || other.tag == found.tag)
            });
            if !known {
                images.push(found);
            }
        }
        if images.len() > MAX_IMAGES {
            return Err(EventError::Malformed(format!("it names more than {MAX_IMAGES} images")));
        }
        Ok(images)
    }
}

fn digest(text: &str) -> Result<Digest, EventError> {
    text.parse().map_err(|error| EventError::Malformed(format!("`{}` is no digest: {error}", shown(text))))
}

/// An image by name and perhaps tag; completed with `digest` where there is one.
fn image(text: &str, digest: Option<Digest>) -> Result<ImageRef, EventError> {
    let mut image: ImageRef = text
        .parse()
        .map_err(|error: tidegate_policies::image::ImageRefError| EventError::Malformed(shown(&error.to_string())))?;
    // Without a tag the parser completes `latest`, which nobody said.
    let tagged = text.split('@').next().unwrap_or(text).rsplit('/').next().is_some_and(|last| last.contains(':'));
    if !tagged {
        image.tag = None;
    }
    if digest.is_some() {
        image.digest = digest;
    }
    if image.repository_path().len() > 255 {
        return Err(EventError::Malformed("an image's name is longer than 255 characters".to_owned()));
    }
    Ok(image)
}

/// A commit: 40 or 64 lower-case hex digits.
fn revision(text: &str) -> Result<String, EventError> {
    let hex = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    match (hex, text.len()) {
        (true, 40 | 64) => Ok(text.to_owned()),
        _ => Err(EventError::Malformed(format!("`{}` is no commit", shown(text)))),
    }
}

/// A time, if it can be one: senders write `0001-01-01` where they know none.
fn time(text: Option<&str>) -> Option<Time> {
    let time: Timestamp = text?.parse().ok()?;
    (time.as_second() > 946_684_800).then_some(Time(time))
}

fn bounded(what: &str, text: &str, limit: usize) -> Result<String, EventError> {
    match text.len() {
        0 => Err(EventError::Malformed(format!("its {what} is empty"))),
        n if n > limit => Err(EventError::Malformed(format!("its {what} is longer than {limit} characters"))),
        _ => visible(what, text).map(|()| text.to_owned()),
    }
}

/// What is stored stands in the one line of a status later, and on people's terminals.
fn visible(what: &str, text: &str) -> Result<(), EventError> {
    if text.chars().any(unseen) {
        return Err(EventError::Malformed(format!("its {what} has control characters")));
    }
    Ok(())
}

/// Control characters, line separators, and what reverses the order in which text is shown.
fn unseen(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A stranger's text in a line of ours: short and without control characters.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !unseen(*c)).take(200).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::api::EventSourceKind;

    pub fn source(kind: EventSourceKind) -> EventSourceSpec {
        EventSourceSpec {
            kind,
            hmac_secret: None,
            oidc: None,
            repositories: vec!["acme/portal".into(), "acme-prod".into()],
            images: vec!["ghcr.io/acme/**".into(), "europe-docker.pkg.dev/acme-prod/apps/portal".into()],
            wait: crate::api::Span::from_secs(60),
            report: None,
        }
    }

    pub fn delivery(spec: &EventSourceSpec) -> Delivery<'_> {
        Delivery { source: "ci", spec, received_at: Timestamp::UNIX_EPOCH }
    }

    pub fn built(fact: Result<Fact, EventError>) -> BuildEventSpec {
        match fact.unwrap() {
            Fact::Build(spec) => *spec,
            Fact::Nothing(why) => panic!("nothing: {why}"),
        }
    }

    #[test]
    fn a_name_depends_on_source_and_key_and_is_one_that_kubernetes_takes() {
        let name = super::name("ci", "k");
        assert!(name.len() == 43 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
        assert_eq!(name, super::name("ci", "k"));
        assert_ne!(name, super::name("c", "ik"));
        assert_ne!(name, super::name("ci", "l"));
    }

    #[test]
    fn a_binding_covers_itself_and_what_lies_below_but_no_neighbour() {
        let spec = source(EventSourceKind::Github);
        let delivery = delivery(&spec);
        for (image, bound) in [
            ("ghcr.io/acme/portal:1", true),
            ("ghcr.io/acme/deep/er", true),
            ("ghcr.io/acme-evil/portal", false),
            ("europe-docker.pkg.dev/acme-prod/apps/portal:1", true),
            ("europe-docker.pkg.dev/acme-prod/apps/portal2", false),
            ("nginx", false),
        ] {
            assert_eq!(delivery.may_name(&super::image(image, None).unwrap()).is_ok(), bound, "{image}");
        }
    }

    #[test]
    fn a_refusal_is_one_short_line_whatever_the_sender_wrote() {
        let parse = |body: String| tidegate_policies::json::parse::<Vec<u8>>(body.as_bytes(), "it").unwrap_err();
        for body in [r#"{"a\nforged: 202\u001b[2J\u202e": 1, "a\nforged: 202\u001b[2J\u202e": 2}"#.to_owned(), {
            format!(r#"["{}"]"#, "x".repeat(100_000))
        }] {
            let line = EventError::from(parse(body)).to_string();
            assert!(line.contains("not acceptable JSON") && line.chars().count() <= 200, "{line}");
            assert!(!line.chars().any(unseen), "{line:?}");
        }
    }

    #[test]
    fn names_with_control_characters_are_refused() {
        for bad in ["a\0b", "main\n", "a\u{1b}[2Jb", "a\u{202e}b", "a\u{2028}b"] {
            assert!(bounded("ref", bad, 255).is_err(), "{bad:?}");
            assert!(delivery(&source(EventSourceKind::Github)).fact("gcr", bad.to_owned()).is_err(), "{bad:?}");
        }
        assert_eq!(bounded("ref", "größe/ok", 255).as_deref(), Ok("größe/ok"));
    }

    #[test]
    fn nobody_said_latest() {
        assert_eq!(image("ghcr.io/acme/portal", None).unwrap().tag, None);
        assert_eq!(image("localhost:5000/portal", None).unwrap().tag, None);
        assert_eq!(image("localhost:5000/portal:v1", None).unwrap().tag.as_deref(), Some("v1"));
    }
}
