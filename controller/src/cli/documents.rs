//! Reads the YAML documents that `lint`, `verify` and `policy import` are given. Says where each one stands;
//! never judges what is in it.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

/// The API group and version of every kind of ours.
pub const API_VERSION: &str = "tidegate.io/v1alpha1";

/// One document of a file.
#[derive(Clone, Debug)]
pub struct Document {
    /// As it was named on the command line; `-` is standard input.
    pub file: String,
    /// From 1, empty documents counted.
    pub index: usize,
    pub value: Value,
}

impl Document {
    pub fn text(&self, pointer: &str) -> &str {
        self.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    pub fn kind(&self) -> &str {
        self.text("/kind")
    }

    pub fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    /// Whether it is an object of ours, of any version.
    pub fn is_ours(&self) -> bool {
        self.text("/apiVersion").starts_with("tidegate.io/")
    }

    /// `file document n kind/name`.
    pub fn place(&self) -> String {
        let name = if self.name().is_empty() { "(no name)" } else { self.name() };
        match self.kind() {
            "" => format!("{} document {}", self.file, self.index),
            kind => format!("{} document {} {kind}/{name}", self.file, self.index),
        }
    }
}

/// `1 problem`, `2 problems`.
pub fn counted(count: usize, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

/// Documents of all files, and a line for each that cannot be read.
pub fn read(paths: &[PathBuf]) -> (Vec<Document>, Vec<String>) {
    let mut documents = Vec::new();
    let mut problems = Vec::new();
    for path in paths {
        match text(path) {
            Ok(text) => {
                let (found, wrong) = parse(&path.display().to_string(), &text);
                if found.is_empty() && wrong.is_empty() {
                    problems.push(format!("{}: holds no document", path.display()));
                }
                documents.extend(found);
                problems.extend(wrong);
            }
            Err(error) => problems.push(format!("{}: cannot be read: {error}", path.display())),
        }
    }
    (documents, problems)
}

fn text(path: &Path) -> std::io::Result<String> {
    if path != Path::new("-") {
        return std::fs::read_to_string(path);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

/// The documents of one text that are not empty.
pub fn parse(file: &str, text: &str) -> (Vec<Document>, Vec<String>) {
    let mut documents = Vec::new();
    let mut problems = Vec::new();
    for (i, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        let index = i + 1;
        // First as YAML, which refuses a key that stands twice; JSON would keep the last one.
        let value = match serde_yaml_ng::Value::deserialize(document) {
            Ok(value) => value,
            Err(error) => {
                problems.push(format!("{file} document {index}: is not YAML: {error}"));
                // After a syntax error the reader yields the same error for ever.
                break;
            }
        };
        match serde_json::to_value(value) {
            Ok(Value::Null) => {}
            Ok(value @ Value::Object(_)) => documents.push(Document { file: file.to_owned(), index, value }),
            Ok(_) => problems
                .push(format!("{file} document {index}: is not a mapping: write apiVersion, kind, metadata, spec")),
            Err(error) => problems.push(format!("{file} document {index}: {error}: keys are strings")),
        }
    }
    (documents, problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_know_where_they_stand() {
        let (documents, problems) = parse("f.yaml", "---\n# nothing\n---\nkind: Pipeline\nmetadata: {name: portal}\n");
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(documents.iter().map(Document::place).collect::<Vec<_>>(), ["f.yaml document 2 Pipeline/portal"]);
    }

    #[test]
    fn a_file_without_a_document_is_a_problem() {
        let path = std::env::temp_dir().join(format!("tidegate-empty-{}.yaml", std::process::id()));
        std::fs::write(&path, "---\n# later\n").unwrap();
        let (documents, problems) = read(std::slice::from_ref(&path));
        std::fs::remove_file(&path).unwrap();
        assert!(
            documents.is_empty() && problems.len() == 1 && problems[0].ends_with("holds no document"),
            "{problems:?}"
        );
    }

    #[test]
    fn what_is_no_document_is_told() {
        for (text, told) in [
            ("a: [", "is not YAML"),
            ("a: 1\na: 2", "duplicate"),
            ("- a", "is not a mapping"),
            ("text", "is not a mapping"),
        ] {
            let (_, problems) = parse("f", text);
            assert!(problems.len() == 1 && problems[0].contains(told), "{text}: {problems:?}");
        }
    }
}
