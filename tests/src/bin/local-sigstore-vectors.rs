//! Proves the supply chain end to end and keeps what it made as test vectors: pushes images, signs and attests them with
//! cosign against the local Sigstore, has cosign verify them, and writes the bundles found at the registry.
//!
//! Run it inside a network namespace where 10.244.0.0/16 is local:
//! `unshare --user --map-root-user --net --pid --fork --mount-proc --kill-child sh -c \
//!  'ip link set lo up; ip addr add 10.244.0.0/16 dev lo; exec local-sigstore-vectors --tools DIR --out DIR'`
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::{Value, json};
use tidegate_tests::supply::cosign::PredicateType;
use tidegate_tests::supply::provenance::Provenance;
use tidegate_tests::supply::release::Sbom;
use tidegate_tests::supply::sbom::{Component, Subject};
use tidegate_tests::supply::{
    Behavior, ImageSpec, PublishSpec, Published, Publisher, Registry, SupplyChain, SupplyTools, bundles, sbom,
};
use tokio::time::Instant;

#[derive(Parser)]
struct Arguments {
    /// Folder of cosign, fulcio, posix, timestamp-server, registry.
    #[arg(long)]
    tools: PathBuf,
    /// Where the vectors go.
    #[arg(long)]
    out: PathBuf,
    /// Scratch folder of the services.
    #[arg(long)]
    scratch: PathBuf,
}

const REPO: &str = "shop/portal";
const REVISION: &str = "8f2d6d2f3d3e0d6d5d9a4f6f7b1c2d3e4f5a6b7c";
const SOURCE: &str = "https://github.com/shop/portal";

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    std::fs::create_dir_all(&arguments.scratch)?;
    std::fs::create_dir_all(&arguments.out)?;
    let tools = SupplyTools::in_dir(&arguments.tools);
    let started = Instant::now();
    let chain = SupplyChain::start(&arguments.scratch, &tools, &["shop/portal"]).await?;
    println!("supply chain up: {:?}", started.elapsed());
    let modern = chain.publisher().clone();
    let registry = Registry::start(&tools, &arguments.scratch, "10.244.254.1:5001".parse()?, false).await?;
    let old = Publisher { registry: Arc::new(registry), sigstore: chain.sigstore.clone() };

    let made = publish_all(&modern).await?;
    publish_to_old_registry(&old, &arguments.out).await?;
    let keyed = keyed(&modern, &arguments.out).await?;
    export(&modern, &arguments.out, &made, &keyed).await?;
    chain.sigstore.rotate_issuer_key()?;
    let index = multi_arch(&modern).await?;
    println!("index {index} signed and verified, after the issuer changed its key");
    unreachable_and_back(&modern, &made.portal).await?;
    Ok(())
}

struct Made {
    portal: Published,
    spdx: Published,
    banned: Published,
    copied: Published,
}

