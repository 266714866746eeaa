//! One fleet of real control planes with everything around them, in the network namespace of `netns`.
//!
//! ```text
//! fleet    etcd, hub, environments      process   child processes: start, stop, kill, what they cost
//! cluster  one API server and its users  kubelet   pods as HTTP servers that obey their image
//! gateway  Traefik and Prometheus        load      open-loop requests through a gateway, everything counted
//! claim    one run per directory         audit     what was written to the API servers, and by whom
//! ```
//! It never looks at what Tidegate decides: it gives the suites hands and eyes.

pub mod apply;
pub mod audit;
pub mod claim;
pub mod cluster;
pub mod control_plane;
pub mod fleet;
pub mod gateway;
pub mod kubelet;
pub mod load;
pub mod pki;
pub mod process;

pub use cluster::{Cluster, User};
pub use fleet::{Environment, Fleet, FleetConfig};
pub use kubelet::Kubelet;
pub use load::{Load, Snapshot};
pub use process::{Processes, Spec, Usage};

/// Starts a task of the rig. Its tasks live as long as the process, which ends them with the namespace.
#[allow(clippy::disallowed_methods, reason = "the rig's own wiring: nothing awaits its tasks")]
pub fn spawn<F>(task: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(task)
}

/// Wall-clock time, for what is written into objects and reports.
#[allow(clippy::disallowed_methods, reason = "the rig measures the real world")]
pub fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
