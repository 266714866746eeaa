//! The doors: who says that something was built, and what of it is a fact. Authenticates a delivery
//! against its EventSource, has it normalised by `tidegate_pipelines::event`, stores it, and only
//! then acknowledges. Has no other right, and tells a stranger nothing.

pub mod hmac;
pub mod jwks;
pub mod metrics;
pub mod oidc;
pub mod pubsub;
pub mod receive;
pub mod route;
pub mod store;

pub use jwks::{HttpKeys, Keys};
pub use metrics::Metrics;
pub use receive::{Doors, Reply};
pub use store::{KubeStore, Store, StoreError, Stored};
