//! What strangers and careless senders may throw at the doors, over real HTTP against a store in
//! memory: each with its status, its one line, and the proof of what was stored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod house;
mod oidc_keys;

use house::{House, Request, github, signature};
use serde_json::{Value, json};

const COMMIT: &str = "6c62fb45fe66bfb1ea9a66abc38f6a0cc974292b";
const IMAGE: &str = "europe-docker.pkg.dev/acme-prod/apps/portal";

fn digest() -> String {
    format!("sha256:{}", "ab".repeat(32))
}

fn push() -> Value {
    json!({"ref": "refs/heads/main", "after": COMMIT, "deleted": false,
           "head_commit": {"timestamp": "2026-11-22T16:00:00Z"}, "repository": {"full_name": "acme/portal"}})
}

fn package() -> Value {
    json!({"action": "published", "repository": {"full_name": "acme/portal"}, "package": {
        "name": "portal", "namespace": "acme", "package_type": "CONTAINER", "updated_at": "2026-11-22T16:00:00Z",
        "package_version": {"version": digest(), "package_url": "ghcr.io/acme/portal:v2", "target_oid": COMMIT,
            "container_metadata": {"tag": {"name": "v2", "digest": digest()}, "labels": {"revision": COMMIT},
                                   "manifest": {"digest": digest()}}}}})
}

fn build() -> Value {
    json!({"id": "b-1", "projectId": "acme-prod", "status": "SUCCESS", "finishTime": "2026-11-22T16:00:00Z",
           "results": {"images": [{"name": format!("{IMAGE}:1"), "digest": digest()}]},
           "substitutions": {"COMMIT_SHA": COMMIT, "REPO_FULL_NAME": "acme/portal", "BRANCH_NAME": "main"}})
}

fn insert() -> Value {
    json!({"action": "INSERT", "digest": format!("{IMAGE}@{}", digest()), "tag": format!("{IMAGE}:1")})
}

fn with(mut value: Value, path: &str, new: Value) -> Value {
    *value.pointer_mut(path).unwrap() = new;
    value
}

/// Name, request, status, what its line says, how many events are stored after it.
type Case = (&'static str, Request, u16, &'static str, usize);

#[tokio::test]
async fn what_authenticates_and_speaks_for_itself_is_stored_before_it_is_acknowledged() {
    let token = oidc_keys::token(json!({}));
    let cases: Vec<Case> = vec![
        ("a push", github("push", &push()), 202, "stored", 1),
        ("a package", github("package", &package()), 202, "stored", 1),
        ("its source named", github("push", &push()).at("/events/github/gh"), 202, "stored", 1),
        ("a ping", github("ping", &json!({"zen": "x"})), 200, "pong", 0),
        ("a deleted branch", github("push", &with(push(), "/deleted", json!(true))), 202, "stored", 1),
        ("a build", Request::pubsub("cloudbuild", &token, &build()), 202, "stored", 1),
        (
            "a failed build",
            Request::pubsub("cloudbuild", &token, &with(build(), "/status", json!("FAILURE"))),
            202,
            "stored",
            1,
        ),
        (
            "a build under way",
            Request::pubsub("cloudbuild", &token, &with(build(), "/status", json!("WORKING"))),
            200,
            "nothing to ship",
            0,
        ),
        ("an unwrapped build", Request::unwrapped("cloudbuild", &token, &build()), 202, "stored", 1),
        ("an insert", Request::pubsub("artifactregistry", &token, &insert()), 202, "stored", 1),
        (
            "a delete",
            Request::pubsub("artifactregistry", &token, &with(insert(), "/action", json!("DELETE"))),
            202,
            "stored",
            1,
        ),
    ];
    run(cases).await;
}

