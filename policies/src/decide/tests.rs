use super::*;
use crate::evidence::testing::verified;
use crate::evidence::{Content, Rejected, Sbom};
use crate::model::{BannedPackage, SbomCheck, SbomFormat, SigstoreSignatureCheck, SlsaCheck, TrustedDirectoryCheck};

fn image() -> ImageRef {
    "registry.example/acme/portal".parse::<ImageRef>().unwrap().with_digest(Digest::of(b"image"))
}

fn check(name: &str) -> Check {
    Check { display_name: name.into(), ..Check::default() }
}

fn signed_by(attestors: &[&str], threshold: Option<u32>) -> Check {
    let attestors = attestors.iter().map(|a| (*a).to_owned()).collect();
    Check { sigstore_signature_check: Some(SigstoreSignatureCheck { attestors, threshold }), ..check("signed") }
}

fn policy(checks: Vec<Check>) -> Policy {
    let set = CheckSet { display_name: "all".into(), checks, ..CheckSet::default() };
    Policy { check_sets: vec![set], ..Policy::default() }
}

fn decided(policy: &Policy, evidence: &Evidence, revision: Option<&str>) -> Verdict {
    let image = image();
    let digest = image.digest.clone().unwrap();
    let scope = Scope { namespace: "shop".into(), service_account: None };
    let subject = Subject { image: &image, digest: &digest, scope: &scope, expected_revision: revision };
    let digests = Digests { policy: Digest::of(b"p"), trust_root: Digest::of(b"t") };
    decide(policy, subject, evidence, &digests)
}

fn found(verified: Vec<Verified>) -> Evidence {
    Evidence { verified, ..Evidence::default() }
}

fn signature(attestor: &str, id: &str) -> Verified {
    verified(attestor, id, Content::Signature)
}

fn sbom(component: &str) -> Verified {
    let text = format!(
        r#"{{"bomFormat":"CycloneDX","specVersion":"1.6","metadata":{{"component":{{"name":"portal","version":"{}"}}}},"components":[{component}]}}"#,
        Digest::of(b"image")
    );
    let sbom = Sbom::read(SbomFormat::CycloneDX, text.as_bytes()).unwrap();
    verified("builder", "id", Content::Sbom(sbom))
}

fn sbom_check(formats: Vec<SbomFormat>) -> Check {
    Check {
        sbom_check: Some(SbomCheck {
            attestors: vec!["builder".into()],
            formats,
            banned_packages: vec![BannedPackage {
                purl: "pkg:maven/org.apache.logging.log4j/log4j-core".into(),
                versions: "<2.17.1".into(),
                reason: "Log4Shell".into(),
            }],
        }),
        ..check("sbom")
    }
}

#[test]
fn thresholds_count_distinct_signers() {
    for (check, signatures, expected) in [
        (signed_by(&["a"], None), vec![("a", "k1")], Decision::Allow),
        (signed_by(&["a"], None), vec![], Decision::Deny),
        (signed_by(&["a"], None), vec![("b", "k1")], Decision::Deny),
        (signed_by(&["a", "b"], None), vec![("a", "k1"), ("b", "k2")], Decision::Allow),
        (signed_by(&["a", "b"], None), vec![("a", "k1")], Decision::Deny),
        // One key named by two attestors is one signer.
        (signed_by(&["a", "b"], None), vec![("a", "k1"), ("b", "k1")], Decision::Deny),
        (signed_by(&["a", "b"], Some(1)), vec![("b", "k1")], Decision::Allow),
        // The same key twice does not make two.
        (signed_by(&["a"], Some(2)), vec![("a", "k1"), ("a", "k1")], Decision::Deny),
        (signed_by(&["a"], Some(2)), vec![("a", "k1"), ("a", "k2")], Decision::Allow),
        // Zero is no threshold.
        (signed_by(&["a"], Some(0)), vec![], Decision::Deny),
    ] {
        let evidence = found(signatures.iter().map(|(a, k)| signature(a, k)).collect());
        let verdict = decided(&policy(vec![check.clone()]), &evidence, None);
        assert_eq!(verdict.decision, expected, "{check:?} {signatures:?}: {}", verdict.summary());
    }
}

#[test]
fn an_attestation_is_no_signature_and_a_signature_no_attestation() {
    let other = verified("builder", "id", Content::Other("https://example.com/p".into()));
    for (check, evidence) in [
        (signed_by(&["builder"], None), sbom("")),
        (signed_by(&["builder"], None), other.clone()),
        (sbom_check(vec![]), signature("builder", "id")),
        (sbom_check(vec![]), other),
    ] {
        let verdict = decided(&policy(vec![check]), &found(vec![evidence]), None);
        assert_eq!(verdict.decision, Decision::Deny);
        assert!(verdict.retryable(), "{}", verdict.summary());
    }
}

