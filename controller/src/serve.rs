//! The side port of every role: `/healthz`, `/readyz`, `/metrics` (Prometheus text).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

/// Connections at once.
const CONNECTIONS: usize = 64;

/// What a role tells about itself.
#[derive(Clone)]
pub struct Telemetry {
    pub registry: Arc<tokio::sync::RwLock<Registry>>,
    ready: Arc<AtomicBool>,
}

impl Default for Telemetry {
    fn default() -> Self {
        Telemetry {
            registry: Arc::new(tokio::sync::RwLock::new(Registry::with_prefix("tidegate"))),
            ready: Arc::new(AtomicBool::new(false)),
        }
    }
}

impl Telemetry {
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// The registry as Prometheus text; what cannot be written is told in it.
    pub async fn metrics_text(&self) -> String {
        self.encoded().await.unwrap_or_else(|error| format!("# {error}\n"))
    }

    async fn encoded(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &*self.registry.read().await)?;
        Ok(text)
    }

    /// Serves until `shutdown` resolves.
    pub async fn serve(self, address: SocketAddr, shutdown: impl Future<Output = ()>) -> std::io::Result<()> {
        self.serve_on(TcpListener::bind(address).await?, shutdown).await;
        Ok(())
    }

    async fn serve_on(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        tokio::pin!(shutdown);
        let mut connections = tokio::task::JoinSet::new();
        let places = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let Ok((stream, _)) = accepted else { continue };
                    // A scraper and a kubelet need a few; whoever opens more is not waited for.
                    let Ok(place) = places.clone().try_acquire_owned() else { continue };
                    let telemetry = self.clone();
                    connections.spawn(async move {
                        let _place = place;
                        let service = service_fn(move |request| telemetry.clone().answer(request));
                        let connection = hyper::server::conn::http1::Builder::new()
                            .timer(hyper_util::rt::TokioTimer::new())
                            .header_read_timeout(std::time::Duration::from_secs(30))
                            .serve_connection(TokioIo::new(stream), service);
                        // A scraper that hangs must not keep a task for ever.
                        let _ = tokio::time::timeout(std::time::Duration::from_secs(60), connection).await;
                    });
                    while connections.try_join_next().is_some() {}
                }
                () = &mut shutdown => return,
            }
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, http::Error> {
        let (status, body) = match request.uri().path() {
            "/healthz" => (StatusCode::OK, "ok\n".to_owned()),
            "/readyz" if self.ready.load(Ordering::Relaxed) => (StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "not ready yet\n".to_owned()),
            "/metrics" => match self.encoded().await {
                Ok(text) => (StatusCode::OK, text),
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            _ => (StatusCode::NOT_FOUND, "paths: /healthz /readyz /metrics\n".to_owned()),
        };
        Response::builder().status(status).body(Full::new(Bytes::from(body)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn who_opens_more_connections_than_there_are_places_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let story = async {
            let mut held = Vec::new();
            for _ in 0..CONNECTIONS {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
                assert!(stream.read(&mut [0; 512]).await.unwrap() > 0, "it has its place");
                held.push(stream);
            }
            let mut further = TcpStream::connect(address).await.unwrap();
            let closed = tokio::time::timeout(Duration::from_secs(5), further.read(&mut [0; 1])).await;
            assert!(matches!(closed, Ok(Ok(0) | Err(_))), "it holds a place that nobody has: {closed:?}");
        };
        Telemetry::default().serve_on(listener, story).await;
    }
}
