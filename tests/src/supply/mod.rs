//! The supply chain of the rig: everything that makes, signs and announces an image.
//!
//! Real parts (registry, Fulcio, Rekor, timestamp authority, cosign) are child processes; the OIDC issuer and the GitHub
//! API are stand-ins that check what the real ones check. It never looks at what Tidegate decides.

pub mod behavior;
pub mod bundles;
pub mod chain;
pub mod cosign;
pub mod daemon;
pub mod events;
pub mod github;
pub mod http;
pub mod image;
pub mod oidc;
pub mod payloads;
pub mod provenance;
pub mod raw;
pub mod registry;
pub mod release;
pub mod sbom;
pub mod sigstore;
pub mod tools;

pub use behavior::Behavior;
pub use chain::SupplyChain;
pub use events::{Answer, Events};
pub use github::Github;
pub use image::ImageSpec;
pub use oidc::Oidc;
pub use payloads::Artifact;
pub use registry::Registry;
pub use release::{PublishSpec, Published, Publisher};
pub use sigstore::Sigstore;
pub use tools::SupplyTools;

/// Seconds since 1970: real tokens and certificates are made with real time.
pub(crate) fn unix_now() -> i64 {
    now().as_second()
}

pub(crate) fn now() -> jiff::Timestamp {
    tidegate_controller::clock::wall().now()
}
