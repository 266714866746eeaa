//! `tidegate verify IMAGE --policy FILE`: the verification that the guard makes, by hand and without a cluster.
//! Fetches from the image's registry only.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use jiff::Timestamp;
use tidegate_pipelines::api::{AttestorSpec, TrustRootSpec, VerificationPolicySpec};
use tidegate_policies::image::ImageRef;
use tidegate_policies::model::google::ImportOptions;
use tidegate_policies::model::{Attestor, Policy, Scope, TrustRoot};
use tidegate_policies::registry::Fetch;
use tidegate_policies::verdict::{Decision, Outcome, Verdict};
use tidegate_policies::verifier::{Verifier, VerifyRequest};

use super::documents::{self, Document};
use super::{import, lint};
use crate::registry::RegistryArgs;

#[derive(clap::Args, Clone, Debug)]
pub struct VerifyArgs {
    /// The image; a tag is resolved at its registry, once.
    pub image: String,
    /// YAML with a VerificationPolicy and the Attestors and TrustRoots that it needs, or with Google's classic policy
    /// and attestors; may be repeated.
    #[arg(long = "policy", required = true)]
    pub policies: Vec<PathBuf>,
    /// Sigstore's trusted_root.json, for every TrustRoot that the files do not hold.
    #[arg(long)]
    pub trusted_root: Option<PathBuf>,
    /// Which VerificationPolicy, where the files hold several.
    #[arg(long)]
    pub policy_name: Option<String>,
    /// Namespace of the pod that the image is for; chooses the check set.
    #[arg(long, short, default_value = "default")]
    pub namespace: String,
    /// Service account of that pod.
    #[arg(long)]
    pub service_account: Option<String>,
    /// The source revision that provenance must name, where the policy asks for one.
    #[arg(long)]
    pub revision: Option<String>,
    /// Where a classic policy has rules per cluster: `location.cluster`.
    #[arg(long)]
    pub cluster: Option<String>,
    #[command(flatten)]
    pub registry: RegistryArgs,
    #[arg(long, short, default_value = "table", value_enum)]
    pub output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    Table,
    Json,
}

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("{}", .0.join("\n"))]
    Files(Vec<String>),
    #[error("the files hold no policy: name one with --policy")]
    NoPolicy,
    #[error("the files hold the policies {0}: choose one with --policy-name")]
    SeveralPolicies(String),
    #[error("--policy-name {0} is not among {1}")]
    OtherPolicy(String, String),
    #[error(transparent)]
    Image(#[from] tidegate_policies::image::ImageRefError),
    #[error("the image's tag cannot be resolved: {0}")]
    Resolve(#[from] tidegate_policies::registry::FetchError),
    #[error("the verdict cannot be written: {0}")]
    Json(#[from] serde_json::Error),
}

/// What the files ask for.
#[derive(Debug, Default)]
pub struct Asked {
    pub policy: Policy,
    pub attestors: BTreeMap<String, Attestor>,
    pub trust_roots: BTreeMap<String, TrustRoot>,
    /// What the person may not have meant.
    pub warning: Option<String>,
}

/// The command. Exit code 0 Allow, 1 Deny, 2 Error (bad files and an unreachable registry too).
pub async fn run(args: &VerifyArgs, now: Timestamp, print: impl Fn(&str), complain: impl Fn(&str)) -> ExitCode {
    match answer(args, now, &complain).await {
        Ok((text, decision)) => {
            print(&text);
            code(decision)
        }
        Err(error) => {
            complain(&error.to_string());
            code(Decision::Error)
        }
    }
}

fn code(decision: Decision) -> ExitCode {
    ExitCode::from(match decision {
        Decision::Allow => 0,
        Decision::Deny => 1,
        Decision::Error => 2,
    })
}

async fn answer(args: &VerifyArgs, now: Timestamp, complain: impl Fn(&str)) -> Result<(String, Decision), VerifyError> {
    let asked = asked(args)?;
    asked.warning.iter().for_each(|line| complain(line));
    let verdict = verify(args, &asked, Arc::new(args.registry.fetch()?), now).await?;
    let text = match args.output {
        Output::Table => table(&verdict),
        Output::Json => format!("{}\n", serde_json::to_string_pretty(&verdict)?),
    };
    Ok((text, verdict.decision))
}

/// One verification, with the registry access that is handed in.
pub async fn verify(
    args: &VerifyArgs,
    asked: &Asked,
    fetch: Arc<dyn Fetch>,
    now: Timestamp,
) -> Result<Verdict, VerifyError> {
    let mut image: ImageRef = args.image.parse()?;
    if image.digest.is_none() {
        let digest = fetch.resolve(&asked.policy.locate(&image), &image).await?;
        image = image.with_digest(digest);
    }
    let request = VerifyRequest {
        image,
        policy: &asked.policy,
        attestors: &asked.attestors,
        trust_roots: &asked.trust_roots,
        scope: Scope { namespace: args.namespace.clone(), service_account: args.service_account.clone() },
        expected_revision: args.revision.clone(),
        now,
    };
    Ok(Verifier::new(fetch).verify(request).await)
}

/// Reads the files: documents of ours, those without `apiVersion` as Google's.
fn asked(args: &VerifyArgs) -> Result<Asked, VerifyError> {
    let (documents, problems) = documents::read(&args.policies);
    if !problems.is_empty() {
        return Err(VerifyError::Files(problems));
    }
    let (classic, ours): (Vec<Document>, Vec<Document>) =
        documents.into_iter().partition(|document| document.value.get("apiVersion").is_none());
    let problems = lint::lint(&ours).problems;
    if !problems.is_empty() {
        return Err(VerifyError::Files(problems));
    }
    let mut asked = Asked::default();
    let mut policies: BTreeMap<String, Policy> = BTreeMap::new();
    for document in &ours {
        let name = document.name().to_owned();
        match document.kind() {
            "VerificationPolicy" => {
                policies.insert(name, spec::<VerificationPolicySpec>(document)?.policy);
            }
            "Attestor" => {
                asked.attestors.insert(name, spec::<AttestorSpec>(document)?.attestor);
            }
            "TrustRoot" => {
                asked.trust_roots.insert(name, spec::<TrustRootSpec>(document)?.trust_root);
            }
            _ => {}
        }
    }
    if !classic.is_empty() {
        let options = ImportOptions {
            cluster: args.cluster.clone(),
            known_attestors: asked.attestors.keys().cloned().collect(),
            name: "classic".into(),
        };
        let imported = import::classic(&classic, &options).map_err(VerifyError::Files)?;
        policies.extend(imported.policies);
        asked.attestors.extend(imported.attestors);
        asked.warning = import::other_cluster(&classic, args.cluster.as_deref());
    } else if args.cluster.is_some() {
        asked.warning =
            Some("warning: --cluster chooses a rule of Google's classic policies; the files hold none".into());
    }
    asked.policy = chosen(policies, args.policy_name.as_deref())?;
    if let Some(path) = &args.trusted_root {
        let text = std::fs::read_to_string(path)
            .map_err(|error| VerifyError::Files(vec![format!("{}: cannot be read: {error}", path.display())]))?;
        let root = TrustRoot { trusted_root: text };
        for attestor in asked.attestors.values() {
            asked.trust_roots.entry(attestor.trust_root_name().to_owned()).or_insert_with(|| root.clone());
        }
    }
    Ok(asked)
}

fn spec<T: serde::de::DeserializeOwned>(document: &Document) -> Result<T, VerifyError> {
    let spec = document.value.get("spec").cloned().unwrap_or_default();
    serde_json::from_value(spec).map_err(|error| VerifyError::Files(vec![format!("{}: {error}", document.place())]))
}

fn chosen(mut policies: BTreeMap<String, Policy>, name: Option<&str>) -> Result<Policy, VerifyError> {
    let names = policies.keys().cloned().collect::<Vec<_>>().join(", ");
    match name {
        Some(name) => policies.remove(name).ok_or_else(|| VerifyError::OtherPolicy(name.to_owned(), names)),
        None if policies.len() > 1 => Err(VerifyError::SeveralPolicies(names)),
        None => policies.pop_first().map(|(_, policy)| policy).ok_or(VerifyError::NoPolicy),
    }
}

fn table(verdict: &Verdict) -> String {
    let mut text = format!("{}\n", verdict.image);
    let rows: Vec<(&str, &str)> =
        verdict.checks.iter().map(|check| (outcome(check.outcome), check.name.as_str())).collect();
    let widest = rows.iter().map(|(_, name)| name.chars().count()).max().unwrap_or(0).min(60);
    for ((word, name), check) in rows.into_iter().zip(&verdict.checks) {
        let _ = writeln!(text, "  {word:<8} {name:<widest$}  {}", check.message);
        for evidence in &check.evidence {
            let _ = writeln!(text, "  {:<8} {:<widest$}    {evidence}", "", "");
        }
    }
    if !verdict.check_set.is_empty() {
        let _ = writeln!(text, "check set: {}", verdict.check_set);
    }
    if let Some(revision) = &verdict.revision {
        let _ = writeln!(text, "revision:  {revision}");
    }
    if let Some(expires) = &verdict.expires {
        let _ = writeln!(text, "expires:   {expires}");
    }
    let _ = writeln!(text, "{}", verdict.decision);
    text
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Failed => "FAILED",
        Outcome::Error => "ERROR",
        Outcome::DryRun => "dry run",
    }
}

#[cfg(test)]
mod tests {
    use tidegate_policies::digest::Digest;
    use tidegate_policies::registry::MemoryFetch;

    use super::*;

    const POLICY: &str = "apiVersion: tidegate.io/v1alpha1
kind: VerificationPolicy
metadata: {name: p}
spec:
  mode: Enforce
  imageAllowlist: {allowPattern: [registry.example/tools/**]}
  checkSets: [{displayName: all, checks: [{displayName: nobody, alwaysDeny: true}]}]
";

    fn args(image: &str, files: &[PathBuf]) -> VerifyArgs {
        VerifyArgs {
            image: image.into(),
            policies: files.to_vec(),
            trusted_root: None,
            policy_name: None,
            namespace: "default".into(),
            service_account: None,
            revision: None,
            cluster: None,
            registry: RegistryArgs::default(),
            output: Output::Table,
        }
    }

    fn file(name: &str, text: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("tidegate-verify-{}-{name}.yaml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path
    }

    async fn decision(image: &str, files: &[PathBuf], fetch: MemoryFetch) -> Result<Verdict, VerifyError> {
        let args = args(image, files);
        verify(&args, &asked(&args)?, Arc::new(fetch), Timestamp::UNIX_EPOCH).await
    }

    #[tokio::test]
    async fn ours_and_googles_policies_are_judged() {
        let digest = Digest::of(b"image");
        let ours = file("ours", POLICY);
        let samples = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/binauthz");
        for (image, policy, expected) in [
            (format!("registry.example/portal@{digest}"), &ours, Decision::Deny),
            (format!("registry.example/tools/a@{digest}"), &ours, Decision::Allow),
            (format!("registry.example/portal@{digest}"), &samples.join("allow_all_policy.yaml"), Decision::Allow),
            (format!("registry.example/portal@{digest}"), &samples.join("deny_all_policy.yaml"), Decision::Deny),
        ] {
            let verdict = decision(&image, std::slice::from_ref(policy), MemoryFetch::new()).await.unwrap();
            assert_eq!(verdict.decision, expected, "{image} {}: {}", policy.display(), table(&verdict));
            assert!(table(&verdict).trim_end().ends_with(&expected.to_string()));
        }
        std::fs::remove_file(ours).unwrap();
    }

    #[tokio::test]
    async fn a_tag_is_resolved_and_one_that_is_not_there_is_an_error() {
        let ours = file("tag", POLICY);
        let registry = MemoryFetch::new();
        let digest = registry.push(&"registry.example/tools/a:v1".parse().unwrap(), "{}").await;
        let verdict = decision("registry.example/tools/a:v1", std::slice::from_ref(&ours), registry).await.unwrap();
        assert_eq!(verdict.image.digest, Some(digest));
        let gone = decision("registry.example/tools/a:v2", std::slice::from_ref(&ours), MemoryFetch::new()).await;
        assert!(matches!(gone, Err(VerifyError::Resolve(_))), "{gone:?}");
        std::fs::remove_file(ours).unwrap();
    }

    #[tokio::test]
    async fn a_cluster_that_the_policy_lacks_is_told_beside_the_default_rules_answer() {
        let rule = |mode: &str| format!("{{evaluationMode: {mode}, enforcementMode: ENFORCED_BLOCK_AND_AUDIT_LOG}}");
        let (deny, allow) = (rule("ALWAYS_DENY"), rule("ALWAYS_ALLOW"));
        let rules = format!("clusterAdmissionRules:\n  us-east1.prod: {allow}\n  us-east1.staging: {allow}\n");
        let classic = file("clusters", &format!("defaultAdmissionRule: {deny}\n{rules}"));
        let ours = file("no-clusters", POLICY);
        let image = format!("registry.example/portal@{}", Digest::of(b"image"));
        for (policy, cluster, code, warned) in [
            (&classic, Some("us-east1.prod"), 0, None),
            (
                &classic,
                Some("us-east1.prd"),
                1,
                Some("'us-east1.prd': the policy has rules for us-east1.prod, us-east1.staging only"),
            ),
            (&ours, Some("us-east1.prod"), 1, Some("the files hold none")),
            (&ours, None, 1, None),
        ] {
            let args = VerifyArgs { cluster: cluster.map(str::to_owned), ..args(&image, std::slice::from_ref(policy)) };
            let (printed, complained) = (std::cell::RefCell::default(), std::cell::RefCell::default());
            let keep = |to: &std::cell::RefCell<String>, line: &str| to.borrow_mut().push_str(line);
            let ended =
                run(&args, Timestamp::UNIX_EPOCH, |text| keep(&printed, text), |line| keep(&complained, line)).await;
            assert_eq!(ended, ExitCode::from(code), "{cluster:?}: {printed:?} {complained:?}");
            match warned {
                Some(part) => assert!(complained.borrow().contains(part), "{complained:?}"),
                None => assert_eq!(*complained.borrow(), ""),
            }
            assert!(!printed.borrow().contains("warning"), "it is no part of the answer");
        }
        [classic, ours].into_iter().for_each(|path| std::fs::remove_file(path).unwrap());
    }

    #[tokio::test]
    async fn files_that_do_not_name_one_good_policy_are_errors() {
        let (one, two) = (file("one", POLICY), file("two", &POLICY.replace("name: p}", "name: q}")));
        let bad = file("bad", &POLICY.replace("checkSets", "chekSets"));
        let image = format!("registry.example/portal@{}", Digest::of(b"image"));
        let several = asked(&args(&image, &[one.clone(), two.clone()])).unwrap_err();
        assert!(several.to_string().contains("p, q"), "{several}");
        let chosen = asked(&VerifyArgs { policy_name: Some("q".into()), ..args(&image, &[one.clone(), two.clone()]) });
        assert!(chosen.is_ok());
        let wrong = asked(&args(&image, std::slice::from_ref(&bad))).unwrap_err();
        assert!(wrong.to_string().contains("spec.chekSets"), "{wrong}");
        [one, two, bad].into_iter().for_each(|path| std::fs::remove_file(path).unwrap());
    }
}
