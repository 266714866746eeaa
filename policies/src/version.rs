//! Ordering of package versions, and ranges over them. Never guesses that an unreadable version is
//! outside a range: the caller is told.

mod maven;

use std::cmp::Ordering;
use std::str::FromStr;

/// How versions of an ecosystem are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Maven's `ComparableVersion`.
    Maven,
    /// Semantic Versioning 2.0: npm, cargo, golang.
    Semver,
    /// Numbers and words by turns, as dpkg-like tools do; for everything else.
    Generic,
}

/// Comparisons that must all hold. Without any: every version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range(Vec<(Comparator, String)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparator {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a version range: write comparisons such as `<2.17.1` or `>=2.0,<2.17.1`")]
pub struct RangeError(String);

impl Scheme {
    /// By the type of a package URL.
    pub fn of_purl_type(ty: &str) -> Self {
        match ty {
            "maven" => Self::Maven,
            "npm" | "cargo" | "golang" => Self::Semver,
            _ => Self::Generic,
        }
    }

    pub fn compare(self, a: &str, b: &str) -> Ordering {
        match self {
            Self::Maven => maven::compare(a, b),
            Self::Semver => semver(a, b),
            Self::Generic => generic(a, b),
        }
    }
}

impl FromStr for Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let error = || RangeError(text.to_owned());
        if text.trim().is_empty() {
            return Ok(Self(Vec::new()));
        }
        text.split(',')
            .map(|part| {
                let part = part.trim();
                let (comparator, version) = [
                    ("<=", Comparator::LessOrEqual),
                    (">=", Comparator::GreaterOrEqual),
                    ("!=", Comparator::NotEqual),
                    ("==", Comparator::Equal),
                    ("<", Comparator::Less),
                    (">", Comparator::Greater),
                    ("=", Comparator::Equal),
                ]
                .into_iter()
                .find_map(|(sign, comparator)| part.strip_prefix(sign).map(|rest| (comparator, rest.trim())))
                .ok_or_else(error)?;
                let readable = version.chars().all(|c| c.is_ascii_alphanumeric() || "._+-~:".contains(c));
                if version.is_empty() || !readable {
                    return Err(error());
                }
                Ok((comparator, version.to_owned()))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl Range {
    pub fn is_every_version(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, version: &str, scheme: Scheme) -> bool {
        self.0.iter().all(|(comparator, bound)| {
            let ordering = scheme.compare(version, bound);
            match comparator {
                Comparator::Less => ordering.is_lt(),
                Comparator::LessOrEqual => ordering.is_le(),
                Comparator::Greater => ordering.is_gt(),
                Comparator::GreaterOrEqual => ordering.is_ge(),
                Comparator::Equal => ordering.is_eq(),
                Comparator::NotEqual => ordering.is_ne(),
            }
        })
    }
}

/// SemVer 2.0 §11; a leading `v` (golang) and build metadata do not count. Missing parts are zero.
fn semver(a: &str, b: &str) -> Ordering {
    fn split(v: &str) -> (&str, Option<&str>) {
        let v = v.strip_prefix('v').unwrap_or(v);
        let v = v.split_once('+').map_or(v, |(before, _)| before);
        v.split_once('-').map_or((v, None), |(core, pre)| (core, Some(pre)))
    }
    let ((core_a, pre_a), (core_b, pre_b)) = (split(a), split(b));
    generic(core_a, core_b).then_with(|| match (pre_a, pre_b) {
        (None, None) => Ordering::Equal,
        // A pre-release comes before its release.
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(x), Some(y)) => semver_prerelease(x, y),
    })
}

fn semver_prerelease(a: &str, b: &str) -> Ordering {
    let numeric = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        let ordering = match (a.next(), b.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(x), Some(y)) => match (numeric(x), numeric(y)) {
                (true, true) => number(x, y),
                (true, false) => Ordering::Less,
                (false, true) => Ordering::Greater,
                (false, false) => x.cmp(y),
            },
        };
        if ordering.is_ne() {
            return ordering;
        }
    }
}

