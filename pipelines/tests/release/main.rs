//! The release planner: every row of the lifecycle's BuildEvent and Release tables, by name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod breaches;
mod fleet;
mod hands;
mod plan;
mod resolve;
mod storm;
