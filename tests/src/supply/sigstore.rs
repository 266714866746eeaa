//! A whole Sigstore on loopback: Fulcio, Rekor v2 and a timestamp authority as real processes, with the trusted root and
//! signing configuration that name them. There is no certificate transparency log, so verifiers skip SCTs by name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::cosign::{Cosign, KeyPair, PredicateType, text};
use super::daemon::Daemon;
use super::http as web;
use super::oidc::Oidc;
use super::tools::SupplyTools;

/// Who signs unless a test says otherwise.
pub const IDENTITY: &str = "builder@build.example";

/// The log's host name is its checkpoint origin: the log and the trusted root must name the same one, without a port.
const HOST: &str = "127.0.0.1";
const FULCIO: &str = "127.0.0.1:5555";
const REKOR: &str = "127.0.0.1:3003";
const TSA: &str = "127.0.0.1:3005";
/// Before any certificate of the run, so that no service is "not valid yet".
const SINCE: &str = "2020-01-01T00:00:00Z";

pub struct Sigstore {
    cosign: Cosign,
    oidc: Arc<Oidc>,
    trusted_root: PathBuf,
    trusted_root_json: String,
    signing_config: PathBuf,
    /// Names no service: keyed signatures without log and timestamp.
    offline_config: PathBuf,
    _services: Vec<Daemon>,
}

impl Sigstore {
    /// Takes fixed ports of 127.0.0.1, so one per network namespace.
    pub async fn start(dir: &Path, tools: &SupplyTools, oidc: Arc<Oidc>) -> Result<Self> {
        std::fs::create_dir_all(dir.join("log"))?;
        write_fulcio_config(&dir.join("fulcio.yaml"), oidc.issuer())?;
        let log_key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
        std::fs::write(dir.join("rekor.pem"), log_key.serialize_pem())?;
        std::fs::write(dir.join("rekor.pub"), log_key.public_key_pem())?;
        let services = start_services(dir, tools).await?;
        let http = web::client(None)?;
        download(&http, &format!("http://{FULCIO}/api/v1/rootCert"), &dir.join("fulcio.pem")).await?;
        download(&http, &format!("http://{TSA}/api/v1/timestamp/certchain"), &dir.join("tsa.pem")).await?;

        let cosign = Cosign::new(&tools.cosign, &dir.join("cosign"))?;
        let trusted_root = dir.join("trusted_root.json");
        let signing_config = dir.join("signing_config.json");
        let offline_config = dir.join("signing_config_offline.json");
        tokio::try_join!(
            create_trusted_root(&cosign, dir, &trusted_root),
            create_signing_config(&cosign, oidc.issuer(), &signing_config),
            async { cosign.run(&["signing-config", "create", "--out", text(&offline_config)]).await.map(drop) },
        )?;
        let trusted_root_json = std::fs::read_to_string(&trusted_root)?;
        Ok(Self { cosign, oidc, trusted_root, trusted_root_json, signing_config, offline_config, _services: services })
    }

    /// For `TrustRoot` objects.
    pub fn trusted_root_json(&self) -> &str {
        &self.trusted_root_json
    }

    pub fn trusted_root(&self) -> &Path {
        &self.trusted_root
    }

    pub fn signing_config(&self) -> &Path {
        &self.signing_config
    }

    pub fn issuer(&self) -> &str {
        self.oidc.issuer()
    }

    /// From now on the build system's issuer signs with a new key, and the old one is gone.
    pub fn rotate_issuer_key(&self) -> Result<()> {
        self.oidc.rotate(false)
    }

