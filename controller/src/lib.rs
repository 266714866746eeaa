//! The hand: hub and spoke reconcilers, mirror, metrics and cluster adapters, CLI.
//! What is decided lives in `tidegate-pipelines` and `tidegate-policies`; here it is done.

pub mod cli;
pub mod clock;
pub mod connect;
pub mod github;
pub mod hub;
pub mod lease;
pub mod ledger;
#[cfg(test)]
mod memory;
pub mod metrics;
pub mod mirror;
pub mod reach;
pub mod registry;
pub mod roles;
pub mod serve;
pub mod spoke;
mod step;
