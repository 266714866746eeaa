//! Policies and attestors that mean nothing or too much, each with its path and its sentence.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::{Value, json};
use tidegate_policies::model::{Attestor, Policy};

fn complete() -> Value {
    json!({
        "mode": "Enforce",
        "imageAllowlist": {"allowPattern": ["gke.gcr.io/**"]},
        "checkSets": [
            {"displayName": "account", "scope": {"kubernetesServiceAccount": "shop:portal"}, "checks": []},
            {"displayName": "shop", "scope": {"kubernetesNamespace": "shop"}, "checks": [
                {"displayName": "signed", "sigstoreSignatureCheck": {"attestors": ["builder"], "threshold": 1}},
                {"displayName": "provenance", "slsaCheck": {"attestors": ["builder"], "builders": ["b"], "sources": ["s"], "requireRevision": true}},
                {"displayName": "sbom", "dryRun": true, "sbomCheck": {"attestors": ["builder"], "formats": ["CycloneDX"], "bannedPackages": [
                    {"purl": "pkg:maven/org.apache.logging.log4j/log4j-core", "versions": "<2.17.1", "reason": "CVE-2021-44228"}]}},
                {"displayName": "attested", "simpleSigningAttestationCheck": {"attestors": ["qa"]}},
                {"displayName": "directory", "trustedDirectoryCheck": {"trustedDirPatterns": ["registry.example/acme/**"]}}
            ]},
            {"displayName": "rest", "checks": [{"displayName": "no", "alwaysDeny": true}]}
        ],
        "registries": [{"host": "127.0.0.1:5000", "insecure": true}],
        "deployers": [{"kind": "ServiceAccount", "name": "tidegate-system:spoke"}]
    })
}

#[test]
fn a_complete_policy_is_valid_and_reads_back_as_it_was() {
    let policy: Policy = serde_json::from_value(complete()).unwrap();
    assert_eq!(policy.validate(), Ok(()));
    assert_eq!(serde_json::from_value::<Policy>(serde_json::to_value(&policy).unwrap()).unwrap(), policy);
}