    pub fn identity(&self) -> &'static str {
        IDENTITY
    }

    /// Signs `host/repo@digest` keyless as [`IDENTITY`].
    pub async fn sign(&self, image: &str) -> Result<()> {
        self.sign_as(image, IDENTITY).await
    }

    pub async fn sign_as(&self, image: &str, email: &str) -> Result<()> {
        let token = self.token(email);
        self.cosign.run(&[&["sign"][..], &self.keyless(&token), &[image]].concat()).await.map(drop)
    }

    /// Attests keyless as [`IDENTITY`].
    pub async fn attest(&self, image: &str, kind: &PredicateType, predicate: &Value) -> Result<()> {
        self.attest_as(image, kind, predicate, IDENTITY).await
    }

    pub async fn attest_as(&self, image: &str, kind: &PredicateType, predicate: &Value, email: &str) -> Result<()> {
        let token = self.token(email);
        let file = self.cosign.scratch("predicate", predicate)?;
        let about = ["--predicate", text(&file), "--type", kind.flag()];
        self.cosign.run(&[&["attest"][..], &about, &self.keyless(&token), &[image]].concat()).await.map(drop)
    }

    pub async fn generate_key(&self, name: &str) -> Result<KeyPair> {
        self.cosign.generate_key(name).await
    }

    /// Signs with a managed key, without log and timestamp.
    pub async fn sign_keyed(&self, image: &str, key: &KeyPair) -> Result<()> {
        self.cosign.run(&[&["sign"][..], &keyed(key, &self.offline_config), &[image]].concat()).await.map(drop)
    }

    /// Signs with a managed key, entered in the log and timestamped.
    pub async fn sign_keyed_logged(&self, image: &str, key: &KeyPair) -> Result<()> {
        let root = ["--trusted-root", text(&self.trusted_root)];
        self.cosign.run(&[&["sign"][..], &keyed(key, &self.signing_config), &root, &[image]].concat()).await.map(drop)
    }

    pub async fn attest_keyed(
        &self,
        image: &str,
        kind: &PredicateType,
        predicate: &Value,
        key: &KeyPair,
    ) -> Result<()> {
        let file = self.cosign.scratch("predicate", predicate)?;
        let about = ["--predicate", text(&file), "--type", kind.flag()];
        let arguments = [&["attest"][..], &about, &keyed(key, &self.offline_config), &[image]].concat();
        self.cosign.run(&arguments).await.map(drop)
    }

    /// What cosign itself says of a keyless signature: a second opinion beside the product's.
    pub async fn verify(&self, image: &str) -> Result<Value> {
        let arguments = [&["verify"][..], &self.verify_keyless(), &[image]].concat();
        Ok(serde_json::from_str(&self.cosign.run(&arguments).await?)?)
    }

    pub async fn verify_attestation(&self, image: &str, kind: &PredicateType) -> Result<String> {
        let about = ["--type", kind.flag()];
        self.cosign.run(&[&["verify-attestation"][..], &about, &self.verify_keyless(), &[image]].concat()).await
    }

    pub async fn verify_keyed(&self, image: &str, key: &KeyPair) -> Result<String> {
        let public = text(&key.public);
        let flags = ["verify", "--key", public, "--insecure-ignore-tlog", "--allow-http-registry", image];
        self.cosign.run(&flags).await
    }

    fn token(&self, email: &str) -> String {
        self.oidc.sign(&self.oidc.sigstore_claims(email))
    }

    fn keyless<'a>(&'a self, token: &'a str) -> [&'a str; 8] {
        let (config, root) = (text(&self.signing_config), text(&self.trusted_root));
        [
            "--yes",
            "--identity-token",
            token,
            "--signing-config",
            config,
            "--trusted-root",
            root,
            "--allow-http-registry",
        ]
    }

    fn verify_keyless(&self) -> [&str; 8] {
        [
            "--trusted-root",
            text(&self.trusted_root),
            "--insecure-ignore-sct",
            "--certificate-identity",
            IDENTITY,
            "--certificate-oidc-issuer",
            self.oidc.issuer(),
            "--allow-http-registry",
        ]
    }
}

