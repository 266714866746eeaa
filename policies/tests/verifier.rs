//! The verifier as a whole: what it costs the threads that answer requests and the memory that all share, and
//! what a signature on an index says of its children.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::thread::ThreadId;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use support::{Signer, World, keyed};
use tidegate_policies::digest::Digest;
use tidegate_policies::image::ImageRef;
use tidegate_policies::model::{Check, SigstoreSignatureCheck};
use tidegate_policies::registry::{BUNDLE_MEDIA_TYPE, Fetch, FetchError, Location, Manifest, MemoryFetch, Referrer};
use tidegate_policies::verdict::Decision;
use tidegate_policies::verifier::Verifier;
use tokio::sync::watch;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

const IMAGE: &str = "registry.example/shop/portal";
const LARGE: usize = 1 << 20;

fn signed() -> Check {
    let check = SigstoreSignatureCheck { attestors: vec!["builder".into()], threshold: None };
    Check { display_name: "signed".into(), sigstore_signature_check: Some(check), ..Check::default() }
}

fn world(n: u8) -> (World, Signer) {
    let signer = Signer::new();
    let image = format!("{IMAGE}@{}", Digest::of(&[n]));
    (World::new(&image, vec![signed()]).attestor("builder", keyed(&[&signer.pem()])), signer)
}

/// The registry of a world, whose large blobs come only while the gate is open.
struct Gated {
    memory: Arc<MemoryFetch>,
    gate: watch::Receiver<bool>,
    under_way: AtomicUsize,
    most: AtomicUsize,
}

impl Gated {
    fn new(memory: Arc<MemoryFetch>) -> (Arc<Self>, watch::Sender<bool>) {
        let (open, gate) = watch::channel(false);
        (Arc::new(Self { memory, gate, under_way: AtomicUsize::new(0), most: AtomicUsize::new(0) }), open)
    }
}

#[async_trait]
impl Fetch for Gated {
    async fn resolve(&self, at: &Location, image: &ImageRef) -> Result<Digest, FetchError> {
        self.memory.resolve(at, image).await
    }

    async fn manifest(&self, at: &Location, digest: &Digest) -> Result<Manifest, FetchError> {
        self.memory.manifest(at, digest).await
    }

    async fn referrers(&self, at: &Location, digest: &Digest) -> Result<Vec<Referrer>, FetchError> {
        self.memory.referrers(at, digest).await
    }

    async fn blob(&self, at: &Location, digest: &Digest, limit: u64) -> Result<Bytes, FetchError> {
        if limit >= LARGE as u64 {
            let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            self.gate.clone().wait_for(|open| *open).await.unwrap();
            self.under_way.fetch_sub(1, Ordering::SeqCst);
        }
        self.memory.blob(at, digest, limit).await
    }
}

async fn attach_large(world: &World) {
    for n in 0..4 {
        let large = vec![b'0' + n; LARGE];
        world.fetch.attach(&world.image, &world.digest(), BUNDLE_MEDIA_TYPE, large).await;
    }
}

async fn attach_signature(world: &World, signer: &Signer) {
    let bundle = signer.statement(&world.digest(), "https://sigstore.dev/cosign/sign/v1", "{}");
    world.fetch.attach(&world.image, &world.digest(), BUNDLE_MEDIA_TYPE, bundle).await;
}

#[tokio::test]
async fn large_attachments_wait_for_room_and_signatures_of_others_wait_for_nobody() {
    let (mut large, signer) = world(1);
    attach_large(&large).await;
    attach_signature(&large, &signer).await;
    let (gated, open) = Gated::new(large.fetch.clone());
    large.verifier = Verifier::new(gated.clone()).with_room(2);
    let (mut small, signer) = world(2);
    small.fetch = large.fetch.clone();
    attach_signature(&small, &signer).await;
    std::mem::swap(&mut small.verifier, &mut large.verifier);

    let (at_work, beside) = {
        let verifier = &small.verifier;
        let slow = async {
            let request = large.request(jiff::Timestamp::UNIX_EPOCH);
            verifier.verify(request).await
        };
        let quick = async {
            // Until the slow one has filled the room.
            while gated.under_way.load(Ordering::SeqCst) < 2 {
                tokio::task::yield_now().await;
            }
            let verdict = tokio::time::timeout(Duration::from_secs(10), small.verdict()).await;
            open.send_replace(true);
            verdict
        };
        tokio::join!(slow, quick)
    };
    assert!(beside.expect("it waited for another image").allows());
    assert!(at_work.allows(), "what waited is read all the same: {}", at_work.summary());
    assert_eq!(gated.most.load(Ordering::SeqCst), 2, "of 1 MiB each, in a room of 2 MiB");
}