#[test]
fn what_could_not_be_fetched_is_an_error_not_a_denial() {
    let mut evidence = Evidence::default();
    evidence.unavailable("registry away");
    let verdict = decided(&policy(vec![signed_by(&["a"], None)]), &evidence, None);
    assert_eq!(verdict.decision, Decision::Error);
    assert!(verdict.retryable());
    // What is there suffices all the same.
    evidence.verified.push(signature("a", "k"));
    assert!(decided(&policy(vec![signed_by(&["a"], None)]), &evidence, None).allows());
}

#[test]
fn an_unusable_attestor_is_an_error_that_says_what_to_do() {
    let mut evidence = Evidence::default();
    evidence.unusable_attestors.insert("a".into(), "attestor `a` does not exist here: create it".into());
    let verdict = decided(&policy(vec![signed_by(&["a"], None)]), &evidence, None);
    assert_eq!(verdict.decision, Decision::Error);
    assert!(verdict.summary().contains("create it"));
}

#[test]
fn a_certain_no_outranks_an_error() {
    let mut evidence = Evidence::default();
    evidence.unavailable("registry away");
    let deny = Check { always_deny: true, ..check("never") };
    let verdict = decided(&policy(vec![signed_by(&["a"], None), deny]), &evidence, None);
    assert_eq!(verdict.decision, Decision::Deny);
    assert!(!verdict.retryable());
}

#[test]
fn forgeries_make_a_denial_final_and_strangers_do_not() {
    for (forged, retryable) in [(true, false), (false, true)] {
        let evidence = Evidence {
            rejected: vec![Rejected {
                source: Digest::of(b"bundle"),
                attestor: Some("a".into()),
                kind: Some(Kind::Signature),
                reason: "its certificate is for mallory".into(),
                forged,
            }],
            ..Evidence::default()
        };
        let verdict = decided(&policy(vec![signed_by(&["a"], None)]), &evidence, None);
        assert_eq!(verdict.decision, Decision::Deny);
        assert_eq!(verdict.retryable(), retryable);
        assert!(verdict.summary().contains("mallory"), "{}", verdict.summary());
    }
}

#[test]
fn dry_run_is_told_and_not_enforced() {
    let dry = Check { dry_run: true, ..signed_by(&["a"], None) };
    let verdict = decided(&policy(vec![dry]), &Evidence::default(), None);
    assert!(verdict.allows());
    assert_eq!(verdict.checks[0].outcome, Outcome::DryRun);
    assert!(verdict.checks[0].message.contains("no signature by a"), "{}", verdict.checks[0].message);
}

#[test]
fn allowlists_exempt_at_policy_set_and_check() {
    let list = || crate::model::ImageAllowlist { allow_pattern: vec!["registry.example/acme/**".into()] };
    let deny = Check { always_deny: true, ..check("never") };
    let mut policies = [policy(vec![deny.clone()]), policy(vec![deny.clone()]), policy(vec![deny])];
    policies[0].image_allowlist = list();
    policies[1].check_sets[0].image_allowlist = list();
    policies[2].check_sets[0].checks[0].image_allowlist = list();
    for policy in &policies {
        assert!(decided(policy, &Evidence::default(), None).allows());
    }
}

#[test]
fn without_a_check_set_for_the_scope_nothing_is_allowed() {
    let mut policy = policy(vec![]);
    policy.check_sets[0].scope =
        Some(crate::model::CheckSetScope { kubernetes_namespace: Some("other".into()), ..Default::default() });
    let verdict = decided(&policy, &Evidence::default(), None);
    assert_eq!(verdict.decision, Decision::Deny);
    assert!(verdict.summary().contains("namespace shop"));
    assert_eq!(decided(&Policy::default(), &Evidence::default(), None).decision, Decision::Deny);
}

#[test]
fn a_trusted_directory_holds_the_image_or_not() {
    for (pattern, expected) in
        [("registry.example/acme/*", Decision::Allow), ("registry.example/other/**", Decision::Deny)]
    {
        let check = Check {
            trusted_directory_check: Some(TrustedDirectoryCheck { trusted_dir_patterns: vec![pattern.into()] }),
            ..check("directory")
        };
        assert_eq!(decided(&policy(vec![check]), &Evidence::default(), None).decision, expected);
    }
}

