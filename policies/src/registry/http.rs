//! [`Fetch`] over HTTP, within bounds that hold while reading. Follows redirects itself (https, at
//! most three, never with a token); never speaks to an address that the registry's name should not
//! lead to.

mod body;
mod challenge;
mod logins;
mod reach;
mod tokens;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use reqwest::{Client, Response};
use serde::Deserialize;
use tokio::sync::Mutex;
use url::Url;

use super::{Fetch, FetchError, Location, Manifest, Referrer};
use crate::digest::Digest;
use crate::image::ImageRef;
use crate::json;
use reach::Reach;

const MAX_MANIFEST: u64 = 4 << 20;
const MAX_REFERRERS: usize = 200;
const MAX_REDIRECTS: usize = 3;
/// Pages of a referrers list; the number of referrers is bounded besides.
const MAX_PAGES: usize = 10;
const CONNECT: Duration = Duration::from_secs(5);
/// One request with its redirects, token and body.
const REQUEST: Duration = Duration::from_secs(15);

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

pub use logins::{Credentials, Logins, docker_config};

/// Docker's registry is not where its name leads to.
const DOCKER: &str = "docker.io";
const DOCKER_API: &str = "registry-1.docker.io";

/// What an installation knows of its registries.
#[derive(Clone)]
pub struct HttpOptions {
    pub logins: Arc<dyn Logins>,
    /// Hosts of token services that may be sent a registry's credentials, besides its own.
    pub token_hosts: Vec<String>,
    /// Certificate authorities to trust besides the system's, as PEM.
    pub extra_roots: Vec<String>,
}

impl Default for HttpOptions {
    fn default() -> Self {
        let nobody: BTreeMap<String, Credentials> = BTreeMap::new();
        Self { logins: Arc::new(nobody), token_hosts: vec![], extra_roots: vec![] }
    }
}

/// Reads from real registries.
pub struct HttpFetch {
    clients: BTreeMap<Reach, Client>,
    logins: Arc<dyn Logins>,
    token_hosts: Vec<String>,
    tokens: Mutex<tokens::Tokens>,
}

/// One read, and what it is called in errors.
struct Ask<'a> {
    at: &'a Location,
    what: String,
    method: Method,
    path: String,
    accept: &'a str,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    response: Response,
}

impl HttpFetch {
    pub fn new() -> Result<Self, FetchError> {
        Self::with_options(HttpOptions::default())
    }

    pub fn with_options(options: HttpOptions) -> Result<Self, FetchError> {
        let clients = Reach::ALL
            .into_iter()
            .map(|reach| Ok((reach, client(reach, &options.extra_roots)?)))
            .collect::<Result<_, FetchError>>()?;
        Ok(Self { clients, logins: options.logins, token_hosts: options.token_hosts, tokens: Mutex::default() })
    }

    /// Asks, with a token if the registry wants one.
    async fn ask(&self, ask: &Ask<'_>) -> Result<Answer, FetchError> {
        let scheme = if ask.at.insecure { "http" } else { "https" };
        let host = if ask.at.registry == DOCKER { DOCKER_API } else { &ask.at.registry };
        let url = Url::parse(&format!("{scheme}://{host}{}", ask.path)).map_err(|e| ask.malformed(e))?;
        let known = self.tokens.lock().await.get(ask.at);
        let first = self.follow(ask, url.clone(), known.clone()).await?;
        if first.status != StatusCode::UNAUTHORIZED {
            return Ok(first);
        }
        if known.is_some() {
            self.tokens.lock().await.forget(ask.at);
        }
        let token = self.token(ask, &first.headers).await?;
        let second = self.follow(ask, url, Some(token)).await?;
        if second.status == StatusCode::UNAUTHORIZED {
            return Err(ask.unauthorized("the token it gave does not suffice"));
        }
        Ok(second)
    }

    /// One request with its redirects. Only the registry itself gets the token.
    async fn follow(&self, ask: &Ask<'_>, start: Url, token: Option<String>) -> Result<Answer, FetchError> {
        let mut url = start.clone();
        for hop in 0..=MAX_REDIRECTS {
            let home = url.origin() == start.origin();
            let client = self.client(ask, &url, home)?;
            let mut request = client.request(ask.method.clone(), url.clone()).header(header::ACCEPT, ask.accept);
            if let Some(token) = token.as_ref().filter(|_| home && hop == 0) {
                request = request.header(header::AUTHORIZATION, token);
            }
            let response = request.send().await.map_err(|e| ask.unreachable(&e))?;
            let status = response.status();
            let moved = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
            let Some(to) = response.headers().get(header::LOCATION).filter(|_| moved) else {
                return Ok(Answer { status, headers: response.headers().clone(), response });
            };
            let to = to.to_str().ok().and_then(|to| url.join(to).ok());
            let Some(to) = to else { return Err(ask.malformed("a redirect without a readable address")) };
            if to.scheme() != "https" && !(ask.at.insecure && to.scheme() == "http") {
                return Err(ask.redirect(&to, "it is not https"));
            }
            url = to;
        }
        Err(ask.redirect(&url, &format!("more than {MAX_REDIRECTS} redirects")))
    }

