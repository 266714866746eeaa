//! The rigs: everything the suites, the demo and `make up` stand on.
//!
//! Real parts (etcd, kube-apiserver, Traefik, Prometheus, a registry, a local Sigstore) started in a network namespace
//! of the run's own, and stand-ins for the three things that are not ours to run: the container runtime, GitHub, Google.
//! Nothing here is linked into the product.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a rig that cannot start should stop the run with what went wrong"
)]

pub mod acts;
pub mod netns;
pub mod parts;
pub mod rig;
pub mod stage;
pub mod supply;
