//! The release planner: every row of the lifecycle's BuildEvent and Release tables, by name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fleet;
mod plan;
mod resolve;
mod storm;
