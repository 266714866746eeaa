//! What went wrong elsewhere, made with keys of our own: each is refused here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use support::{Signer, World, base64, keyed, statement};
use tidegate_policies::digest::Digest;
use tidegate_policies::evidence::{ATTESTATION_MEDIA_TYPE, public_key_id};
use tidegate_policies::model::{
    Attestor, Check, PublicKey, SbomCheck, SignatureAlgorithm, SigstoreSignatureCheck, SimpleSigningAttestationCheck,
};
use tidegate_policies::registry::BUNDLE_MEDIA_TYPE;
use tidegate_policies::verdict::{Decision, Verdict};

const SIGNATURE: &str = "https://sigstore.dev/cosign/sign/v1";
const CYCLONEDX: &str = "https://cyclonedx.org/bom";

fn image() -> String {
    format!("registry.example/acme/portal@{}", Digest::of(b"image"))
}

fn signed(threshold: Option<u32>) -> Check {
    Check {
        display_name: "signed".into(),
        sigstore_signature_check: Some(SigstoreSignatureCheck { attestors: vec!["release".into()], threshold }),
        ..Check::default()
    }
}

fn has_sbom() -> Check {
    Check {
        display_name: "sbom".into(),
        sbom_check: Some(SbomCheck { attestors: vec!["release".into()], ..SbomCheck::default() }),
        ..Check::default()
    }
}

fn sbom(image: &Digest) -> String {
    format!(
        r#"{{"bomFormat":"CycloneDX","specVersion":"1.6","metadata":{{"component":{{"name":"p","version":"{image}"}}}}}}"#
    )
}

async fn verdict(keys: &[&Signer], check: Check, bundles: &[String]) -> Verdict {
    let pems: Vec<String> = keys.iter().map(|k| k.pem()).collect();
    let pems: Vec<&str> = pems.iter().map(String::as_str).collect();
    let world = World::new(&image(), vec![check]).attestor("release", keyed(&pems));
    for bundle in bundles {
        world.fetch.attach(&world.image, &world.digest(), BUNDLE_MEDIA_TYPE, bundle.clone()).await;
    }
    world.verdict().await
}

/// CVE-2022-35929, CVE-2022-35930, GHSA-r2xv-vpr2-42m9: one type of attestation for another.
#[tokio::test]
async fn a_predicate_type_stands_for_itself_alone() {
    let (key, image) = (Signer::new(), Digest::of(b"image"));
    let (signature, document) =
        (key.statement(&image, SIGNATURE, "{}"), key.statement(&image, CYCLONEDX, &sbom(&image)));
    let custom = key.statement(&image, "https://cyclonedx.org/bomb", &sbom(&image));
    for (check, bundle, expected) in [
        (signed(None), &signature, Decision::Allow),
        (has_sbom(), &document, Decision::Allow),
        (signed(None), &document, Decision::Deny),
        (has_sbom(), &signature, Decision::Deny),
        (has_sbom(), &custom, Decision::Deny),
    ] {
        let verdict = verdict(&[&key], check, std::slice::from_ref(bundle)).await;
        assert_eq!(verdict.decision, expected, "{}", verdict.summary());
    }
}

