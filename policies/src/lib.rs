//! Who may run: policies, evidence about images, and verdicts.
//!
//! `model` (what authors write) <- `evidence` (bytes, verified) <- `decide` (pure) <- `verifier`
//! (fetch -> evidence -> decide). `registry` is the only module that touches the network, behind a
//! trait; nothing here reads a clock, the environment or a Kubernetes API.

pub mod decide;
pub mod deployers;
pub mod digest;
pub mod evidence;
pub mod image;
pub mod json;
pub mod model;
pub mod registry;
pub mod verdict;
pub mod verifier;
pub mod version;
