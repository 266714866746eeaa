//! GitHub's door: signatures, sources, payloads, and HTTP that is none.

use std::io::Write;

use anyhow::Result;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use tidegate_tests::stage::manifests::{GITHUB_REPOSITORY, HMAC_SECRET, REPOSITORY};
use tidegate_tests::stage::revision_of;
use tidegate_tests::supply::events::github_signature;
use tidegate_tests::supply::payloads;
use tidegate_tests::supply::raw::{Framing, Request};

use super::ground::{BRANCH, GITHUB, Ground, OTHER_SECRET, github, large, signed, with};
use super::{BEFORE, Row};

const WRONG: &str = "the signature is missing or wrong";
const SIGNATURE: &str = "x-hub-signature-256";

pub fn rows(ground: &Ground<'_>) -> Result<Vec<Row>> {
    let mut rows = signatures(ground)?;
    rows.extend(bindings(ground)?);
    rows.extend(payloads_of(ground)?);
    rows.extend(http(ground)?);
    Ok(rows)
}

fn not_shipping() -> String {
    format!("'{BRANCH}' is not a branch that ships (main)")
}

fn signatures(ground: &Ground<'_>) -> Result<Vec<Row>> {
    let push = || Ok::<_, anyhow::Error>(github("push", &ground.push()?));
    let claimed = |signature: &dyn Fn(&[u8]) -> String| {
        let push = push()?;
        let signature = signature(&push.body);
        Ok::<_, anyhow::Error>(push.header(SIGNATURE, &signature))
    };
    let right = |body: &[u8]| github_signature(HMAC_SECRET.as_bytes(), body);
    let refused =
        |name: &str, request: Result<Request>| Ok::<_, anyhow::Error>(Row::refused(name, request?, 401, WRONG));
    let known = push()?;
    let replayed = known.clone().header("x-github-delivery", "00000000-0000-0000-0000-000000000000");
    Ok(vec![
        Row::ignored("a delivery in order", known, not_shipping()),
        Row::nothing("a replay under another delivery id", replayed.clone(), BEFORE),
        Row::ignored("one delivery eight times at once", push()?, not_shipping()).times(8),
        Row::refused(
            "a replay as another event",
            replayed.header("x-github-event", "package"),
            400,
            "the package event is not acceptable JSON: missing field `action`*",
        ),
        refused("no signature", push().map(|push| push.without(SIGNATURE)))?,
        refused("an empty signature", claimed(&|_| String::new()))?,
        refused("a signature under another secret", claimed(&|body| github_signature(b"guess", body)))?,
        refused("a signature under the empty secret", claimed(&|body| github_signature(b"", body)))?,
        refused("a signature cut short", claimed(&|body| right(body)[..40].to_owned()))?,
        refused("a signature that is no hex", claimed(&|_| format!("sha256={}", "zz".repeat(32))))?,
        refused("a signature of SHA-1's name", claimed(&|body| right(body).replace("sha256=", "sha1=")))?,
        refused("a signature of another body", claimed(&|_| right(b"{}")))?,
        refused(
            "a wrong signature before the right one",
            claimed(&|_| right(b"{}")).map(|push| {
                let signature = right(&push.body);
                push.also(SIGNATURE, &signature)
            }),
        )?,
        refused("a wrong signature behind the right one", push().map(|push| push.also(SIGNATURE, &right(b"{}"))))?,
    ])
}

