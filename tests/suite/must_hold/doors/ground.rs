//! What the rows are made of: event sources that are wrong in one way each, and deliveries in order, to be broken. An
//! intact one would be stored and ignored, so that a row which passes by mistake ships nothing.

use std::cell::Cell;
use std::time::Duration;

use anyhow::Result;
use kube::api::{Api, DeleteParams};
use serde_json::{Value, json};
use tidegate_pipelines::api::{EventSource, names};
use tidegate_tests::rig::apply;
use tidegate_tests::stage::manifests::{self, GITHUB_REPOSITORY, HMAC_SECRET, PUSH_AUDIENCE, PUSH_EMAIL, SOURCE};
use tidegate_tests::stage::roles::DOORS_PORT;
use tidegate_tests::stage::{Stage, revision_of, wait};
use tidegate_tests::supply::events::github_signature;
use tidegate_tests::supply::oidc::Claims;
use tidegate_tests::supply::payloads::{self, Artifact};
use tidegate_tests::supply::raw::{Raw, Request};

pub const GITHUB: &str = "/events/github/github";
pub const CLOUD_BUILD: &str = "/events/cloudbuild/cloudbuild";
pub const REGISTRY: &str = "/events/artifactregistry/artifactregistry";
pub const OTHER_SECRET: &str = "the secret of another team";
/// A branch that does not ship.
pub const BRANCH: &str = "side";
const MADE: [&str; 3] = ["other", "orphan", "cold"];

pub struct Ground<'a> {
    pub stage: &'a Stage,
    pub raw: Raw,
    number: Cell<u32>,
}

impl<'a> Ground<'a> {
    /// Beside the fleet's sources: another team's, one whose Secret is missing, one whose issuer never answered.
    pub async fn prepare(stage: &'a Stage) -> Result<Self> {
        let registry = tidegate_tests::supply::chain::REGISTRY;
        let text = format!(
            r#"
apiVersion: v1
kind: Secret
metadata: {{name: other, namespace: tidegate-doors}}
stringData: {{webhook: "{OTHER_SECRET}"}}
---
apiVersion: tidegate.io/v1alpha1
kind: EventSource
metadata: {{name: other, namespace: tidegate-system}}
spec:
  kind: github
  hmacSecret: {{name: other, key: webhook}}
  repositories: ["shop/other"]
  images: ["{registry}/shop/other"]
---
apiVersion: tidegate.io/v1alpha1
kind: EventSource
metadata: {{name: orphan, namespace: tidegate-system}}
spec:
  kind: github
  hmacSecret: {{name: no-such-secret, key: webhook}}
  repositories: ["{GITHUB_REPOSITORY}"]
---
apiVersion: tidegate.io/v1alpha1
kind: EventSource
metadata: {{name: cold, namespace: tidegate-system}}
spec:
  kind: cloudbuild
  oidc: {{issuer: "http://10.244.254.2:9", audience: "{PUSH_AUDIENCE}", email: "{PUSH_EMAIL}"}}
  repositories: ["shop-prod"]
"#
        );
        apply::yaml(stage.hub(), &text).await?;
        let ca = std::fs::read_to_string(&stage.fleet.ca_pem)?;
        let raw = Raw::to(&stage.fleet.hub.address.to_string(), DOORS_PORT, &ca)?;
        let ground = Self { stage, raw, number: Cell::new(0) };
        // With several sources of its kind, a path without a name is refused.
        let seen = [("/events/github", 401), ("/events/github/other", 200)];
        for (path, status) in seen {
            ground.pings(path, OTHER_SECRET, status).await?;
        }
        Ok(ground)
    }

    /// Takes the sources away again and waits until the doors know.
    pub async fn clear(&self) -> Result<()> {
        let sources: Api<EventSource> = Api::namespaced(self.stage.hub().clone(), names::SYSTEM_NAMESPACE);
        for name in MADE {
            sources.delete(name, &DeleteParams::default()).await?;
        }
        self.pings("/events/github", HMAC_SECRET, 200).await
    }

