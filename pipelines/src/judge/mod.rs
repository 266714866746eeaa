//! Is the canary bad? Canary statistics over integer counter deltas.
//! Never reads a clock or a metrics server: samples and `now` are handed in, a decision with its reasons comes out.
//!
//! The method is a conditional-binomial mixture e-process with the measured split of traffic: under "the canary is no
//! worse than `margin` times stable" the evidence is a nonnegative supermartingale, so looking after every scrape is
//! allowed and the chance of ever rolling back a good version stays below alpha.

pub mod assess;
pub mod config;
pub mod dispersion;
pub mod eprocess;
pub mod expected;
mod guards;
mod look_back;
mod samples;
pub mod selector;
pub mod state;
mod witness;

pub use assess::{Assessment, Decision, Evidence, Sight, WitnessSight, assess};
pub use config::{Arms, Batch, JudgeConfig, ObjectiveSamples, Pod, RawSeries, Reading, Scene, Watch, alpha_shares};
pub use look_back::{LookBack, look_back};
pub use state::{JudgeState, ProcessState};
