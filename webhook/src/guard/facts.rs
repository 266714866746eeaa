//! What the guard knows when it decides. Plain data, gathered elsewhere; never a client.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;
use tidegate_pipelines::api::BreakGlassSpec;
use tidegate_policies::digest::Digest;
use tidegate_policies::image::ImageRef;
use tidegate_policies::model::{Attestor, Policy, TrustRoot, trust_root_digest};

use super::cluster::NotInForce;
use super::stable::Place;

/// The policy that holds in this cluster, with all that its checks rest on.
#[derive(Clone, Debug)]
pub struct InForce {
    pub name: String,
    pub policy: Policy,
    pub attestors: BTreeMap<String, Attestor>,
    pub trust_roots: BTreeMap<String, TrustRoot>,
    pub policy_digest: Digest,
    pub trust_root_digest: Digest,
}

impl InForce {
    pub fn new(
        name: impl Into<String>,
        policy: Policy,
        attestors: BTreeMap<String, Attestor>,
        trust_roots: BTreeMap<String, TrustRoot>,
    ) -> Self {
        let policy_digest = policy.digest(&attestors);
        let trust_root_digest = trust_root_digest(&policy, &attestors, &trust_roots);
        Self { name: name.into(), policy, attestors, trust_roots, policy_digest, trust_root_digest }
    }
}

/// What was found out for one request.
#[derive(Clone, Debug)]
pub struct Facts {
    pub now: Timestamp,
    pub in_force: Result<std::sync::Arc<InForce>, NotInForce>,
    /// By the text that the request writes.
    pub images: BTreeMap<String, ImageFact>,
    pub chain: Chain,
    /// Those of the request's namespace.
    pub break_glass: Vec<BreakGlassSpec>,
    /// How long a verdict that expired still lets the stable digest restart.
    pub restart_grace: jiff::SignedDuration,
}

/// What is known about one image text.
#[derive(Clone, Debug)]
pub enum ImageFact {
    /// It is no image reference; why.
    Unreadable(String),
    /// It names a digest.
    Pinned(Standing),
    /// It names a tag; what that is now, if it could be found out.
    Tag { image: ImageRef, now: Result<Standing, String> },
}

/// How one digest stands in the request's namespace.
#[derive(Clone, Debug)]
pub struct Standing {
    /// By digest.
    pub image: ImageRef,
    pub judged: Judged,
    /// If it is quarantined here.
    pub quarantine: Option<Quarantined>,
    /// It is what stable runs here, or what a rollout goes back to.
    pub stable: bool,
    /// When an `Allow` under the same policy ran out.
    pub expired: Option<Timestamp>,
}

impl Standing {
    pub fn digest(&self) -> String {
        self.image.digest.as_ref().map(ToString::to_string).unwrap_or_default()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    pub why: String,
    /// When it began in this cluster.
    pub since: Option<Timestamp>,
    /// Where the image was stable before that and still is.
    pub stable_in: Vec<Place>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    Allow,
    Deny(String),
    /// Not known; never an Allow.
    Error(String),
    /// No registry was asked yet; never an Allow.
    NotAsked,
}

/// The last of the owners that are looked at: what people deploy.
#[derive(Clone, Debug)]
pub struct Top {
    pub kind: String,
    pub name: String,
    pub template: Value,
}

/// The owners above an object, as the API server has them now.
#[derive(Clone, Debug)]
pub enum Chain {
    /// Not asked, since nothing depends on it.
    NotAsked,
    /// It names no controlling owner.
    None,
    /// All of them live; the template of the nearest, and the workload at the top.
    Live { owner: String, template: Value, claims: Vec<String>, top: Top },
    /// One of them is not what the reference says.
    Broken(String),
    /// The API server did not say.
    Unknown(String),
}
