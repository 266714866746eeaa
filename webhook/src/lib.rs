//! The doors: build-event receivers, admission review and how both are served.
//!
//! `guard` answers the API server, `doors` takes build events in; `serve` and `tls` are the ground
//! under both, `patience` how a broken watch is opened again. What is decided about images lives in
//! `tidegate-policies`; nothing here reads a clock or the environment: the wiring hands them in.

mod addresses;
pub mod body;
pub mod cached;
pub mod doors;
pub mod guard;
pub mod patience;
pub mod serve;
pub mod tls;

use std::sync::Arc;

/// Tells the time of day; handed in, so that tests and a simulated world can set it.
pub type Now = Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>;