#[test]
fn a_banned_package_is_denied_by_name_and_for_good() {
    let log4j = |version: &str| {
        sbom(&format!(r#"{{"name":"log4j-core","purl":"pkg:maven/org.apache.logging.log4j/log4j-core@{version}"}}"#))
    };
    let verdict = decided(&policy(vec![sbom_check(vec![])]), &found(vec![log4j("2.14.1")]), None);
    assert_eq!(verdict.decision, Decision::Deny);
    assert!(!verdict.retryable());
    let summary = verdict.summary();
    assert!(summary.contains("log4j-core@2.14.1") && summary.contains("Log4Shell"), "{summary}");
    assert!(decided(&policy(vec![sbom_check(vec![])]), &found(vec![log4j("2.17.1")]), None).allows());
    // A cleaner document beside it does not lift the ban.
    let both = found(vec![log4j("2.17.1"), log4j("2.14.1")]);
    assert_eq!(decided(&policy(vec![sbom_check(vec![])]), &both, None).decision, Decision::Deny);
}

#[test]
fn a_document_that_could_not_be_fetched_may_list_what_is_banned() {
    for (banned, expected) in [(true, Decision::Error), (false, Decision::Allow)] {
        let mut evidence = found(vec![sbom("")]);
        evidence.unavailable("HTTP 503 for sha256:cc");
        let mut check = sbom_check(vec![]);
        if !banned {
            check.sbom_check.as_mut().unwrap().banned_packages.clear();
        }
        let verdict = decided(&policy(vec![check]), &evidence, None);
        assert_eq!(verdict.decision, expected, "{}", verdict.summary());
    }
}

#[test]
fn a_document_that_cannot_be_read_may_list_what_is_banned() {
    for (banned, expected) in [(true, Decision::Deny), (false, Decision::Allow)] {
        let unreadable = Content::Unreadable { kind: Kind::Sbom, reason: "broken".into() };
        let mut check = sbom_check(vec![]);
        if !banned {
            check.sbom_check.as_mut().unwrap().banned_packages.clear();
        }
        let evidence = found(vec![verified("builder", "id", unreadable), sbom("")]);
        let verdict = decided(&policy(vec![check]), &evidence, None);
        assert_eq!(verdict.decision, expected, "{}", verdict.summary());
    }
}

#[test]
fn an_sbom_about_another_image_or_of_another_format_does_not_do() {
    let text = format!(
        r#"{{"bomFormat":"CycloneDX","specVersion":"1.6","metadata":{{"component":{{"name":"portal","version":"{}"}}}}}}"#,
        Digest::of(b"another")
    );
    let other = verified("builder", "id", Content::Sbom(Sbom::read(SbomFormat::CycloneDX, text.as_bytes()).unwrap()));
    let verdict = decided(&policy(vec![sbom_check(vec![])]), &found(vec![other]), None);
    assert_eq!(verdict.decision, Decision::Deny);
    assert!(verdict.summary().contains("not about this image"), "{}", verdict.summary());
    let verdict = decided(&policy(vec![sbom_check(vec![SbomFormat::SPDX])]), &found(vec![sbom("")]), None);
    assert!(verdict.summary().contains("accepts SPDX"), "{}", verdict.summary());
    let unreadable = Content::Unreadable { kind: Kind::Sbom, reason: "broken".into() };
    let verdict = decided(&policy(vec![sbom_check(vec![])]), &found(vec![verified("builder", "id", unreadable)]), None);
    assert!(verdict.summary().contains("broken") && !verdict.allows(), "{}", verdict.summary());
}

#[test]
fn provenance_must_name_builder_source_and_the_events_revision() {
    let provenance = |builder: &str, source: &str, commit: &str| {
        crate::evidence::testing::provenance(&format!(
            r#"{{"predicate":{{"builder":{{"id":"{builder}"}},"invocation":{{"configSource":{{"uri":"{source}","digest":{{"sha1":"{commit}"}}}}}}}}}}"#
        ))
    };
    let check = Check {
        slsa_check: Some(SlsaCheck {
            attestors: vec!["builder".into()],
            builders: vec!["https://builder".into()],
            sources: vec!["https://github.com/acme/portal".into()],
            require_revision: true,
        }),
        ..check("provenance")
    };
    let source = "git+https://github.com/acme/portal@refs/heads/main";
    for (found_provenance, revision, expected, says) in [
        (provenance("https://builder", source, "abc1"), Some("abc1"), Decision::Allow, ""),
        (provenance("https://builder", source, "ABC1"), Some("abc1"), Decision::Allow, ""),
        (provenance("https://builder", source, "abc1"), None, Decision::Allow, ""),
        (provenance("https://builder", source, "abc1"), Some("def2"), Decision::Deny, "build event names def2"),
        (provenance("https://evil", source, "abc1"), Some("abc1"), Decision::Deny, "https://evil"),
        (provenance("https://builder", "https://github.com/evil/portal", "abc1"), Some("abc1"), Decision::Deny, "evil"),
    ] {
        let evidence = found(vec![verified("builder", "id", Content::Provenance(found_provenance))]);
        let verdict = decided(&policy(vec![check.clone()]), &evidence, revision);
        assert_eq!(verdict.decision, expected, "{}", verdict.summary());
        assert!(verdict.summary().contains(says), "{}", verdict.summary());
        match expected {
            Decision::Allow => assert!(verdict.revision.as_deref().unwrap().eq_ignore_ascii_case("abc1")),
            _ => assert!(!verdict.retryable()),
        }
    }
    // Builder of one statement and source of another prove nothing together.
    let mixed = found(vec![
        verified("builder", "id", Content::Provenance(provenance("https://builder", "https://evil", "abc1"))),
        verified("builder", "id", Content::Provenance(provenance("https://evil", source, "abc1"))),
    ]);
    assert_eq!(decided(&policy(vec![check]), &mixed, Some("abc1")).decision, Decision::Deny);
}