#[tokio::test]
async fn what_does_not_authenticate_stores_nothing_and_learns_nothing() {
    let body = push().to_string().into_bytes();
    let signed = |signature: &str| github("push", &push()).header("x-hub-signature-256", signature);
    let sent = |token: &str| Request::pubsub("cloudbuild", token, &build());
    let token = |claims: Value| sent(&oidc_keys::token(claims));
    let wrong = "the signature is missing or wrong";
    let refused = "the bearer token is missing or not accepted";
    let cases: Vec<Case> = vec![
        ("no signature", github("push", &push()).without("x-hub-signature-256"), 401, wrong, 0),
        ("an empty signature", signed(""), 401, wrong, 0),
        ("a wrong signature", signed(&signature("guess", &body)), 401, wrong, 0),
        ("a short signature", signed(&signature("s3cret", &body)[..40]), 401, wrong, 0),
        ("a signature that is no hex", signed("sha256=zz"), 401, wrong, 0),
        (
            "a second signature beside the right one",
            github("push", &push()).also("x-hub-signature-256", &signature("guess", &body)),
            401,
            wrong,
            0,
        ),
        ("sha1", signed(&signature("s3cret", &body).replace("sha256=", "sha1=")), 401, wrong, 0),
        ("the empty secret", signed(&signature("", &body)), 401, wrong, 0),
        ("a signature of another body", github("push", &push()).body(b"{}".to_vec()), 401, wrong, 0),
        ("an unknown source", github("push", &push()).at("/events/github/nobody"), 401, wrong, 0),
        ("a source of another kind", github("push", &push()).at("/events/github/cb"), 401, wrong, 0),
        ("a source whose secret is gone", github("push", &push()).at("/events/github/orphan"), 401, wrong, 0),
        ("no token", sent("").without("authorization"), 401, refused, 0),
        ("no bearer", sent("x").header("authorization", "Basic eDp5"), 401, refused, 0),
        ("not a token", sent("a.b.c"), 401, refused, 0),
        ("a token of 10 KiB", sent(&"a".repeat(10_240)), 401, refused, 0),
        ("two tokens", sent(&oidc_keys::token(json!({}))).also("authorization", "Bearer x"), 401, refused, 0),
        ("alg none", sent(&oidc_keys::unsigned()), 401, refused, 0),
        ("HS256 with the public key", sent(&oidc_keys::confused()), 401, refused, 0),
        ("a key nobody published", sent(&oidc_keys::by_stranger("stranger")), 401, refused, 0),
        ("a forged key id", sent(&oidc_keys::by_stranger("key-1")), 401, refused, 0),
        ("a token that was altered", sent(&oidc_keys::altered()), 401, refused, 0),
        ("another issuer", token(json!({"iss": "https://evil.example"})), 401, "by another issuer", 0),
        ("another audience", token(json!({"aud": "https://other.example"})), 401, "for another audience", 0),
        ("no audience", token(json!({"aud": null})), 401, "lacks", 0),
        ("an expired token", token(json!({"exp": house::NOW - 3600})), 401, "has expired", 0),
        ("a token without end", token(json!({"exp": null})), 401, "lacks", 0),
        ("a token of tomorrow", token(json!({"nbf": house::NOW + 86_400})), 401, "has not come", 0),
        ("another e-mail", token(json!({"email": "eve@evil.example"})), 401, "e-mail", 0),
        ("an unverified e-mail", token(json!({"email_verified": false})), 401, "e-mail", 0),
        ("a verified e-mail in words", token(json!({"email_verified": "true"})), 401, refused, 0),
        ("GitHub's signature at Cloud Build's door", github("push", &push()).at("/events/cloudbuild"), 401, refused, 0),
    ];
    run(cases).await;
}

