//! `tidegate lint FILE...`: what is wrong with our documents, before a cluster sees them. Strict: a field that
//! is not known is an error. Never talks to a cluster, so it cannot say whether what is named exists there.

mod meaning;
mod pipeline;
mod schema;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tidegate_pipelines::api::{EnvironmentSpec, MetricsSource};

use super::crds;
use super::documents::{self, API_VERSION, Document};
use schema::Finding;

#[derive(clap::Args, Clone, Debug)]
pub struct LintArgs {
    /// YAML files; `-` is standard input.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
}

/// What was found in all files.
#[derive(Debug, Default)]
pub struct Report {
    /// One line each: `file document n kind/name path: what; what would make it pass`.
    pub problems: Vec<String>,
    /// Worth a look, but not wrong.
    pub notes: Vec<String>,
    /// Documents of ours that were checked.
    pub checked: usize,
}

/// The command. Exit code 1 where there are problems.
pub fn run(args: &LintArgs, mut tell: impl FnMut(String)) -> ExitCode {
    let (documents, unreadable) = documents::read(&args.files);
    let mut report = lint(&documents);
    report.problems.splice(0..0, unreadable);
    for line in &report.problems {
        tell(line.clone());
    }
    for line in &report.notes {
        tell(format!("note: {line}"));
    }
    if report.problems.is_empty() {
        tell(format!("{} of Tidegate's kinds: nothing to object to", documents::counted(report.checked, "document")));
        return ExitCode::SUCCESS;
    }
    tell(documents::counted(report.problems.len(), "problem"));
    ExitCode::FAILURE
}

/// A kind's schema and scope, from the definition that is installed.
struct Kind {
    schema: Value,
    namespaced: bool,
}

fn kinds() -> BTreeMap<String, Kind> {
    let mut kinds = BTreeMap::new();
    for crd in crds::all() {
        let schema = crd.spec.versions.first().and_then(|version| version.schema.as_ref());
        let schema = schema.and_then(|schema| serde_json::to_value(&schema.open_api_v3_schema).ok());
        let namespaced = crd.spec.scope == "Namespaced";
        kinds.insert(crd.spec.names.kind, Kind { schema: schema.unwrap_or_default(), namespaced });
    }
    kinds
}

pub fn lint(documents: &[Document]) -> Report {
    let kinds = kinds();
    let mut report = Report::default();
    let mut seen: BTreeMap<(String, String, String), String> = BTreeMap::new();
    let sources = metrics_sources(documents);
    for document in documents {
        let mut say = |path: &str, message: String| {
            let space = if path.is_empty() { "" } else { " " };
            report.problems.push(format!("{}{space}{path}: {message}", document.place()));
        };
        if document.text("/apiVersion").is_empty() || document.kind().is_empty() {
            say("", "has no apiVersion or no kind: write both".into());
            continue;
        }
        if !document.is_ours() {
            let named = kinds.contains_key(document.kind()) && document.text("/apiVersion").contains("tidegate");
            if named {
                say("apiVersion", format!("'{}' is not known: write {API_VERSION}", document.text("/apiVersion")));
            }
            continue;
        }
        let Some(kind) = kinds.get(document.kind()).filter(|_| document.text("/apiVersion") == API_VERSION) else {
            let known: Vec<&str> = kinds.keys().map(String::as_str).collect();
            say(
                "kind",
                format!(
                    "{} has no such kind; known in {API_VERSION}: {}",
                    document.text("/apiVersion"),
                    known.join(", ")
                ),
            );
            continue;
        };
        report.checked += 1;
        let key =
            (document.kind().to_owned(), document.text("/metadata/namespace").to_owned(), document.name().to_owned());
        if let Some(before) = seen.insert(key, document.place()) {
            say("metadata.name", format!("is that of {before} too: the later would overwrite it"));
        }
        let mut findings = Vec::new();
        schema::object(&kind.schema, kind.namespaced, &document.value, &mut findings);
        meaning_of(document, &sources, &mut findings);
        for finding in findings {
            say(&finding.path, finding.message);
        }
    }
    report.notes = unresolved(documents);
    report
}

/// The rules of a kind, where its document can be read as one. What the schema refused is told already.
fn meaning_of(document: &Document, sources: &BTreeMap<String, MetricsSource>, findings: &mut Vec<Finding>) {
    let spec = document.value.get("spec").cloned().unwrap_or_default();
    match document.kind() {
        "Pipeline" => read(spec, findings, |spec, findings| pipeline::check(document.name(), spec, sources, findings)),
        "Environment" => read(spec, findings, meaning::environment),
        "EventSource" => read(spec, findings, |spec, findings| {
            meaning::event_source(spec, document.text("/metadata/namespace"), findings)
        }),
        "VerificationPolicy" => read(spec, findings, meaning::policy),
        "Attestor" => read(spec, findings, meaning::attestor),
        "TrustRoot" => read(spec, findings, meaning::trust_root),
        _ => {}
    }
}

fn read<T: DeserializeOwned>(spec: Value, findings: &mut Vec<Finding>, check: impl FnOnce(&T, &mut Vec<Finding>)) {
    match serde_json::from_value::<T>(spec) {
        Ok(spec) => check(&spec, findings),
        Err(error) if findings.is_empty() => findings.push(Finding::new("spec", error.to_string())),
        Err(_) => {}
    }
}

fn metrics_sources(documents: &[Document]) -> BTreeMap<String, MetricsSource> {
    let environments = documents.iter().filter(|document| document.is_ours() && document.kind() == "Environment");
    environments
        .filter_map(|document| {
            let spec: EnvironmentSpec = serde_json::from_value(document.value.get("spec")?.clone()).ok()?;
            Some((document.name().to_owned(), spec.metrics))
        })
        .collect()
}

/// Names that stand for an object of a kind that these files describe, but not for one of those in them.
/// Not an error: it may be in the cluster.
fn unresolved(documents: &[Document]) -> Vec<String> {
    let ours = || documents.iter().filter(|document| document.is_ours());
    let there: BTreeSet<(&str, &str)> = ours().map(|document| (document.kind(), document.name())).collect();
    let described: BTreeSet<&str> = there.iter().map(|(kind, _)| *kind).collect();
    let mut notes = Vec::new();
    for document in ours() {
        let Some(spec) = document.value.get("spec") else { continue };
        for (path, kind, name) in meaning::references(document.kind(), spec) {
            if described.contains(kind) && !there.contains(&(kind, name.as_str())) {
                notes.push(format!("{} {path}: {kind} '{name}' is not in these files", document.place()));
            }
        }
    }
    notes
}
