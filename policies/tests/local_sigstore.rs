//! Bundles that cosign made against a real Fulcio, Rekor and timestamp authority (see
//! `tests/vectors/local-sigstore/README.md`), through the whole verifier.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;

use serde_json::Value;
use support::{World, keyed, keyless, vectors};
use tidegate_policies::digest::Digest;
use tidegate_policies::model::{BannedPackage, Check, SbomCheck, SigstoreSignatureCheck, SlsaCheck};
use tidegate_policies::registry::BUNDLE_MEDIA_TYPE;
use tidegate_policies::verdict::{Decision, Verdict};

const BUILDER: &str = "builder@build.example";
const ISSUER: &str = "http://127.0.0.1:7080";

fn read(name: &str) -> String {
    fs::read_to_string(vectors("local-sigstore").join(name)).unwrap()
}

fn facts() -> Value {
    serde_json::from_str(&read("facts.json")).unwrap()
}

fn digest(name: &str) -> Digest {
    facts()["digests"][name].as_str().unwrap().parse().unwrap()
}

fn signed() -> Check {
    Check {
        display_name: "signed".into(),
        sigstore_signature_check: Some(SigstoreSignatureCheck { attestors: vec!["builder".into()], threshold: None }),
        ..Check::default()
    }
}

fn sbom() -> Check {
    Check {
        display_name: "sbom".into(),
        sbom_check: Some(SbomCheck {
            attestors: vec!["builder".into()],
            formats: vec![],
            banned_packages: vec![BannedPackage {
                purl: "pkg:maven/org.apache.logging.log4j/log4j-core".into(),
                versions: "<2.17.1".into(),
                reason: "CVE-2021-44228".into(),
            }],
        }),
        ..Check::default()
    }
}

fn provenance() -> Check {
    Check {
        display_name: "provenance".into(),
        slsa_check: Some(SlsaCheck {
            attestors: vec!["builder".into()],
            builders: vec!["https://cloudbuild.googleapis.com/GoogleHostedWorker".into()],
            sources: vec!["https://github.com/shop/portal".into()],
            require_revision: true,
        }),
        ..Check::default()
    }
}

/// The image of that name with these bundles attached, verified.
async fn with(image: &str, bundles: &[&str], checks: Vec<Check>, change: impl FnOnce(&mut World)) -> Verdict {
    let repository = facts()["repository"].as_str().unwrap().to_owned();
    let mut world = World::new(&format!("{repository}@{}", digest(image)), checks)
        .attestor("builder", keyless(BUILDER, ISSUER))
        .trust_root(read("trusted_root.json"));
    for bundle in bundles {
        let bytes = read(&format!("{bundle}.sigstore.json"));
        world.fetch.attach(&world.image, &world.digest(), BUNDLE_MEDIA_TYPE, bytes).await;
    }
    change(&mut world);
    world.verdict().await
}

fn must(verdict: &Verdict, decision: Decision, says: &str) {
    assert_eq!(verdict.decision, decision, "{}", verdict.summary());
    assert!(verdict.summary().contains(says), "{}", verdict.summary());
}

#[tokio::test]
async fn a_signed_attested_image_is_allowed() {
    let revision = facts()["revision"].as_str().unwrap().to_owned();
    let all = ["keyless-signature", "provenance", "cyclonedx"];
    let verdict = with("portal", &all, vec![signed(), provenance(), sbom()], |world| {
        world.expected_revision = Some(revision.clone());
    })
    .await;
    must(&verdict, Decision::Allow, "3 of 3 checks");
    assert_eq!(verdict.revision, Some(revision));
    assert!(verdict.checks[0].evidence[0].contains(BUILDER), "{:?}", verdict.checks[0].evidence);
}

#[tokio::test]
async fn provenance_of_another_commit_is_denied_for_good() {
    let verdict = with("portal", &["provenance"], vec![provenance()], |world| {
        world.expected_revision = Some("0000000000000000000000000000000000000000".into());
    })
    .await;
    must(&verdict, Decision::Deny, "the build event names 0000");
    assert!(!verdict.retryable());
}

#[tokio::test]
async fn an_spdx_document_is_read_and_names_its_image() {
    must(&with("spdx", &["spdx"], vec![sbom()], |_| {}).await, Decision::Allow, "");
}

#[tokio::test]
async fn a_banned_component_is_named() {
    let verdict = with("banned", &["cyclonedx-banned"], vec![sbom()], |_| {}).await;
    must(&verdict, Decision::Deny, "log4j-core@2.14.1");
    assert!(!verdict.retryable());
}

