use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::*;
use crate::image::ImageRef;
use crate::model::{Mode, Policy as Ours, Scope};

fn sample(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/binauthz").join(name);
    // What the tutorial has its readers fill in.
    fs::read_to_string(path)
        .unwrap()
        .replace("${REGION}", "us-east1")
        .replace("${PROJECT_ID}", "acme")
        .replace("{GOOGLE_CLOUD_PROJECT}", "acme")
        .replace("{ATTESTOR_ID}", "qa-attestor")
}

const PEM: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE5+m8DFZ1fA3VYIJRyY0WdeIKnBIy
V+eQpsO5NPZvuo6V+oFJKDl4FP3Vp2FuaJp3HrpRQOo7/bDzkvqn1l9lZQ==
-----END PUBLIC KEY-----
";

fn attestor(id: &str) -> String {
    let pem = key();
    format!(
        "name: projects/acme/attestors/{id}\nuserOwnedGrafeasNote:\n  noteReference: projects/acme/notes/n\n  publicKeys:\n  - id: //example/key\n    pkixPublicKey:\n      signatureAlgorithm: ECDSA_P256_SHA256\n      publicKeyPem: |\n{}",
        pem.lines().map(|l| format!("        {l}\n")).collect::<String>()
    )
}

/// A key that parses; the local Sigstore's.
fn key() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/local-sigstore/release.pub");
    fs::read_to_string(path).unwrap_or_else(|_| PEM.to_owned())
}

fn options(cluster: Option<&str>) -> ImportOptions {
    ImportOptions { cluster: cluster.map(str::to_owned), name: "imported".into(), ..ImportOptions::default() }
}

fn classic(name: &str) -> Policy {
    let policy: Policy = serde_yaml_ng::from_str(&sample(name)).unwrap();
    policy.validate().unwrap();
    policy
}

fn image() -> ImageRef {
    "gcr.io/acme/portal".parse::<ImageRef>().unwrap().with_digest(crate::digest::Digest::of(b"image"))
}

#[test]
fn the_samples_are_judged_as_google_judges_them() {
    let prod = |cluster: &str| ClassicSubject { cluster: Some(cluster.into()), ..ClassicSubject::default() };
    let (vulnz, qa) = ("projects/acme/attestors/vulnz-attestor", "projects/acme/attestors/qa-attestor");
    for (file, cluster, attested, blocks) in [
        ("allow_all_policy.yaml", "", vec![], false),
        ("deny_all_policy.yaml", "", vec![], true),
        ("updated_policy.yaml", "", vec![], true),
        ("updated_policy.yaml", "", vec![qa], false),
        ("example-cluster-policy.yaml", "us-east1.staging-cluster", vec![vulnz], false),
        ("example-cluster-policy.yaml", "us-east1.staging-cluster", vec![qa], true),
        ("example-cluster-policy.yaml", "us-east1.prod-cluster", vec![vulnz], true),
        ("example-cluster-policy.yaml", "us-east1.prod-cluster", vec![vulnz, qa], false),
        ("example-cluster-policy.yaml", "us-east1.other", vec![vulnz, qa], true),
    ] {
        let attested: BTreeSet<String> = attested.into_iter().map(str::to_owned).collect();
        let evaluation = classic(file).evaluate(&image(), &prod(cluster), &attested);
        assert_eq!(evaluation.blocks, blocks, "{file} {cluster} {attested:?}: {}", evaluation.reason);
    }
    let exempt = classic("example-cluster-policy.yaml");
    let istio: ImageRef = "docker.io/istio/proxyv2:1.2".parse().unwrap();
    assert!(!exempt.evaluate(&istio, &ClassicSubject::default(), &BTreeSet::new()).blocks);
}

#[test]
fn dry_runs_tell_and_do_not_block() {
    let policy: Policy = serde_yaml_ng::from_str(
        "defaultAdmissionRule: {evaluationMode: ALWAYS_DENY, enforcementMode: DRYRUN_AUDIT_LOG_ONLY}",
    )
    .unwrap();
    let evaluation = policy.evaluate(&image(), &ClassicSubject::default(), &BTreeSet::new());
    assert_eq!((evaluation.conformance, evaluation.blocks), (Conformance::NonConformant, false));
}

#[test]
fn attestations_are_of_digests_only() {
    let tagged: ImageRef = "gcr.io/acme/portal:v1".parse().unwrap();
    let attested = BTreeSet::from(["projects/acme/attestors/qa-attestor".to_owned()]);
    assert!(classic("updated_policy.yaml").evaluate(&tagged, &ClassicSubject::default(), &attested).blocks);
}

#[test]
fn the_most_specific_rule_is_the_one() {
    let text = "
kubernetesServiceAccountAdmissionRules:
  shop:portal: {evaluationMode: ALWAYS_ALLOW, enforcementMode: ENFORCED_BLOCK_AND_AUDIT_LOG}
defaultAdmissionRule: {evaluationMode: ALWAYS_DENY, enforcementMode: ENFORCED_BLOCK_AND_AUDIT_LOG}
";
    let policy: Policy = serde_yaml_ng::from_str(text).unwrap();
    let imported = import(text, &options(None)).unwrap();
    let ours: &Ours = &imported.policies[0].1;
    for (account, blocks) in [("portal", false), ("other", true)] {
        let subject =
            ClassicSubject { namespace: "shop".into(), service_account: account.into(), ..Default::default() };
        assert_eq!(policy.evaluate(&image(), &subject, &BTreeSet::new()).blocks, blocks);
        let scope = Scope { namespace: "shop".into(), service_account: Some(account.into()) };
        assert_eq!(ours.check_set(&scope).unwrap().checks.iter().any(|c| c.always_deny), blocks);
    }
}

