//! The architecture as a test: imports run one way, the domain crates touch no world, files fit in a head, and what is
//! generated is what the program generates. It reads manifests and sources; it runs nothing.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "test code")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// From the domain outwards: a crate may use those before it only.
const ORDER: [&str; 5] =
    ["tidegate-policies", "tidegate-pipelines", "tidegate-webhook", "tidegate-controller", "tidegate-tests"];
/// A file above it wants to be two.
const LONGEST: usize = 500;
/// Above it a file is named in the report.
const LONG: usize = 300;

/// What a domain crate must not reach for, and the folder that may.
struct Ban {
    path: &'static str,
    except: &'static [&'static str],
    why: &'static str,
}

const fn ban(path: &'static str, why: &'static str) -> Ban {
    Ban { path, except: &[], why }
}

const BANS: &[Ban] = &[
    Ban {
        path: "kube",
        except: &["pipelines/src/api/"],
        why: "beyond objects as data only the API types know kube, for its derive",
    },
    ban("kube::Client", "clients are the controller's"),
    ban("kube::api::Api", "clients are the controller's"),
    ban("kube::Api", "clients are the controller's"),
    ban("kube::client", "clients are the controller's"),
    ban("kube::runtime", "watches are the controller's"),
    Ban { path: "reqwest", except: &["policies/src/registry"], why: "one place in the domain touches the network" },
    Ban { path: "tokio::net", except: &["policies/src/registry"], why: "one place in the domain touches the network" },
    Ban { path: "std::net::TcpStream", except: &[], why: "the domain opens no connections" },
    ban("std::net::TcpListener", "the domain serves nothing"),
    ban("hyper", "the domain serves nothing"),
    ban("warp", "the domain serves nothing"),
    ban("std::env", "settings come in through the command line"),
    ban("std::process", "the domain starts nothing"),
    ban("std::fs", "the domain reads no files"),
    ban("std::time::SystemTime", "the domain takes `now` as an argument"),
    ban("std::time::Instant", "the domain takes `now` as an argument"),
    ban("jiff::Timestamp::now", "the domain takes `now` as an argument"),
    ban("jiff::Zoned::now", "the domain takes `now` as an argument"),
    ban("tokio::spawn", "tasks are started where the roles are wired"),
    ban("rand::rng", "randomness is seeded and passed in"),
    ban("rand::thread_rng", "randomness is seeded and passed in"),
];

/// Names, labels and selectors of objects as plain data: no client in it.
fn is_pure(path: &str) -> bool {
    matches!(path, "kube::Resource" | "kube::ResourceExt") || path.starts_with("kube::core::")
}

#[test]
fn imports_run_one_way() {
    let metadata = metadata();
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let place = rank(&package.name).unwrap_or_else(|| panic!("{} has no place in the order", package.name));
        for dependency in &package.dependencies {
            if rank(&dependency.name).is_some_and(|other| other >= place) {
                wrong.push(format!("{} depends on {}", package.name, dependency.name));
            }
        }
    }
    assert!(wrong.is_empty(), "policies <- pipelines <- webhook <- controller <- tests:\n{}", wrong.join("\n"));
}

