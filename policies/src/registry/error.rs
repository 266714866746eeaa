//! What went wrong while fetching: what, where, and which limit.

use crate::digest::Digest;

#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{what} is not at {at}")]
    NotFound { what: String, at: String },
    #[error("{at} refuses to let us read {what}: {reason}")]
    Unauthorized { what: String, at: String, reason: String },
    #[error("{at} cannot be reached for {what}: {reason}")]
    Unreachable { what: String, at: String, reason: String },
    #[error("{at} answered {status} for {what}")]
    Status { what: String, at: String, status: u16 },
    #[error("{what} at {at} is larger than {limit} bytes")]
    TooLarge { what: String, at: String, limit: u64 },
    #[error("{at} lists more than {limit} {what}")]
    TooMany { what: String, at: String, limit: usize },
    #[error("{what} at {at} has the digest {found}, not {asked}")]
    WrongDigest { what: String, at: String, asked: Digest, found: Digest },
    #[error("{what} at {at} is malformed: {reason}")]
    Malformed { what: String, at: String, reason: String },
    #[error("{at} redirected {what} to {to}, which is not followed: {reason}")]
    Redirect { what: String, at: String, to: String, reason: String },
    #[error("{what} at {at} took longer than {seconds} s")]
    Deadline { what: String, at: String, seconds: u64 },
}

impl FetchError {
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}
