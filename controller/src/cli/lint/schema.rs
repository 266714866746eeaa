//! Holds a document against the schema of its CustomResourceDefinition, so that a person reads every
//! misspelt, missing or misshapen field at once, and without a cluster. CEL rules are not evaluated: what they say is said again by `meaning` and `pipeline`.

use serde_json::Value;
use tidegate_pipelines::api::Span;

/// One thing wrong at `path`: what, and what would make it pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub path: String,
    pub message: String,
}

impl Finding {
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Finding { path: path.into(), message: message.into() }
    }
}

/// Fields that every object has beside those of its schema.
const OBJECT: [&str; 4] = ["apiVersion", "kind", "metadata", "status"];
const METADATA: [&str; 15] = [
    "name",
    "namespace",
    "labels",
    "annotations",
    "finalizers",
    "ownerReferences",
    "generateName",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
];

/// Checks a whole object; `schema` is its version's `openAPIV3Schema`, `namespaced` its scope.
pub fn object(schema: &Value, namespaced: bool, value: &Value, findings: &mut Vec<Finding>) {
    let Some(fields) = value.as_object() else { return };
    for key in fields.keys().filter(|key| *key != "spec" && !OBJECT.contains(&key.as_str())) {
        findings.push(unknown("", key, OBJECT.iter().copied().chain(["spec"])));
    }
    let metadata = value.get("metadata").and_then(Value::as_object);
    for key in metadata.into_iter().flat_map(|m| m.keys()).filter(|key| !METADATA.contains(&key.as_str())) {
        findings.push(unknown("metadata", key, METADATA.iter().copied()));
    }
    let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    if !is_name(name, 253) {
        let message = match name {
            "" => "is missing: give the object a name".to_owned(),
            _ => format!("'{name}' is no name: write lower-case letters, digits, '-' and '.'"),
        };
        findings.push(Finding::new("metadata.name", message));
    }
    if !namespaced && value.pointer("/metadata/namespace").is_some() {
        findings.push(Finding::new("metadata.namespace", "this kind is cluster-scoped: leave the namespace out"));
    }
    match (value.get("spec"), schema.pointer("/properties/spec")) {
        (Some(spec), Some(schema)) => check(schema, spec, "spec", findings),
        (None, Some(_)) => findings.push(Finding::new("spec", "is missing")),
        _ => {}
    }
}

/// Lower-case letters, digits, `-` and `.`, with a letter or digit at both ends.
pub fn is_name(name: &str, longest: usize) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= longest
        && name.starts_with(plain)
        && name.ends_with(plain)
        && name.chars().all(|c| plain(c) || c == '-' || c == '.')
}

fn check(schema: &Value, value: &Value, path: &str, findings: &mut Vec<Finding>) {
    if value.is_null() {
        if schema.get("nullable") != Some(&Value::Bool(true)) && schema.get("default").is_none() {
            findings.push(Finding::new(path, "is empty: give it a value, or leave it out"));
        }
        return;
    }
    let wanted = schema.get("type").and_then(Value::as_str);
    let int_or_string = schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
    if let Some(wanted) = wanted.filter(|wanted| !int_or_string && !is_of(value, wanted)) {
        findings.push(Finding::new(path, format!("is {}, and must be {}", called(value), article(wanted))));
        return;
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array).filter(|allowed| !allowed.contains(value)) {
        let allowed: Vec<String> = allowed.iter().filter(|v| !v.is_null()).map(shown).collect();
        findings.push(Finding::new(path, format!("{} is not one of {}", shown(value), allowed.join(", "))));
        return;
    }
    match value {
        Value::Object(fields) => fields_of(schema, fields, path, findings),
        Value::Array(items) => {
            bound(schema, "minItems", items.len(), path, "items", findings);
            bound(schema, "maxItems", items.len(), path, "items", findings);
            if let Some(schema) = schema.get("items") {
                for (i, item) in items.iter().enumerate() {
                    check(schema, item, &format!("{path}[{i}]"), findings);
                }
            }
        }
        Value::String(text) => {
            let length = text.chars().count();
            bound(schema, "minLength", length, path, "characters", findings);
            bound(schema, "maxLength", length, path, "characters", findings);
            let message = match is_span(schema) {
                true => text.parse::<Span>().err().map(|error| error.to_string()),
                false => schema.get("pattern").and_then(Value::as_str).and_then(|pattern| form(pattern, text)),
            };
            findings.extend(message.map(|message| Finding::new(path, message)));
        }
        Value::Number(number) => range(schema, number.as_f64().unwrap_or_default(), path, findings),
        Value::Null | Value::Bool(_) => {}
    }
}

