//! A length of time as people write it in a manifest: `500ms`, `90s`, `10m`, `2h`.
//! One unit per value; what cannot be read is an error that names the forms.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Five digits of hours, and a little.
const LONGEST_MILLIS: u64 = 4_200 * 86_400_000;

/// A non-negative duration with millisecond resolution, at most 4200 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(Duration);

/// Why a text is not a [`Span`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{text}' is not a duration: write a whole number and one unit, such as 500ms, 90s, 10m or 2h (at most 4200 days)"
)]
pub struct SpanError {
    text: String,
}

impl Span {
    pub const ZERO: Span = Span(Duration::ZERO);

    pub const fn from_secs(seconds: u64) -> Self {
        Span(Duration::from_secs(seconds))
    }

    pub const fn from_millis(millis: u64) -> Self {
        Span(Duration::from_millis(millis))
    }

    pub const fn as_duration(self) -> Duration {
        self.0
    }

    pub const fn as_secs_f64(self) -> f64 {
        self.0.as_secs_f64()
    }

    /// For arithmetic with [`jiff::Timestamp`].
    pub const fn signed(self) -> jiff::SignedDuration {
        jiff::SignedDuration::from_millis(self.0.as_millis() as i64)
    }
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let error = || SpanError { text: text.chars().take(40).collect() };
        let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
        let (digits, unit) = text.split_at(split);
        let number: u64 = digits.parse().map_err(|_| error())?;
        let factor: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(error()),
        };
        let millis = number.checked_mul(factor).ok_or_else(error)?;
        if millis > LONGEST_MILLIS {
            return Err(error());
        }
        Ok(Span(Duration::from_millis(millis)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        match millis {
            0 => f.write_str("0s"),
            m if m % 3_600_000 == 0 => write!(f, "{}h", m / 3_600_000),
            m if m % 60_000 == 0 => write!(f, "{}m", m / 60_000),
            m if m % 1_000 == 0 => write!(f, "{}s", m / 1_000),
            m => write!(f, "{m}ms"),
        }
    }
}

impl TryFrom<String> for Span {
    type Error = SpanError;

    fn try_from(text: String) -> Result<Self, SpanError> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> String {
        span.to_string()
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 12,
            // Every text it lets through parses, and is written back as one that it lets through: an object that the
            // API server keeps and the roles cannot read would blind their watches.
            "x-kubernetes-validations": [{
                "rule": "self.matches('^([0-9]{1,9}ms|[0-9]{1,7}s|[0-9]{1,6}m|[0-9]{1,5}h|[0-9]{1,3}d)$')",
                "message": "a duration is a whole number and one unit, such as 500ms, 90s, 10m or 2h",
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read_and_written_back() {
        for (text, millis) in [("500ms", 500), ("90s", 90_000), ("10m", 600_000), ("2h", 7_200_000), ("0s", 0)] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span, Span::from_millis(millis), "{text}");
        }
        assert_eq!(Span::from_secs(90).to_string(), "90s");
        assert_eq!(Span::from_secs(600).to_string(), "10m");
    }

    /// The longest texts that the schema lets through, and how they are written back: within the schema again.
    #[test]
    fn what_the_schema_accepts_is_read_and_written_back_within_the_schema() {
        for (text, back) in [
            ("999999999ms", "999999999ms"),
            ("999999000ms", "999999s"),
            ("9999960s", "166666m"),
            ("9999999s", "9999999s"),
            ("999999m", "999999m"),
            ("999960m", "16666h"),
            ("99999h", "99999h"),
            ("999d", "23976h"),
        ] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), back);
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "5", "s", "-5s", "1.5s", "5 s", "1h30m", "99999999999999999999s", "4201d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
