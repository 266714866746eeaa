//! The bundles of sigstore-conformance, by digest, through the one module that verifies bundles.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use support::vectors;
use tidegate_policies::digest::Digest;
use tidegate_policies::evidence::Authorities;
use tidegate_policies::model::{Attestor, Keyless, PublicKey, TrustRoot};

const IDENTITY: &str = "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/.github/workflows/extremely-dangerous-oidc-beacon.yml@refs/heads/main";
const ISSUER: &str = "https://token.actions.githubusercontent.com";

/// What the case gives, else what the protocol says.
fn text(case: &Path, name: &str, default: &str) -> String {
    fs::read_to_string(case.join(name)).map_or_else(|_| default.to_owned(), |s| s.trim().to_owned())
}

fn accepted(root: &Path, case: &Path) -> Result<(), String> {
    let artifact = fs::read(case.join("artifact")).unwrap_or_else(|_| fs::read(root.join("a.txt")).unwrap());
    let trusted_root = fs::read_to_string(case.join("trusted_root.json"))
        .unwrap_or_else(|_| fs::read_to_string(root.join("production_trusted_root.json")).unwrap());
    let attestor = match fs::read_to_string(case.join("key.pub")) {
        Ok(pem) => Attestor { keys: vec![PublicKey { pem, ..PublicKey::default() }], ..Attestor::default() },
        Err(_) => Attestor {
            keyless: Some(Keyless { identity: text(case, "identity", IDENTITY), issuer: text(case, "issuer", ISSUER) }),
            ..Attestor::default()
        },
    };
    let attestors = BTreeMap::from([("it".to_owned(), attestor)]);
    let roots = BTreeMap::from([("default".to_owned(), TrustRoot { trusted_root })]);
    let authorities = Authorities::prepare(["it"], &attestors, &roots);
    let mut evidence = authorities.evidence();
    let bundle = fs::read(case.join("bundle.sigstore.json")).unwrap();
    authorities.examine_bundle(&Digest::of(&artifact), &Digest::of(&bundle), &bundle, &mut evidence);
    if evidence.verified().is_empty() { Err(format!("{evidence:?}")) } else { Ok(()) }
}

#[test]
fn all_cases_come_out_as_the_suite_says() {
    let root = vectors("sigstore-conformance");
    let mut wrong = Vec::new();
    let mut cases = 0;
    for entry in fs::read_dir(root.join("bundle-verify")).unwrap() {
        let case = entry.unwrap().path();
        if !case.is_dir() {
            continue;
        }
        cases += 1;
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        match (accepted(&root, &case), name.ends_with("_fail")) {
            (Ok(()), true) => wrong.push(format!("{name}: accepted")),
            (Err(why), false) => wrong.push(format!("{name}: refused: {why}")),
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{} of {cases} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(cases, 70);
}
