//! How a version ships: API types, build events, release and rollout planners,
//! canary judgement. Pure domain: no client, no clock, no environment variables.

pub mod api;
pub mod event;
pub mod judge;
pub mod release;
pub mod rollout;