    fn client(&self, ask: &Ask<'_>, url: &Url, home: bool) -> Result<&Client, FetchError> {
        let reach = match (ask.at.insecure, home) {
            (true, true) => Reach::Anywhere,
            // The exception is for this registry, not for where it sends us.
            (true, false) | (false, true) => Reach::Registry,
            (false, false) => Reach::Public,
        };
        reach.check_literal(url).map_err(|reason| ask.unreachable_because(&reason))?;
        self.clients.get(&reach).ok_or_else(|| ask.unreachable_because(&"no client for it"))
    }

    async fn token(&self, ask: &Ask<'_>, headers: &HeaderMap) -> Result<String, FetchError> {
        let credentials = self.logins.of(&ask.at.registry).await.map_err(|why| ask.unauthorized(&why))?;
        let credentials = credentials.as_ref();
        match challenge::Challenge::read(headers) {
            Some(challenge::Challenge::Basic) => credentials
                .map(tokens::basic)
                .ok_or_else(|| ask.unauthorized("it wants a user and password, and none is configured")),
            Some(challenge::Challenge::Bearer { realm, service }) => {
                let url = tokens::url(&realm, service.as_deref(), &ask.at.repository)
                    .map_err(|reason| ask.unauthorized(&reason))?;
                if url.scheme() != "https" && !(ask.at.insecure && url.scheme() == "http") {
                    return Err(ask.unauthorized("its token service is not https"));
                }
                if credentials.is_some() && !logins::may_go(&ask.at.registry, &url, &self.token_hosts) {
                    return Err(ask.unauthorized(&format!(
                        "its token service is at {}, where its credentials do not go unless --registry-token-hosts names it",
                        url.host_str().unwrap_or("no host")
                    )));
                }
                let home = url.host_str() == ask.at.registry.split(':').next();
                let mut request = self.client(ask, &url, home)?.get(url);
                if let Some(credentials) = credentials {
                    request = request.header(header::AUTHORIZATION, tokens::basic(credentials));
                }
                let response = request.send().await.map_err(|e| ask.unreachable(&e))?;
                // Redirects are not followed here: a token service that moves must say so itself.
                if response.status() != StatusCode::OK {
                    return Err(ask.unauthorized(&format!("its token service answered {}", response.status())));
                }
                let bytes = body::read(response, tokens::MAX_ANSWER, ask).await?;
                let token = tokens::parse(&bytes).map_err(|reason| ask.unauthorized(&reason))?;
                Ok(self.tokens.lock().await.keep(ask.at, token))
            }
            None => Err(ask.unauthorized("it asks for an authentication that is not known")),
        }
    }

    /// A manifest by tag or digest, unchecked.
    async fn raw_manifest(&self, at: &Location, reference: &str) -> Result<(Option<String>, Bytes), FetchError> {
        let ask = Ask::get(at, format!("manifest {reference}"), format!("manifests/{reference}"), MANIFESTS);
        let answer = self.ask(&ask).await?;
        ask.must_be_ok(answer.status)?;
        let media_type = content_type(&answer.headers);
        Ok((media_type, body::read(answer.response, MAX_MANIFEST, &ask).await?))
    }

    async fn referrers_by_api(&self, at: &Location, digest: &Digest) -> Result<Vec<Referrer>, FetchError> {
        let mut found = Vec::new();
        let mut ask = Ask::get(at, format!("referrers of {digest}"), format!("referrers/{digest}"), INDEX);
        for _ in 0..MAX_PAGES {
            let answer = match self.ask(&ask).await {
                Ok(answer) => answer,
                // GHCR sends 303 to a page of its own: the API is not served.
                Err(FetchError::Redirect { .. }) => return Ok(found),
                Err(error) => return Err(error),
            };
            match answer.status.as_u16() {
                200 => {}
                // Not served there; the fallback tag answers.
                300..=399 | 400 | 404 | 405 | 406 | 415 | 501 => return Ok(found),
                _ => ask.must_be_ok(answer.status)?,
            }
            // A false 200: some registries answer any path with a page of theirs.
            if content_type(&answer.headers).as_deref() != Some(INDEX) {
                return Ok(found);
            }
            let next = challenge::next_page(&answer.headers, &ask.path);
            let bytes = body::read(answer.response, MAX_MANIFEST, &ask).await?;
            extend(&mut found, &bytes, &ask)?;
            match next {
                Some(path) => ask.path = path,
                None => return Ok(found),
            }
        }
        Err(FetchError::TooMany { what: "pages of referrers".into(), at: at.to_string(), limit: MAX_PAGES })
    }

