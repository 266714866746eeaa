//! A local GitHub API that checks what GitHub checks and answers as GitHub does: authentication, unknown repositories,
//! states, lengths, required contexts. It records what it was told, and can be dead on demand. It makes no webhooks.

mod api;
mod auth;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::http::{self as web, Server};

/// A personal access token that the stand-in knows.
pub const TOKEN: &str = "rig-github-token";
pub const APP_ID: u64 = 4711;
pub const INSTALLATION_ID: u64 = 815;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    Alive,
    /// Takes requests and never answers.
    Hanging,
    /// Answers 500 to everything.
    Failing,
    /// Answers as GitHub does beyond its secondary rate limit.
    RateLimited,
}

/// What it was told and accepted.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    Status { repo: String, sha: String, state: String, context: String, description: String, target_url: String },
    Deployment { repo: String, id: u64, reference: String, environment: String },
    DeploymentStatus { repo: String, deployment: u64, state: String, description: String },
}

/// What it answered; refusals are here and not in [`Told`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    pub method: String,
    pub path: String,
    pub status: u16,
    pub message: String,
}

#[derive(Default)]
struct World {
    mode: Mode,
    repos: BTreeSet<String>,
    unknown_commits: BTreeSet<String>,
    told: Vec<Told>,
    exchanges: Vec<Exchange>,
    deployments: BTreeMap<u64, api::Deployment>,
    /// Installation tokens and when they end, in seconds since 1970.
    installation_tokens: BTreeMap<String, i64>,
    last_id: u64,
}

impl World {
    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

pub struct Github {
    base: String,
    app_private_key: String,
    world: watch::Sender<World>,
    _server: Server,
}

impl Github {
    /// Knows the repositories `owner/name`; any commit of 40 hex digits exists unless it is said not to.
    pub async fn start(address: SocketAddr, repos: &[&str]) -> Result<Self> {
        let app_key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).context("the App's key")?;
        let app_public = app_key.public_key_pem();
        let repos = repos.iter().map(|repo| (*repo).to_owned()).collect();
        let world = watch::Sender::new(World { repos, ..World::default() });
        let shared = world.clone();
        let server = web::serve(address, move |request| {
            let (world, app_public) = (shared.clone(), app_public.clone());
            async move { handle(&world, &app_public, request).await }
        })
        .await?;
        let base = format!("http://{}", server.address);
        Ok(Self { base, app_private_key: app_key.serialize_pem(), world, _server: server })
    }

    /// `http://host:port`, in the place of `https://api.github.com`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// PKCS#8 PEM of the GitHub App [`APP_ID`], installed as [`INSTALLATION_ID`].
    pub fn app_private_key(&self) -> &str {
        &self.app_private_key
    }

    pub fn set_mode(&self, mode: Mode) {
        self.world.send_modify(|world| world.mode = mode);
    }

    /// From now on this commit is not in any repository.
    pub fn forget_commit(&self, sha: &str) {
        self.world.send_modify(|world| {
            world.unknown_commits.insert(sha.to_owned());
        });
    }

    /// All installation tokens end now, as after an hour.
    pub fn expire_installation_tokens(&self) {
        self.world.send_modify(|world| world.installation_tokens.values_mut().for_each(|end| *end = 0));
    }

    pub fn told(&self) -> Vec<Told> {
        self.world.borrow().told.clone()
    }

    pub fn exchanges(&self) -> Vec<Exchange> {
        self.world.borrow().exchanges.clone()
    }

    /// The newest state of `context` at `sha`, as a person would see it beside the commit.
    pub fn status_of(&self, sha: &str, context: &str) -> Option<String> {
        api::latest_statuses(&self.world.borrow(), sha).remove(context)
    }

    /// Waits until something told satisfies `wanted`, and returns it.
    pub async fn wait_until_told(&self, within: Duration, wanted: impl Fn(&Told) -> bool) -> Result<Told> {
        let mut observer = self.world.subscribe();
        let found = tokio::time::timeout(within, async {
            loop {
                let found = observer.borrow_and_update().told.iter().find(|told| wanted(told)).cloned();
                match found {
                    Some(told) => return Ok(told),
                    None => observer.changed().await?,
                }
            }
        });
        found.await.with_context(|| format!("GitHub was not told within {within:?}; it was told {:?}", self.told()))?
    }
}

/// An answer before it becomes HTTP.
type Answer = (StatusCode, Value);

fn refusal(status: StatusCode, message: &str) -> Answer {
    let body = json!({
        "message": message,
        "documentation_url": "https://docs.github.com/rest",
        "status": status.as_str(),
    });
    (status, body)
}

async fn handle(world: &watch::Sender<World>, app_public: &str, request: Request<Bytes>) -> Response<Full<Bytes>> {
    let mode = world.borrow().mode;
    let answer = match mode {
        Mode::Hanging => std::future::pending().await,
        Mode::Failing => refusal(StatusCode::INTERNAL_SERVER_ERROR, "Server Error"),
        Mode::RateLimited => refusal(StatusCode::FORBIDDEN, "You have exceeded a secondary rate limit."),
        Mode::Alive => {
            let mut answer = None;
            world.send_modify(|world| answer = Some(dispatch(world, app_public, &request)));
            answer.expect("`send_modify` runs its closure")
        }
    };
    let (status, body) = answer;
    world.send_modify(|world| {
        world.exchanges.push(Exchange {
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            status: status.as_u16(),
            message: body["message"].as_str().unwrap_or_default().to_owned(),
        });
    });
    let mut response = web::json(status, &body);
    if mode == Mode::RateLimited {
        response.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from_static("60"));
    }
    response
}

fn dispatch(world: &mut World, app_public: &str, request: &Request<Bytes>) -> Answer {
    if request.headers().get(http::header::USER_AGENT).is_none() {
        let message =
            "Request forbidden by administrative rules. Please make sure your request has a User-Agent header";
        return refusal(StatusCode::FORBIDDEN, message);
    }
    let path = request.uri().path();
    // GitHub Enterprise serves the same under /api/v3.
    let parts: Vec<&str> = path.strip_prefix("/api/v3").unwrap_or(path).split('/').skip(1).collect();
    let method = request.method().as_str();
    if let ("POST", ["app", "installations", id, "access_tokens"]) = (method, parts.as_slice()) {
        return auth::exchange(world, app_public, request, id);
    }
    if let Err(refused) = auth::check_token(world, request) {
        return refused;
    }
    let ["repos", owner, name, rest @ ..] = parts.as_slice() else {
        return refusal(StatusCode::NOT_FOUND, "Not Found");
    };
    let repo = format!("{owner}/{name}");
    // To a token without access a repository does not exist.
    if !world.repos.contains(&repo) {
        return refusal(StatusCode::NOT_FOUND, "Not Found");
    }
    if method == "GET" {
        return api::read(world, &repo, rest, &query(request));
    }
    let Ok(body) = serde_json::from_slice::<Value>(request.body()) else {
        return refusal(StatusCode::BAD_REQUEST, "Problems parsing JSON");
    };
    match (method, rest) {
        ("POST", ["statuses", sha]) => api::create_status(world, &repo, sha, &body),
        ("POST", ["deployments"]) => api::create_deployment(world, &repo, &body),
        ("POST", ["deployments", id, "statuses"]) => api::create_deployment_status(world, &repo, id, &body),
        _ => refusal(StatusCode::NOT_FOUND, "Not Found"),
    }
}

fn query(request: &Request<Bytes>) -> BTreeMap<String, String> {
    let uri = format!("http://github{}", request.uri());
    reqwest::Url::parse(&uri).map(|url| url.query_pairs().into_owned().collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
