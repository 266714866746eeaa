//! GitHub's webhooks: `push`, `package`, `registry_package`, `ping`. The key is the body's digest:
//! the delivery header is outside the HMAC.

use serde::Deserialize;
use tidegate_policies::digest::Digest;
use tidegate_policies::image::ImageRef;
use tidegate_policies::json;

use super::{Delivery, EventError, Fact, bounded, digest, image, revision, shown, time};
use crate::api::BuildEventSpec;

#[derive(Deserialize)]
struct Repository {
    full_name: String,
}

#[derive(Deserialize)]
struct Push {
    #[serde(rename = "ref")]
    git_ref: String,
    after: String,
    #[serde(default)]
    deleted: bool,
    head_commit: Option<Commit>,
    repository: Repository,
}

#[derive(Deserialize)]
struct Commit {
    timestamp: Option<String>,
}

#[derive(Deserialize)]
struct PackageEvent {
    action: String,
    package: Option<Package>,
    registry_package: Option<Package>,
    repository: Option<Repository>,
}

#[derive(Deserialize)]
struct Package {
    #[serde(default)]
    name: String,
    namespace: Option<String>,
    #[serde(default)]
    package_type: String,
    updated_at: Option<String>,
    package_version: Option<Version>,
}

#[derive(Deserialize)]
struct Version {
    #[serde(default)]
    version: String,
    package_url: Option<String>,
    target_oid: Option<String>,
    container_metadata: Option<Container>,
}

#[derive(Deserialize)]
struct Container {
    tag: Option<Tag>,
    labels: Option<Labels>,
    manifest: Option<Manifest>,
}

#[derive(Deserialize)]
struct Tag {
    name: Option<String>,
    digest: Option<String>,
}

#[derive(Deserialize)]
struct Labels {
    revision: Option<String>,
}

#[derive(Deserialize)]
struct Manifest {
    digest: Option<String>,
}

/// One delivery whose signature holds; `event` is the header `X-GitHub-Event`.
pub fn read(delivery: Delivery<'_>, event: &str, body: &[u8]) -> Result<Fact, EventError> {
    match event {
        "push" => push(delivery, body).map(|spec| Fact::Build(Box::new(spec))),
        "package" | "registry_package" => package(delivery, event, body).map(|spec| Fact::Build(Box::new(spec))),
        "ping" => {
            json::parse::<serde_json::Map<String, serde_json::Value>>(body, "the ping")?;
            Ok(Fact::Nothing("pong".to_owned()))
        }
        other => Err(EventError::Unknown(format!(
            "the event `{}` is not taken here: send push, package, registry_package or ping",
            shown(other)
        ))),
    }
}

fn fact(
    delivery: Delivery<'_>,
    event: &str,
    body: &[u8],
    repository: &Repository,
) -> Result<BuildEventSpec, EventError> {
    delivery.may_speak_for(&repository.full_name)?;
    let mut spec = delivery.fact(event, Digest::of(body).to_string())?;
    spec.repository = Some(bounded("repository", &repository.full_name, 255)?);
    Ok(spec)
}

fn push(delivery: Delivery<'_>, body: &[u8]) -> Result<BuildEventSpec, EventError> {
    let push: Push = json::parse(body, "the push")?;
    let mut spec = fact(delivery, "push", body, &push.repository)?;
    let branch = push.git_ref.strip_prefix("refs/heads/").unwrap_or(&push.git_ref);
    spec.git_ref = Some(bounded("ref", branch, 255)?);
    spec.occurred_at = time(push.head_commit.and_then(|commit| commit.timestamp).as_deref());
    if push.deleted || (!push.after.is_empty() && push.after.bytes().all(|b| b == b'0')) {
        spec.nothing_to_ship = Some("the ref was deleted".to_owned());
    } else {
        spec.revision = Some(revision(&push.after)?);
    }
    Ok(spec)
}