    async fn pings(&self, path: &str, secret: &str, status: u16) -> Result<()> {
        let ping = signed(path, "ping", secret, payloads::github_ping(GITHUB_REPOSITORY)?.to_string().into_bytes());
        wait::until_ok(Duration::from_secs(10), "the doors know the sources", || async {
            match self.raw.send(&ping).await {
                Ok(answers) if answers.first().is_some_and(|answer| answer.status == status) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    /// Numbers of this run, so that no two deliveries are one.
    pub fn fresh(&self) -> String {
        self.number.set(self.number.get() + 1);
        format!("doors-{}-{}", std::process::id(), self.number.get())
    }

    /// A push to a branch that does not ship.
    pub fn push(&self) -> Result<Value> {
        let mut push = payloads::github_push(GITHUB_REPOSITORY, &revision_of(&self.fresh()))?;
        push["ref"] = format!("refs/heads/{BRANCH}").into();
        Ok(push)
    }

    /// An image that no pipeline ships, in a repository of its own.
    pub fn artifact(&self, repository: &str) -> Artifact {
        let fresh = self.fresh();
        Artifact {
            repository: format!("{}/{repository}", tidegate_tests::supply::chain::REGISTRY),
            tag: "v1".to_owned(),
            digest: format!("sha256:{}{}", revision_of(&fresh), "0".repeat(24)),
            revision: revision_of(&fresh),
        }
    }

    pub fn package(&self) -> Result<Value> {
        payloads::github_package(GITHUB_REPOSITORY, &self.artifact(manifests::REPOSITORY))
    }

    /// A build that failed: stored, and nothing in it to ship.
    pub fn build(&self) -> Value {
        let mut build =
            payloads::cloud_build(&self.fresh(), "shop-prod", SOURCE, &self.artifact(manifests::REPOSITORY));
        build["status"] = "FAILURE".into();
        build
    }

    pub fn claims(&self) -> Claims {
        self.stage.supply.google.push_claims(PUSH_AUDIENCE, PUSH_EMAIL)
    }

    pub fn token(&self) -> String {
        self.stage.supply.google.sign(&self.claims())
    }

    /// In the envelope of topic `cloud-builds`, under `token`.
    pub fn cloud_build(&self, token: &str, build: &Value) -> Request {
        pushed(CLOUD_BUILD, token, &payloads::cloud_build_message(build, &self.fresh()))
    }

    /// In the envelope of topic `gcr`, properly authenticated.
    pub fn registry(&self, change: &Value) -> Request {
        pushed(REGISTRY, &self.token(), &payloads::artifact_registry_message(change, &self.fresh()))
    }
}

/// As GitHub sends it.
pub fn signed(path: &str, event: &str, secret: &str, body: Vec<u8>) -> Request {
    let signature = github_signature(secret.as_bytes(), &body);
    Request::post(path, body)
        .header("user-agent", "GitHub-Hookshot/0123abc")
        .header("content-type", "application/json")
        .header("x-github-event", event)
        .header("x-github-delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958")
        .header("x-hub-signature-256", &signature)
}

pub fn github(event: &str, payload: &Value) -> Request {
    signed(GITHUB, event, HMAC_SECRET, payload.to_string().into_bytes())
}

/// As Pub/Sub pushes it.
pub fn pushed(path: &str, token: &str, message: &Value) -> Request {
    Request::post(path, message.to_string().into_bytes())
        .header("user-agent", "CloudPubSub-Google")
        .header("content-type", "application/json")
        .header("authorization", &format!("Bearer {token}"))
}

/// `value` with another value at `path`.
pub fn with(mut value: Value, path: &str, new: impl Into<Value>) -> Value {
    match value.pointer_mut(path) {
        Some(place) => *place = new.into(),
        None => panic!("no {path} in {value}"),
    }
    value
}

/// Something to be ten megabytes large.
pub fn large() -> Value {
    json!({"pad": "x".repeat(10 * 1024 * 1024)})
}