#[tokio::test]
async fn a_missing_attestation_may_still_come() {
    let verdict = with("portal", &["keyless-signature"], vec![signed(), sbom()], |_| {}).await;
    must(&verdict, Decision::Deny, "no SBOM attestation");
    assert!(verdict.retryable());
    let verdict = with("portal", &[], vec![signed()], |_| {}).await;
    must(&verdict, Decision::Deny, "no signature by builder");
    assert!(verdict.retryable());
}

#[tokio::test]
async fn an_attestation_of_another_image_is_refused_for_good() {
    let verdict = with("copied", &["cyclonedx-of-another-image"], vec![sbom()], |_| {}).await;
    must(&verdict, Decision::Deny, "not of this image");
    assert!(!verdict.retryable());
    let verdict = with("portal", &["other-image-signature"], vec![signed()], |_| {}).await;
    must(&verdict, Decision::Deny, "not of this image");
}

#[tokio::test]
async fn an_attestation_does_not_pass_for_a_signature() {
    let verdict = with("portal", &["cyclonedx", "provenance"], vec![signed()], |_| {}).await;
    must(&verdict, Decision::Deny, "no signature");
    let verdict = with("portal", &["keyless-signature", "provenance"], vec![sbom()], |_| {}).await;
    must(&verdict, Decision::Deny, "no SBOM attestation");
}

#[tokio::test]
async fn another_identity_or_issuer_is_a_stranger() {
    for (identity, issuer, says) in [
        ("someone@build.example", ISSUER, "its certificate is for builder@build.example"),
        (BUILDER, "https://accounts.google.com", "vouched for by http://127.0.0.1:7080"),
    ] {
        let verdict = with("portal", &["keyless-signature"], vec![signed()], |world| {
            world.attestors.insert("builder".into(), keyless(identity, issuer));
        })
        .await;
        must(&verdict, Decision::Deny, says);
        assert!(verdict.retryable());
    }
}

#[tokio::test]
async fn without_the_unsafe_word_a_certificate_without_sct_is_refused() {
    let verdict = with("portal", &["keyless-signature"], vec![signed()], |world| {
        for attestor in world.attestors.values_mut() {
            attestor.unsafe_skip_sct = false;
        }
    })
    .await;
    assert_eq!(verdict.decision, Decision::Deny, "{}", verdict.summary());
}

#[tokio::test]
async fn roots_that_do_not_know_the_signer_refuse_and_missing_roots_err() {
    let verdict = with("portal", &["keyless-signature"], vec![signed()], |world| {
        let mut root: Value = serde_json::from_str(&read("trusted_root.json")).unwrap();
        root["certificateAuthorities"] = Value::Array(vec![]);
        world.trust_roots.get_mut("default").unwrap().trusted_root = root.to_string();
    })
    .await;
    assert_eq!(verdict.decision, Decision::Deny, "{}", verdict.summary());
    let verdict = with("portal", &["keyless-signature"], vec![signed()], |world| world.trust_roots.clear()).await;
    must(&verdict, Decision::Error, "trust root `default`");
    let verdict = with("portal", &["keyless-signature"], vec![signed()], |world| world.attestors.clear()).await;
    must(&verdict, Decision::Error, "attestor `builder` does not exist");
}

#[tokio::test]
async fn keys_sign_with_and_without_a_log() {
    let (release, other) = (read("release.pub"), read("other.pub"));
    for (image, bundle, key, skip_log, expected) in [
        ("keyed", "keyed-signature", &release, true, Decision::Allow),
        ("keyed", "keyed-signature", &other, true, Decision::Deny),
        // Not logged: only acceptable where the attestor says so.
        ("keyed", "keyed-signature", &release, false, Decision::Deny),
        ("keyed-logged", "keyed-logged-signature", &release, false, Decision::Allow),
        ("keyed-logged", "keyed-logged-signature", &release, true, Decision::Allow),
        ("keyed-logged", "keyed-logged-signature", &other, false, Decision::Deny),
    ] {
        let verdict = with(image, &[bundle], vec![signed()], |world| {
            let mut attestor = keyed(&[key]);
            attestor.unsafe_skip_transparency_log = skip_log;
            world.attestors.insert("builder".into(), attestor);
        })
        .await;
        assert_eq!(verdict.decision, expected, "{bundle} {skip_log}: {}", verdict.summary());
    }
}

#[tokio::test]
async fn one_key_under_two_attestors_is_one_signer() {
    let release = read("release.pub");
    let mut check = signed();
    check.sigstore_signature_check =
        Some(SigstoreSignatureCheck { attestors: vec!["builder".into(), "second".into()], threshold: Some(2) });
    let verdict = with("keyed", &["keyed-signature"], vec![check], |world| {
        world.attestors.insert("builder".into(), keyed(&[&release]));
        world.attestors.insert("second".into(), keyed(&[&release]));
    })
    .await;
    must(&verdict, Decision::Deny, "1 of 2 distinct signers");
}

