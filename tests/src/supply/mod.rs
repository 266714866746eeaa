//! The supply chain of the rig: everything that makes, signs and announces an
//! image. Real parts (registry, Fulcio, Rekor, timestamp authority, cosign) are
//! child processes; OIDC issuer and GitHub API are stand-ins that check what the
//! real ones check. It never looks at what Tidegate decides.

pub mod behavior;
