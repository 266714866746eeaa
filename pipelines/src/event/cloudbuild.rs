//! Cloud Build's messages (topic `cloud-builds`): only a success ships. Keyed by build and status,
//! since Pub/Sub delivers at least once.

use serde::Deserialize;
use tidegate_policies::json;

use super::{Delivery, EventError, Fact, Message, bounded, digest, image, revision, shown, time};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Build {
    id: String,
    project_id: String,
    status: String,
    finish_time: Option<String>,
    results: Option<Results>,
    source_provenance: Option<Provenance>,
    substitutions: Option<Substitutions>,
}

#[derive(Default, Deserialize)]
struct Results {
    #[serde(default)]
    images: Vec<Built>,
}

#[derive(Deserialize)]
struct Built {
    name: String,
    digest: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Provenance {
    resolved_git_source: Option<GitSource>,
    resolved_repo_source: Option<RepoSource>,
}

#[derive(Deserialize)]
struct GitSource {
    revision: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RepoSource {
    commit_sha: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Substitutions {
    commit_sha: Option<String>,
    repo_full_name: Option<String>,
    branch_name: Option<String>,
}

pub fn read(delivery: Delivery<'_>, message: &Message) -> Result<Fact, EventError> {
    let build: Build = json::parse(&message.data, "the build")?;
    delivery.may_speak_for(&build.project_id)?;
    let differs = |attribute: &Option<String>, field: &str| attribute.as_deref().is_some_and(|said| said != field);
    if differs(&message.build_id, &build.id) || differs(&message.status, &build.status) {
        return Err(EventError::Malformed(
            "the message's attributes name another build or status than its data".to_owned(),
        ));
    }
    let mut spec = delivery.fact("cloudbuild", format!("{}/{}", build.id, build.status))?;
    spec.occurred_at = time(build.finish_time.as_deref());
    let substitutions = build.substitutions.unwrap_or_default();
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    // A substitution is what whoever started the build says: without the binding it names no repository to report to.
    let named = filled(substitutions.repo_full_name).filter(|name| delivery.may_speak_for(name).is_ok());
    spec.repository = named.map(|name| bounded("repository", &name, 255)).transpose()?;
    spec.git_ref = filled(substitutions.branch_name).map(|name| bounded("branch", &name, 255)).transpose()?;
    let (git, repo) =
        build.source_provenance.map(|source| (source.resolved_git_source, source.resolved_repo_source)).unzip();
    let resolved =
        git.flatten().and_then(|git| git.revision).or_else(|| repo.flatten().and_then(|repo| repo.commit_sha));
    let commit = filled(resolved).or(filled(substitutions.commit_sha));
    spec.revision = commit.as_deref().map(revision).transpose()?;
    match build.status.as_str() {
        "SUCCESS" => {
            let built = build.results.unwrap_or_default().images;
            let images = built.iter().map(|built| image(&built.name, Some(digest(&built.digest)?)));
            spec.images = delivery.images(images.collect::<Result<_, _>>()?)?;
            if spec.images.is_empty() {
                spec.nothing_to_ship = Some("the build made no image".to_owned());
            }
        }
        "STATUS_UNKNOWN" | "PENDING" | "QUEUED" | "WORKING" => {
            return Ok(Fact::Nothing(format!("nothing to ship: the build is {}", build.status)));
        }
        "FAILURE" | "INTERNAL_ERROR" | "TIMEOUT" | "CANCELLED" | "EXPIRED" => {
            spec.nothing_to_ship = Some(format!("the build ended with {}", build.status));
        }
        other => return Err(EventError::Malformed(format!("`{}` is no status of a build", shown(other)))),
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

    fn build(status: &str) -> Value {
        let digest = format!("sha256:{}", "ab".repeat(32));
        json!({"id": "b-1", "projectId": "acme-prod", "status": status, "finishTime": "2026-11-22T16:00:00.5Z", "unknown": 1,
               "results": {"images": [{"name": format!("{IMAGE}:1"), "digest": digest},
                                      {"name": format!("{IMAGE}:latest"), "digest": digest}]},
               "sourceProvenance": {"resolvedGitSource": {"revision": "a".repeat(40)}},
               "substitutions": {"REPO_FULL_NAME": "acme/portal", "BRANCH_NAME": "main", "_CUSTOM": "x"}})
    }

    fn read(build: &Value) -> Result<Fact, EventError> {
        let spec = source(EventSourceKind::Cloudbuild);
        let message = Message { id: "1".into(), data: build.to_string().into_bytes(), ..Message::default() };
        super::read(delivery(&spec), &message)
    }

    #[test]
    fn a_success_names_each_digest_once() {
        let spec = built(read(&build("SUCCESS")));
        assert_eq!(spec.images.len(), 1);
        assert_eq!(spec.images[0].repository, IMAGE);
        assert_eq!(spec.key, "b-1/SUCCESS");
        assert_eq!(spec.revision, Some("a".repeat(40)));
        assert_eq!((spec.repository.as_deref(), spec.git_ref.as_deref()), (Some("acme/portal"), Some("main")));
    }

    #[test]
    fn a_repository_that_the_source_may_not_speak_for_is_not_taken_from_a_substitution() {
        let mut foreign = build("SUCCESS");
        foreign["substitutions"]["REPO_FULL_NAME"] = json!("victim/portal");
        let spec = built(read(&foreign));
        assert_eq!((spec.repository, spec.images.len()), (None, 1));
    }

    #[test]
    fn only_a_success_ships() {
        for status in ["FAILURE", "TIMEOUT", "CANCELLED", "EXPIRED", "INTERNAL_ERROR"] {
            let spec = built(read(&build(status)));
            assert!(spec.nothing_to_ship.is_some() && spec.images.is_empty(), "{status}");
        }
        for status in ["QUEUED", "WORKING", "PENDING"] {
            assert!(matches!(read(&build(status)), Ok(Fact::Nothing(_))), "{status}");
        }
    }

    #[test]
    fn what_is_not_this_sources_or_no_build_is_refused() {
        let changed = |path: &str, value: Value| {
            let mut build = build("SUCCESS");
            *build.pointer_mut(path).unwrap() = value;
            build
        };
        for (build, expected) in [
            (changed("/projectId", json!("evil")), "may not speak for"),
            (changed("/results/images/1/name", json!("docker.io/evil/x")), "may not name images"),
            (changed("/results/images/0/digest", json!("sha256:abc")), "no digest"),
            (changed("/results/images/0/digest", json!("")), "no digest"),
            (changed("/status", json!("DONE")), "no status"),
            (changed("/sourceProvenance/resolvedGitSource/revision", json!("HEAD")), "no commit"),
            (json!({"id": "b"}), "missing field"),
        ] {
            let refused = read(&build).unwrap_err().to_string();
            assert!(refused.contains(expected), "{refused}");
        }
    }

    #[test]
    fn attributes_that_name_another_build_are_refused() {
        let spec = source(EventSourceKind::Cloudbuild);
        let data = build("SUCCESS").to_string().into_bytes();
        let message = Message { data, build_id: Some("other".into()), ..Message::default() };
        assert!(super::read(delivery(&spec), &message).is_err());
    }
}
