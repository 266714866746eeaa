//! Requests through a gateway, open loop: as many a second as asked for, whether or not the last ones were answered -
//! a slow service gets no rest. Everything is counted: deliberate errors, failures, and which version served when.

mod tally;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

pub use tally::{Failure, Snapshot, VersionCount};
use tally::{Outcome, Tally};

use super::spawn;

/// Longer than this is a failure that a user sees.
const LIMIT: Duration = Duration::from_secs(5);
/// At 600 requests/s a gateway that hangs has 3,000 in flight before the first times out.
const MOST_IN_FLIGHT: usize = 4000;
const TICK: Duration = Duration::from_millis(5);

struct Shared {
    address: SocketAddr,
    host: String,
    /// Bits of the requests per second.
    rate: AtomicU64,
    in_flight: AtomicUsize,
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
    tally: Mutex<Tally>,
}

/// A running load; it ends when dropped.
pub struct Load {
    shared: Arc<Shared>,
    ticker: JoinHandle<()>,
}

impl Load {
    /// Starts `rate` requests a second for `host` at a gateway (`http://10.244.255.11:8000`).
    pub fn start(gateway_url: &str, host: &str, rate: f64) -> Result<Self> {
        let uri: Uri = gateway_url.parse()?;
        let authority = uri.authority().ok_or_else(|| anyhow!("{gateway_url} has no address"))?;
        let address = authority.as_str().parse().with_context(|| format!("{gateway_url}: an IP address and a port"))?;
        let shared = Arc::new(Shared {
            address,
            host: host.to_owned(),
            rate: AtomicU64::new(rate.to_bits()),
            in_flight: AtomicUsize::new(0),
            idle: Mutex::default(),
            tally: Mutex::new(Tally::new(super::now())),
        });
        let ticker = spawn(tick(shared.clone()));
        Ok(Self { shared, ticker })
    }

    /// Requests a second from now on.
    pub fn set_rate(&self, rate: f64) {
        self.shared.rate.store(rate.to_bits(), Ordering::Relaxed);
    }

    /// Everything since the start; `later.since(&earlier)` is a phase.
    pub async fn snapshot(&self) -> Snapshot {
        self.shared.tally.lock().await.snapshot(super::now())
    }

    /// Sends no more, waits for what is under way, and returns everything counted.
    pub async fn finish(self) -> Snapshot {
        self.set_rate(0.0);
        let asked = Instant::now();
        while self.shared.in_flight.load(Ordering::Relaxed) > 0 && asked.elapsed() < LIMIT * 2 {
            sleep(Duration::from_millis(20)).await;
        }
        self.snapshot().await
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.ticker.abort();
    }
}

async fn tick(shared: Arc<Shared>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut last = Instant::now();
    let mut due = 0.0;
    loop {
        let now = ticks.tick().await;
        let rate = f64::from_bits(shared.rate.load(Ordering::Relaxed));
        // A machine that stood still for long does not owe all of it at once.
        due += rate * (now - last).as_secs_f64().min(1.0);
        last = now;
        while due >= 1.0 {
            due -= 1.0;
            if shared.in_flight.fetch_add(1, Ordering::Relaxed) < MOST_IN_FLIGHT {
                spawn(one(shared.clone()));
            } else {
                shared.in_flight.fetch_sub(1, Ordering::Relaxed);
                let unsent = Outcome::Failed(format!("not sent: {MOST_IN_FLIGHT} are under way"));
                shared.tally.lock().await.count(super::now(), Duration::ZERO, None, unsent);
            }
        }
    }
}

async fn one(shared: Arc<Shared>) {
    let started = Instant::now();
    let (version, outcome) = match timeout(LIMIT, ask(&shared)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => (None, Outcome::Failed(error)),
        Err(_) => (None, Outcome::Failed(format!("no answer within {} s", LIMIT.as_secs()))),
    };
    shared.tally.lock().await.count(super::now(), started.elapsed(), version.as_deref(), outcome);
    shared.in_flight.fetch_sub(1, Ordering::Relaxed);
}

async fn ask(shared: &Arc<Shared>) -> Result<(Option<String>, Outcome), String> {
    let mut sender = connection(shared).await?;
    let request =
        Request::get("/").header(header::HOST, &shared.host).body(Empty::new()).map_err(|error| error.to_string())?;
    let mut answer = sender.send_request(request).await.map_err(|error| told("connection lost", &error))?;
    let text = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let version = text("x-version");
    let outcome = match answer.status() {
        status if status.is_success() => Outcome::Answered,
        _ if answer.headers().contains_key("x-deliberate") => Outcome::Deliberate,
        status => Outcome::Failed(format!("status {}", status.as_u16())),
    };
    while let Some(frame) = answer.frame().await {
        frame.map_err(|error| told("answer broken off", &error))?;
    }
    if sender.ready().await.is_ok() {
        shared.idle.lock().await.push(sender);
    }
    Ok((version, outcome))
}

/// The connection used last, if it is still good, else a new one.
async fn connection(shared: &Arc<Shared>) -> Result<SendRequest<Empty<Bytes>>, String> {
    loop {
        let Some(sender) = shared.idle.lock().await.pop() else { break };
        if sender.is_ready() {
            return Ok(sender);
        }
    }
    let stream = TcpStream::connect(shared.address).await.map_err(|error| format!("cannot connect: {error}"))?;
    let _ = stream.set_nodelay(true);
    let (sender, driver) = handshake(TokioIo::new(stream)).await.map_err(|error| told("cannot connect", &error))?;
    spawn(driver);
    Ok(sender)
}

/// With the innermost cause: hyper's own message alone says little.
fn told(what: &str, error: &hyper::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    format!("{what}: {cause}")
}