fn package(delivery: Delivery<'_>, event: &str, body: &[u8]) -> Result<BuildEventSpec, EventError> {
    let read: PackageEvent = json::parse(body, "the package event")?;
    let missing = |what: &str| EventError::Malformed(format!("the {event} event carries no {what}"));
    let repository = read.repository.as_ref().ok_or_else(|| missing("repository"))?;
    let mut spec = fact(delivery, event, body, repository)?;
    let package = match event {
        "package" => read.package,
        _ => read.registry_package,
    };
    let package = package.ok_or_else(|| missing(event))?;
    spec.occurred_at = time(package.updated_at.as_deref());
    let version = package.package_version.as_ref();
    let Some((version, container)) = version.and_then(|v| Some((v, v.container_metadata.as_ref()?))) else {
        if package.package_type.eq_ignore_ascii_case("container") {
            return Err(missing("container metadata"));
        }
        spec.nothing_to_ship = Some(format!("a package of type {} is no image", shown(&package.package_type)));
        return Ok(spec);
    };
    let found = container_image(&package, version, container)?;
    spec.images = delivery.images(vec![found])?;
    let said = container.labels.as_ref().and_then(|labels| labels.revision.as_deref()).filter(|r| !r.is_empty());
    // A label of the image says it, else the commit that the package was published from.
    spec.revision = said.or(version.target_oid.as_deref()).filter(|r| !r.is_empty()).map(revision).transpose()?;
    if !matches!(read.action.as_str(), "published" | "updated") {
        spec.nothing_to_ship =
            Some(format!("a package was {}", shown(&read.action).chars().take(40).collect::<String>()));
    }
    Ok(spec)
}

