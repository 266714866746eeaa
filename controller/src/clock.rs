//! The one place that reads the wall clock. Everything else takes `now`, or asks
//! a [`Clock`] that was handed to it.

use std::sync::Arc;

use jiff::Timestamp;

/// Tells the time of day; injected, so that a simulated world can set it.
pub trait Clock: Send + Sync {
    fn now(&self) -> Timestamp;
}

/// The machine's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct WallClock;

impl Clock for WallClock {
    #[allow(clippy::disallowed_methods)] // the one reader
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

pub type SharedClock = Arc<dyn Clock>;

pub fn wall() -> SharedClock {
    Arc::new(WallClock)
}