/// Decimal numbers of any length.
fn number(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// Runs of digits compare as numbers, runs of letters as text; a number is above a word (`1.0` is
/// above `1.0-rc1`, since what is missing counts as zero), separators only separate.
fn generic(a: &str, b: &str) -> Ordering {
    let (a, b) = (runs(a), runs(b));
    for i in 0..a.len().max(b.len()) {
        let (x, y) = (a.get(i).copied().unwrap_or("0"), b.get(i).copied().unwrap_or("0"));
        let digits = |s: &str| s.starts_with(|c: char| c.is_ascii_digit());
        let ordering = match (digits(x), digits(y)) {
            (true, true) => number(x, y),
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => x.to_ascii_lowercase().cmp(&y.to_ascii_lowercase()),
        };
        if ordering.is_ne() {
            return ordering;
        }
    }
    Ordering::Equal
}

/// Maximal runs of digits or of letters.
fn runs(text: &str) -> Vec<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .flat_map(|part| {
            part.char_indices()
                .scan(None, |previous, (i, c)| {
                    let digit = c.is_ascii_digit();
                    let starts = previous.replace(digit) != Some(digit);
                    Some(starts.then_some(i))
                })
                .flatten()
                .chain(std::iter::once(part.len()))
                .collect::<Vec<_>>()
                .windows(2)
                .filter_map(|w| match w {
                    [from, to] => part.get(*from..*to),
                    _ => None,
                })
                .collect::<Vec<_>>()
        })
        .filter(|run| !run.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_their_ecosystem_orders_them() {
        for (scheme, ascending) in [
            (
                Scheme::Semver,
                &[
                    "1.0.0-alpha",
                    "1.0.0-alpha.1",
                    "1.0.0-alpha.beta",
                    "1.0.0-beta.2",
                    "1.0.0-beta.11",
                    "1.0.0-rc.1",
                    "1.0.0",
                    "v1.0.1",
                    "1.10.0",
                ][..],
            ),
            (Scheme::Generic, &["1.0-rc1", "1.0", "1.0.1", "1.2", "1.10", "2"][..]),
            (
                Scheme::Maven,
                &[
                    "2.0-alpha-1",
                    "2.0-beta9",
                    "2.0-rc1",
                    "2.0-SNAPSHOT",
                    "2.0",
                    "2.0-sp",
                    "2.0.1",
                    "2.3.1",
                    "2.12.4",
                    "2.17.0",
                    "2.17.1",
                ][..],
            ),
        ] {
            for pair in ascending.windows(2) {
                assert_eq!(scheme.compare(pair[0], pair[1]), Ordering::Less, "{scheme:?} {pair:?}");
                assert_eq!(scheme.compare(pair[1], pair[0]), Ordering::Greater, "{scheme:?} {pair:?}");
            }
        }
        assert_eq!(Scheme::Semver.compare("1.0.0+build", "v1.0.0"), Ordering::Equal);
        assert_eq!(Scheme::Generic.compare("1.0", "1"), Ordering::Equal);
    }

    #[test]
    fn ranges_hold_when_every_comparison_does() {
        for (range, version, expected) in [
            ("<2.17.1", "2.17.0", true),
            ("<2.17.1", "2.17.1", false),
            ("<2.17.1", "2.9", true),
            (">=2.0,<2.17.1", "1.2.17", false),
            (">=2.0, <2.17.1", "2.0-beta9", false),
            (">=2.0-beta9,<2.17.1", "2.0-beta9", true),
            ("!=1.0", "1.0.0", false),
            ("=1.0", "1.0.0", true),
            ("", "anything", true),
        ] {
            assert_eq!(range.parse::<Range>().unwrap().contains(version, Scheme::Maven), expected, "{range} {version}");
        }
        for bad in ["2.17.1", "<", "~2", "<2.17 .1", "<1,,>2", "<1,"] {
            assert!(bad.parse::<Range>().is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        /// Whatever is compared, the order is one: else a range would depend on what it is asked.
        #[test]
        fn comparing_is_an_order(
            a in "[0-9][0-9a-c.-]{0,6}", b in "[0-9][0-9a-c.-]{0,6}", c in "[0-9][0-9a-c.-]{0,6}",
        ) {
            for scheme in [Scheme::Maven, Scheme::Semver, Scheme::Generic] {
                proptest::prop_assert_eq!(scheme.compare(&a, &b), scheme.compare(&b, &a).reverse());
                proptest::prop_assert_eq!(scheme.compare(&a, &a), Ordering::Equal);
                if scheme.compare(&a, &b).is_le() && scheme.compare(&b, &c).is_le() {
                    proptest::prop_assert!(scheme.compare(&a, &c).is_le(), "{:?} {} {} {}", scheme, a, b, c);
                }
            }
        }
    }
}
