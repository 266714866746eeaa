//! The bounded registry client against servers that behave and servers that do not. All on the
//! loopback, which a registry must be called insecure for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_policies::digest::Digest;
use tidegate_policies::image::ImageRef;
use tidegate_policies::model::Registry;
use tidegate_policies::registry::{Credentials, Fetch, FetchError, HttpFetch, HttpOptions, Location};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

#[derive(Clone)]
struct Request {
    method: String,
    path: String,
    authorization: Option<String>,
}

struct Answer {
    head: String,
    body: Vec<u8>,
    /// Goes on sending the body for ever.
    endless: bool,
}

fn answer(status: u16, headers: &str, body: impl Into<Vec<u8>>) -> Answer {
    let body = body.into();
    let head = format!("HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
    Answer { head, body, endless: false }
}

fn ok(content_type: &str, body: impl Into<Vec<u8>>) -> Answer {
    answer(200, &format!("content-type: {content_type}\r\n"), body)
}

struct Server {
    host: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    async fn start(respond: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let respond = Arc::new(respond);
        #[allow(clippy::disallowed_methods, reason = "a server that ends with its test")]
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (log, respond) = (log.clone(), respond.clone());
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    let mut byte = [0];
                    while !head.ends_with(b"\r\n\r\n") {
                        if stream.read(&mut byte).await.unwrap_or(0) == 0 {
                            return;
                        }
                        head.push(byte[0]);
                    }
                    let head = String::from_utf8(head).unwrap();
                    let mut line = head.lines().next().unwrap().split(' ');
                    let request = Request {
                        method: line.next().unwrap().into(),
                        path: line.next().unwrap().into(),
                        authorization: head.lines().find_map(|l| {
                            l.to_lowercase().starts_with("authorization:").then(|| l[14..].trim().into())
                        }),
                    };
                    log.lock().await.push(request.clone());
                    let answer = respond(&request);
                    let _ = stream.write_all(answer.head.as_bytes()).await;
                    if request.method == "HEAD" {
                        return;
                    }
                    let _ = stream.write_all(&answer.body).await;
                    while answer.endless && stream.write_all(&answer.body).await.is_ok() {}
                });
            }
        });
        Self { host, seen }
    }

    fn location(&self) -> Location {
        Location { registry: self.host.clone(), repository: "acme/portal".into(), insecure: true }
    }

    fn image(&self, tail: &str) -> ImageRef {
        format!("{}/acme/portal{tail}", self.host).parse().unwrap()
    }
}

fn fetch() -> HttpFetch {
    HttpFetch::new().unwrap()
}

fn list(digests: &[Digest]) -> String {
    let manifests: Vec<String> = digests
        .iter()
        .map(|d| {
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{d}","size":1,"artifactType":"{BUNDLE}"}}"#
            )
        })
        .collect();
    format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#, manifests.join(","))
}

#[tokio::test]
async fn a_tag_is_resolved_by_header_or_by_content() {
    let manifest = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;
    let digest = Digest::of(manifest.as_bytes());
    for (headers, expected) in [
        (format!("docker-content-digest: {digest}\r\n"), Some(digest.clone())),
        (String::new(), Some(digest.clone())),
        ("docker-content-digest: sha256:abc\r\n".to_owned(), Some(digest.clone())),
    ] {
        let server = Server::start(move |r| match r.path.as_str() {
            "/v2/acme/portal/manifests/v1" => answer(200, &headers, manifest),
            _ => answer(404, "", ""),
        })
        .await;
        let found = fetch().resolve(&server.location(), &server.image(":v1")).await;
        assert_eq!(found.ok(), expected);
        let missing = fetch().resolve(&server.location(), &server.image(":v2")).await;
        assert!(missing.unwrap_err().is_not_found());
    }
    // A page that is no manifest resolves to nothing.
    let server = Server::start(|_| ok("text/html", "<html>welcome</html>")).await;
    let page = fetch().resolve(&server.location(), &server.image(":v1")).await;
    assert!(matches!(page, Err(FetchError::Malformed { .. })), "{page:?}");
}

#[tokio::test]
async fn a_digest_is_looked_up_as_that_digest() {
    let (asked, other) = (Digest::of(b"asked"), Digest::of(b"other"));
    let server = {
        let other = other.clone();
        Server::start(move |_| answer(200, &format!("docker-content-digest: {other}\r\n"), "")).await
    };
    let image = server.image(&format!("@{asked}"));
    let found = fetch().resolve(&server.location(), &image).await;
    assert!(matches!(found, Err(FetchError::WrongDigest { .. })), "{found:?}");
}

