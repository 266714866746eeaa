//! Sends build events to the doors as their owners do, properly authenticated or deliberately not.
//! It reports what came back and judges nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use hmac::{Hmac, Mac};
use serde_json::Value;
use sha2::Sha256;

use super::http as web;

/// What a door answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

pub struct Events {
    base: String,
    client: reqwest::Client,
    deliveries: AtomicU64,
}

impl Events {
    /// `base` is `https://host:port` or `http://host:port`; `ca_pem` is what its certificate is checked against.
    pub fn to(base: &str, ca_pem: Option<&str>) -> Result<Self> {
        let base = base.trim_end_matches('/').to_owned();
        Ok(Self { base, client: web::client(ca_pem)?, deliveries: AtomicU64::new(1) })
    }

    /// A GitHub webhook, signed with `secret`, under a delivery id of its own.
    pub async fn github(&self, event: &str, secret: &str, payload: &Value) -> Result<Answer> {
        let body = payload.to_string();
        let signature = github_signature(secret.as_bytes(), body.as_bytes());
        self.github_raw(event, &self.delivery(), Some(&signature), body.into_bytes()).await
    }

    /// The same with everything in the caller's hand: a replay, a wrong or missing signature, a broken body.
    pub async fn github_raw(
        &self,
        event: &str,
        delivery: &str,
        signature: Option<&str>,
        body: Vec<u8>,
    ) -> Result<Answer> {
        let mut headers = vec![
            ("user-agent", "GitHub-Hookshot/0123abc"),
            ("content-type", "application/json"),
            ("x-github-event", event),
            ("x-github-delivery", delivery),
            ("x-github-hook-id", "109948940"),
        ];
        headers.extend(signature.map(|signature| ("x-hub-signature-256", signature)));
        self.post("/events/github", &headers, body).await
    }

    /// A Pub/Sub push of topic `cloud-builds`.
    pub async fn cloud_build(&self, token: Option<&str>, message: &Value) -> Result<Answer> {
        self.pubsub("/events/cloudbuild", token, message.to_string().into_bytes()).await
    }

    /// A Pub/Sub push of topic `gcr`.
    pub async fn artifact_registry(&self, token: Option<&str>, message: &Value) -> Result<Answer> {
        self.pubsub("/events/artifactregistry", token, message.to_string().into_bytes()).await
    }

    pub async fn pubsub(&self, path: &str, token: Option<&str>, body: Vec<u8>) -> Result<Answer> {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let mut headers = vec![("user-agent", "CloudPubSub-Google"), ("content-type", "application/json")];
        headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
        self.post(path, &headers, body).await
    }

    /// Any request, for what no proper sender would do.
    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Result<Answer> {
        let mut request = self.client.post(format!("{}{path}", self.base)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.with_context(|| format!("post to {path}"))?;
        Ok(Answer { status: response.status().as_u16(), body: response.text().await? })
    }

    /// A delivery id as GitHub makes them: a UUID, here a counted one.
    pub fn delivery(&self) -> String {
        let number = self.deliveries.fetch_add(1, Ordering::SeqCst);
        format!("72d3162e-cc78-11e3-81ab-{number:012x}")
    }
}

/// The value of `X-Hub-Signature-256`.
pub fn github_signature(secret: &[u8], body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_equals_githubs_published_vector() {
        assert_eq!(
            github_signature(b"It's a Secret to Everybody", b"Hello, World!"),
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        );
    }
}