async fn publish_all(publisher: &Publisher) -> Result<Made> {
    let provenance = Provenance::cloud_build(SOURCE, REVISION);
    let started = Instant::now();
    let spec = PublishSpec::new(REPO, "good", Behavior::version("good").errors(0.04), REVISION).provenance(provenance);
    let portal = publisher.publish(&spec).await?;
    println!("publish with signature, provenance and SBOM: {:?}", started.elapsed());
    let image = portal.by_digest();
    let verified = publisher.sigstore.verify(&image).await?;
    println!("cosign verify: {}", verified[0]["critical"]);
    for kind in [PredicateType::CycloneDx, PredicateType::SlsaV1] {
        publisher.sigstore.verify_attestation(&image, &kind).await?;
        println!("cosign verify-attestation {}: ok", kind.flag());
    }
    let version = |version: &str| PublishSpec::new(REPO, version, Behavior::version(version), REVISION);
    let spdx = publisher.publish(&version("spdx").sbom(Sbom::Spdx(sbom::harmless()))).await?;
    publisher.sigstore.verify_attestation(&spdx.by_digest(), &PredicateType::Spdx).await?;
    let banned = publisher.publish(&version("banned").with_component(Component::log4j_core("2.14.1"))).await?;
    let bare = publisher.publish(&version("bare").unsigned().sbom(Sbom::Missing)).await?;
    let refused = publisher.sigstore.verify(&bare.by_digest()).await;
    ensure!(refused.is_err(), "cosign accepts an image that nobody signed");
    println!("cosign verify of an unsigned image: {:#}", refused.unwrap_err());

    // Worth knowing, not ours to change: an attestation alone passes as a signature.
    let attested = publisher.publish(&version("attested").unsigned()).await?;
    let accepted = publisher.sigstore.verify(&attested.by_digest()).await.is_ok();
    println!("cosign verify of an image with an SBOM attestation and no signature: accepted = {accepted}");

    // The SBOM attested to `good`, attached by hand to another image.
    let copied = publisher.publish(&version("copied").sbom(Sbom::CopiedFrom(portal.clone()))).await?;
    let refused = publisher.sigstore.verify_attestation(&copied.by_digest(), &PredicateType::CycloneDx).await;
    ensure!(refused.is_err(), "cosign accepts an attestation of another image");
    println!("cosign verify-attestation of a copied SBOM: {:#}", refused.unwrap_err());
    let started = Instant::now();
    let fleet: Vec<PublishSpec> = (0..8)
        .map(|number| version(&format!("many-{number}")).provenance(Provenance::cloud_build(SOURCE, REVISION)))
        .collect();
    let many = futures::future::try_join_all(fleet.iter().map(|spec| publisher.publish(spec))).await?;
    println!("eight images at once, each signed and attested twice: {:?}", started.elapsed());
    for image in &many {
        let found = publisher.registry.referrers(REPO, &image.digest).await?.len();
        ensure!(found == 3, "{} has {found} referrers", image.by_digest());
    }
    Ok(Made { portal, spdx, banned, copied })
}

async fn find(publisher: &Publisher, digest: &str, kind: &PredicateType) -> Result<bundles::Referrer> {
    let found = bundles::fetch(&publisher.registry, REPO, digest).await?;
    found.into_iter().find(|one| one.predicate_type() == Some(kind.uri())).with_context(|| format!("no {}", kind.uri()))
}

fn signature() -> PredicateType {
    PredicateType::Other("https://sigstore.dev/cosign/sign/v1".into())
}

async fn publish_to_old_registry(publisher: &Publisher, out: &Path) -> Result<()> {
    let started = Instant::now();
    let spec = PublishSpec::new(REPO, "good", Behavior::version("good").errors(0.04), REVISION)
        .provenance(Provenance::cloud_build(SOURCE, REVISION));
    let published = publisher.publish(&spec).await?;
    println!("the same without the referrers API, one by one: {:?}", started.elapsed());
    publisher.sigstore.verify(&published.by_digest()).await?;
    let tag = tidegate_tests::supply::registry::fallback_tag(&published.digest);
    let index = publisher.registry.manifest(REPO, &tag).await?.context("no fallback tag")?;
    println!("fallback tag {tag}: {}", index.media_type);
    write(out, "fallback-tag-index.json", &serde_json::to_vec_pretty(&index.json()?)?)?;
    let found = bundles::fetch(&publisher.registry, REPO, &published.digest).await?;
    ensure!(found.len() == 3, "{} bundles under the fallback tag", found.len());
    Ok(())
}

struct Keyed {
    offline: Published,
    logged: Published,
}

async fn keyed(publisher: &Publisher, out: &Path) -> Result<Keyed> {
    let sigstore = &publisher.sigstore;
    let key = sigstore.generate_key("release").await?;
    let version = |version: &str| {
        PublishSpec::new(REPO, version, Behavior::version(version), REVISION).unsigned().sbom(Sbom::Missing)
    };
    let offline = publisher.publish(&version("keyed")).await?;
    let started = Instant::now();
    sigstore.sign_keyed(&offline.by_digest(), &key).await?;
    println!("keyed without a log: {:?}", started.elapsed());
    sigstore.verify_keyed(&offline.by_digest(), &key).await?;
    let logged = publisher.publish(&version("keyed-logged")).await?;
    sigstore.sign_keyed_logged(&logged.by_digest(), &key).await?;
    let subject = Subject::new(&offline.repository, &offline.digest);
    let document = sbom::cyclonedx(&subject, &sbom::harmless());
    sigstore.attest_keyed(&offline.by_digest(), &PredicateType::CycloneDx, &document, &key).await?;
    let other = sigstore.generate_key("other").await?;
    let refused = sigstore.verify_keyed(&offline.by_digest(), &other).await;
    ensure!(refused.is_err(), "cosign accepts a signature of another key");
    write(out, "release.pub", key.public_pem.as_bytes())?;
    write(out, "other.pub", other.public_pem.as_bytes())?;
    Ok(Keyed { offline, logged })
}