/// The threads on which something is said to be verified.
struct Threads(Arc<RwLock<Vec<ThreadId>>>);

struct Said(bool);

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0 |= field.name() == "message" && format!("{value:?}") == "verified";
    }
}

impl Subscriber for Threads {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("tidegate")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut said = Said(false);
        event.record(&mut said);
        if said.0 {
            self.0.write().unwrap().push(std::thread::current().id());
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn nothing_is_judged_on_the_threads_that_answer() {
    let threads = Arc::new(RwLock::new(Vec::new()));
    tracing::subscriber::set_global_default(Threads(threads.clone())).unwrap();
    let (world, signer) = world(3);
    attach_signature(&world, &signer).await;
    assert!(world.verdict().await.allows());
    let judged = threads.read().unwrap().clone();
    assert!(!judged.is_empty() && !judged.contains(&std::thread::current().id()), "{judged:?}");
}

#[tokio::test]
async fn a_signature_on_an_index_is_none_on_a_child_that_is_named_by_itself() {
    let (mut world, signer) = world(4);
    let child = format!(r#"{{"schemaVersion":2,"config":{{"digest":"{}"}}}}"#, Digest::of(b"config"));
    let child = world.fetch.push(&IMAGE.parse().unwrap(), child).await;
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{child}","size":9}}]}}"#);
    let index = world.fetch.push(&IMAGE.parse().unwrap(), index).await;
    world.image = format!("{IMAGE}@{index}").parse().unwrap();
    attach_signature(&world, &signer).await;
    assert!(world.verdict().await.allows(), "the index, whose digest covers its children's");

    world.image = format!("{IMAGE}@{child}").parse().unwrap();
    let verdict = world.verdict().await;
    assert!(!verdict.allows() && verdict.summary().contains("name the index"), "{}", verdict.summary());
    assert!(verdict.retryable(), "it may be signed yet");
    let copied = signer.statement(&index, "https://sigstore.dev/cosign/sign/v1", "{}");
    world.fetch.attach(&world.image, &child, BUNDLE_MEDIA_TYPE, copied).await;
    let verdict = world.verdict().await;
    assert!(!verdict.allows() && verdict.summary().contains("not of this image"), "{}", verdict.summary());
    attach_signature(&world, &signer).await;
    assert!(world.verdict().await.allows(), "signed by itself (`cosign sign --recursive`)");
}

/// A registry whose answer nobody thought of.
struct Breaking(Arc<MemoryFetch>);

#[async_trait]
impl Fetch for Breaking {
    async fn resolve(&self, at: &Location, image: &ImageRef) -> Result<Digest, FetchError> {
        self.0.resolve(at, image).await
    }

    async fn manifest(&self, _: &Location, _: &Digest) -> Result<Manifest, FetchError> {
        panic!("hostile bytes")
    }

    async fn referrers(&self, at: &Location, digest: &Digest) -> Result<Vec<Referrer>, FetchError> {
        self.0.referrers(at, digest).await
    }

    async fn blob(&self, at: &Location, digest: &Digest, limit: u64) -> Result<Bytes, FetchError> {
        self.0.blob(at, digest, limit).await
    }
}

#[tokio::test]
async fn bytes_that_break_the_verification_are_no_answer_and_take_no_task_along() {
    let (mut world, signer) = world(1);
    attach_signature(&world, &signer).await;
    world.verifier = Verifier::new(Arc::new(Breaking(world.fetch.clone())));
    for _ in 0..2 {
        let verdict = world.verifier.verify(world.request(jiff::Timestamp::UNIX_EPOCH)).await;
        assert_eq!(verdict.decision, Decision::Error, "{}", verdict.summary());
        assert!(verdict.retryable());
        assert!(verdict.summary().contains("broke the verification"), "{}", verdict.summary());
    }
}