#[tokio::test]
async fn every_changed_byte_of_payload_and_signature_is_refused() {
    let bundle: Value = serde_json::from_str(&read("keyless-signature.sigstore.json")).unwrap();
    for path in ["/dsseEnvelope/payload", "/dsseEnvelope/signatures/0/sig", "/dsseEnvelope/payloadType"] {
        let mut forged = bundle.clone();
        let text = forged.pointer(path).unwrap().as_str().unwrap().to_owned();
        let middle = text.len() / 2;
        let flipped = if &text[middle..=middle] == "A" { "B" } else { "A" };
        let changed = format!("{}{flipped}{}", &text[..middle], &text[middle + 1..]);
        *forged.pointer_mut(path).unwrap() = Value::String(changed);
        let verdict = forged_bundle(&forged).await;
        assert_eq!(verdict.decision, Decision::Deny, "{path}: {}", verdict.summary());
        assert!(!verdict.retryable(), "{path}: {}", verdict.summary());
    }
    for path in
        ["/verificationMaterial/tlogEntries", "/verificationMaterial/timestampVerificationData/rfc3161Timestamps"]
    {
        let mut forged = bundle.clone();
        *forged.pointer_mut(path).unwrap() = Value::Array(vec![]);
        let verdict = forged_bundle(&forged).await;
        assert_eq!(verdict.decision, Decision::Deny, "{path}: {}", verdict.summary());
    }
}

async fn forged_bundle(bundle: &Value) -> Verdict {
    let repository = facts()["repository"].as_str().unwrap().to_owned();
    let world = World::new(&format!("{repository}@{}", digest("portal")), vec![signed()])
        .attestor("builder", keyless(BUILDER, ISSUER))
        .trust_root(read("trusted_root.json"));
    world.fetch.attach(&world.image, &world.digest(), BUNDLE_MEDIA_TYPE, bundle.to_string()).await;
    world.verdict().await
}

#[tokio::test]
async fn rubbish_beside_a_good_signature_changes_nothing() {
    let repository = facts()["repository"].as_str().unwrap().to_owned();
    let world = World::new(&format!("{repository}@{}", digest("portal")), vec![signed()])
        .attestor("builder", keyless(BUILDER, ISSUER))
        .trust_root(read("trusted_root.json"));
    for rubbish in ["", "{}", "null", "[]", "\u{0}", r#"{"mediaType":"x","mediaType":"y"}"#] {
        world.fetch.attach(&world.image, &world.digest(), BUNDLE_MEDIA_TYPE, rubbish).await;
    }
    world.fetch.refer(&world.image, &world.digest(), BUNDLE_MEDIA_TYPE, "no manifest").await;
    assert!(!world.verdict().await.allows());
    let good = read("keyless-signature.sigstore.json");
    world.fetch.attach(&world.image, &world.digest(), BUNDLE_MEDIA_TYPE, good).await;
    must(&world.verdict().await, Decision::Allow, "");
}

#[tokio::test]
async fn a_registry_away_is_an_error_and_a_kept_verdict_outlasts_it() {
    let repository = facts()["repository"].as_str().unwrap().to_owned();
    let world = World::new(&format!("{repository}@{}", digest("portal")), vec![signed()])
        .attestor("builder", keyless(BUILDER, ISSUER))
        .trust_root(read("trusted_root.json"));
    let good = read("keyless-signature.sigstore.json");
    world.fetch.attach(&world.image, &world.digest(), BUNDLE_MEDIA_TYPE, good).await;
    world.fetch.set_away(Some("connection refused")).await;
    let verdict = world.verdict().await;
    must(&verdict, Decision::Error, "connection refused");
    assert!(verdict.retryable());
    world.fetch.set_away(None).await;
    assert!(world.verdict().await.allows());
    let before = world.fetch.requests();
    world.fetch.set_away(Some("connection refused")).await;
    let many = futures::future::join_all((0..100).map(|_| world.verdict())).await;
    assert!(many.iter().all(Verdict::allows));
    assert_eq!(world.fetch.requests(), before);
}

#[tokio::test]
async fn a_hundred_requests_at_once_fetch_once() {
    let repository = facts()["repository"].as_str().unwrap().to_owned();
    let world = World::new(&format!("{repository}@{}", digest("portal")), vec![signed()])
        .attestor("builder", keyless(BUILDER, ISSUER))
        .trust_root(read("trusted_root.json"));
    let good = read("keyless-signature.sigstore.json");
    world.fetch.attach(&world.image, &world.digest(), BUNDLE_MEDIA_TYPE, good).await;
    let many = futures::future::join_all((0..100).map(|_| world.verdict())).await;
    assert!(many.iter().all(Verdict::allows));
    // The referrers, one manifest, one blob.
    assert_eq!(world.fetch.requests(), 3);
}
