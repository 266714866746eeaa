//! The accept loop under the doors and the guard: our own hyper and rustls, since warp has no TLS.
//! Bounds connections, of all and of one address, and the time to shake hands and to send a head; what a
//! request may cost beyond that is the service's business. Never answers anything itself.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

use crate::addresses::Addresses;
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
    /// Of them at once from one address (IPv6: from one /64); further ones are closed at once. A proxy in front has
    /// one address and must do this itself.
    pub per_address: usize,
    /// From accept to the end of the TLS handshake.
    pub handshake: Duration,
    /// From then to the first request: whoever only holds a place loses it.
    pub first_head: Duration,
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
            per_address: 256,
            handshake: Duration::from_secs(10),
            first_head: Duration::from_secs(10),
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
    let addresses = Addresses::new(limits.per_address);
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
        let (Ok((stream, peer)), Ok(place)) = accepted else {
            // Out of file descriptors, for one: a moment later there may be some.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Some(share) = addresses.admit(peer.ip()) else {
            tracing::debug!(%peer, "too many connections from one address");
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (transport, service, stopping) = (transport.clone(), service.clone(), stopping.clone());
        connections.spawn(async move {
            let _held = (place, share);
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
    let asked = Arc::new(AtomicBool::new(false));
    let first = {
        let asked = asked.clone();
        tower::ServiceBuilder::new()
            .map_request(move |request| {
                asked.store(true, Ordering::Relaxed);
                request
            })
            .service(service)
    };
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(first));
    let mut connection = std::pin::pin!(connection);
    let idle = async {
        tokio::time::sleep(limits.first_head).await;
        if asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = idle => return tracing::debug!("a connection without a request was closed"),
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use warp::Filter;

    async fn server(limits: Limits) -> (std::net::SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = warp::service(warp::any().map(|| "here\n"));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, Transport::Plain, service, limits, std::future::pending()));
        (address, tasks)
    }

    /// Everything that comes until the other side closes.
    async fn rest(stream: &mut TcpStream) -> String {
        let mut text = String::new();
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut text));
        read.await.expect("it stayed open").ok();
        text
    }

    #[tokio::test]
    async fn who_asks_nothing_loses_its_connection_and_who_has_asked_keeps_it() {
        let limits = Limits { first_head: Duration::from_millis(200), ..Limits::default() };
        let (address, _tasks) = server(limits).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut asking = TcpStream::connect(address).await.unwrap();
        let mut answer = [0; 4096];
        asking.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert!(asking.read(&mut answer).await.unwrap() > 0);
        assert_eq!(rest(&mut silent).await, "", "closed without a word");
        // Long after its first head was due the other one is still served.
        asking.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        assert!(rest(&mut asking).await.contains("200 OK"));
    }

    #[tokio::test]
    async fn one_address_cannot_take_every_connection() {
        let (address, _tasks) = server(Limits { connections: 8, per_address: 2, ..Limits::default() }).await;
        let _first = TcpStream::connect(address).await.unwrap();
        let _second = TcpStream::connect(address).await.unwrap();
        let mut third = TcpStream::connect(address).await.unwrap();
        assert_eq!(rest(&mut third).await, "", "closed at once");
        let elsewhere = tokio::net::TcpSocket::new_v4().unwrap();
        elsewhere.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut other = elsewhere.connect(address).await.unwrap();
        other.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        assert!(rest(&mut other).await.contains("200 OK"), "another address is served");
    }
}
