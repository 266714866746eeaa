//! The accept loop under the doors and the guard: our own hyper and rustls, since warp has no TLS.
//! Bounds connections and the time to shake hands and to send a head; what a request may cost
//! beyond that is the service's business. Never answers anything itself.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::tls::Certificates;

#[derive(Clone)]
pub enum Transport {
    /// For use behind a proxy that ends TLS, and for tests.
    Plain,
    Tls(Arc<Certificates>),
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; further ones wait in the kernel's backlog.
    pub connections: usize,
    /// From accept to the end of the TLS handshake.
    pub handshake: Duration,
    /// From the end of one answer (or the handshake) to the end of the next head: idle connections
    /// are closed by it too. A client that pools connections should close them earlier, or it may
    /// write into one that we are closing.
    pub head: Duration,
    /// How long running requests may go on after the shutdown began.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 512,
            handshake: Duration::from_secs(10),
            // Go's clients (the API server's among them) close idle connections after 90 s.
            head: Duration::from_secs(120),
            drain: Duration::from_secs(10),
        }
    }
}

/// Serves until `shutdown` resolves, then lets running requests finish within `limits.drain`.
pub async fn serve<S, B>(
    listener: TcpListener,
    transport: Transport,
    service: S,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) where
    S: tower::Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let places = Arc::new(Semaphore::new(limits.connections));
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let accept = async {
            let place = places.clone().acquire_owned().await;
            (listener.accept().await, place)
        };
        let accepted = tokio::select! {
            accepted = accept => accepted,
            () = &mut shutdown => break,
        };
        let (Ok((stream, _)), Ok(place)) = accepted else {
            // Out of file descriptors, for one: a moment later there may be some.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (transport, service, stopping) = (transport.clone(), service.clone(), stopping.clone());
        connections.spawn(async move {
            let _place = place;
            match transport {
                Transport::Plain => converse(stream, service, limits, stopping).await,
                Transport::Tls(certificates) => {
                    let acceptor = TlsAcceptor::from(certificates.current().await);
                    match tokio::time::timeout(limits.handshake, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => converse(stream, service, limits, stopping).await,
                        Ok(Err(error)) => tracing::debug!(%error, "no TLS handshake"),
                        Err(_) => tracing::debug!("no TLS handshake in time"),
                    }
                }
            }
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let _ = stop.send(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.drain, drained).await.is_err() {
        tracing::warn!(open = connections.len(), "requests were cut off at the shutdown");
    }
}

async fn converse<I, S, B>(stream: I, service: S, limits: Limits, mut stopping: watch::Receiver<bool>)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: tower::Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        // A watch's guard is not Send: it must be gone before the next await.
        () = async { let _ = stopping.wait_for(|stop| *stop).await; } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
