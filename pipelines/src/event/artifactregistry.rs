//! Artifact Registry's messages (topic `gcr`): an INSERT names an image, a DELETE ships nothing.
//! Keyed by the message's id: giving a digest another tag is legitimate, and a new event.

use serde::Deserialize;
use tidegate_policies::image::ImageRef;
use tidegate_policies::json;

use super::{Delivery, EventError, Fact, Message, image, shown, time};

#[derive(Deserialize)]
struct Change {
    action: String,
    #[serde(default)]
    digest: String,
    #[serde(default)]
    tag: String,
}

pub fn read(delivery: Delivery<'_>, message: &Message) -> Result<Fact, EventError> {
    let change: Change = json::parse(&message.data, "the registry's message")?;
    let malformed = |text: String| EventError::Malformed(text);
    let parse = |text: &str| -> Result<Option<ImageRef>, EventError> {
        if text.is_empty() { Ok(None) } else { image(text, None).map(Some) }
    };
    let (pinned, tagged) = (parse(&change.digest)?, parse(&change.tag)?);
    if pinned.as_ref().is_some_and(|image| image.digest.is_none()) {
        return Err(malformed(format!("`{}` names no digest", shown(&change.digest))));
    }
    if tagged.as_ref().is_some_and(|image| image.tag.is_none()) {
        return Err(malformed(format!("`{}` names no tag", shown(&change.tag))));
    }
    let named = match (pinned, tagged) {
        (Some(pinned), Some(tagged)) if pinned.repository_path() != tagged.repository_path() => {
            return Err(malformed("its digest and its tag are of different images".to_owned()));
        }
        (Some(pinned), tagged) => ImageRef { tag: tagged.and_then(|tagged| tagged.tag), ..pinned },
        (None, Some(tagged)) => tagged,
        (None, None) => return Err(malformed("it names neither a digest nor a tag".to_owned())),
    };
    let mut spec = delivery.fact("gcr", message.id.clone())?;
    spec.occurred_at = time(message.published.as_deref());
    spec.images = delivery.images(vec![named])?;
    match change.action.as_str() {
        "INSERT" => {}
        "DELETE" => spec.nothing_to_ship = Some("a DELETE ships nothing".to_owned()),
        other => return Err(malformed(format!("`{}` is no action of a registry", shown(other)))),
    }
    Ok(Fact::Build(Box::new(spec)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{built, delivery, source};
    use super::*;
    use crate::api::EventSourceKind;

    const IMAGE: &str = "europe-docker.pkg.dev/acme-prod/apps/portal";

    fn read(change: &Value) -> Result<Fact, EventError> {
        let spec = source(EventSourceKind::Artifactregistry);
        let message = Message {
            id: "42".into(),
            data: change.to_string().into_bytes(),
            published: Some("2026-11-22T16:00:00Z".into()),
            ..Message::default()
        };
        super::read(delivery(&spec), &message)
    }

    fn digest() -> String {
        format!("{IMAGE}@sha256:{}", "ab".repeat(32))
    }

    #[test]
    fn an_insert_names_digest_and_tag() {
        let spec = built(read(&json!({"action": "INSERT", "digest": digest(), "tag": format!("{IMAGE}:1.1")})));
        assert_eq!(spec.images[0].tag.as_deref(), Some("1.1"));
        assert_eq!(spec.images[0].digest, Some(format!("sha256:{}", "ab".repeat(32))));
        assert_eq!(spec.key, "42");
    }

    #[test]
    fn a_delete_ships_nothing() {
        let spec = built(read(&json!({"action": "DELETE", "tag": format!("{IMAGE}:1.1")})));
        assert_eq!(spec.nothing_to_ship.as_deref(), Some("a DELETE ships nothing"));
    }

    #[test]
    fn what_names_no_image_of_this_source_is_refused() {
        for (change, expected) in [
            (json!({"action": "INSERT"}), "neither a digest nor a tag"),
            (json!({"action": "MOVE", "digest": digest()}), "no action"),
            (json!({"action": "INSERT", "digest": format!("{IMAGE}@sha256:{}", "a".repeat(40))}), "64 hex digits"),
            (json!({"action": "INSERT", "digest": IMAGE}), "names no digest"),
            (json!({"action": "INSERT", "digest": digest(), "tag": "ghcr.io/acme/other:1"}), "different images"),
            (json!({"action": "INSERT", "tag": "docker.io/evil/x:1"}), "may not name images"),
            (json!({"action": "INSERT", "tag": IMAGE}), "names no tag"),
        ] {
            let refused = read(&change).unwrap_err().to_string();
            assert!(refused.contains(expected), "{refused}");
        }
    }
}
