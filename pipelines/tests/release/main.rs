//! The release planner: every row of the lifecycle's BuildEvent and Release tables, by name.

mod fleet;
mod plan;
mod resolve;
mod storm;
