//! The weights that stable had in the user's rules before ours, remembered on the route while a rollout drives it and
//! given back when its marks come off. Text to numbers and back; looks at no route.

use std::collections::BTreeMap;
use std::fmt;

/// By rule; none: the user wrote no weight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsersWeights(pub BTreeMap<usize, Option<u32>>);

impl UsersWeights {
    /// What cannot be read is not given back.
    pub fn parse(text: &str) -> Self {
        let one = |entry: &str| {
            let (rule, weight) = entry.split_once('=')?;
            let weight = if weight == "-" { None } else { Some(weight.parse().ok()?) };
            Some((rule.parse().ok()?, weight))
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
        let weights = UsersWeights([(0, Some(1)), (3, None)].into());
        assert_eq!(weights.to_string(), "0=1,3=-");
        assert_eq!(UsersWeights::parse("0=1,3=-"), weights);
        assert!(UsersWeights::parse("x=1,2,4=-1,=,99999999999999999999=1").is_empty());
    }
}