#[test]
fn the_domain_links_no_server_and_the_product_no_rig() {
    let metadata = metadata();
    let allowed = |package: &str, dependency: &str| match package {
        "tidegate-policies" => !["kube", "hyper", "warp", "tower", "octocrab", "clap"].contains(&dependency),
        "tidegate-pipelines" => {
            !["tokio", "reqwest", "hyper", "warp", "tower", "octocrab", "clap", "oci-client"].contains(&dependency)
        }
        "tidegate-webhook" => !["octocrab", "clap"].contains(&dependency),
        _ => true,
    };
    let rig_only = ["libtest-mimic", "cargo_metadata", "flate2", "tar"];
    let mut wrong = Vec::new();
    for package in metadata.packages.iter().filter(|package| package.name.as_str() != "tidegate-tests") {
        for dependency in package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal) {
            if !allowed(&package.name, &dependency.name) || rig_only.contains(&dependency.name.as_str()) {
                wrong.push(format!("{} links {}", package.name, dependency.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_domain_touches_no_world() {
    let mut wrong = Vec::new();
    for crate_dir in ["policies/src", "pipelines/src"] {
        for file in sources(&root().join(crate_dir)).into_iter().filter(|file| !is_tests(file)) {
            let name = relative(&file);
            wrong.extend(violations(&name, &std::fs::read_to_string(&file).unwrap()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_forbidden_import_is_seen_however_it_is_written() {
    for (file, text, seen) in [
        ("pipelines/src/judge/x.rs", "use kube::Client;", true),
        ("pipelines/src/judge/x.rs", "use {serde::Serialize, kube::{api::Api, Client as C}};", true),
        ("pipelines/src/release/x.rs", "use kube::ResourceExt;", false),
        ("pipelines/src/release/x.rs", "use kube::{CustomResource, ResourceExt};", true),
        ("pipelines/src/api/x.rs", "use kube::{CustomResource, ResourceExt};", false),
        ("pipelines/src/api/x.rs", "use kube::{\n    CustomResource,\n    Client,\n};", true),
        ("policies/src/verdict.rs", "fn f() { let now = std::time::SystemTime::now(); }", true),
        ("policies/src/verdict.rs", "use std::{fmt, env::var};", true),
        ("policies/src/verdict.rs", "// std::env is not for us\nuse std::fmt;", false),
        ("policies/src/registry/http.rs", "use reqwest::Client;", false),
        ("policies/src/verifier.rs", "use reqwest::Client;", true),
        ("policies/src/verifier.rs", "fn f() {}\n#[cfg(test)]\nmod tests { use std::fs; }", false),
        ("policies/src/verifier.rs", "use std::environment;", false),
    ] {
        assert_eq!(!violations(file, text).is_empty(), seen, "{file}: {text}");
    }
}

#[test]
fn files_fit_in_a_head() {
    let mut long: Vec<(usize, String)> = Vec::new();
    for member in ["policies", "pipelines", "webhook", "controller", "tests"] {
        for file in sources(&root().join(member)) {
            let lines = std::fs::read_to_string(&file).unwrap().lines().count();
            if lines > LONG {
                long.push((lines, relative(&file)));
            }
        }
    }
    long.sort_by(|a, b| b.cmp(a));
    for (lines, file) in &long {
        println!("{lines:5} {file}");
    }
    let wrong: Vec<_> = long.iter().filter(|(lines, file)| *lines > LONGEST && !is_tests(&root().join(file))).collect();
    assert!(wrong.is_empty(), "above {LONGEST} lines a file wants to be two: {wrong:?}");
}

#[test]
fn the_first_lines_of_a_module_say_what_it_is_for() {
    let mut wrong = Vec::new();
    for member in ["policies", "pipelines", "webhook", "controller", "tests"] {
        for file in sources(&root().join(member)) {
            if !is_tests(&file) && !std::fs::read_to_string(&file).unwrap().starts_with("//!") {
                wrong.push(relative(&file));
            }
        }
    }
    assert!(wrong.is_empty(), "no `//!` at the top of {}", wrong.join(", "));
}

#[test]
fn the_definitions_in_deploy_are_those_the_program_prints() {
    let kept = std::fs::read_to_string(root().join("deploy/crds/tidegate.yaml")).unwrap();
    let printed = tidegate_controller::cli::crds::yaml().unwrap();
    let differing = kept.lines().zip(printed.lines()).position(|(a, b)| a != b);
    assert!(
        kept == printed,
        "deploy/crds/tidegate.yaml is stale from line {}: `cargo run -p tidegate-controller -- crds > deploy/crds/tidegate.yaml`",
        differing.unwrap_or_else(|| kept.lines().count().min(printed.lines().count())) + 1
    );
}

/// What `text` reaches for that a domain file of that name must not.
fn violations(file: &str, text: &str) -> Vec<String> {
    let code = product_code(text);
    let paths = paths(&code);
    let mut found = Vec::new();
    for ban in BANS.iter().filter(|ban| !ban.except.iter().any(|folder| file.starts_with(folder))) {
        let below = format!("{}::", ban.path);
        // `use kube as k` and plain `kube` are one path segment; `kubelet::x` is another crate.
        let reaches = |path: &String| path == ban.path || path.starts_with(&below);
        if paths.iter().any(|path| reaches(path) && !is_pure(path)) {
            found.push(format!("{file} uses {}: {}", ban.path, ban.why));
        }
    }
    found
}

/// Without comments, and without the tests at the file's end.
fn product_code(text: &str) -> String {
    let product = text.split("#[cfg(test)]\nmod ").next().unwrap_or(text);
    product.lines().map(|line| line.split("//").next().unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

/// Every path in `code`: those of `use` trees written out, and those in expressions.
fn paths(code: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for statement in code.split(';') {
        if let Some((_, tree)) = statement.rsplit_once("use ") {
            let tree: String = tree.split_whitespace().collect::<Vec<_>>().join(" ");
            expand("", &tree, &mut all);
        }
    }
    let path_character = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    all.extend(code.split(|c| !path_character(c)).filter(|word| word.contains("::")).map(str::to_owned));
    all
}

/// Writes out a use tree: `a::{b, c::{d, e as f}}` is `a::b`, `a::c::d`, `a::c::e`.
fn expand(prefix: &str, tree: &str, all: &mut BTreeSet<String>) {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        let name = tree.split(" as ").next().unwrap_or(tree).trim();
        let path = if name == "self" { prefix.trim_end_matches("::").to_owned() } else { format!("{prefix}{name}") };
        all.insert(path);
        return;
    };
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let prefix = format!("{prefix}{}", head.trim());
    let (mut depth, mut from) = (0usize, 0);
    for (at, character) in inner.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                expand(&prefix, &inner[from..at], all);
                from = at + 1;
            }
            _ => {}
        }
    }
    if !inner[from..].trim().is_empty() {
        expand(&prefix, &inner[from..], all);
    }
}

fn rank(package: &str) -> Option<usize> {
    ORDER.iter().position(|name| *name == package)
}

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// `mod tests;` under `#[cfg(test)]`, in a file or folder of its own below `src`.
fn is_tests(file: &Path) -> bool {
    let name = relative(file);
    name.ends_with("/tests.rs") || name.split_once("/src/").is_some_and(|(_, below)| below.contains("tests/"))
}

fn relative(file: &Path) -> String {
    file.strip_prefix(root()).unwrap().display().to_string()
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}
