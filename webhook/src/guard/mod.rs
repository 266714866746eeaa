//! Admission: whether a pod may start and who may say what it runs.
//!
//! `review` (what the API server asks) -> `gather` (what this cluster knows) -> `decide` (pure) ->
//! `answer`. Judges by policies and verdicts of its own cluster only, so that it guards while hub and
//! registry are away. Mutates nothing, and never takes labels, annotations or status as evidence.

pub mod cluster;
pub mod facts;
pub mod review;
pub mod stable;
pub mod template;

pub use cluster::{Cluster, NotInForce};
pub use facts::InForce;
