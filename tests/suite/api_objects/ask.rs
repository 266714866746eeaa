//! Requests as `kubectl` sends them, with strict field validation, and the sentence that comes back.

use anyhow::{Context, Result, bail};
use kube::Client;
use serde_json::Value;

/// What an API server said to a request.
#[derive(Debug)]
pub enum Answer {
    Accepted(Value),
    /// The sentence that a user reads.
    Refused(String),
}

impl Answer {
    pub fn accepted(self) -> Result<Value> {
        match self {
            Answer::Accepted(object) => Ok(object),
            Answer::Refused(sentence) => bail!("refused: {sentence}"),
        }
    }

    /// Holds when it was refused with a sentence that contains `part`.
    pub fn refused_with(self, part: &str) -> Result<()> {
        match self {
            Answer::Accepted(object) => bail!("accepted, and should say '{part}': {object}"),
            Answer::Refused(sentence) if sentence.contains(part) => Ok(()),
            Answer::Refused(sentence) => bail!("should say '{part}', but says: {sentence}"),
        }
    }
}

/// Creates the object.
pub async fn create(client: &Client, object: &Value) -> Result<Answer> {
    post(client, object, "").await
}

/// Has it checked by all rules and admission policies, and not stored.
pub async fn try_create(client: &Client, object: &Value) -> Result<Answer> {
    post(client, object, "&dryRun=All").await
}

async fn post(client: &Client, object: &Value, options: &str) -> Result<Answer> {
    let uri = format!("{}?fieldValidation=Strict{options}", collection(object)?);
    let request = http::Request::post(uri).header("content-type", "application/json");
    send(client, request.body(serde_json::to_vec(object)?)?).await
}

/// A JSON merge patch of an existing object like `object`.
pub async fn change(client: &Client, object: &Value, change: &Value) -> Result<Answer> {
    patch(client, object, "", change).await
}

/// The same of its status.
pub async fn report(client: &Client, object: &Value, status: &Value) -> Result<Answer> {
    patch(client, object, "/status", &serde_json::json!({ "status": status })).await
}

async fn patch(client: &Client, object: &Value, subresource: &str, change: &Value) -> Result<Answer> {
    let name = object["metadata"]["name"].as_str().context("an object without a name")?;
    let uri = format!("{}/{name}{subresource}?fieldValidation=Strict", collection(object)?);
    let request = http::Request::patch(uri).header("content-type", "application/merge-patch+json");
    send(client, request.body(serde_json::to_vec(change)?)?).await
}

pub async fn read(client: &Client, object: &Value) -> Result<Answer> {
    let name = object["metadata"]["name"].as_str().context("an object without a name")?;
    send(client, http::Request::get(format!("{}/{name}", collection(object)?)).body(Vec::new())?).await
}

/// Objects like `object`, by a query such as `?watch=true`.
pub async fn read_all(client: &Client, object: &Value, query: &str) -> Result<Answer> {
    send(client, http::Request::get(format!("{}{query}", collection(object)?)).body(Vec::new())?).await
}

pub async fn delete(client: &Client, object: &Value) -> Result<Answer> {
    let name = object["metadata"]["name"].as_str().context("an object without a name")?;
    send(client, http::Request::delete(format!("{}/{name}", collection(object)?)).body(Vec::new())?).await
}

/// Only an answer of the API server is a refusal; no answer is an error of the test.
async fn send(client: &Client, request: http::Request<Vec<u8>>) -> Result<Answer> {
    match client.request::<Value>(request).await {
        Ok(object) => Ok(Answer::Accepted(object)),
        Err(kube::Error::Api(status)) if (400..500).contains(&status.code) => {
            Ok(Answer::Refused(status.message.clone()))
        }
        Err(error) => Err(error).context("the API server gave no answer"),
    }
}

/// `/apis/<group>/<version>[/namespaces/<namespace>]/<plural>`.
fn collection(object: &Value) -> Result<String> {
    let version = object["apiVersion"].as_str().context("an object without apiVersion")?;
    let kind = object["kind"].as_str().context("an object without kind")?.to_lowercase();
    let root = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let plural = match kind.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None if kind.ends_with('s') => format!("{kind}es"),
        None => format!("{kind}s"),
    };
    Ok(match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}"),
        None => format!("{root}/{plural}"),
    })
}
