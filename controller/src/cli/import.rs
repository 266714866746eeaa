//! `tidegate policy import`: Google's classic Binary Authorization as documents of ours. What cannot be
//! expressed is an error with its path, never left out.

use std::path::PathBuf;
use std::process::ExitCode;

use tidegate_policies::model::PolicyError;
use tidegate_policies::model::google::{self, ImportOptions, Imported};

use super::documents::{self, Document};

#[derive(clap::Subcommand, Clone, Debug)]
pub enum PolicyCommand {
    /// Turn Google's classic policy and attestors into documents of ours, on standard output.
    Import(ImportArgs),
}

#[derive(clap::Args, Clone, Debug)]
pub struct ImportArgs {
    /// YAML files with a classic policy and its attestors; `-` is standard input.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Name of the VerificationPolicy that is made.
    #[arg(long, default_value = "imported")]
    pub name: String,
    /// Where the policy has rules per cluster: `location.cluster` whose rule is wanted.
    #[arg(long)]
    pub cluster: Option<String>,
    /// An Attestor that exists already and need not be among the files; may be repeated.
    #[arg(long = "known-attestor")]
    pub known_attestors: Vec<String>,
}

/// The command. Exit code 1 where something cannot be expressed; nothing is printed then.
pub fn run(args: &ImportArgs, print: impl Fn(&str), complain: impl Fn(&str)) -> ExitCode {
    match yaml(args) {
        Ok((text, warning)) => {
            warning.iter().for_each(|line| complain(line));
            print(&text);
            ExitCode::SUCCESS
        }
        Err(problems) => {
            problems.iter().for_each(|problem| complain(problem));
            complain(&format!("{}: nothing imported", documents::counted(problems.len(), "problem")));
            ExitCode::FAILURE
        }
    }
}

/// The documents, and what to warn of.
fn yaml(args: &ImportArgs) -> Result<(String, Option<String>), Vec<String>> {
    let (documents, problems) = documents::read(&args.files);
    if !problems.is_empty() {
        return Err(problems);
    }
    let options = ImportOptions {
        cluster: args.cluster.clone(),
        known_attestors: args.known_attestors.clone(),
        name: args.name.clone(),
    };
    let imported = classic(&documents, &options)?;
    if imported.policies.is_empty() && imported.attestors.is_empty() {
        return Err(vec!["the files hold neither a classic policy nor an attestor".into()]);
    }
    let text = imported.to_yaml().map_err(|error| vec![error.to_string()])?;
    Ok((text, other_cluster(&documents, args.cluster.as_deref())))
}

/// A cluster that the policy has no rule for: it is the default rule's, unless it was misspelt.
pub fn other_cluster(documents: &[Document], cluster: Option<&str>) -> Option<String> {
    let cluster = cluster?;
    let rules = documents.iter().filter_map(|document| document.value.get("clusterAdmissionRules")?.as_object());
    let known: Vec<&str> = rules.flat_map(|rules| rules.keys()).map(String::as_str).collect();
    let has = match known.is_empty() {
        true => "no rule for any cluster".to_owned(),
        false => format!("rules for {} only", known.join(", ")),
    };
    (!known.contains(&cluster))
        .then(|| format!("warning: cluster '{cluster}': the policy has {has}; its default rule was taken"))
}

/// Imports these documents together; each problem begins with the place of its document.
pub fn classic(documents: &[Document], options: &ImportOptions) -> Result<Imported, Vec<String>> {
    let mut texts = Vec::new();
    for document in documents {
        texts.push(serde_yaml_ng::to_string(&document.value).map_err(|e| vec![format!("{}: {e}", document.place())])?);
    }
    google::import(&texts.join("---\n"), options)
        .map_err(|errors| errors.into_iter().map(|error| placed(error, documents)).collect())
}

/// `document 2: path: what` becomes `file document 1: path: what`.
fn placed(error: PolicyError, documents: &[Document]) -> String {
    let line = error.to_string();
    let placed = line.strip_prefix("document ").and_then(|rest| {
        let (number, rest) = rest.split_once(':')?;
        let document = documents.get(number.parse::<usize>().ok()?.checked_sub(1)?)?;
        Some(format!("{}:{rest}", document.place()))
    });
    placed.unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/binauthz").join(name)
    }

    fn args(files: &[PathBuf]) -> ImportArgs {
        ImportArgs { files: files.to_vec(), name: "imported".into(), cluster: None, known_attestors: Vec::new() }
    }

    #[test]
    fn googles_samples_become_policies_that_lint_accepts() {
        for name in ["allow_all_policy.yaml", "deny_all_policy.yaml"] {
            let (text, _) = yaml(&args(&[sample(name)])).unwrap_or_else(|e| panic!("{name}: {e:?}"));
            let (documents, problems) = documents::parse(name, &text);
            assert!(problems.is_empty(), "{problems:?}");
            let report = super::super::lint::lint(&documents);
            assert!(report.problems.is_empty() && report.checked == 1, "{name}: {report:?}\n{text}");
        }
    }

    #[test]
    fn a_cluster_that_the_policy_does_not_know_is_told() {
        let text = "clusterAdmissionRules: {us-east1.prod: {}, us-east1.staging: {}}";
        let (documents, _) = documents::parse("p.yaml", text);
        let told = other_cluster(&documents, Some("us-east1.prd")).unwrap();
        assert!(told.contains("'us-east1.prd'") && told.contains("us-east1.prod, us-east1.staging"), "{told}");
        assert_eq!(other_cluster(&documents, Some("us-east1.prod")), None);
        assert_eq!(other_cluster(&documents, None), None);
        assert!(other_cluster(&[], Some("a.b")).unwrap().contains("no rule for any cluster"));
    }

    #[test]
    fn a_known_attestor_need_not_be_imported_again() {
        let policy = std::env::temp_dir().join(format!("tidegate-import-{}.yaml", std::process::id()));
        let text = "defaultAdmissionRule:
  evaluationMode: REQUIRE_ATTESTATION
  requireAttestationsBy: [projects/acme/attestors/qa]
  enforcementMode: ENFORCED_BLOCK_AND_AUDIT_LOG
";
        std::fs::write(&policy, text).unwrap();
        let unknown = yaml(&args(std::slice::from_ref(&policy)));
        let known = yaml(&ImportArgs { known_attestors: vec!["qa".into()], ..args(std::slice::from_ref(&policy)) });
        std::fs::remove_file(&policy).unwrap();
        let problems = unknown.unwrap_err();
        assert!(problems[0].contains("defaultAdmissionRule.requireAttestationsBy[0]"), "{problems:?}");
        assert!(known.unwrap().0.contains("attested by qa"));
    }

    #[test]
    fn what_cannot_be_imported_is_named_with_file_and_path() {
        for (files, told) in [
            // The tutorial's placeholder is no attestor.
            (
                vec!["updated_policy.yaml"],
                "updated_policy.yaml document 1: defaultAdmissionRule.requireAttestationsBy[0]",
            ),
            (vec!["example-cluster-policy.yaml"], "clusterAdmissionRules"),
            (vec!["allow_all_policy.yaml", "deny_all_policy.yaml"], "more than one policy"),
            (
                vec!["deny_all_policy.yaml", "03-break-glass-deployment.yaml"],
                "03-break-glass-deployment.yaml document 1",
            ),
            (vec!["gone.yaml"], "gone.yaml: cannot be read"),
        ] {
            let files: Vec<PathBuf> = files.into_iter().map(sample).collect();
            let problems = yaml(&args(&files)).expect_err(told);
            assert!(problems.iter().any(|line| line.contains(told)), "{told}: {problems:?}");
        }
    }
}
