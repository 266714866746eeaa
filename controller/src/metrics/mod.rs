//! Reading counters: the port that the spoke holds, and its Prometheus adapter.
//! Gives raw samples with their times; what they mean is decided in `tidegate_pipelines::judge`.

mod preflight;
pub mod prometheus;
mod read;
pub mod room;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use jiff::Timestamp;
use tidegate_pipelines::api::{MetricsSource, Objective};
use tidegate_pipelines::judge::{Arms, Batch, ObjectiveSamples};

use crate::clock::Clock;

/// What one evaluation wants to know.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    pub source: MetricsSource,
    /// Namespace of the workload; every query is bound to it.
    pub namespace: String,
    pub objectives: Vec<Objective>,
    pub arms: Arms,
    /// Stable's and the canary's Service with its port, as the route names them; for the gateway's counters.
    pub stable_service: String,
    pub canary_service: String,
    pub service_port: u16,
    /// The judge's watermark (before the first evaluation: when the step's weight was seen). Samples after it are
    /// wanted, and a little before for the differences.
    pub watermark: Option<Timestamp>,
    /// Whether the evaluation before this one was a large one: then only the gateway is asked before there is a large
    /// room.
    pub large: bool,
    /// Up to when the stable pods' past may be read (the rollout's start), for the over-dispersion.
    pub history_until: Option<Timestamp>,
}

/// What one evaluation read.
#[derive(Clone, Debug)]
pub struct Taken {
    pub batch: Batch,
    /// Up to when it was asked for: the moment at which its turn came.
    pub at: Timestamp,
    /// As `ReadRequest::large` for the next one. After `read`: what is missing needs a large room, see `rest`.
    pub large: bool,
}

/// Where the spoke reads counters. A failed read is a line in the batch, never a panic and never silence.
#[async_trait]
pub trait MetricsPort: Send + Sync {
    /// The live evidence, as far as a small room holds it; the gateway's has a part of its own there. As few queries as
    /// possible, at the same time, under the port's own deadline. The clock is read when the turn has come.
    async fn read(&self, request: &ReadRequest, clock: &dyn Clock) -> Taken;

    /// All of it, once there is a large room. If none comes, `first` stands, and what it lacks is a line.
    async fn rest(&self, _request: &ReadRequest, first: Taken, _clock: &dyn Clock) -> Taken {
        first
    }

    /// The stable pods' past up to `history_until`, one per objective: slower than live evidence, and in nobody's way.
    async fn past(&self, request: &ReadRequest) -> Vec<ObjectiveSamples>;

    /// Before any traffic moves: one line for each selector that cannot be right, or why it cannot be told.
    async fn preflight(&self, request: &ReadRequest, clock: &dyn Clock) -> Result<Vec<String>, MetricsError>;
}

pub use prometheus::PrometheusClient;

/// Why there is no answer of a metrics server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetricsError {
    #[error("metrics: cannot make a client: {0}")]
    Client(String),
    #[error("metrics: no answer within {0} ms")]
    Deadline(u128),
    #[error("metrics: no turn to read within {0} ms: too much is read at once")]
    NoTurn(u128),
    #[error("metrics: waits for room to read much")]
    NotYet,
    #[error("metrics: cannot reach the server: {0}")]
    Unreachable(String),
    #[error("metrics: HTTP {status}: {text}")]
    Status { status: u16, text: String },
    #[error("metrics: answer is larger than {0} bytes")]
    TooLarge(usize),
    #[error("metrics: the answers of one evaluation are larger than {0} bytes")]
    TooMuch(usize),
    #[error("metrics: answer is not the Prometheus API's JSON: {0}")]
    Shape(String),
    #[error("metrics: the server says {kind}: {text}")]
    Refused { kind: String, text: String },
    #[error("metrics: {0}")]
    Selector(String),
}