fn keyed<'a>(key: &'a KeyPair, config: &'a Path) -> [&'a str; 6] {
    ["--yes", "--key", text(&key.private), "--signing-config", text(config), "--allow-http-registry"]
}

fn write_fulcio_config(path: &Path, issuer: &str) -> Result<()> {
    // Not JSON, which is YAML too: Fulcio takes JSON for its older format and then knows no issuer.
    let config = format!(
        "oidc-issuers:\n  {issuer}:\n    issuer-url: {issuer}\n    client-id: sigstore\n    type: email\n    \
         contact: build@build.example\n    description: the issuer of the rig\nci-issuer-metadata: {{}}\n"
    );
    std::fs::write(path, config).context("Fulcio's configuration")
}

async fn start_services(dir: &Path, tools: &SupplyTools) -> Result<Vec<Daemon>> {
    let fulcio = "serve --ca ephemeralca --ct-log-url= --config-path fulcio.yaml --host 127.0.0.1 --port 5555 \
                  --grpc-host 127.0.0.1 --grpc-port 5554 --metrics-port 2113";
    let rekor = "serve --hostname 127.0.0.1 --storage-dir log --signer-filepath rekor.pem --http-port 3003 \
                 --grpc-port 3004 --http-metrics-port 2114 --checkpoint-interval 200ms --batch-max-age 50ms";
    let tsa = "serve --host 127.0.0.1 --port 3005 --timestamp-signer memory --disable-ntp-monitoring";
    let start = |name, program: &Path, line: &str| {
        Daemon::start(name, program, &line.split_whitespace().collect::<Vec<_>>(), dir)
    };
    let mut services = vec![
        start("fulcio", &tools.fulcio, fulcio)?,
        start("rekor", &tools.rekor, rekor)?,
        start("timestamp-server", &tools.timestamp_server, tsa)?,
    ];
    for (service, address) in services.iter_mut().zip([FULCIO, REKOR, TSA]) {
        service.listening(address).await?;
    }
    Ok(services)
}

async fn create_trusted_root(cosign: &Cosign, dir: &Path, out: &Path) -> Result<()> {
    let file = |name: &str| dir.join(name).display().to_string();
    let fulcio = format!("url=http://{FULCIO},certificate-chain={}", file("fulcio.pem"));
    let rekor = format!("url=http://{REKOR},public-key={},start-time={SINCE},origin={HOST}", file("rekor.pub"));
    let tsa = format!("url=http://{TSA}/api/v1/timestamp,certificate-chain={}", file("tsa.pem"));
    let services = ["--fulcio", &fulcio, "--rekor", &rekor, "--tsa", &tsa];
    cosign.run(&[&["trusted-root", "create"][..], &services, &["--out", text(out)]].concat()).await.map(drop)
}

async fn create_signing_config(cosign: &Cosign, issuer: &str, out: &Path) -> Result<()> {
    let entry = |url: &str, version: u8| format!("url={url},api-version={version},start-time={SINCE},operator=rig");
    let fulcio = entry(&format!("http://{FULCIO}"), 1);
    let rekor = entry(&format!("http://{REKOR}"), 2);
    let tsa = entry(&format!("http://{TSA}/api/v1/timestamp"), 1);
    let oidc = entry(issuer, 1);
    let services = [
        "--fulcio",
        &fulcio,
        "--rekor",
        &rekor,
        "--rekor-config",
        "ANY",
        "--tsa",
        &tsa,
        "--tsa-config",
        "ANY",
        "--oidc-provider",
        &oidc,
    ];
    cosign.run(&[&["signing-config", "create"][..], &services, &["--out", text(out)]].concat()).await.map(drop)
}

async fn download(http: &reqwest::Client, url: &str, to: &Path) -> Result<()> {
    let response = http.get(url).send().await.with_context(|| format!("get {url}"))?;
    ensure!(response.status().is_success(), "{url}: {}", response.status());
    std::fs::write(to, response.bytes().await?)?;
    Ok(())
}
