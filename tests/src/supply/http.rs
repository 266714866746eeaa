//! The small HTTP server that the stand-ins share, and the client that the senders share.
//! It has no routes and no opinions: a handler gets the whole request.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

/// Serves until it is dropped; open connections end with it.
pub struct Server {
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

pub async fn serve<F, A>(address: SocketAddr, handler: F) -> Result<Server>
where
    F: Fn(Request<Bytes>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
    let address = listener.local_addr()?;
    #[allow(clippy::disallowed_methods)] // a stand-in is its own wiring; `Server` ends it
    let accepting = tokio::spawn(accept(listener, handler));
    Ok(Server { address, accepting })
}

async fn accept<F, A>(listener: TcpListener, handler: F)
where
    F: Fn(Request<Bytes>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let handler = handler.clone();
        connections.spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let handler = handler.clone();
                async move {
                    let (parts, body) = request.into_parts();
                    let answer = match body.collect().await {
                        Ok(body) => handler(Request::from_parts(parts, body.to_bytes())).await,
                        Err(_) => json(StatusCode::BAD_REQUEST, &Value::Null),
                    };
                    Ok::<_, Infallible>(answer)
                }
            });
            // A client that goes away is the client's affair.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

pub fn json(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json; charset=utf-8"));
    response
}

/// A client that goes nowhere but where it is told: no proxy, no redirect, and no trust in other CAs than `ca_pem`.
pub fn client(ca_pem: Option<&str>) -> Result<reqwest::Client> {
    // Two rustls providers could be linked by a dependency's whim; ours is named once per process.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let roots = match ca_pem {
        Some(pem) => reqwest::Certificate::from_pem_bundle(pem.as_bytes())?,
        None => Vec::new(),
    };
    let builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(std::time::Duration::from_secs(30))
        .tls_certs_only(roots);
    Ok(builder.build()?)
}