#[test]
fn what_google_refuses_is_refused() {
    let rule = "{evaluationMode: ALWAYS_ALLOW, enforcementMode: ENFORCED_BLOCK_AND_AUDIT_LOG}";
    let attested = |by: &str| {
        format!(
            "{{evaluationMode: REQUIRE_ATTESTATION, requireAttestationsBy: [{by}], enforcementMode: ENFORCED_BLOCK_AND_AUDIT_LOG}}"
        )
    };
    for (text, says) in [
        ("globalPolicyEvaluationMode: ENABLE".to_owned(), "defaultAdmissionRule"),
        (format!("defaultAdmissionRule: {rule}\nunknown: 1"), "unknown"),
        ("defaultAdmissionRule: {evaluationMode: SOMETIMES, enforcementMode: ENFORCED_BLOCK_AND_AUDIT_LOG}".to_owned(), "SOMETIMES"),
        ("defaultAdmissionRule: {evaluationMode: ALWAYS_ALLOW}".to_owned(), "enforcementMode"),
        (format!("defaultAdmissionRule: {}", attested("")), "needs at least one"),
        (format!("defaultAdmissionRule: {}", attested("somebody")), "projects/*/attestors/*"),
        (format!("defaultAdmissionRule: {}", attested("projects/acme/attestors/gone")), "is not known"),
        (format!("defaultAdmissionRule: {rule}\nadmissionWhitelistPatterns: [{{namePattern: gcr.io/n*x}}]"), "at the end only"),
        (format!("defaultAdmissionRule: {rule}\nadmissionWhitelistPatterns: [{{namePattern: '*'}}]"), "registry"),
        (format!("defaultAdmissionRule: {rule}\nclusterAdmissionRules: {{a.b: {rule}}}\nkubernetesNamespaceAdmissionRules: {{c: {rule}}}"), "only one kind"),
        (format!("defaultAdmissionRule: {rule}\nkubernetesServiceAccountAdmissionRules: {{c: {rule}}}"), "namespace:serviceaccount"),
        (format!("defaultAdmissionRule: {rule}\nistioServiceIdentityAdmissionRules: {{'spiffe://d/ns/a/sa/b': {rule}}}"), "Istio identity"),
        (format!("defaultAdmissionRule: {rule}\nclusterAdmissionRules: {{us.prod: {rule}}}"), "which cluster"),
        (format!("defaultAdmissionRule: {rule}\ndefaultAdmissionRule: {rule}"), "duplicate"),
        ("gkePolicy: {}".to_owned(), "platform policy"),
        (sample("01-deployment.yaml").replace(['{', '}'], ""), "Kubernetes object"),
        ("defaultAdmissionRule: {".to_owned(), ""),
        (attestor("qa-attestor").replace("notes/n", "n"), "projects/*/notes/*"),
        (attestor("qa-attestor").replace("pkixPublicKey", "otherKey"), "otherKey"),
        (attestor("Upper"), "name of a Kubernetes object"),
        (attestor("qa-attestor").replace("//example/key", "no uri"), "must be a URI"),
        (
            "name: projects/acme/attestors/a\nuserOwnedGrafeasNote: {noteReference: projects/p/notes/n, publicKeys: [{asciiArmoredPgpPublicKey: x}]}".to_owned(),
            "PGP",
        ),
        ("name: projects/acme/attestors/a\nuserOwnedGrafeasNote: {noteReference: projects/p/notes/n}".to_owned(), "is empty"),
    ] {
        let errors = import(&text, &options(None)).expect_err(&text);
        let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert!(told.iter().any(|t| t.contains(says)), "{text}: {told:?}");
    }
}

#[test]
fn a_placeholder_is_no_attestor() {
    let raw = fs::read_to_string(
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/binauthz/updated_policy.yaml"),
    )
    .unwrap();
    let errors = import(&raw, &options(None)).unwrap_err();
    assert!(errors[0].to_string().contains("requireAttestationsBy[0]"), "{errors:?}");
}

#[test]
fn policies_become_ours_with_their_attestors() {
    let text = format!(
        "{}---\n{}---\n{}",
        attestor("vulnz-attestor"),
        attestor("qa-attestor"),
        sample("example-cluster-policy.yaml")
    );
    let imported = import(&text, &options(Some("us-east1.prod-cluster"))).unwrap();
    let policy = &imported.policies[0].1;
    assert_eq!(policy.mode, Mode::Enforce);
    assert_eq!(policy.image_allowlist.allow_pattern, ["docker.io/istio/*"]);
    let names: Vec<&str> = policy.check_sets[0].checks.iter().map(|c| c.display_name.as_str()).collect();
    assert_eq!(names, ["attested by vulnz-attestor", "attested by qa-attestor"]);
    assert_eq!(imported.attestors.len(), 2);
    assert!(imported.attestors.values().all(|a| a.validate().is_ok()));
    assert!(imported.notes.iter().any(|n| n.contains("ENABLE")));
    // A cluster without a rule of its own gets the default.
    let other = import(&text, &options(Some("us-east1.other"))).unwrap();
    assert!(other.policies[0].1.check_sets[0].checks[0].always_deny);
    // And what is printed reads back as it was.
    let yaml = imported.to_yaml().unwrap();
    let last = serde_yaml_ng::Deserializer::from_str(&yaml)
        .map(|d| <serde_yaml_ng::Value as serde::Deserialize>::deserialize(d).unwrap())
        .last()
        .unwrap();
    assert_eq!(last["kind"], "VerificationPolicy");
    assert_eq!(&serde_yaml_ng::from_value::<Ours>(last["spec"].clone()).unwrap(), policy);
}