    async fn referrers_by_tag(&self, at: &Location, digest: &Digest) -> Result<Vec<Referrer>, FetchError> {
        let tag = format!("sha256-{}", digest.hex());
        let (_, bytes) = match self.raw_manifest(at, &tag).await {
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            other => other?,
        };
        // GitLab answers the fallback tag with the image itself, whose children are no referrers.
        if Digest::of(&bytes) == *digest {
            return Ok(Vec::new());
        }
        let ask = Ask::get(at, format!("fallback tag {tag}"), String::new(), INDEX);
        let mut found = Vec::new();
        extend(&mut found, &bytes, &ask)?;
        Ok(found)
    }
}

#[async_trait]
impl Fetch for HttpFetch {
    async fn resolve(&self, at: &Location, image: &ImageRef) -> Result<Digest, FetchError> {
        let reference = match (&image.digest, &image.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        };
        let what = format!("manifest {reference}");
        let ask = Ask { method: Method::HEAD, ..Ask::get(at, what, format!("manifests/{reference}"), MANIFESTS) };
        bounded(&ask, async {
            let answer = self.ask(&ask).await?;
            ask.must_be_ok(answer.status)?;
            let told = answer.headers.get("docker-content-digest").and_then(|v| v.to_str().ok());
            let found = match told.and_then(|text| text.parse::<Digest>().ok()) {
                Some(digest) => digest,
                None => {
                    let (_, bytes) = self.raw_manifest(at, &reference).await?;
                    must_be_manifest(&bytes, &ask)?;
                    Digest::of(&bytes)
                }
            };
            match &image.digest {
                Some(asked) if *asked != found => Err(FetchError::WrongDigest {
                    what: ask.what.clone(),
                    at: at.to_string(),
                    asked: asked.clone(),
                    found,
                }),
                _ => Ok(found),
            }
        })
        .await
    }

    async fn manifest(&self, at: &Location, digest: &Digest) -> Result<Manifest, FetchError> {
        let ask = Ask::get(at, format!("manifest {digest}"), String::new(), MANIFESTS);
        bounded(&ask, async {
            let (media_type, bytes) = self.raw_manifest(at, digest.as_str()).await?;
            ask.must_have_digest(&bytes, digest)?;
            Ok(Manifest { media_type: media_type.unwrap_or_default(), bytes })
        })
        .await
    }

    async fn referrers(&self, at: &Location, digest: &Digest) -> Result<Vec<Referrer>, FetchError> {
        let ask = Ask::get(at, format!("referrers of {digest}"), String::new(), INDEX);
        bounded(&ask, async {
            let found = self.referrers_by_api(at, digest).await?;
            // An empty answer says nothing where clients fall back to the tag.
            if found.is_empty() { self.referrers_by_tag(at, digest).await } else { Ok(found) }
        })
        .await
    }

    async fn blob(&self, at: &Location, digest: &Digest, limit: u64) -> Result<Bytes, FetchError> {
        let ask = Ask::get(at, format!("blob {digest}"), format!("blobs/{digest}"), "*/*");
        bounded(&ask, async {
            let answer = self.ask(&ask).await?;
            ask.must_be_ok(answer.status)?;
            let bytes = body::read(answer.response, limit, &ask).await?;
            ask.must_have_digest(&bytes, digest)?;
            Ok(bytes)
        })
        .await
    }
}

fn client(reach: Reach, extra_roots: &[String]) -> Result<Client, FetchError> {
    let failed =
        |reason: String| FetchError::Unreachable { what: "anything".into(), at: "any registry".into(), reason };
    let mut builder = Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT)
        .timeout(REQUEST)
        .no_proxy()
        .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        .dns_resolver(reach);
    for pem in extra_roots {
        let certificate = reqwest::Certificate::from_pem(pem.as_bytes()).map_err(|e| failed(e.to_string()))?;
        builder = builder.tls_certs_merge([certificate]);
    }
    builder.build().map_err(|e| failed(e.to_string()))
}

