//! Documents that the formats' own projects publish: what is valid is read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::outside_vectors;
use tidegate_policies::evidence::Sbom;
use tidegate_policies::model::SbomFormat;

fn documents(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            documents(&path, out);
        } else if path.extension().is_some_and(|e| e == "json") {
            out.push(path);
        }
    }
}

fn all(name: &str) -> Vec<PathBuf> {
    let mut out = Vec::new();
    if let Some(folder) = outside_vectors(name) {
        documents(&folder, &mut out);
        assert!(!out.is_empty(), "{name} is empty");
    }
    out
}

#[test]
fn valid_cyclonedx_documents_are_read() {
    let mut wrong = Vec::new();
    for path in all("cyclonedx") {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let read = Sbom::read(SbomFormat::CycloneDX, &fs::read(&path).unwrap());
        if let (true, Err(error)) = (name.starts_with("valid-"), &read) {
            wrong.push(format!("{name}: {error}"));
        }
        if name.starts_with("invalid-bomformat") && read.is_ok() {
            wrong.push(format!("{name}: read"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn spdx_documents_of_known_versions_are_read() {
    let mut wrong = Vec::new();
    for path in all("spdx") {
        let bytes = fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let known = text.contains("\"SPDX-2.2\"") || text.contains("\"SPDX-2.3\"");
        let read = Sbom::read(SbomFormat::SPDX, &bytes);
        if known != read.is_ok() {
            wrong.push(format!("{}: {:?}", path.display(), read.err()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