#[tokio::test]
async fn what_has_another_digest_is_refused() {
    let server = Server::start(|_| ok("application/json", "swapped")).await;
    let digest = Digest::of(b"original");
    let manifest = fetch().manifest(&server.location(), &digest).await;
    assert!(matches!(manifest, Err(FetchError::WrongDigest { .. })), "{manifest:?}");
    let blob = fetch().blob(&server.location(), &digest, 100).await;
    assert!(matches!(blob, Err(FetchError::WrongDigest { .. })), "{blob:?}");
    let blob = fetch().blob(&server.location(), &Digest::of(b"swapped"), 100).await;
    assert_eq!(blob.unwrap().as_ref(), b"swapped");
}

#[tokio::test]
async fn too_much_is_refused_by_declaration_and_while_reading() {
    let digest = Digest::of(b"x");
    let declared = Server::start(|_| answer(200, "", vec![b'x'; 200])).await;
    let blob = fetch().blob(&declared.location(), &digest, 100).await;
    assert!(matches!(blob, Err(FetchError::TooLarge { limit: 100, .. })), "{blob:?}");
    let endless = Server::start(|_| Answer {
        head: "HTTP/1.1 200 x\r\nconnection: close\r\n\r\n".into(),
        body: vec![b'x'; 65536],
        endless: true,
    })
    .await;
    let blob = fetch().blob(&endless.location(), &digest, 1 << 20).await;
    assert!(matches!(blob, Err(FetchError::TooLarge { .. })), "{blob:?}");
    let manifest = fetch().manifest(&endless.location(), &digest).await;
    assert!(matches!(manifest, Err(FetchError::TooLarge { .. })), "{manifest:?}");
}

#[tokio::test]
async fn referrers_come_from_the_api_or_the_fallback_tag() {
    let subject = Digest::of(b"image");
    let found = [Digest::of(b"signature")];
    let listed = list(&found);
    let api = format!("/v2/acme/portal/referrers/{subject}");
    let tag = format!("/v2/acme/portal/manifests/sha256-{}", subject.hex());
    let cases: Vec<(&str, Answer, Answer, usize)> = vec![
        ("api", ok(INDEX, listed.clone()), answer(404, "", ""), 1),
        ("no api", answer(404, "", ""), ok(INDEX, listed.clone()), 1),
        ("empty api", ok(INDEX, list(&[])), ok(INDEX, listed.clone()), 1),
        ("303 of GHCR", answer(303, "location: ftp://elsewhere/\r\n", ""), ok(INDEX, listed.clone()), 1),
        ("false 200", ok("text/html", "<html>"), ok(INDEX, listed.clone()), 1),
        ("neither", answer(404, "", ""), answer(404, "", ""), 0),
    ];
    for (name, by_api, by_tag, expected) in cases {
        let (api, tag) = (api.clone(), tag.clone());
        let server = Server::start(move |r| {
            let copy = |a: &Answer| Answer { head: a.head.clone(), body: a.body.clone(), endless: false };
            if r.path == api {
                copy(&by_api)
            } else if r.path == tag {
                copy(&by_tag)
            } else {
                answer(500, "", "")
            }
        })
        .await;
        let referrers = fetch().referrers(&server.location(), &subject).await.unwrap();
        assert_eq!(referrers.len(), expected, "{name}");
    }
}

#[tokio::test]
async fn a_fallback_tag_that_names_the_image_itself_lists_nothing() {
    let index = list(&[Digest::of(b"child")]);
    let subject = Digest::of(index.as_bytes());
    let server =
        Server::start(
            move |r| {
                if r.path.contains("/manifests/") { ok(INDEX, index.clone()) } else { answer(404, "", "") }
            },
        )
        .await;
    assert!(fetch().referrers(&server.location(), &subject).await.unwrap().is_empty());
}

#[tokio::test]
async fn not_knowing_is_an_error_and_never_an_empty_list() {
    let subject = Digest::of(b"image");
    let many: Vec<Digest> = (0..201).map(|i: u32| Digest::of(&i.to_be_bytes())).collect();
    let many = list(&many);
    let server = Server::start(move |_| ok(INDEX, many.clone())).await;
    let error = fetch().referrers(&server.location(), &subject).await.unwrap_err();
    assert!(matches!(error, FetchError::TooMany { limit: 200, .. }), "{error}");
    for status in [403, 429, 500, 503] {
        let server = Server::start(move |_| answer(status, "", "")).await;
        assert!(fetch().referrers(&server.location(), &subject).await.is_err(), "{status}");
    }
    for broken in ["", "{", r#"{"schemaVersion":1}"#, r#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#] {
        let server = Server::start(move |_| ok(INDEX, broken)).await;
        let error = fetch().referrers(&server.location(), &subject).await.unwrap_err();
        assert!(matches!(error, FetchError::Malformed { .. }), "{broken}: {error}");
    }
    let nobody = Location { registry: "127.0.0.1:1".into(), repository: "x".into(), insecure: true };
    assert!(matches!(fetch().referrers(&nobody, &subject).await, Err(FetchError::Unreachable { .. })));
}

