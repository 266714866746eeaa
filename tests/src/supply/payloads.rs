//! What build systems send: GitHub's webhooks, Cloud Build's and Artifact Registry's Pub/Sub messages.
//! GitHub's start from their own examples (`tests/vectors/github`) with the facts put in. It sends nothing.

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::release::Published;

const PUSH: &str = include_str!("../../vectors/github/push.json");
const PACKAGE: &str = include_str!("../../vectors/github/package.json");
const REGISTRY_PACKAGE: &str = include_str!("../../vectors/github/registry_package.json");
const PING: &str = include_str!("../../vectors/github/ping.json");

/// An image as an event names it.
#[derive(Debug, Clone)]
pub struct Artifact {
    /// `host:port/repo`
    pub repository: String,
    pub tag: String,
    pub digest: String,
    pub revision: String,
}

impl From<&Published> for Artifact {
    fn from(published: &Published) -> Self {
        Self {
            repository: published.repository.clone(),
            tag: published.tag.clone(),
            digest: published.digest.clone(),
            revision: published.revision.clone(),
        }
    }
}

/// A push to `main` of `repo` (`owner/name`) that made `revision` its head.
pub fn github_push(repo: &str, revision: &str) -> Result<Value> {
    let mut event: Value = serde_json::from_str(PUSH)?;
    set_repository(&mut event, repo);
    event["before"] = "1".repeat(40).into();
    event["after"] = revision.into();
    event["head_commit"]["id"] = revision.into();
    event["head_commit"]["timestamp"] = super::now().to_string().into();
    event["commits"][0]["id"] = revision.into();
    event["compare"] = format!("https://github.com/{repo}/compare/1111111...{revision}").into();
    Ok(event)
}

/// A branch was deleted: there is nothing to ship in it.
pub fn github_branch_deleted(repo: &str) -> Result<Value> {
    let mut event = github_push(repo, &"0".repeat(40))?;
    event["deleted"] = true.into();
    event["head_commit"] = Value::Null;
    event["commits"] = json!([]);
    Ok(event)
}

/// `package`, action `published`.
pub fn github_package(repo: &str, artifact: &Artifact) -> Result<Value> {
    package(PACKAGE, "package", repo, artifact)
}

/// `registry_package`, action `published`.
pub fn github_registry_package(repo: &str, artifact: &Artifact) -> Result<Value> {
    package(REGISTRY_PACKAGE, "registry_package", repo, artifact)
}

pub fn github_ping(repo: &str) -> Result<Value> {
    let mut event: Value = serde_json::from_str(PING)?;
    set_repository(&mut event, repo);
    Ok(event)
}

/// Cloud Build's `Build` resource after a success, with one image.
pub fn cloud_build(build_id: &str, project: &str, source: &str, artifact: &Artifact) -> Value {
    let named = format!("{}:{}", artifact.repository, artifact.tag);
    json!({
        "id": build_id,
        "projectId": project,
        "status": "SUCCESS",
        "createTime": "2026-01-01T00:00:00Z",
        "startTime": "2026-01-01T00:00:01Z",
        // Releases are ordered by it: a fixed past would make every later event a downgrade.
        "finishTime": super::now().to_string(),
        "images": [named],
        "results": {
            "images": [{"name": named, "digest": artifact.digest, "pushTiming": {}}],
            "buildStepImages": [""],
        },
        "substitutions": {
            "COMMIT_SHA": artifact.revision,
            "REVISION_ID": artifact.revision,
            "REPO_FULL_NAME": source.trim_start_matches("https://github.com/"),
            "BRANCH_NAME": "main",
        },
        "sourceProvenance": {
            "resolvedGitSource": {"url": format!("{source}.git"), "revision": artifact.revision},
        },
        "buildTriggerId": "7c2d9a50-1b1f-4a43-8f0c-0d3c4f3b2a10",
        "logUrl": format!("https://console.cloud.google.com/cloud-build/builds/{build_id}?project={project}"),
    })
}

/// The envelope of a Pub/Sub push of topic `cloud-builds`.
pub fn cloud_build_message(build: &Value, message_id: &str) -> Value {
    let attributes = json!({"buildId": build["id"], "status": build["status"]});
    envelope(attributes, build, message_id, "cloud-builds")
}

/// The content of topic `gcr`; `action` is `INSERT` or `DELETE`.
pub fn artifact_registry(action: &str, artifact: &Artifact) -> Value {
    json!({
        "action": action,
        "digest": format!("{}@{}", artifact.repository, artifact.digest),
        "tag": format!("{}:{}", artifact.repository, artifact.tag),
    })
}