async fn multi_arch(publisher: &Publisher) -> Result<String> {
    let spec = |architecture| ImageSpec::new(Behavior::version("multi")).architecture(architecture);
    let (digest, children) = publisher.registry.push_index(REPO, "multi", &[spec("amd64"), spec("arm64")]).await?;
    ensure!(children.len() == 2 && children[0] != children[1], "two children");
    let image = publisher.registry.image(REPO, &digest);
    publisher.sigstore.sign(&image).await?;
    publisher.sigstore.verify(&image).await?;
    Ok(digest)
}

async fn unreachable_and_back(publisher: &Publisher, image: &Published) -> Result<()> {
    let registry = &publisher.registry;
    registry.freeze().await?;
    let patience = std::time::Duration::from_millis(300);
    let frozen = tokio::time::timeout(patience, registry.manifest(REPO, &image.digest)).await;
    registry.thaw().await?;
    ensure!(frozen.is_err(), "a frozen registry answers");
    registry.manifest(REPO, &image.digest).await?.context("the image after the thaw")?;
    registry.delete(REPO, &image.tag).await?;
    ensure!(registry.manifest(REPO, &image.tag).await?.is_none(), "a deleted tag is still there");
    println!("registry frozen, thawed, tag deleted");
    Ok(())
}

async fn export(publisher: &Publisher, out: &Path, made: &Made, keyed: &Keyed) -> Result<()> {
    write(out, "trusted_root.json", publisher.sigstore.trusted_root_json().as_bytes())?;
    let files = [
        ("keyless-signature", &made.portal, signature()),
        ("provenance", &made.portal, PredicateType::SlsaV1),
        ("cyclonedx", &made.portal, PredicateType::CycloneDx),
        ("spdx", &made.spdx, PredicateType::Spdx),
        ("cyclonedx-banned", &made.banned, PredicateType::CycloneDx),
        ("other-image-signature", &made.banned, signature()),
        ("cyclonedx-of-another-image", &made.copied, PredicateType::CycloneDx),
        ("keyed-signature", &keyed.offline, signature()),
        ("keyed-cyclonedx", &keyed.offline, PredicateType::CycloneDx),
        ("keyed-logged-signature", &keyed.logged, signature()),
    ];
    let mut facts = serde_json::Map::new();
    for (name, image, kind) in files {
        let referrer = find(publisher, &image.digest, &kind).await.with_context(|| name.to_owned())?;
        write(out, &format!("{name}.sigstore.json"), &referrer.bundle)?;
        write(out, &format!("{name}.manifest.json"), &serde_json::to_vec_pretty(&referrer.manifest)?)?;
        facts.insert(
            name.into(),
            json!({"attached_to": image.digest, "tag": image.tag, "predicate_type": kind.uri(),
                   "referrer": referrer.descriptor["digest"], "artifact_type": referrer.descriptor["artifactType"]}),
        );
    }
    let manifest = publisher.registry.manifest(REPO, &made.portal.digest).await?.context("the image")?;
    write(out, "image.manifest.json", &manifest.bytes)?;
    let referrers: Vec<Value> = publisher.registry.referrers(REPO, &made.portal.digest).await?;
    let index =
        json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": referrers});
    write(out, "referrers.json", &serde_json::to_vec_pretty(&index)?)?;
    let facts = json!({
        "identity": publisher.sigstore.identity(),
        "issuer": publisher.sigstore.issuer(),
        "repository": made.portal.repository,
        "revision": REVISION,
        "source": SOURCE,
        "builder_id": tidegate_tests::supply::provenance::CLOUD_BUILD,
        "digests": {
            "portal": made.portal.digest, "spdx": made.spdx.digest, "banned": made.banned.digest,
            "copied": made.copied.digest, "keyed": keyed.offline.digest, "keyed-logged": keyed.logged.digest,
        },
        "bundles": facts,
    });
    write(out, "facts.json", &serde_json::to_vec_pretty(&facts)?)
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    std::fs::write(dir.join(name), bytes).with_context(|| name.to_owned())
}
