//! Why a request is refused, or let in though it is not as it should be, and the answer that carries
//! these. Plain data: what leads to them is decided elsewhere.

/// Why something is refused: also the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    ImageDenied,
    /// It could not be verified: says nothing about the image.
    ImageUnverified,
    TagNotAllowed,
    NotAnImage,
    Quarantined,
    NotADeployer,
    OwnerMismatch,
    /// The API server did not say who owns it.
    OwnerUnknown,
    BreakGlassLabel,
    /// No policy can be applied.
    NoPolicy,
    /// The request cannot be read.
    Malformed,
    /// No answer in time.
    Deadline,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::ImageDenied => "ImageDenied",
            Reason::ImageUnverified => "ImageUnverified",
            Reason::TagNotAllowed => "TagNotAllowed",
            Reason::NotAnImage => "NotAnImage",
            Reason::Quarantined => "Quarantined",
            Reason::NotADeployer => "NotADeployer",
            Reason::OwnerMismatch => "OwnerMismatch",
            Reason::OwnerUnknown => "OwnerUnknown",
            Reason::BreakGlassLabel => "BreakGlassLabel",
            Reason::NoPolicy => "NoPolicy",
            Reason::Malformed => "Malformed",
            Reason::Deadline => "Deadline",
        }
    }

    /// Not knowing, as opposed to knowing that it must not be.
    pub fn is_error(self) -> bool {
        matches!(self, Reason::ImageUnverified | Reason::OwnerUnknown | Reason::NoPolicy | Reason::Deadline)
    }
}

/// The answer to one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub allowed: bool,
    /// Empty if nothing is wrong. Kept in Audit too, where they do not refuse.
    pub findings: Vec<(Reason, String)>,
    /// Told to whoever asked.
    pub warnings: Vec<String>,
    /// Exceptions that were used, for the audit.
    pub exceptions: Vec<(Exception, String)>,
}

/// Why something was let in though it is not as it should be: also the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exception {
    BreakGlass,
    /// Its verdict expired, and it is stable there.
    RestartGrace,
    /// It is quarantined, and it is stable there.
    QuarantineGrace,
}

impl Exception {
    pub fn as_str(self) -> &'static str {
        match self {
            Exception::BreakGlass => "BreakGlass",
            Exception::RestartGrace => "RestartGrace",
            Exception::QuarantineGrace => "QuarantineGrace",
        }
    }
}

impl Answer {
    pub fn allow() -> Self {
        Self { allowed: true, ..Self::default() }
    }

    pub fn refuse(reason: Reason, text: impl Into<String>) -> Self {
        Self { findings: vec![(reason, text.into())], ..Self::default() }
    }
}
