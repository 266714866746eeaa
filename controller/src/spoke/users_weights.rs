//! The weights that stable had in the user's rules before ours, remembered on the route while a rollout drives it and
//! given back when its marks come off. Text to numbers and back, and which rule is which; decides nothing.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// Sixteen hex digits tell the rules of one route apart.
const DIGEST: usize = 8;

/// By rule; none: the user wrote no weight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsersWeights(pub BTreeMap<String, Option<u32>>);

/// Which rule it is, wherever it comes to stand: `@<name>`, or `#<digest of its matches>`. Filters and backends may
/// change; the same requests are the same rule.
pub fn key(rule: &Value) -> String {
    match rule.get("name").and_then(Value::as_str) {
        Some(name) => format!("@{name}"),
        None => {
            let matches = rule.get("matches").unwrap_or(&Value::Null);
            let digest = Sha256::digest(matches.to_string());
            format!("#{}", hex::encode(&digest[..DIGEST]))
        }
    }
}

impl UsersWeights {
    /// What cannot be read is not given back; an index of a rule (as it once was) may be another rule's by now.
    pub fn parse(text: &str) -> Self {
        let one = |entry: &str| {
            let (rule, weight) = entry.rsplit_once('=')?;
            let weight = if weight == "-" { None } else { Some(weight.parse().ok()?) };
            let known = rule.len() > 1 && rule.starts_with(['@', '#']);
            known.then(|| (rule.to_owned(), weight))
        };
        UsersWeights(text.split(',').filter_map(one).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for UsersWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (rule, weight)) in self.0.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            match weight {
                Some(weight) => write!(f, "{comma}{rule}={weight}")?,
                None => write!(f, "{comma}{rule}=-")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nonsense_is_not() {
        let weights = UsersWeights([("#0011223344556677".into(), Some(1)), ("@web.api".into(), None)].into());
        assert_eq!(weights.to_string(), "#0011223344556677=1,@web.api=-");
        assert_eq!(UsersWeights::parse("#0011223344556677=1,@web.api=-"), weights);
        assert!(UsersWeights::parse("0=1,x=1,2,@a=-1,@=1,=,@b=99999999999999999999").is_empty());
    }
}
