//! What was decided about an image, and why. Never decides: [`crate::decide`] does.

use std::fmt;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::image::ImageRef;

/// `Error` never allows: missing knowledge is not evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Decision {
    Allow,
    Deny,
    Error,
}

/// How one check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Outcome {
    Passed,
    Failed,
    /// The check could not be made; says nothing about the image.
    Error,
    /// It failed or could not be made, but the check is `dryRun`: told, not enforced.
    DryRun,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckResult {
    #[schemars(length(max = 256))]
    pub name: String,
    pub outcome: Outcome,
    /// A sentence for people: what was found, and what would make it pass.
    #[schemars(length(max = 4096))]
    pub message: String,
    /// What it rests on: digests, identities, log entries, times.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 1024)))]
    pub evidence: Vec<String>,
    /// Evidence that arrives later might make it pass (a signature pushed after its image). Not so
    /// for what was forged, mismatched or banned.
    #[serde(default)]
    pub retryable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The image by digest.
    pub image: ImageRef,
    pub decision: Decision,
    /// The one check set of the policy that was evaluated; empty when an allowlist exempted the
    /// image, when no set applies, or when it did not come so far.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub check_set: String,
    #[schemars(length(max = 64))]
    pub checks: Vec<CheckResult>,
    pub policy_digest: Digest,
    pub trust_root_digest: Digest,
    /// The source revision that the provenance names, where provenance was asked for and passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub revision: Option<String>,
    /// When the earliest of what it rests on expires; none if nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub expires: Option<Timestamp>,
}

impl Verdict {
    pub fn allows(&self) -> bool {
        self.decision == Decision::Allow
    }

    /// One line: the decision, and every check that did not pass.
    pub fn summary(&self) -> String {
        let failed: Vec<String> = self
            .checks
            .iter()
            .filter(|c| matches!(c.outcome, Outcome::Failed | Outcome::Error))
            .map(|c| format!("{}: {}", c.name, c.message))
            .collect();
        match (self.decision, failed.is_empty()) {
            (Decision::Allow, _) => {
                let passed = self.checks.iter().filter(|c| c.outcome == Outcome::Passed).count();
                format!("{} allowed: {passed} of {} checks passed", self.image, self.checks.len())
            }
            (Decision::Deny, true) => format!("{} denied", self.image),
            (Decision::Deny, false) => format!("{} denied: {}", self.image, failed.join("; ")),
            (Decision::Error, true) => format!("{} could not be verified", self.image),
            (Decision::Error, false) => format!("{} could not be verified: {}", self.image, failed.join("; ")),
        }
    }

    /// Whether asking again later can end differently although neither image nor policy changed.
    pub fn retryable(&self) -> bool {
        match self.decision {
            Decision::Allow => false,
            Decision::Error => true,
            Decision::Deny => {
                let mut failed = self.checks.iter().filter(|c| c.outcome == Outcome::Failed).peekable();
                failed.peek().is_some() && failed.all(|c| c.retryable)
            }
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "Allow",
            Self::Deny => "Deny",
            Self::Error => "Error",
        })
    }
}
