//! The doors of Cloud Build and Artifact Registry: tokens, envelopes, messages.

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tidegate_tests::rig::now;
use tidegate_tests::stage::manifests::{PUSH_AUDIENCE, REPOSITORY};
use tidegate_tests::stage::revision_of;
use tidegate_tests::supply::oidc::Claims;
use tidegate_tests::supply::payloads;

use super::ground::{CLOUD_BUILD, Ground, REGISTRY, github, large, pushed, with};
use super::{BEFORE, Row};

const NOT_ACCEPTED: &str = "the bearer token is missing or not accepted";

pub fn rows(ground: &Ground<'_>) -> Result<Vec<Row>> {
    let mut rows = tokens(ground)?;
    rows.extend(messages(ground));
    rows.extend(changes(ground));
    Ok(rows)
}

fn tokens(ground: &Ground<'_>) -> Result<Vec<Row>> {
    let google = &ground.stage.supply.google;
    let sent = |token: &str| ground.cloud_build(token, &ground.build());
    let refused = |name: &str, token: &str| Row::refused(name, sent(token), 401, NOT_ACCEPTED);
    let claims = |name: &str, change: &dyn Fn(Claims) -> Claims, why: &str| {
        Row::refused(
            name,
            sent(&google.sign(&change(ground.claims()))),
            401,
            &format!("the token is signed, but {why}"),
        )
    };
    let (now, good) = (now().as_second(), ground.token());
    let email = "not by the verified e-mail that this source expects";
    let lacks = "it lacks exp, iss or aud";
    Ok(vec![
        Row::refused("no token", sent(&good).without("authorization"), 401, NOT_ACCEPTED),
        Row::refused("a password", sent(&good).header("authorization", "Basic cm9vdDpyb290"), 401, NOT_ACCEPTED),
        Row::refused("two tokens", sent(&good).also("authorization", "Bearer x"), 401, NOT_ACCEPTED),
        refused("no token of any shape", "a.b.c"),
        refused("a token of 10 KiB", &"a".repeat(10 * 1024)),
        refused("alg none", &google.unsigned(&ground.claims())),
        refused("HS256 keyed with the public key", &google.confused(&ground.claims())),
        refused("a key that nobody published", &google.sign_with_unknown_key(&ground.claims())),
        refused("a published key's id on another key", &google.sign_with_forged_kid(&ground.claims())),
        refused("claims that were altered", &altered(&good)?),
        refused("a verified e-mail in words", &google.sign(&ground.claims().set("email_verified", "true"))),
        claims("another issuer", &|c| c.issuer("https://evil.example"), "by another issuer"),
        claims("another audience", &|c| c.audience("https://other.example"), "for another audience"),
        claims("no audience", &|c| c.without("aud"), lacks),
        claims("no end", &|c| c.without("exp"), lacks),
        claims("an expired token", &|c| c.expired(), "it has expired"),
        claims("issued in an hour", &|c| c.set("iat", now + 3600).set("exp", now + 7200), "its time has not come"),
        claims("not before tomorrow", &|c| c.set("nbf", now + 86_400), "its time has not come"),
        claims("another account", &|c| c.set("email", "eve@evil-prod.iam.gserviceaccount.com"), email),
        claims("an e-mail that is not verified", &Claims::unverified_email, email),
        claims("no e-mail", &|c| c.without("email"), email),
        Row::refused(
            "GitHub's signature at Cloud Build's door",
            github("push", &ground.push()?).at(CLOUD_BUILD),
            401,
            NOT_ACCEPTED,
        ),
        Row::refused("a source that is not there", sent(&good).at("/events/cloudbuild/nobody"), 401, NOT_ACCEPTED),
        Row::refused(
            "a source whose issuer never answered",
            sent(&good).at("/events/cloudbuild/cold"),
            503,
            "the token cannot be checked now: try again",
        ),
    ])
}

/// The audience in the claims replaced, the signature left.
fn altered(token: &str) -> Result<String> {
    let parts: Vec<&str> = token.split('.').collect();
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1])?)?;
    claims["aud"] = json!([PUSH_AUDIENCE, "https://evil.example"]);
    Ok(format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(claims.to_string()), parts[2]))
}