fn bindings(ground: &Ground<'_>) -> Result<Vec<Row>> {
    let body = |value: &serde_json::Value| value.to_string().into_bytes();
    let other = "/events/github/other";
    let named = |name: &str| Ok::<_, anyhow::Error>(with(ground.push()?, "/repository/full_name", name));
    let foreign = with(named("shop/other")?, "/ref", "refs/heads/main");
    let theirs = payloads::github_package("shop/other", &ground.artifact(REPOSITORY))?;
    let packaged =
        |url: &str| Ok::<_, anyhow::Error>(with(ground.package()?, "/package/package_version/package_url", url));
    let registry = tidegate_tests::supply::chain::REGISTRY;
    Ok(vec![
        Row::refused(
            "another source's secret",
            signed(GITHUB, "push", OTHER_SECRET, body(&ground.push()?)),
            401,
            WRONG,
        ),
        Row::refused(
            "a source that is not there",
            github("push", &ground.push()?).at("/events/github/nobody"),
            401,
            WRONG,
        ),
        Row::refused(
            "a source of another kind",
            github("push", &ground.push()?).at("/events/github/cloudbuild"),
            401,
            WRONG,
        ),
        Row::refused(
            "a source whose Secret is gone",
            github("push", &ground.push()?).at("/events/github/orphan"),
            401,
            WRONG,
        ),
        Row::refused(
            "no source named where there are several",
            github("push", &ground.push()?).at("/events/github"),
            401,
            WRONG,
        ),
        Row::refused(
            "a path that climbs",
            github("push", &ground.push()?).at("/events/github/..%2F..%2Fapi%2Fv1"),
            401,
            WRONG,
        ),
        Row::refused(
            "a secret that speaks for another repository",
            signed(other, "push", OTHER_SECRET, body(&ground.push()?)),
            403,
            &format!("this source may not speak for `{GITHUB_REPOSITORY}`"),
        ),
        Row::refused(
            "another team's repository",
            github("push", &foreign),
            403,
            "this source may not speak for `shop/other`",
        ),
        Row::refused(
            "another team's image",
            signed(other, "package", OTHER_SECRET, body(&theirs)),
            403,
            &format!("this source may not name images of `{registry}/{REPOSITORY}`"),
        ),
        Row::refused(
            "a repository that climbs",
            github("push", &named("shop/portal/../../evil/x")?),
            403,
            "this source may not speak for `shop/portal/../../evil/x`",
        ),
        Row::refused(
            "a repository with a NUL",
            github("push", &named("shop/portal\0")?),
            403,
            "this source may not speak for `shop/portal`",
        ),
        Row::refused(
            "an image of a foreign registry",
            github("package", &packaged("registry.evil.example/shop/portal:v1")?),
            403,
            "this source may not name images of `registry.evil.example/shop/portal`",
        ),
        Row::refused(
            "a registry of a longer name",
            github("package", &packaged(&format!("{registry}1/{REPOSITORY}:v1"))?),
            403,
            &format!("this source may not name images of `{registry}1/{REPOSITORY}`"),
        ),
        Row::refused(
            "an image that climbs",
            github("package", &packaged(&format!("{registry}/shop/../evil:v1"))?),
            400,
            "*not an image reference*",
        ),
    ])
}

fn payloads_of(ground: &Ground<'_>) -> Result<Vec<Row>> {
    let raw = |body: &[u8]| signed(GITHUB, "push", HMAC_SECRET, body.to_vec());
    let changed = |path: &str, value: serde_json::Value| {
        Ok::<_, anyhow::Error>(github("push", &with(ground.push()?, path, value)))
    };
    let version = |path: &str, value: &str| {
        let at = format!("/package/package_version{path}");
        Ok::<_, anyhow::Error>(github("package", &with(ground.package()?, &at, value)))
    };
    let text = ground.push()?.to_string();
    let huge = text.replacen('{', "{\"size\": 1e999,", 1);
    let invalid = text.replacen(BRANCH, "\u{1}\u{1}", 1).into_bytes();
    let invalid: Vec<u8> = invalid.into_iter().map(|byte| if byte == 1 { 0xff } else { byte }).collect();
    let twice = text.replacen('{', "{\"ref\": \"refs/heads/main\",", 1);
    let line = text.replacen('{', "{\"a\\nforged: 202 stored\": 1, \"a\\nforged: 202 stored\": 2,", 1);
    let deep = text.replacen('{', &format!("{{\"deep\": {}{},", "[".repeat(5000), "]".repeat(5000)), 1);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(text.as_bytes())?;
    let gzip = gzip.finish()?;
    let json = |what: &str| format!("the push is not acceptable JSON: {what}");
    let commit = revision_of("a commit, not a digest");
    let form = github("push", &ground.push()?).header("content-type", "application/x-www-form-urlencoded");
    let kind = "the content type is not application/json: set it so in the webhook's settings";
    let unknown =
        |event: &str| format!("the event `{event}` is not taken here: send push, package, registry_package or ping");
    Ok(vec![
        Row::nothing("a ping", github("ping", &payloads::github_ping(GITHUB_REPOSITORY)?), "pong"),
        Row::refused("an unknown event", github("workflow_run", &ground.push()?), 400, &unknown("workflow_run")),
        Row::refused("no event", github("push", &ground.push()?).without("x-github-event"), 400, &unknown("")),
        Row::refused("two events", github("push", &ground.push()?).also("x-github-event", "ping"), 400, &unknown("")),
        Row::refused("a form", form, 400, kind),
        Row::refused(
            "a type of a longer name",
            github("push", &ground.push()?).header("content-type", "application/jsonp"),
            400,
            kind,
        ),
        Row::refused("no JSON", raw(b"ref=refs/heads/main"), 400, &json("expected *")),
        Row::refused("an empty body", raw(b""), 400, &json("EOF while parsing a value *")),
        Row::refused("half a document", raw(&text.as_bytes()[..text.len() / 2]), 400, &json("EOF while parsing *")),
        Row::refused("two documents", raw(format!("{text}{text}").as_bytes()), 400, &json("trailing characters *")),
        Row::refused("a list", raw(b"[]"), 400, &json("*")),
        Row::refused("invalid UTF-8", raw(&invalid), 400, &json("invalid unicode code point *")),
        Row::refused("a key twice", raw(twice.as_bytes()), 400, &json("key `ref` is given twice *")),
        Row::refused(
            "a key twice that would be a line of its own",
            raw(line.as_bytes()),
            400,
            &json("key `aforged: 202 stored` is given twice *"),
        ),
        Row::refused("nested 5000 deep", raw(deep.as_bytes()), 400, &json("*deep*")),
        Row::refused("a number beyond all bounds", raw(huge.as_bytes()), 400, &json("number out of range *")),
        Row::refused(
            "a number for a name",
            changed("/ref", json!(18_446_744_073_709_551_615u64))?,
            400,
            &json("invalid type: integer `18446744073709551615`, expected a string *"),
        ),
        Row::refused(
            "packed with gzip",
            signed(GITHUB, "push", HMAC_SECRET, gzip).header("content-encoding", "gzip"),
            400,
            &json("expected value *"),
        ),
        Row::refused(
            "a NUL in its ref",
            changed("/ref", json!("refs/heads/si\0de"))?,
            400,
            "its ref has control characters",
        ),
        Row::refused(
            "a ref that is a line of its own",
            changed("/ref", json!("refs/heads/a\nReleased"))?,
            400,
            "its ref has control characters",
        ),
        Row::refused(
            "a ref of 300 characters",
            changed("/ref", json!("x".repeat(300)))?,
            400,
            "its ref is longer than 255 characters",
        ),
        Row::refused("a commit that is a branch", changed("/after", json!("main"))?, 400, "`main` is no commit"),
        Row::refused(
            "a digest of 40 hex",
            version("/container_metadata/tag/digest", &format!("sha256:{commit}"))?,
            400,
            &format!("`sha256:{commit}` is no digest: *64 hex digits*"),
        ),
        Row::refused(
            "two digests",
            version("/version", &format!("sha256:{}", "cd".repeat(32)))?,
            400,
            "it names two digests, sha256:* and sha256:*",
        ),
        Row::refused("10 MiB", github("push", &large()), 413, "the body is larger than 1048576 bytes"),
        Row::refused(
            "10 MiB in chunks",
            github("push", &large()).framed(Framing::Chunked),
            413,
            "the body is larger than 1048576 bytes",
        ),
    ])
}