#[test]
fn every_mistake_has_a_path_and_a_remedy() {
    for (pointer, value, path, says) in [
        (
            "/imageAllowlist/allowPattern/0",
            json!("gke.gcr.io/*/x"),
            "imageAllowlist.allowPattern[0]",
            "at the end only",
        ),
        ("/imageAllowlist/allowPattern/0", json!("**"), "imageAllowlist.allowPattern[0]", "registry"),
        ("/checkSets/0/displayName", json!(""), "checkSets[0].displayName", "name the set"),
        ("/checkSets/0/scope", json!(null), "checkSets[0].scope", "only the last set"),
        ("/checkSets/0/scope", json!({}), "checkSets[0].scope", "exactly one"),
        ("/checkSets/1/scope/kubernetesServiceAccount", json!("a:b"), "checkSets[1].scope", "exactly one"),
        (
            "/checkSets/0/scope/kubernetesServiceAccount",
            json!("portal"),
            "checkSets[0].scope.kubernetesServiceAccount",
            "namespace:name",
        ),
        ("/checkSets/0/scope", json!({"kubernetesNamespace": "shop"}), "checkSets[1].scope", "never be used"),
        ("/checkSets/2/scope", json!({"kubernetesServiceAccount": "a:b"}), "checkSets[2].scope", "list it before"),
        ("/checkSets/2/checks/0/alwaysDeny", json!(false), "checkSets[2].checks[0]", "says nothing"),
        ("/checkSets/1/checks/0/alwaysDeny", json!(true), "checkSets[1].checks[0]", "sets 2 kinds"),
        ("/checkSets/1/checks/0/displayName", json!(""), "checkSets[1].checks[0].displayName", "name the check"),
        ("/checkSets/1/checks/1/displayName", json!("signed"), "checkSets[1].checks[1].displayName", "earlier check"),
        (
            "/checkSets/1/checks/0/sigstoreSignatureCheck/attestors",
            json!([]),
            "checkSets[1].checks[0].sigstoreSignatureCheck.attestors",
            "at least one",
        ),
        (
            "/checkSets/1/checks/0/sigstoreSignatureCheck/attestors",
            json!(["a", "a"]),
            "checkSets[1].checks[0]",
            "twice",
        ),
        (
            "/checkSets/1/checks/0/sigstoreSignatureCheck/threshold",
            json!(0),
            "checkSets[1].checks[0].sigstoreSignatureCheck.threshold",
            "1 or more",
        ),
        (
            "/checkSets/1/checks/1/slsaCheck/builders",
            json!([]),
            "checkSets[1].checks[1].slsaCheck.builders",
            "at least one",
        ),
        (
            "/checkSets/1/checks/2/sbomCheck/bannedPackages/0/purl",
            json!("log4j"),
            "checkSets[1].checks[2].sbomCheck.bannedPackages[0]",
            "package URL",
        ),
        (
            "/checkSets/1/checks/2/sbomCheck/bannedPackages/0/purl",
            json!("pkg:maven/a/b@1"),
            "checkSets[1].checks[2].sbomCheck.bannedPackages[0]",
            "versions",
        ),
        (
            "/checkSets/1/checks/2/sbomCheck/bannedPackages/0/versions",
            json!("2.17"),
            "checkSets[1].checks[2].sbomCheck.bannedPackages[0]",
            "version range",
        ),
        (
            "/checkSets/1/checks/4/trustedDirectoryCheck/trustedDirPatterns",
            json!([]),
            "checkSets[1].checks[4].trustedDirectoryCheck.trustedDirPatterns",
            "at least one",
        ),
        ("/registries/0/host", json!("https://registry"), "registries[0].host", "without scheme"),
        ("/deployers/0/name", json!("spoke"), "deployers[0].name", "namespace:name"),
    ] {
        let mut document = complete();
        match document.pointer_mut(pointer) {
            Some(place) => *place = value,
            None => {
                let (parent, key) = pointer.rsplit_once('/').unwrap();
                document.pointer_mut(parent).unwrap()[key] = value;
            }
        }
        let policy: Policy = serde_json::from_value(document).unwrap();
        let errors = policy.validate().expect_err(pointer);
        assert!(errors.iter().any(|e| e.path == path && e.message.contains(says)), "{pointer}: {errors:?}");
    }
}

#[test]
fn unknown_fields_are_refused_at_every_level() {
    for pointer in [
        "",
        "/imageAllowlist",
        "/checkSets/0",
        "/checkSets/0/scope",
        "/checkSets/1/checks/0",
        "/checkSets/1/checks/2/sbomCheck",
        "/registries/0",
        "/deployers/0",
    ] {
        let mut document = complete();
        document.pointer_mut(pointer).unwrap()["misspelt"] = json!(1);
        let error = serde_json::from_value::<Policy>(document).expect_err(pointer).to_string();
        assert!(error.contains("misspelt"), "{error}");
    }
}

#[test]
fn attestors_name_somebody_exactly() {
    let pem = std::fs::read_to_string(
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/local-sigstore/release.pub"),
    )
    .unwrap();
    let keyless = json!({"identity": "builder@build.example", "issuer": "https://issuer.example"});
    for (document, path) in [
        (json!({}), Some("keyless")),
        (json!({"keyless": keyless}), None),
        (json!({"keys": [{"pem": pem}]}), None),
        (json!({"keyless": keyless, "keys": [{"pem": pem}]}), Some("keys")),
        (json!({"keys": [{"pem": pem}, {"id": "again", "pem": pem}]}), Some("keys[1].pem")),
        (json!({"keys": [{"pem": "no key"}]}), Some("keys[0].pem")),
        (json!({"keyless": {"identity": "", "issuer": "x"}}), Some("keyless.identity")),
        (json!({"keyless": {"identity": "*@build.example", "issuer": "x"}}), Some("keyless.identity")),
        (json!({"keyless": {"identity": "x", "issuer": " "}}), Some("keyless.issuer")),
    ] {
        let attestor: Attestor = serde_json::from_value(document.clone()).unwrap();
        let found = attestor.validate().err().and_then(|e| e.first().map(|e| e.path.clone()));
        assert_eq!(found.as_deref(), path, "{document}");
    }
}
