//! Is the canary bad? Canary statistics over integer counter deltas.
//! Never reads a clock or a metrics server.

pub mod state;