async fn bounded<T>(ask: &Ask<'_>, work: impl Future<Output = Result<T, FetchError>> + Send) -> Result<T, FetchError> {
    tokio::time::timeout(REQUEST, work).await.unwrap_or_else(|_| {
        Err(FetchError::Deadline { what: ask.what.clone(), at: ask.at.to_string(), seconds: REQUEST.as_secs() })
    })
}

fn content_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(text.split(';').next().unwrap_or(text).trim().to_ascii_lowercase())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    artifact_type: Option<String>,
}

fn extend(found: &mut Vec<Referrer>, bytes: &[u8], ask: &Ask<'_>) -> Result<(), FetchError> {
    let index: Index = json::parse(bytes, "the referrers list").map_err(|e| ask.malformed(e))?;
    if index.schema_version != 2 {
        return Err(ask.malformed(format!("schemaVersion {}", index.schema_version)));
    }
    if found.len() + index.manifests.len() > MAX_REFERRERS {
        return Err(FetchError::TooMany { what: "referrers".into(), at: ask.at.to_string(), limit: MAX_REFERRERS });
    }
    found.extend(index.manifests.into_iter().map(|d| Referrer {
        digest: d.digest,
        media_type: d.media_type,
        artifact_type: d.artifact_type,
        size: d.size,
    }));
    Ok(())
}

fn must_be_manifest(bytes: &[u8], ask: &Ask<'_>) -> Result<(), FetchError> {
    let index: Index = json::parse(bytes, "the manifest").map_err(|e| ask.malformed(e))?;
    if index.schema_version == 2 { Ok(()) } else { Err(ask.malformed("it is no manifest of schema version 2")) }
}

impl<'a> Ask<'a> {
    fn get(at: &'a Location, what: String, tail: String, accept: &'a str) -> Self {
        Self { at, what, method: Method::GET, path: format!("/v2/{}/{tail}", at.repository), accept }
    }

    fn must_be_ok(&self, status: StatusCode) -> Result<(), FetchError> {
        match status.as_u16() {
            200 => Ok(()),
            404 => Err(FetchError::NotFound { what: self.what.clone(), at: self.at.to_string() }),
            403 => Err(self.unauthorized("forbidden")),
            status => Err(FetchError::Status { what: self.what.clone(), at: self.at.to_string(), status }),
        }
    }

    fn must_have_digest(&self, bytes: &[u8], asked: &Digest) -> Result<(), FetchError> {
        let found = Digest::of(bytes);
        if found == *asked {
            return Ok(());
        }
        Err(FetchError::WrongDigest { what: self.what.clone(), at: self.at.to_string(), asked: asked.clone(), found })
    }

    fn malformed(&self, reason: impl ToString) -> FetchError {
        FetchError::Malformed { what: self.what.clone(), at: self.at.to_string(), reason: reason.to_string() }
    }

    fn unauthorized(&self, reason: &str) -> FetchError {
        FetchError::Unauthorized { what: self.what.clone(), at: self.at.to_string(), reason: reason.to_owned() }
    }

    fn unreachable(&self, error: &reqwest::Error) -> FetchError {
        // The outermost error only says that a request failed; the cause says why.
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        self.unreachable_because(&plainly(&cause.to_string()))
    }

    fn unreachable_because(&self, reason: &dyn std::fmt::Display) -> FetchError {
        FetchError::Unreachable { what: self.what.clone(), at: self.at.to_string(), reason: reason.to_string() }
    }

    fn too_large(&self, limit: u64) -> FetchError {
        FetchError::TooLarge { what: self.what.clone(), at: self.at.to_string(), limit }
    }

    fn redirect(&self, to: &Url, reason: &str) -> FetchError {
        FetchError::Redirect {
            what: self.what.clone(),
            at: self.at.to_string(),
            to: to.host_str().unwrap_or("nowhere").to_owned(),
            reason: reason.to_owned(),
        }
    }
}

/// What met TLS with something else is nearly always a registry without it.
fn plainly(cause: &str) -> String {
    if !cause.contains("InvalidContentType") {
        return cause.to_owned();
    }
    "it speaks plain HTTP, not TLS: list it under the policy's `registries` with `insecure: true` if it is meant to"
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::plainly;

    #[test]
    fn a_registry_without_tls_is_told_as_one() {
        let told = plainly("received corrupt message of type InvalidContentType");
        assert!(told.contains("plain HTTP") && told.contains("insecure: true"), "{told}");
        assert_eq!(plainly("connection refused"), "connection refused");
    }
}