/// The image, with the one digest that every place of the event names.
fn container_image(package: &Package, version: &Version, container: &Container) -> Result<ImageRef, EventError> {
    let tag = container.tag.as_ref();
    let places = [
        tag.and_then(|tag| tag.digest.as_deref()),
        container.manifest.as_ref().and_then(|manifest| manifest.digest.as_deref()),
        Some(version.version.as_str()).filter(|version| version.contains(':')),
    ];
    let mut agreed: Option<Digest> = None;
    for place in places.into_iter().flatten().filter(|text| !text.is_empty()) {
        let named = digest(place)?;
        match &agreed {
            Some(other) if *other != named => {
                return Err(EventError::Malformed(format!("it names two digests, {other} and {named}")));
            }
            _ => agreed = Some(named),
        }
    }
    let url = version.package_url.as_deref().map(|url| url.trim_end_matches(':')).filter(|url| !url.is_empty());
    let named = match (url, &package.namespace) {
        (Some(url), _) => url.to_owned(),
        (None, Some(namespace)) => format!("ghcr.io/{namespace}/{}", package.name),
        (None, None) => return Err(EventError::Malformed("the package has neither a URL nor a namespace".to_owned())),
    };
    // GitHub spells owners as they do; registries take lower case only. A tag keeps its case.
    let (path, named_tag) = match named.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (named.as_str(), None),
    };
    let mut found = image(&path.to_ascii_lowercase(), agreed)?;
    let tag = tag.and_then(|tag| tag.name.as_deref()).filter(|name| !name.is_empty()).or(named_tag);
    if let Some(tag) = tag {
        found.tag = image(&format!("x.invalid/x:{tag}"), None)?.tag;
    }
    if found.tag.is_none() && found.digest.is_none() {
        return Err(EventError::Malformed("the package names neither a tag nor a digest".to_owned()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{built, delivery, source};
    use super::*;
    use crate::api::EventSourceKind;

    const COMMIT: &str = "6c62fb45fe66bfb1ea9a66abc38f6a0cc974292b";

    fn digest_text() -> String {
        format!("sha256:{}", "ab".repeat(32))
    }

    fn package_event(key: &str) -> Value {
        let version = json!({
            "version": digest_text(), "package_url": "ghcr.io/Acme/portal:v2", "target_oid": COMMIT,
            "container_metadata": {
                "tag": {"name": "v2", "digest": digest_text()}, "labels": {"revision": ""},
                "manifest": {"digest": digest_text()}}});
        json!({"action": "published", "repository": {"full_name": "acme/portal"},
               key: {"name": "portal", "namespace": "acme", "package_type": "CONTAINER",
                     "updated_at": "2026-11-22T16:00:00Z", "package_version": version}})
    }

    fn push_event() -> Value {
        json!({"ref": "refs/heads/main", "after": COMMIT, "deleted": false,
               "head_commit": {"timestamp": "2026-11-22T16:00:00+01:00"}, "repository": {"full_name": "Acme/Portal"}})
    }

    fn read(event: &str, body: &Value) -> Result<Fact, EventError> {
        let spec = source(EventSourceKind::Github);
        super::read(delivery(&spec), event, body.to_string().as_bytes())
    }

    #[test]
    fn a_push_names_branch_and_commit_and_no_image() {
        let spec = built(read("push", &push_event()));
        assert_eq!(spec.git_ref.as_deref(), Some("main"));
        assert_eq!(spec.revision.as_deref(), Some(COMMIT));
        assert!(spec.images.is_empty() && spec.nothing_to_ship.is_none() && spec.occurred_at.is_some());
    }

    #[test]
    fn a_tag_of_a_branchs_name_is_no_branch() {
        let mut push = push_event();
        push["ref"] = json!("refs/tags/main");
        assert_eq!(built(read("push", &push)).git_ref.as_deref(), Some("refs/tags/main"));
    }

    #[test]
    fn a_deleted_branch_ships_nothing() {
        let mut push = push_event();
        push["after"] = json!("0".repeat(40));
        push["deleted"] = json!(true);
        push["head_commit"] = Value::Null;
        let spec = built(read("push", &push));
        assert!(spec.nothing_to_ship.is_some() && spec.revision.is_none());
    }

    #[test]
    fn both_package_events_name_the_same_image() {
        for key in ["package", "registry_package"] {
            let spec = built(read(key, &package_event(key)));
            let image = &spec.images[0];
            assert_eq!(image.repository, "ghcr.io/acme/portal", "{key}");
            assert_eq!((image.tag.as_deref(), image.digest.as_deref()), (Some("v2"), Some(digest_text().as_str())));
            assert_eq!(spec.revision.as_deref(), Some(COMMIT));
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_says_why() {
        let changed = |path: &str, value: Value| {
            let mut event = package_event("package");
            *event.pointer_mut(path).unwrap() = value;
            event
        };
        let metadata = "/package/package_version/container_metadata";
        for (event, body, expected) in [
            (
                "package",
                changed(&format!("{metadata}/tag/digest"), json!(format!("sha256:{COMMIT}"))),
                "has 64 hex digits",
            ),
            (
                "package",
                changed(&format!("{metadata}/manifest/digest"), json!(format!("sha256:{}", "cd".repeat(32)))),
                "two digests",
            ),
            (
                "package",
                changed("/package/package_version/package_url", json!("docker.io/evil/portal:v2")),
                "may not name images",
            ),
            (
                "package",
                changed("/package/package_version/package_url", json!("ghcr.io/../x")),
                "not an image reference",
            ),
            ("package", changed("/package/package_version/target_oid", json!("main")), "no commit"),
            ("package", changed("/repository/full_name", json!("acme/other")), "may not speak for"),
            ("package", json!({"action": "published", "package": {}}), "no repository"),
            ("package", changed(metadata, Value::Null), "no container metadata"),
            ("package", package_event("registry_package"), "carries no package"),
            ("push", json!({"repository": {"full_name": "acme/portal"}}), "missing field"),
            ("push", json!([]), "not acceptable JSON"),
            ("workflow_run", json!({}), "not taken here"),
        ] {
            let refused = read(event, &body).unwrap_err().to_string();
            assert!(refused.contains(expected) && !refused.contains('\n'), "{event}: {refused}");
        }
    }

    #[test]
    fn another_type_of_package_ships_nothing() {
        let mut event = package_event("package");
        event["package"]["package_type"] = json!("npm");
        event["package"]["package_version"]["container_metadata"] = Value::Null;
        assert!(built(read("package", &event)).nothing_to_ship.is_some());
    }

    #[test]
    fn one_body_is_one_key_whatever_the_headers_say() {
        let one = built(read("push", &push_event()));
        assert_eq!(one.key, Digest::of(push_event().to_string().as_bytes()).to_string());
    }
}
