//! What our annotations on a route say, as text and read. Knows no route and decides nothing.

use std::fmt;

use jiff::Timestamp;

/// What a lowering to 0 leaves on the route: `<rollout uid>/<reason>`, and beside it the same with `@<time>`. Two, so
/// that a version which knows nothing of the time reads the first as ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoweredMark {
    pub rollout: String,
    pub reason: String,
    /// When it was written, by the writer's clock; none: by a version that did not say.
    pub at: Option<Timestamp>,
}

impl LoweredMark {
    /// `timed` counts if it is of the same lowering: a version that does not know it leaves an old one there.
    pub fn read(mark: &str, timed: Option<&str>) -> Option<Self> {
        let mut read = Self::parse(mark)?;
        let timed = timed.and_then(Self::parse).filter(|timed| timed.to_string() == read.to_string());
        read.at = timed.and_then(|timed| timed.at).or(read.at);
        Some(read)
    }

    /// Either of the two: the time once stood in the mark itself.
    fn parse(text: &str) -> Option<Self> {
        let (rollout, rest) = text.split_once('/')?;
        let (reason, at) = rest.rsplit_once('@').unwrap_or((rest, ""));
        Some(LoweredMark { rollout: rollout.to_owned(), reason: reason.to_owned(), at: at.parse().ok() })
    }

    /// The mark with its time; none: it has none.
    pub fn timed(&self) -> Option<String> {
        self.at.map(|at| format!("{self}@{at}"))
    }
}

impl fmt::Display for LoweredMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.rollout, self.reason)
    }
}

/// `<rollout uid>/<epoch>/<n>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteDecision {
    pub rollout: String,
    pub epoch: u64,
    pub n: u64,
}

impl RouteDecision {
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.rsplitn(3, '/');
        let n = parts.next()?.parse().ok()?;
        let epoch = parts.next()?.parse().ok()?;
        let rollout = parts.next().filter(|uid| !uid.is_empty())?.to_owned();
        Some(RouteDecision { rollout, epoch, n })
    }
}

impl fmt::Display for RouteDecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.rollout, self.epoch, self.n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_knows_no_time_reads_our_mark_and_we_read_both_of_its_forms() {
        let at: Option<Timestamp> = "2026-11-22T10:00:00.123456Z".parse().ok();
        let mark = LoweredMark { rollout: "u-1".into(), reason: "JudgeBreach.5".into(), at };
        assert_eq!(mark.to_string(), "u-1/JudgeBreach.5", "as ever");
        let timed = mark.timed().unwrap();
        let untimed = LoweredMark { at: None, ..mark.clone() };
        for (text, beside, expected, case) in [
            ("u-1/JudgeBreach.5", Some(timed.as_str()), Some(&mark), "both"),
            ("u-1/JudgeBreach.5", None, Some(&untimed), "one that knows no time"),
            (timed.as_str(), None, Some(&mark), "time in the mark itself"),
            ("u-1/JudgeBreach.5", Some("u-1/Blind.2@2026-11-22T09:00:00Z"), Some(&untimed), "left of another"),
            ("u-1/JudgeBreach.5", Some("nonsense"), Some(&untimed), "nonsense beside it"),
            ("nonsense", Some(timed.as_str()), None, "nonsense"),
        ] {
            assert_eq!(LoweredMark::read(text, beside).as_ref(), expected, "{case}");
        }
    }
}
