//! The issuer of the push tokens changes its keys, and is away, while the doors run.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use tidegate_tests::stage::manifests::{PUSH_AUDIENCE, PUSH_EMAIL, REPOSITORY, SOURCE};
use tidegate_tests::stage::roles::DOORS_PORT;
use tidegate_tests::stage::{Stage, revision_of, wait};
use tidegate_tests::supply::chain::REGISTRY;
use tidegate_tests::supply::payloads::{self, Artifact};
use tidegate_tests::supply::raw::{Answer, Raw, Request};
use tokio::time::{Instant, timeout};

use super::hands::Stored;
use crate::world::World;

struct Sender<'a> {
    stage: &'a Stage,
    raw: Raw,
}

impl Sender<'_> {
    /// Failed builds only: stored, and nothing in them to ship.
    fn build(&self, id: &str) -> Value {
        let repository = format!("{REGISTRY}/{REPOSITORY}");
        let revision = revision_of(id);
        let digest = format!("sha256:{revision}{}", "0".repeat(24));
        let artifact = Artifact { repository, tag: "v1".to_owned(), digest, revision };
        let mut build =
            payloads::cloud_build(&format!("keys-{}-{id}", std::process::id()), "shop-prod", SOURCE, &artifact);
        build["status"] = "FAILURE".into();
        build
    }

    fn token(&self) -> String {
        let google = &self.stage.supply.google;
        google.sign(&google.push_claims(PUSH_AUDIENCE, PUSH_EMAIL))
    }

    async fn send(&self, token: &str, id: &str) -> Result<Answer> {
        let message = payloads::cloud_build_message(&self.build(id), id);
        let request = Request::post("/events/cloudbuild/cloudbuild", message.to_string().into_bytes())
            .header("content-type", "application/json")
            .header("authorization", &format!("Bearer {token}"));
        let mut answers = self.raw.send(&request).await?;
        ensure!(answers.len() == 1, "{} answers", answers.len());
        Ok(answers.remove(0))
    }

    /// Sends, and holds the answer and what was stored to what is expected.
    async fn expect(&self, what: &str, token: &str, id: &str, status: u16, stored: usize) -> Result<Answer> {
        let before = Stored::now(self.stage).await?;
        let answer = self.send(token, id).await?;
        let new = Stored::now(self.stage).await?.events.difference(&before.events).count();
        ensure!((answer.status, new) == (status, stored), "{what}: {new} events stored, answered {answer:?}");
        Ok(answer)
    }
}

pub async fn rotation(world: Arc<World>) -> Result<()> {
    let stage = world.stage().await?;
    let google = &stage.supply.google;
    let ca = std::fs::read_to_string(&stage.fleet.ca_pem)?;
    let sender = Sender { stage: &stage, raw: Raw::to(&stage.fleet.hub.address.to_string(), DOORS_PORT, &ca)? };

    let old = sender.token();
    sender.expect("the key of the start", &old, "1", 202, 1).await?;
    let fetched = google.jwks_requests();
    google.rotate(false)?;
    let new = sender.token();
    sender.expect("the new key", &new, "2", 202, 1).await?;
    sender.expect("the new key again", &new, "3", 202, 1).await?;
    ensure!(google.jwks_requests() == fetched + 1, "{} fetches for one rotation", google.jwks_requests() - fetched);
    let refused = sender.expect("the key that is gone", &old, "4", 401, 0).await?;
    ensure!(refused.body.trim_end() == "the bearer token is missing or not accepted", "{refused:?}");

    google.set_away(true);
    let outcome = while_away(&sender, &new).await;
    google.set_away(false);
    let newest = outcome?;
    wait::until_ok(Duration::from_secs(15), "the newest key passes once the issuer is back", || async {
        match sender.send(&newest, "5").await {
            Ok(answer) if answer.status == 202 => Ok(()),
            Ok(answer) if answer.status == 503 => Err(format!("{answer:?}")),
            other => panic!("neither stored nor to be repeated: {other:?}"),
        }
    })
    .await?;
    sender.expect("the key before it, still published", &new, "6", 202, 1).await?;
    sender.expect("the delivery of the outage, repeated", &newest, "5", 200, 0).await?;
    Ok(())
}

/// A planned rotation that the doors cannot see; returns a token under the new key.
async fn while_away(sender: &Sender<'_>, held: &str) -> Result<String> {
    let google = &sender.stage.supply.google;
    google.rotate(true)?;
    let newest = sender.token();
    let began = Instant::now();
    for attempt in ["first", "second", "third"] {
        let answer = sender.expect(attempt, &newest, "5", 503, 0).await?;
        ensure!(answer.headers.contains_key("retry-after"), "{attempt}: when to repeat is not said: {answer:?}");
        ensure!(answer.body.trim_end() == "the token cannot be checked now: try again", "{attempt}: {answer:?}");
    }
    let known = timeout(Duration::from_secs(5), sender.expect("a key that is held", held, "7", 202, 1)).await;
    ensure!(known.is_ok(), "a delivery whose key is held waited for the issuer");
    known??;
    ensure!(began.elapsed() < Duration::from_secs(10), "the issuer that is away cost {:?}", began.elapsed());
    Ok(newest)
}