#[tokio::test]
async fn what_authenticates_but_is_malformed_or_not_its_own_stores_nothing() {
    let token = oidc_keys::token(json!({}));
    let sent = |value: Value| Request::pubsub("cloudbuild", &token, &value);
    let registry = |value: Value| Request::pubsub("artifactregistry", &token, &value);
    let raw = |body: &[u8]| github("push", &json!({})).body(body.to_vec()).signed();
    let packaged = |path: &str, value: Value| {
        github("package", &with(package(), &format!("/package/package_version{path}"), value))
    };
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let cases: Vec<Case> = vec![
        (
            "another repository",
            github("push", &with(push(), "/repository/full_name", json!("acme/other"))),
            403,
            "may not speak for `acme/other`",
            0,
        ),
        (
            "another registry",
            packaged("/package_url", json!("docker.io/evil/portal:v2")),
            403,
            "may not name images",
            0,
        ),
        (
            "a registry alike",
            packaged("/package_url", json!("ghcr.io/acme-evil/portal:v2")),
            403,
            "may not name images",
            0,
        ),
        ("another project", sent(with(build(), "/projectId", json!("evil"))), 403, "may not speak for", 0),
        (
            "another project's image",
            sent(with(build(), "/results/images/0/name", json!("gcr.io/evil/x:1"))),
            403,
            "may not name images",
            0,
        ),
        ("an unknown event", github("workflow_run", &push()), 400, "is not taken here", 0),
        ("no event", github("", &push()), 400, "is not taken here", 0),
        (
            "a form",
            github("push", &push()).header("content-type", "application/x-www-form-urlencoded"),
            400,
            "application/json",
            0,
        ),
        ("no JSON", raw(b"not json"), 400, "not acceptable JSON", 0),
        ("an empty body", raw(b""), 400, "not acceptable JSON", 0),
        ("invalid UTF-8", raw(b"{\"ref\": \"\xff\xfe\"}"), 400, "not acceptable JSON", 0),
        ("a key twice", raw(b"{\"ref\": \"a\", \"ref\": \"b\"}"), 400, "not acceptable JSON", 0),
        ("depth 200", raw(deep.as_bytes()), 400, "not acceptable JSON", 0),
        ("something behind it", raw(b"{} {}"), 400, "not acceptable JSON", 0),
        ("a body that is a list", raw(b"[]"), 400, "not acceptable JSON", 0),
        (
            "a digest of 40 hex",
            packaged("/container_metadata/tag/digest", json!(format!("sha256:{COMMIT}"))),
            400,
            "64 hex digits",
            0,
        ),
        ("two digests", packaged("/version", json!(format!("sha256:{}", "cd".repeat(32)))), 400, "two digests", 0),
        (
            "a digest in capitals",
            packaged("/container_metadata/tag/digest", json!(digest().to_uppercase())),
            400,
            "no digest",
            0,
        ),
        (
            "a name with ..",
            packaged("/package_url", json!("ghcr.io/acme/../evil:v1")),
            400,
            "not an image reference",
            0,
        ),
        ("a commit that is a branch", github("push", &with(push(), "/after", json!("main"))), 400, "no commit", 0),
        (
            "a ref of 300 characters",
            github("push", &with(push(), "/ref", json!("x".repeat(300)))),
            400,
            "longer than 255",
            0,
        ),
        (
            "another subscription of the same account",
            Request::json(
                "cloudbuild",
                &token,
                &json!({"message": {"data": "e30=", "messageId": "1"}, "subscription": "projects/acme-prod/subscriptions/other"}),
            ),
            403,
            "not of the subscription",
            0,
        ),
        (
            "an unwrapped push that names no subscription",
            Request::unwrapped("cloudbuild", &token, &build()).without("x-goog-pubsub-subscription-name"),
            403,
            "not of the subscription",
            0,
        ),
        ("an envelope without message", Request::json("cloudbuild", &token, &json!({})), 400, "missing field", 0),
        (
            "data that is no base64",
            Request::json("cloudbuild", &token, &json!({"message": {"data": "%%", "messageId": "1"}})),
            400,
            "not base64",
            0,
        ),
        (
            "a message without id",
            Request::json("artifactregistry", &token, &json!({"message": {"data": ""}})),
            400,
            "no id",
            0,
        ),
        ("a build of unknown status", sent(with(build(), "/status", json!("DONE"))), 400, "no status", 0),
        (
            "a build's digest of 40 hex",
            sent(with(build(), "/results/images/0/digest", json!(format!("sha256:{COMMIT}")))),
            400,
            "64 hex digits",
            0,
        ),
        ("an unknown action", registry(with(insert(), "/action", json!("MOVE"))), 400, "no action", 0),
        (
            "a digest of another image",
            registry(with(insert(), "/tag", json!("ghcr.io/acme/x:1"))),
            400,
            "different images",
            0,
        ),
        ("10 MiB", github("push", &json!({"pad": "x".repeat(10 * 1024 * 1024)})), 413, "larger than", 0),
        ("10 MiB with a token", sent(json!({"pad": "x".repeat(10 * 1024 * 1024)})), 413, "larger than", 0),
        ("another path", github("push", &push()).at("/events/gitlab"), 404, "paths:", 0),
        ("a path too deep", github("push", &push()).at("/events/github/gh/x"), 404, "paths:", 0),
        (
            "a media type alike",
            github("push", &push()).header("content-type", "application/jsonp"),
            400,
            "application/json",
            0,
        ),
        ("a key twice that is a line of its own", raw(b"{\"a\\nb\": 1, \"a\\nb\": 2}"), 400, "not acceptable JSON", 0),
        ("a NUL in its ref", github("push", &with(push(), "/ref", json!("refs/heads/a\u{0}b"))), 400, "control", 0),
    ];
    run(cases).await;
}