/// The envelope of a Pub/Sub push of topic `gcr`.
pub fn artifact_registry_message(content: &Value, message_id: &str) -> Value {
    envelope(json!({}), content, message_id, "gcr")
}

fn envelope(attributes: Value, content: &Value, message_id: &str, topic: &str) -> Value {
    let published = super::now().to_string();
    // Pub/Sub spells both ways in one envelope, for clients older than its JSON mapping.
    json!({
        "message": {
            "attributes": attributes,
            "data": STANDARD.encode(content.to_string()),
            "messageId": message_id,
            "message_id": message_id,
            "publishTime": published,
            "publish_time": published,
        },
        "subscription": format!("projects/shop/subscriptions/tidegate-{topic}"),
    })
}

fn package(template: &str, key: &str, repo: &str, artifact: &Artifact) -> Result<Value> {
    let mut event: Value = serde_json::from_str(template)?;
    set_repository(&mut event, repo);
    let (owner, _) = repo.split_once('/').unwrap_or((repo, ""));
    let package = &mut event[key];
    package["name"] = artifact.repository.rsplit('/').next().unwrap_or_default().into();
    package["namespace"] = owner.into();
    package["owner"]["login"] = owner.into();
    // Releases are ordered by it: the example's 2019 would be a downgrade.
    package["updated_at"] = super::now().to_string().into();
    let image = format!("{}:{}", artifact.repository, artifact.tag);
    let version = &mut package["package_version"];
    version["version"] = artifact.digest.clone().into();
    version["name"] = artifact.digest.clone().into();
    version["target_oid"] = artifact.revision.clone().into();
    version["package_url"] = image.clone().into();
    version["installation_command"] = format!("docker pull {image}").into();
    let metadata = &mut version["container_metadata"];
    metadata["tag"] = json!({"name": artifact.tag, "digest": artifact.digest});
    metadata["manifest"]["digest"] = artifact.digest.clone().into();
    metadata["manifest"]["uri"] = format!("repositories/{repo}/manifests/{}", artifact.digest).into();
    let labels = &mut metadata["labels"];
    labels["revision"] = artifact.revision.clone().into();
    labels["source"] = format!("https://github.com/{repo}").into();
    labels["all_labels"]["org.opencontainers.image.revision"] = artifact.revision.clone().into();
    labels["all_labels"]["org.opencontainers.image.source"] = format!("https://github.com/{repo}").into();
    Ok(event)
}

fn set_repository(event: &mut Value, repo: &str) {
    let (owner, name) = repo.split_once('/').unwrap_or(("", repo));
    let repository = &mut event["repository"];
    repository["name"] = name.into();
    repository["full_name"] = repo.into();
    repository["html_url"] = format!("https://github.com/{repo}").into();
    repository["clone_url"] = format!("https://github.com/{repo}.git").into();
    repository["owner"]["login"] = owner.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact() -> Artifact {
        Artifact {
            repository: "10.244.254.1:5000/shop/portal".into(),
            tag: "v2".into(),
            digest: format!("sha256:{}", "cd".repeat(32)),
            revision: "a".repeat(40),
        }
    }

    #[test]
    fn package_events_carry_the_facts_and_no_leftover_of_the_example() {
        for (key, event) in [
            ("package", github_package("shop/portal", &artifact()).unwrap()),
            ("registry_package", github_registry_package("shop/portal", &artifact()).unwrap()),
        ] {
            let version = &event[key]["package_version"];
            assert_eq!(version["container_metadata"]["tag"]["digest"], artifact().digest);
            assert_eq!(version["package_url"], "10.244.254.1:5000/shop/portal:v2");
            assert_eq!(event["repository"]["full_name"], "shop/portal");
            assert!(!event.to_string().contains("3da1996a"), "{key}: a digest of the example is left");
            assert!(!event.to_string().contains("6c62fb45"), "{key}: a revision of the example is left");
        }
    }

    #[test]
    fn pubsub_envelope_decodes_to_the_build() {
        let build = cloud_build("b-1", "shop", "https://github.com/shop/portal", &artifact());
        let message = cloud_build_message(&build, "42");
        let data = STANDARD.decode(message["message"]["data"].as_str().unwrap()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&data).unwrap(), build);
        assert_eq!(message["message"]["attributes"]["status"], "SUCCESS");
    }
}
