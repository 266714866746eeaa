//! Unpacks what Pub/Sub pushes: the JSON envelope, or the raw data with `x-goog-pubsub-*` headers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use serde::Deserialize;
use tidegate_pipelines::event::{EventError, Message};
use tidegate_policies::json;

use super::receive::text;

#[derive(Deserialize)]
struct Envelope {
    message: Wrapped,
    subscription: Option<String>,
}

/// A message, and the subscription that pushed it, if it says.
pub struct Pushed {
    pub message: Message,
    pub subscription: Option<String>,
}

/// Pub/Sub spells ids and times both ways, for clients older than its JSON mapping.
#[derive(Deserialize)]
struct Wrapped {
    #[serde(default)]
    attributes: std::collections::BTreeMap<String, String>,
    data: Option<String>,
    #[serde(rename = "messageId")]
    message_id: Option<String>,
    #[serde(rename = "message_id")]
    message_id_old: Option<String>,
    #[serde(rename = "publishTime")]
    publish_time: Option<String>,
}

pub fn unpack(headers: &HeaderMap, body: &[u8]) -> Result<Pushed, EventError> {
    let header = |name: &str| text(headers, name).map(str::to_owned);
    if let Some(id) = header("x-goog-pubsub-message-id") {
        let message = Message {
            id,
            data: body.to_vec(),
            build_id: header("buildid"),
            status: header("status"),
            published: header("x-goog-pubsub-publish-time"),
        };
        return Ok(Pushed { message, subscription: header("x-goog-pubsub-subscription-name") });
    }
    let Envelope { message, subscription } = json::parse(body, "the Pub/Sub envelope")?;
    let malformed = |text: &str| EventError::Malformed(text.to_owned());
    let data = message.data.ok_or_else(|| malformed("the Pub/Sub message carries no data"))?;
    let message = Message {
        id: message.message_id.or(message.message_id_old).ok_or_else(|| malformed("the Pub/Sub message has no id"))?,
        data: STANDARD.decode(data).map_err(|_| malformed("the Pub/Sub message's data is not base64"))?,
        build_id: message.attributes.get("buildId").cloned(),
        status: message.attributes.get("status").cloned(),
        published: message.publish_time,
    };
    Ok(Pushed { message, subscription })
}