fn http(ground: &Ground<'_>) -> Result<Vec<Row>> {
    let push = || Ok::<_, anyhow::Error>(github("push", &ground.push()?));
    let framed = |headers: &[(&str, &str)]| {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        push().map(|push| push.framed(Framing::Raw(headers)))
    };
    let length = push()?.body.len().to_string();
    let get = Request { method: "GET".to_owned(), body: Vec::new(), ..push()? };
    // Read by its length this is one delivery; read by its chunks it is an empty body and a request behind it.
    let inner = push()?;
    let mut smuggled = b"0\r\n\r\nPOST /events/github/github HTTP/1.1\r\nhost: x\r\n".to_vec();
    smuggled.extend(format!("content-length: {}\r\n\r\n", inner.body.len()).into_bytes());
    smuggled.extend(&inner.body);
    let both = vec![
        ("content-length".to_owned(), smuggled.len().to_string()),
        ("transfer-encoding".to_owned(), "chunked".to_owned()),
    ];
    let paths = "paths: /events/github /events/cloudbuild /events/artifactregistry";
    Ok(vec![
        Row::refused(
            "a body that stops coming",
            push()?.framed(Framing::Half),
            408,
            "the body did not arrive within 10 s",
        ),
        Row::refused("two lengths", framed(&[("content-length", &length), ("content-length", "1")])?, 400, ""),
        Row::refused("a length that is none", framed(&[("content-length", "-1")])?, 400, ""),
        Row::refused("a coding that is not chunked", framed(&[("transfer-encoding", "xchunked")])?, 400, ""),
        Row::refused(
            "a length and chunks, with a request behind them",
            signed(GITHUB, "push", HMAC_SECRET, smuggled).framed(Framing::Raw(both)),
            401,
            WRONG,
        ),
        Row::refused("a header with a NUL", push()?.header("x-github-event", "pu\0sh"), 400, ""),
        Row::refused("a head of 1 MiB", push()?.header("x-pad", &"x".repeat(1024 * 1024)), 431, ""),
        Row::refused("another method", get, 405, "deliveries are sent by POST"),
        Row::refused("another path", push()?.at("/events/gitlab"), 404, paths),
        Row::refused("a path beyond the source", push()?.at("/events/github/github/x"), 404, paths),
        Row::refused("a path out of the doors", push()?.at("/events/../apis"), 404, paths),
    ])
}