/// sigstore-rust 17c5618 and others: no subject, no sha256 subject, another subject, other payload type.
#[tokio::test]
async fn a_statement_that_does_not_speak_of_the_image_is_refused_for_good() {
    let (key, image) = (Signer::new(), Digest::of(b"image"));
    let good = statement(&image, SIGNATURE, "{}");
    let subject = format!(r#"[{{"digest":{{"sha256":"{}"}}}}]"#, image.hex());
    assert!(good.contains(&subject));
    let sha512 = format!(r#"[{{"digest":{{"sha512":"{}"}}}}]"#, "00".repeat(64));
    for (name, payload_type, payload) in [
        ("other", "application/vnd.in-toto+json", statement(&Digest::of(b"other"), SIGNATURE, "{}")),
        ("none", "application/vnd.in-toto+json", good.replace(&subject, "[]")),
        ("no sha256", "application/vnd.in-toto+json", good.replace(&subject, &sha512)),
        ("twice", "application/vnd.in-toto+json", good.replacen(r#""subject""#, r#""subject":[],"subject""#, 1)),
        ("payload type", "application/json", good.clone()),
        ("payload", "application/vnd.in-toto+json", "not json".to_owned()),
    ] {
        let verdict = verdict(&[&key], signed(None), &[key.bundle(payload_type, &payload)]).await;
        assert_eq!(verdict.decision, Decision::Deny, "{name}: {}", verdict.summary());
        assert!(!verdict.retryable(), "{name}");
    }
}

/// CVE-2026-49834, RUSTSEC-2020-0024: one signer counted as many.
#[tokio::test]
async fn a_threshold_is_not_met_by_one_key_twice() {
    let (a, b, image) = (Signer::new(), Signer::new(), Digest::of(b"image"));
    let by = |key: &Signer, predicate: &str| key.statement(&image, SIGNATURE, predicate);
    let twice = verdict(&[&a, &b], signed(Some(2)), &[by(&a, "{}"), by(&a, r#"{"n":2}"#)]).await;
    assert_eq!(twice.decision, Decision::Deny, "{}", twice.summary());
    let both = verdict(&[&a, &b], signed(Some(2)), &[by(&a, "{}"), by(&b, "{}")]).await;
    assert!(both.allows(), "{}", both.summary());
}

/// CVE-2026-39395: what cannot be read is no success.
#[tokio::test]
async fn a_signed_document_that_cannot_be_read_is_denied() {
    let (key, image) = (Signer::new(), Digest::of(b"image"));
    for predicate in ["{}", "null", "[]", r#""text""#, r#"{"bomFormat":"CycloneDX","specVersion":"9"}"#] {
        let bundle = key.statement(&image, CYCLONEDX, predicate);
        let verdict = verdict(&[&key], has_sbom(), &[bundle]).await;
        assert_eq!(verdict.decision, Decision::Deny, "{predicate}");
        assert!(verdict.summary().contains("cannot be read"), "{}", verdict.summary());
    }
}

/// CVE-2023-46737, CVE-2024-29902: endless signatures.
#[tokio::test]
async fn more_signatures_than_are_looked_at_is_an_error_that_says_so() {
    let (key, image) = (Signer::new(), Digest::of(b"image"));
    let many: Vec<String> = (0..65).map(|n| key.statement(&image, SIGNATURE, &format!(r#"{{"n":{n}}}"#))).collect();
    let too_many = verdict(&[&key], signed(None), &many).await;
    assert_eq!(too_many.decision, Decision::Error);
    assert!(too_many.summary().contains("more than the 64"), "{}", too_many.summary());
    assert!(verdict(&[&key], signed(None), &many[..64]).await.allows());
}

/// A blob that is larger than its manifest says is not read to its end.
#[tokio::test]
async fn a_manifest_that_understates_its_blob_gains_nothing() {
    let (key, image) = (Signer::new(), Digest::of(b"image"));
    let bundle = key.statement(&image, SIGNATURE, "{}");
    let world = World::new(&self::image(), vec![signed(None)]).attestor("release", keyed(&[&key.pem()]));
    world.fetch.attach(&world.image, &Digest::of(b"elsewhere"), BUNDLE_MEDIA_TYPE, bundle.clone()).await;
    let manifest = format!(
        r#"{{"schemaVersion":2,"layers":[{{"mediaType":"{BUNDLE_MEDIA_TYPE}","digest":"{}","size":1}}]}}"#,
        Digest::of(bundle.as_bytes())
    );
    world.fetch.refer(&world.image, &world.digest(), BUNDLE_MEDIA_TYPE, manifest).await;
    let verdict = world.verdict().await;
    assert_eq!(verdict.decision, Decision::Error, "{}", verdict.summary());
    assert!(verdict.summary().contains("larger than 1 bytes"), "{}", verdict.summary());
}

fn attestation(key: &Signer, id: &str, payload: &str) -> String {
    format!(
        r#"{{"serializedPayload":"{}","signatures":[{{"publicKeyId":"{id}","signature":"{}"}}]}}"#,
        base64(payload.as_bytes()),
        base64(&key.sign(payload.as_bytes())),
    )
}

#[tokio::test]
async fn binary_authorization_attestations_are_held_strictly() {
    let (key, other) = (Signer::new(), Signer::new());
    let id = public_key_id(&key.pem()).unwrap();
    let payload = |reference: &str, digest: &Digest, type_: &str| {
        format!(
            r#"{{"critical":{{"identity":{{"docker-reference":"{reference}"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"{type_}"}}}}"#
        )
    };
    let (image, google) = (Digest::of(b"image"), "Google cloud binauthz container signature");
    let repository = "registry.example/acme/portal";
    let good = payload(repository, &image, google);
    let check = Check {
        display_name: "attested".into(),
        simple_signing_attestation_check: Some(SimpleSigningAttestationCheck { attestors: vec!["qa".into()] }),
        ..Check::default()
    };
    for (name, blob, expected) in [
        ("good", attestation(&key, &id, &good), Decision::Allow),
        (
            "other spelling",
            attestation(&key, &id, &payload(repository, &image, "atomic container signature")),
            Decision::Allow,
        ),
        (
            "other type",
            attestation(&key, &id, &payload(repository, &image, "cosign container image signature")),
            Decision::Deny,
        ),
        ("other key", attestation(&other, &id, &good), Decision::Deny),
        ("unknown id", attestation(&key, "ni:///sha-256;x", &good), Decision::Deny),
        ("other image", attestation(&key, &id, &payload(repository, &Digest::of(b"other"), google)), Decision::Deny),
        (
            "other repository",
            attestation(&key, &id, &payload("registry.example/acme/shop", &image, google)),
            Decision::Deny,
        ),
        (
            "no signature",
            format!(r#"{{"serializedPayload":"{}","signatures":[]}}"#, base64(good.as_bytes())),
            Decision::Deny,
        ),
        ("not json", attestation(&key, &id, "{"), Decision::Deny),
    ] {
        let public =
            PublicKey { id: None, pem: key.pem(), signature_algorithm: Some(SignatureAlgorithm::EcdsaP256Sha256) };
        let attestor = Attestor { keys: vec![public], unsafe_skip_transparency_log: true, ..Attestor::default() };
        let world = World::new(&self::image(), vec![check.clone()]).attestor("qa", attestor);
        world.fetch.attach(&world.image, &world.digest(), ATTESTATION_MEDIA_TYPE, blob).await;
        let verdict = world.verdict().await;
        assert_eq!(verdict.decision, expected, "{name}: {}", verdict.summary());
    }
}

#[tokio::test]
async fn an_image_without_a_digest_and_an_invalid_policy_are_errors() {
    let mut world = World::new(&image(), vec![signed(None)]);
    world.image = "registry.example/acme/portal:v1".parse().unwrap();
    let tagged = world.verdict().await;
    assert_eq!(tagged.decision, Decision::Error);
    assert!(tagged.summary().contains("resolve its tag"), "{}", tagged.summary());
    let nothing = Check { display_name: "nothing".into(), ..Check::default() };
    let invalid = World::new(&image(), vec![nothing]).verdict().await;
    assert_eq!(invalid.decision, Decision::Error);
    assert!(invalid.summary().contains("checkSets[0].checks[0]"), "{}", invalid.summary());
}