#[tokio::test]
async fn pages_are_followed_on_the_same_path_only() {
    let subject = Digest::of(b"image");
    let path = format!("/v2/acme/portal/referrers/{subject}");
    let (first, second) = (list(&[Digest::of(b"1")]), list(&[Digest::of(b"2")]));
    let server = Server::start(move |r| {
        if r.path.ends_with("?page=2") {
            return ok(INDEX, second.clone());
        }
        answer(200, &format!("content-type: {INDEX}\r\nlink: <{path}?page=2>; rel=\"next\"\r\n"), first.clone())
    })
    .await;
    assert_eq!(fetch().referrers(&server.location(), &subject).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_challenge_leads_to_no_other_machine_inside() {
    for realm in ["http://127.0.0.2/token", "http://169.254.169.254/token", "file:///etc/passwd", "no address"] {
        let challenge = format!("www-authenticate: Bearer realm=\"{realm}\"\r\n");
        let server = Server::start(move |_| answer(401, &challenge, "")).await;
        let error = fetch().blob(&server.location(), &Digest::of(b"x"), 100).await.unwrap_err();
        assert!(
            error.to_string().contains("not an address to fetch from")
                || matches!(error, FetchError::Unauthorized { .. }),
            "{realm}: {error}"
        );
    }
}

#[tokio::test]
async fn a_token_is_fetched_once_kept_and_not_sent_across_a_redirect() {
    let blob = "content";
    let digest = Digest::of(blob.as_bytes());
    let listener_host = Arc::new(Mutex::new(String::new()));
    let known = listener_host.clone();
    let server = Server::start(move |r| {
        let host = known.try_lock().unwrap().clone();
        let authorized = r.authorization.as_deref() == Some("Bearer secret");
        match r.path.as_str() {
            path if path.starts_with("/token?") => {
                assert!(path.contains("scope=repository%3Aacme%2Fportal%3Apull"), "{path}");
                ok("application/json", r#"{"token":"secret","expires_in":300}"#)
            }
            "/storage" => ok("application/octet-stream", blob),
            _ if authorized => answer(307, "location: /storage\r\n", ""),
            _ => {
                answer(401, &format!("www-authenticate: Bearer realm=\"http://{host}/token\",service=\"reg\"\r\n"), "")
            }
        }
    })
    .await;
    *listener_host.lock().await = server.host.clone();
    let fetch = fetch();
    for _ in 0..3 {
        assert_eq!(fetch.blob(&server.location(), &digest, 100).await.unwrap().as_ref(), blob.as_bytes());
    }
    let seen = server.seen.lock().await;
    assert_eq!(seen.iter().filter(|r| r.path.starts_with("/token")).count(), 1);
    assert!(seen.iter().filter(|r| r.path == "/storage").all(|r| r.authorization.is_none()));
}

#[tokio::test]
async fn redirects_are_bounded_and_keep_to_their_schemes() {
    let digest = Digest::of(b"x");
    let server = Server::start(|_| answer(302, "location: /again\r\n", "")).await;
    let error = fetch().blob(&server.location(), &digest, 100).await.unwrap_err();
    assert!(matches!(error, FetchError::Redirect { .. }), "{error}");
    assert_eq!(server.seen.lock().await.len(), 4);
    for to in ["ftp://elsewhere/", "file:///etc/passwd", "http://169.254.169.254/token", "http://127.0.0.1:1/"] {
        let server = Server::start(move |_| answer(302, &format!("location: {to}\r\n"), "")).await;
        let error = fetch().blob(&server.location(), &digest, 100).await.unwrap_err();
        assert!(
            matches!(error, FetchError::Redirect { .. }) || error.to_string().contains("not an address to fetch from"),
            "{to}: {error}"
        );
        assert_eq!(server.seen.lock().await.len(), 1, "{to}");
    }
}

#[tokio::test]
async fn a_registry_that_is_not_called_insecure_gets_no_plain_http_and_no_loopback() {
    let server = Server::start(|_| ok("text/plain", "hello")).await;
    let registries = [Registry { host: "127.0.0.1:1".into(), insecure: true }];
    let at = Location::of(&server.image(":v1"), &registries);
    assert!(!at.insecure);
    let error = fetch().blob(&at, &Digest::of(b"hello"), 100).await.unwrap_err();
    assert!(error.to_string().contains("insecure: true"), "{error}");
    assert!(server.seen.lock().await.is_empty());
    let at = Location { registry: format!("localhost:{}", server.host.split(':').nth(1).unwrap()), ..at };
    let error = fetch().blob(&at, &Digest::of(b"hello"), 100).await.unwrap_err();
    assert!(matches!(error, FetchError::Unreachable { .. }), "{error}");
    assert!(server.seen.lock().await.is_empty());
}

/// With a user and password for that registry.
fn fetch_as(server: &Server, password: &str) -> HttpFetch {
    let login = Credentials { username: "anna".into(), password: password.into() };
    let logins = BTreeMap::from([(server.host.clone(), login)]);
    HttpFetch::with_options(HttpOptions { logins: Arc::new(logins), ..HttpOptions::default() }).unwrap()
}

/// `anna:hunter2`
const ANNA: &str = "Basic YW5uYTpodW50ZXIy";

#[tokio::test]
async fn a_password_goes_to_the_registrys_own_token_service_and_nowhere_else() {
    let blob = "content";
    let digest = Digest::of(blob.as_bytes());
    let known = Arc::new(Mutex::new(String::new()));
    let realm = known.clone();
    let server = Server::start(move |r| match (r.path.as_str(), r.authorization.as_deref()) {
        (path, Some(ANNA)) if path.starts_with("/token?") => ok("application/json", r#"{"token":"secret"}"#),
        (path, _) if path.starts_with("/token?") => answer(401, "", ""),
        ("/storage", _) => ok("application/octet-stream", blob),
        (_, Some("Bearer secret")) => answer(307, "location: /storage\r\n", ""),
        _ => {
            let realm = realm.try_lock().unwrap().clone();
            answer(401, &format!("www-authenticate: Bearer realm=\"{realm}/token\",service=\"reg\"\r\n"), "")
        }
    })
    .await;
    *known.lock().await = format!("http://{}", server.host);
    let blobs = async |fetch: &HttpFetch| fetch.blob(&server.location(), &digest, 100).await;
    assert_eq!(blobs(&fetch_as(&server, "hunter2")).await.unwrap().as_ref(), blob.as_bytes());
    let seen: Vec<Request> = std::mem::take(&mut *server.seen.lock().await);
    for request in seen.iter().filter(|r| r.authorization.as_deref() == Some(ANNA)) {
        assert!(request.path.starts_with("/token?"), "{}", request.path);
    }
    assert!(seen.iter().filter(|r| r.path == "/storage").all(|r| r.authorization.is_none()));

    for (name, fetch) in [("a wrong password", fetch_as(&server, "guess-it")), ("no password", fetch())] {
        let error = blobs(&fetch).await.unwrap_err();
        assert!(matches!(error, FetchError::Unauthorized { .. }), "{name}: {error}");
        assert!(!format!("{error} {error:?}").contains("guess-it"), "{name}: {error}");
    }

    // The same machine by another name: whatever answers there gets no password.
    let elsewhere = Server::start(|_| ok("application/json", r#"{"token":"secret"}"#)).await;
    *known.lock().await = format!("http://{}", elsewhere.host.replace("127.0.0.1", "localhost"));
    let error = blobs(&fetch_as(&server, "hunter2")).await.unwrap_err();
    assert!(error.to_string().contains("its credentials do not go"), "{error}");
    assert!(elsewhere.seen.lock().await.is_empty());
}

#[tokio::test]
async fn a_registry_without_token_service_gets_user_and_password() {
    let blob = "content";
    let digest = Digest::of(blob.as_bytes());
    let server = Server::start(move |r| match r.authorization.as_deref() {
        Some(ANNA) => ok("application/octet-stream", blob),
        _ => answer(401, "www-authenticate: Basic realm=\"x\"\r\n", ""),
    })
    .await;
    let read = fetch_as(&server, "hunter2").blob(&server.location(), &digest, 100).await;
    assert_eq!(read.unwrap().as_ref(), blob.as_bytes());
    let error = fetch().blob(&server.location(), &digest, 100).await.unwrap_err();
    assert!(error.to_string().contains("none is configured"), "{error}");
}
