//! Admission: whether a pod may start and who may say what it runs.
//!
//! `review` (what the API server asks) -> `gather` (what this cluster knows) -> `decide` (pure) ->
//! `answer`. Judges by policies and verdicts of its own cluster only, so that it guards while hub and
//! registry are away. Mutates nothing, and never takes labels, annotations or status as evidence.

pub mod ahead;
pub mod answer;
pub mod assess;
pub mod backlog;
pub mod cluster;
pub mod decide;
pub mod facts;
pub mod finish;
pub mod gather;
pub mod metrics;
pub mod places;
pub mod reason;
pub mod reflect;
pub mod review;
pub mod route;
pub mod stable;
pub mod template;

pub use ahead::Ahead;
pub use answer::{Decided, Guard, Recorder, Settings};
pub use assess::Assessor;
pub use cluster::{Cluster, NotInForce};
pub use facts::InForce;
pub use metrics::Metrics;
pub use reflect::KubeCluster;
pub use route::routes;
