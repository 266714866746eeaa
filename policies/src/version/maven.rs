//! Maven's version order, after the rules in "Version Order Specification" of its POM reference:
//! tokens split at dots, hyphens and between digits and letters; trailing nulls trimmed; known
//! qualifiers ranked, unknown ones after them as text.

use std::cmp::Ordering;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    /// Whether a hyphen (or a change between digits and letters) came before it.
    hyphen: bool,
    value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Number(String),
    Word(String),
}

pub(super) fn compare(a: &str, b: &str) -> Ordering {
    let (a, b) = (trim(tokens(a)), trim(tokens(b)));
    for i in 0..a.len().max(b.len()) {
        let ordering = match (a.get(i), b.get(i)) {
            (Some(x), Some(y)) => pair(x, y),
            (Some(x), None) => pair(x, &padding(x)),
            (None, Some(y)) => pair(&padding(y), y),
            (None, None) => Ordering::Equal,
        };
        if ordering.is_ne() {
            return ordering;
        }
    }
    Ordering::Equal
}

/// The shorter version is filled up with the nulls that fit the other's token.
fn padding(other: &Token) -> Token {
    let value = match other.value {
        Value::Number(_) => Value::Number("0".to_owned()),
        Value::Word(_) => Value::Word(String::new()),
    };
    Token { hyphen: other.hyphen, value }
}

/// `.qualifier` = `-qualifier` < `-number` < `.number`.
fn pair(x: &Token, y: &Token) -> Ordering {
    let kind = |t: &Token| match (&t.value, t.hyphen) {
        (Value::Word(_), _) => 0,
        (Value::Number(_), true) => 1,
        (Value::Number(_), false) => 2,
    };
    kind(x).cmp(&kind(y)).then_with(|| match (&x.value, &y.value) {
        (Value::Number(a), Value::Number(b)) => super::number(a, b),
        (Value::Word(a), Value::Word(b)) => rank(a).cmp(&rank(b)).then_with(|| match rank(a) {
            UNKNOWN => a.cmp(b),
            _ => Ordering::Equal,
        }),
        _ => Ordering::Equal,
    })
}

const UNKNOWN: u8 = 7;

fn rank(word: &str) -> u8 {
    match word {
        "alpha" => 0,
        "beta" => 1,
        "milestone" => 2,
        "rc" | "cr" => 3,
        "snapshot" => 4,
        "" | "final" | "ga" | "release" => 5,
        "sp" => 6,
        _ => UNKNOWN,
    }
}

fn tokens(version: &str) -> Vec<Token> {
    let lower = version.to_ascii_lowercase();
    let mut out = Vec::new();
    let mut hyphen = false;
    let mut current = String::new();
    let mut previous_digit: Option<bool> = None;
    let mut flush = |current: &mut String, hyphen: bool, digit: Option<bool>, next_is_digit: bool| {
        let text = std::mem::take(current);
        let value = match digit {
            Some(true) => Value::Number(text),
            Some(false) => Value::Word(match (text.as_str(), next_is_digit) {
                // Short forms count only right before a number: `1a1`, not `1a`.
                ("a", true) => "alpha".to_owned(),
                ("b", true) => "beta".to_owned(),
                ("m", true) => "milestone".to_owned(),
                _ => text,
            }),
            // Nothing between two separators is a zero.
            None => Value::Number("0".to_owned()),
        };
        // `.qualifier` is `-qualifier`: nulls before it go, `1.0.rc1` is `1-rc1`.
        let hyphen = hyphen || matches!(value, Value::Word(_));
        out.push(Token { hyphen, value });
    };
    for c in lower.chars() {
        match c {
            '.' | '-' | '_' => {
                flush(&mut current, hyphen, previous_digit, false);
                previous_digit = None;
                hyphen = c != '.';
            }
            c => {
                let digit = c.is_ascii_digit();
                if previous_digit.is_some_and(|p| p != digit) {
                    flush(&mut current, hyphen, previous_digit, digit);
                    hyphen = true;
                }
                current.push(c);
                previous_digit = Some(digit);
            }
        }
    }
    flush(&mut current, hyphen, previous_digit, false);
    out
}

/// Nulls (zero, empty, `final`, `ga`, `release`) go from the end of each hyphenated part.
fn trim(tokens: Vec<Token>) -> Vec<Token> {
    let null = |t: &Token| match &t.value {
        Value::Number(n) => n.trim_start_matches('0').is_empty(),
        Value::Word(w) => rank(w) == 5,
    };
    let mut kept: Vec<Token> = Vec::with_capacity(tokens.len());
    for token in tokens {
        if token.hyphen {
            while kept.last().is_some_and(null) {
                kept.pop();
            }
        }
        kept.push(token);
    }
    while kept.last().is_some_and(null) {
        kept.pop();
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mavens_own_examples_hold() {
        for (a, b, expected) in [
            ("1", "1.1", Ordering::Less),
            ("1-snapshot", "1", Ordering::Less),
            ("1", "1-sp", Ordering::Less),
            ("1-foo2", "1-foo10", Ordering::Less),
            ("1.foo", "1-foo", Ordering::Equal),
            ("1-foo", "1-1", Ordering::Less),
            ("1-1", "1.1", Ordering::Less),
            ("1.ga", "1-ga", Ordering::Equal),
            ("1-0.ga", "1.0", Ordering::Equal),
            ("1-sp", "1-ga", Ordering::Greater),
            ("1-a1", "1-alpha-1", Ordering::Equal),
            ("1.0.rc1", "1-rc1", Ordering::Equal),
            ("2.0.0", "2", Ordering::Equal),
            ("2.17.1", "2.17.1.redhat-1", Ordering::Less),
            ("99999999999999999999", "100000000000000000000", Ordering::Less),
        ] {
            assert_eq!(compare(a, b), expected, "{a} {b}");
        }
    }
}
