//! The spoke: carries rollouts out in its own cluster. One pass is `observe -> validate -> plan -> apply ->
//! status -> report`, a file each; the plan is made in `tidegate_pipelines::rollout`, and nothing here decides.

pub mod apply;
mod arms;
pub mod cache;
pub mod canary;
pub mod drive;
pub mod evidence;
pub mod httproute;
pub mod last_words;
mod lower;
pub mod observe;
mod past;
pub mod plan;
pub mod pods;
pub mod quarantine;
pub mod reconcile;
pub mod report;
pub mod retention;
pub mod status;
mod users_weights;
pub mod validate;
mod verdict;
pub mod wake;
pub mod world;

pub use drive::Spoke;
pub use world::World;