fn messages(ground: &Ground<'_>) -> Vec<Row> {
    let token = ground.token();
    let envelope = |build: &Value| payloads::cloud_build_message(build, &ground.fresh());
    let push = |message: &Value| pushed(CLOUD_BUILD, &token, message);
    let wrapped =
        |name: &str, message: Value, status: u16, line: &str| Row::refused(name, push(&message), status, line);
    let built = |name: &str, path: &str, value: &str, status: u16, line: &str| {
        Row::refused(name, ground.cloud_build(&token, &with(success(ground), path, value)), status, line)
    };
    let commit = revision_of("a commit, not a digest");
    let subscription = "it is not of the subscription that this source expects";
    let failed = ground.cloud_build(&token, &ground.build());
    let gcr = payloads::artifact_registry("INSERT", &ground.artifact(REPOSITORY));
    let gcr = with(
        payloads::artifact_registry_message(&gcr, &ground.fresh()),
        "/subscription",
        "projects/shop/subscriptions/tidegate-cloud-builds",
    );
    vec![
        Row::ignored("a failed build", failed.clone(), "nothing to ship: the build ended with FAILURE"),
        Row::nothing("a failed build again", failed, BEFORE),
        Row::ignored(
            "one push six times at once",
            ground.cloud_build(&token, &ground.build()),
            "nothing to ship: the build ended with FAILURE",
        )
        .times(6),
        Row::nothing(
            "a build under way",
            ground.cloud_build(&token, &with(ground.build(), "/status", "WORKING")),
            "nothing to ship: the build is WORKING",
        ),
        wrapped(
            "another subscription",
            with(envelope(&ground.build()), "/subscription", "projects/evil/subscriptions/x"),
            403,
            subscription,
        ),
        wrapped("no subscription", with(envelope(&ground.build()), "/subscription", Value::Null), 403, subscription),
        wrapped("a message of another topic", gcr, 400, "the build is not acceptable JSON: missing field `id`*"),
        wrapped(
            "an envelope without a message",
            json!({}),
            400,
            "the Pub/Sub envelope is not acceptable JSON: missing field `message`*",
        ),
        wrapped(
            "data that is no base64",
            with(envelope(&ground.build()), "/message/data", "%%"),
            400,
            "the Pub/Sub message's data is not base64",
        ),
        wrapped(
            "no data",
            with(envelope(&ground.build()), "/message/data", Value::Null),
            400,
            "the Pub/Sub message carries no data",
        ),
        wrapped(
            "data that is no JSON",
            with(envelope(&ground.build()), "/message/data", STANDARD.encode("\u{0}")),
            400,
            "the build is not acceptable JSON: expected value *",
        ),
        wrapped(
            "attributes of another build",
            with(envelope(&ground.build()), "/message/attributes/buildId", "another"),
            400,
            "the message's attributes name another build or status than its data",
        ),
        built("another project", "/projectId", "evil", 403, "this source may not speak for `evil`"),
        built(
            "an image of a foreign registry",
            "/results/images/0/name",
            "registry.evil.example/shop/portal:v1",
            403,
            "this source may not name images of `registry.evil.example/shop/portal`",
        ),
        built(
            "a build's digest of 40 hex",
            "/results/images/0/digest",
            &format!("sha256:{commit}"),
            400,
            &format!("`sha256:{commit}` is no digest: *64 hex digits*"),
        ),
        built("a status that is none", "/status", "DONE", 400, "`DONE` is no status of a build"),
        built("a NUL in its id", "/id", "b\0uild", 400, "its id has control characters"),
        built(
            "a branch that is two lines",
            "/substitutions/BRANCH_NAME",
            "main\nReleased",
            400,
            "its branch has control characters",
        ),
        Row::refused(
            "10 MiB under a good token",
            pushed(CLOUD_BUILD, &token, &large()),
            413,
            "the body is larger than 1048576 bytes",
        ),
    ]
}

/// Of an image of which no registry knows.
fn success(ground: &Ground<'_>) -> Value {
    with(ground.build(), "/status", "SUCCESS")
}

fn changes(ground: &Ground<'_>) -> Vec<Row> {
    let artifact = ground.artifact("shop/nobody");
    let change = |path: &str, value: &str| with(payloads::artifact_registry("INSERT", &artifact), path, value);
    let refused = |name: &str, path: &str, value: &str, status: u16, line: &str| {
        Row::refused(name, ground.registry(&change(path, value)), status, line)
    };
    let message = |id: &str| {
        let message = payloads::artifact_registry_message(&change("/action", "DELETE"), id);
        pushed(REGISTRY, &ground.token(), &message)
    };
    let commit = revision_of("a commit, not a digest");
    let foreign = with(change("/tag", ""), "/digest", format!("registry.evil.example/shop/portal@{}", artifact.digest));
    let host = tidegate_tests::supply::chain::REGISTRY;
    vec![
        refused("an unknown action", "/action", "MOVE", 400, "`MOVE` is no action of a registry"),
        refused(
            "a registry's digest of 40 hex",
            "/digest",
            &format!("{host}/shop/nobody@sha256:{commit}"),
            400,
            "*64 hex digits*",
        ),
        refused(
            "digest and tag of different images",
            "/tag",
            &format!("{host}/shop/other:v1"),
            400,
            "its digest and its tag are of different images",
        ),
        Row::refused(
            "a registry's image of a foreign registry",
            ground.registry(&foreign),
            403,
            "this source may not name images of `registry.evil.example/shop/portal`",
        ),
        Row::refused(
            "a message id of 300 characters",
            message(&"1".repeat(300)),
            400,
            "its id has not between 1 and 200 characters",
        ),
        Row::refused("a message id with a NUL", message("1\0"), 400, "its id has control characters"),
    ]
}
