//! HTTP/1 on one address, ended gently (answers what was asked, then closes) or at once, as a process that dies.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::super::spawn;
use super::Kubelet;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Serving,
    /// No new connections; those there answer what they have begun.
    Draining,
    /// Sockets closed.
    Gone,
}

/// Ends at once when dropped.
pub struct Server {
    mode: watch::Sender<Mode>,
}

impl Server {
    pub async fn bind<H, F>(address: SocketAddr, handler: H) -> std::io::Result<Self>
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
        F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await?;
        let (mode, mut changes) = watch::channel(Mode::Serving);
        spawn(async move {
            loop {
                tokio::select! {
                    accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                        spawn(connection(stream, handler.clone(), changes.clone()));
                    },
                    _ = changes.changed() => return,
                }
            }
        });
        Ok(Self { mode })
    }

    pub fn drain(&self) {
        self.mode.send_replace(Mode::Draining);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.mode.send_if_modified(|mode| {
            let serving = *mode == Mode::Serving;
            if serving {
                *mode = Mode::Gone;
            }
            serving
        });
    }
}

async fn connection<H, F>(stream: TcpStream, handler: H, mut changes: watch::Receiver<Mode>)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut connection =
        pin!(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = connection.as_mut() => return,
        // A sender that is gone says the same as `Gone`, unless it said `Draining` before.
        _ = changes.wait_for(|mode| *mode != Mode::Serving) => {}
    }
    if *changes.borrow() == Mode::Draining {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(Duration::from_secs(2), connection).await;
    }
}

/// Serves the kubelet's list of pods to Prometheus for as long as the process lives.
pub(super) async fn discovery(kubelet: Kubelet, address: SocketAddr) -> Result<()> {
    let server = Server::bind(address, move |_| {
        let kubelet = kubelet.clone();
        async move {
            let mut answer = Response::new(Full::from(kubelet.targets().await.to_string()));
            let json = http::HeaderValue::from_static("application/json");
            answer.headers_mut().insert(http::header::CONTENT_TYPE, json);
            answer
        }
    })
    .await
    .with_context(|| format!("cannot list pods for Prometheus at {address}"))?;
    // Dropping it would end it.
    std::mem::forget(server);
    Ok(())
}