fn fields_of(schema: &Value, fields: &serde_json::Map<String, Value>, path: &str, findings: &mut Vec<Finding>) {
    let known = schema.get("properties").and_then(Value::as_object);
    let others = schema.get("additionalProperties");
    let open = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    for (key, value) in fields {
        let inner = format!("{path}.{key}");
        match known.and_then(|known| known.get(key)).or(others) {
            Some(schema) => check(schema, value, &inner, findings),
            None if open => {}
            None => {
                let names = known.into_iter().flat_map(|known| known.keys()).map(String::as_str);
                findings.push(unknown(path, key, names));
            }
        }
    }
    for needed in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(needed) {
            findings.push(Finding::new(format!("{path}.{needed}"), "is missing"));
        }
    }
}

/// Whether a text is a length of time: [`Span`]'s schema says so in its rule.
fn is_span(schema: &Value) -> bool {
    let rule = schema.pointer("/x-kubernetes-validations/0/message").and_then(Value::as_str);
    rule.is_some_and(|message| message.starts_with("a duration is"))
}

/// What a text that does not have the form of `pattern` should be. Only the patterns that our kinds use:
/// reading any other would need an engine for them, and the API server has one.
fn form(pattern: &str, text: &str) -> Option<String> {
    let hex = |text: &str| text.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
    match pattern {
        "^https?://" if !text.starts_with("http://") && !text.starts_with("https://") => {
            Some(format!("'{text}' is no URL: begin it with https:// or http://"))
        }
        "^sha256:[0-9a-f]{64}$" if !text.strip_prefix("sha256:").is_some_and(|d| d.len() == 64 && hex(d)) => {
            Some(format!("'{text}' is no digest: write sha256: and 64 hexadecimal digits in lower case"))
        }
        _ => None,
    }
}

fn bound(schema: &Value, word: &str, found: usize, path: &str, what: &str, findings: &mut Vec<Finding>) {
    let Some(limit) = schema.get(word).and_then(Value::as_u64) else { return };
    let found = found as u64;
    if word.starts_with("min") && found < limit {
        findings.push(Finding::new(path, format!("has {found} {what}: at least {limit} needed")));
    } else if word.starts_with("max") && found > limit {
        findings.push(Finding::new(path, format!("has {found} {what}: at most {limit} allowed")));
    }
}

fn range(schema: &Value, found: f64, path: &str, findings: &mut Vec<Finding>) {
    let limit = |word: &str| schema.get(word).and_then(Value::as_f64);
    let (least, most) = (limit("minimum"), limit("maximum"));
    if least.is_some_and(|least| found < least) || most.is_some_and(|most| found > most) {
        let text = match (least, most) {
            (Some(least), Some(most)) => format!("from {least} to {most}"),
            (Some(least), None) => format!("at least {least}"),
            (None, Some(most)) => format!("at most {most}"),
            (None, None) => return,
        };
        findings.push(Finding::new(path, format!("is {found}, and must be {text}")));
    }
}

fn is_of(value: &Value, wanted: &str) -> bool {
    match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => true,
    }
}

fn called(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

fn article(wanted: &str) -> &'static str {
    match wanted {
        "object" => "a mapping",
        "array" => "a list",
        "string" => "text (put it in quotes)",
        "boolean" => "true or false",
        "integer" => "a whole number",
        _ => "a number",
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("'{text}'"),
        other => other.to_string(),
    }
}

fn unknown<'a>(path: &str, key: &str, known: impl Iterator<Item = &'a str>) -> Finding {
    let known: Vec<&str> = known.collect();
    let nearest = known.iter().map(|name| (distance(key, name), *name)).min();
    let advice = match nearest {
        Some((far, name)) if far <= 1 + key.len() / 4 => format!("did you mean '{name}'?"),
        _ if known.is_empty() => "nothing is expected here".to_owned(),
        _ => format!("known here: {}", known.join(", ")),
    };
    let dot = if path.is_empty() { "" } else { "." };
    Finding::new(format!("{path}{dot}{key}"), format!("is not a field: {advice}"))
}

/// Levenshtein's, without regard to case.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, cb) in row.iter_mut().skip(1).zip(&b) {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = *cell;
            left = replaced.min(left + 1).min(*cell + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        for (a, b, far) in
            [("", "abc", 3), ("abc", "abc", 0), ("stepz", "steps", 1), ("MASK", "mask", 0), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(a, b), far, "{a} {b}");
        }
    }
}
