//! Holds README, ARCHITECTURE and docs/ to the program: what they name must be there, and what is there must be named.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use serde_json::Value;

use super::{Cli, crds};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn backticked(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

fn sources(folder: &Path, found: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target" && name != "vectors") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_command_is_in_the_readme() {
    let readme = text("README.md");
    for command in Cli::command().get_subcommands() {
        let name = command.get_name();
        let told = backticked(&readme).iter().any(|word| word.split(' ').next() == Some(name));
        assert!(told, "`{name}` is not in README.md");
    }
}

#[test]
fn every_test_that_the_architecture_names_exists() {
    let mut code = String::new();
    for folder in ["policies", "pipelines", "webhook", "controller", "tests"] {
        sources(&root().join(folder), &mut code);
    }
    let document = text("ARCHITECTURE.md");
    let mut named = 0;
    for word in backticked(&document).into_iter().filter(|word| word.matches('_').count() >= 3) {
        named += 1;
        assert!(code.contains(&format!("fn {word}(")), "ARCHITECTURE.md names `{word}`, which is no test");
    }
    assert!(named > 40, "{named}");
}

#[test]
fn every_field_that_users_write_is_in_the_docs() {
    for (kind, document) in [
        ("Pipeline", "docs/pipelines.md"),
        ("VerificationPolicy", "docs/policies.md"),
        ("Attestor", "docs/policies.md"),
        ("TrustRoot", "docs/policies.md"),
    ] {
        let crd = crds::all().into_iter().find(|crd| crd.spec.names.kind == kind).unwrap();
        let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
        let mut fields = BTreeSet::new();
        properties(schema.pointer("/openAPIV3Schema/properties/spec").unwrap(), &mut fields);
        let document = text(document);
        for field in fields {
            assert!(document.contains(&field), "{kind}'s field `{field}` is not in the docs");
        }
    }
}

fn properties(schema: &Value, found: &mut BTreeSet<String>) {
    for (name, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        found.insert(name.clone());
        properties(inner, found);
    }
    if let Some(items) = schema.get("items") {
        properties(items, found);
    }
}