async fn run(cases: Vec<Case>) {
    for (name, request, status, line, stored) in cases {
        let house = House::open().await;
        let answer = house.send(&request).await;
        assert_eq!(answer.status, status, "{name}: {}", answer.line);
        assert!(answer.line.contains(line), "{name}: {}", answer.line);
        assert!(answer.line.trim_end().lines().count() <= 1, "{name}: one line: {}", answer.line);
        assert_eq!(house.stored().await, stored, "{name}: what was stored");
    }
}

#[tokio::test]
async fn a_repeat_and_concurrent_duplicates_make_one_event_under_one_name() {
    let house = House::open().await;
    let request = github("push", &push());
    let first = house.send(&request).await;
    let name = first.line.split(' ').next().unwrap().to_owned();
    // The delivery header is outside the signature: a replay under another id is the same fact.
    let replay = request.clone().header("x-github-delivery", "another");
    let (one, two) = tokio::join!(house.send(&replay), house.send(&request));
    for again in [one, two] {
        assert_eq!((again.status, again.line.starts_with(&name)), (200, true), "{}", again.line);
    }
    assert_eq!(house.stored().await, 1);
}

#[tokio::test]
async fn while_the_api_is_away_the_sender_is_asked_to_repeat() {
    let house = House::open().await;
    house.store.away(true);
    let answer = house.send(&github("push", &push())).await;
    assert_eq!((answer.status, answer.retry_after.is_some()), (503, true), "{}", answer.line);
    house.store.away(false);
    assert_eq!(house.send(&github("push", &push())).await.status, 202);
}

#[tokio::test]
async fn while_the_issuer_is_away_no_token_is_believed() {
    let house = House::without_keys().await;
    let token = oidc_keys::token(json!({}));
    let answer = house.send(&Request::pubsub("cloudbuild", &token, &build())).await;
    assert_eq!((answer.status, house.stored().await), (503, 0), "{}", answer.line);
}

#[tokio::test]
async fn a_rotated_key_is_fetched_and_strangers_cannot_make_us_fetch_for_ever() {
    let house = House::open().await;
    assert_eq!(house.send(&Request::pubsub("cloudbuild", &oidc_keys::token(json!({})), &build())).await.status, 202);
    assert_eq!(house.fetches(), 1);
    house.rotate();
    let rotated = oidc_keys::rotated_token(json!({}));
    let other = with(build(), "/id", json!("b-2"));
    assert_eq!(
        house.send(&Request::pubsub("cloudbuild", &rotated, &other)).await.status,
        202,
        "the new key is fetched"
    );
    assert_eq!(house.fetches(), 2);
    for n in 0..20 {
        let forged = oidc_keys::by_stranger(&format!("unknown-{n}"));
        house.send(&Request::pubsub("cloudbuild", &forged, &build())).await;
    }
    assert!(house.fetches() <= 7, "{} fetches", house.fetches());
}

#[tokio::test]
async fn a_slow_body_meets_the_deadline_and_holds_one_place_only() {
    let house = House::small().await;
    let request = github("push", &push());
    let slow = house.send_half(&request);
    let second = async {
        // The first holds the only place by now.
        house.until_busy().await;
        house.send(&github("push", &push())).await
    };
    let (slow, second) = tokio::join!(slow, second);
    assert!(slow.contains(" 408 "), "{slow}");
    assert_eq!((second.status, second.retry_after.is_some()), (503, true), "{}", second.line);
    assert_eq!(house.send(&github("push", &push())).await.status, 202, "the place is free again");
}

#[tokio::test]
async fn with_two_sources_of_a_kind_the_path_must_name_one() {
    let house = House::open().await;
    house.store.add_second_github();
    assert_eq!(house.send(&github("push", &push())).await.status, 401);
    assert_eq!(house.send(&github("push", &push()).at("/events/github/gh")).await.status, 202);
}
