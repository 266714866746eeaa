//! JSON from strangers. Depth is bounded and a key given twice is an error: two parsers that choose
//! differently between duplicates would judge two different documents.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// Enough for every SBOM seen; far below where a recursive parser exhausts its stack.
const MAX_DEPTH: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is not acceptable JSON: {reason}")]
pub struct JsonError {
    what: &'static str,
    reason: String,
}

/// Checks the whole document, then reads it as a `T`.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T, JsonError> {
    check(bytes, what)?;
    parse_checked(bytes, what)
}

/// Reads a document that [`check`] has passed.
pub(crate) fn parse_checked<T: DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T, JsonError> {
    serde_json::from_slice(bytes).map_err(|e| JsonError { what, reason: e.to_string() })
}

pub(crate) fn check(bytes: &[u8], what: &'static str) -> Result<(), JsonError> {
    let fail = |e: serde_json::Error| JsonError { what, reason: e.to_string() };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    Checked { depth: 0 }.deserialize(&mut deserializer).map_err(fail)?;
    deserializer.end().map_err(fail)
}

#[derive(Clone, Copy)]
struct Checked {
    depth: usize,
}

impl Checked {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format!("nested deeper than {MAX_DEPTH}")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Checked {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Checked {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while seq.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value_seed(inner)?;
            if let Some(twice) = seen.replace(key) {
                return Err(A::Error::custom(format!("key `{twice}` is given twice")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_given_twice_is_an_error_however_it_is_spelt() {
        for bad in [r#"{"a":1,"a":1}"#, r#"{"a":{"b":1,"c":2,"b":3}}"#, r#"[{"a":1,"\u0061":2}]"#] {
            let error = check(bad.as_bytes(), "it").unwrap_err().to_string();
            assert!(error.contains("given twice"), "{error}");
        }
        assert_eq!(check(br#"{"a":{"a":[1,2.5,null,true,"x"]}}"#, "it"), Ok(()));
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(check(nested(64).as_bytes(), "it").is_ok());
        assert!(check(nested(65).as_bytes(), "it").is_err());
        assert!(check(nested(1_000_000).as_bytes(), "it").is_err());
    }

    #[test]
    fn trailing_bytes_are_an_error() {
        assert!(check(b"{} {}", "it").is_err());
        assert!(check(b"", "it").is_err());
    }
}
