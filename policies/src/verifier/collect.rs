//! Gathers what is attached to an image and holds it against the attestors. What it says about
//! itself (media types, annotations) steers what is looked at, never what is believed.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::digest::Digest;
use crate::evidence::{ATTESTATION_MEDIA_TYPE, Authorities, Evidence, Rejected};
use crate::json;
use crate::registry::{Fetch, FetchError, Location, Referrer};

/// Signatures and attestations of one image that are looked at.
const MAX_SIGNATURES: usize = 64;
/// The largest is an SBOM.
const MAX_BLOB: u64 = 256 << 20;
/// All of them together: what one verification may hold and read.
const MAX_TOTAL: u64 = 512 << 20;
const CONCURRENT: usize = 4;
/// A bundle with a signature has some 10 KiB.
const SMALL: u64 = 256 << 10;
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle";

#[derive(Clone, Copy)]
enum Form {
    Bundle,
    Attestation,
}

struct Attached {
    form: Form,
    digest: Digest,
    size: u64,
}

#[derive(Deserialize)]
struct ArtifactManifest {
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: Digest,
    size: u64,
}

fn form(media_type: &str) -> Option<Form> {
    if media_type.starts_with(BUNDLE) {
        Some(Form::Bundle)
    } else if media_type == ATTESTATION_MEDIA_TYPE {
        Some(Form::Attestation)
    } else {
        None
    }
}

/// Whether the artifact may hold evidence. Some registries say nothing of the type, or `empty`.
fn may_hold_evidence(referrer: &Referrer) -> bool {
    match referrer.artifact_type.as_deref() {
        None | Some("" | "application/vnd.oci.empty.v1+json") => referrer.media_type.contains("manifest"),
        Some(ty) => form(ty).is_some(),
    }
}

/// What all verifications together hold of large pieces of evidence: a guard's memory must not depend on
/// how many images are asked for at once. Signatures are small and wait for nobody, so that one image with
/// large attachments at a slow registry does not hold up the others.
#[derive(Clone)]
pub(super) struct Room {
    places: Arc<Semaphore>,
    mib: u32,
}

impl Room {
    /// At most what one verification alone may read.
    pub fn new(mib: u32) -> Self {
        let mib = mib.clamp(1, (MAX_TOTAL >> 20) as u32);
        Self { places: Arc::new(Semaphore::new(mib as usize)), mib }
    }

    /// Waits until a piece of this size may be held. Each asks once, so that none holds while it waits.
    async fn enter(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        if bytes <= SMALL {
            return None;
        }
        let mib = u32::try_from(bytes.div_ceil(1 << 20)).map_or(self.mib, |mib| mib.min(self.mib));
        self.places.clone().acquire_many_owned(mib).await.ok()
    }
}

impl Default for Room {
    fn default() -> Self {
        Self::new(u32::MAX)
    }
}

pub(super) async fn collect(
    fetch: &dyn Fetch,
    at: &Location,
    image: &Digest,
    authorities: Authorities,
    room: &Room,
) -> Evidence {
    let mut evidence = authorities.evidence();
    let referrers = match fetch.referrers(at, image).await {
        Ok(referrers) => referrers,
        Err(error) => {
            evidence.unavailable(error.to_string());
            return evidence;
        }
    };
    let mut seen = BTreeSet::new();
    let candidates: Vec<Referrer> =
        referrers.into_iter().filter(|r| may_hold_evidence(r) && seen.insert(r.digest.clone())).collect();
    if candidates.len() > MAX_SIGNATURES {
        evidence.unavailable(format!(
            "{at} lists {} signatures and attestations for {image}, more than the {MAX_SIGNATURES} that are looked at: \
             delete those that are not needed",
            candidates.len()
        ));
        return evidence;
    }
    let mut attached = Vec::new();
    // Owned digests: a stream that borrows its items is not `Send` for callers that box the verification.
    let digests: Vec<Digest> = candidates.iter().map(|r| r.digest.clone()).collect();
    let mut manifests =
        futures::stream::iter(digests.into_iter().map(|digest| async move { layers(fetch, at, &digest).await }))
            .buffered(CONCURRENT);
    while let Some(layers) = manifests.next().await {
        match layers {
            Ok(Ok(layers)) => attached.extend(layers),
            Ok(Err(rejected)) => evidence.rejected.push(rejected),
            Err(error) => evidence.unavailable(error.to_string()),
        }
    }
    let total: u64 = attached.iter().map(|a| a.size).fold(0, u64::saturating_add);
    if attached.len() > MAX_SIGNATURES || total > MAX_TOTAL {
        evidence.unavailable(format!(
            "{at} holds {} pieces of evidence of {total} bytes for {image}; at most {MAX_SIGNATURES} of {MAX_TOTAL} bytes are read",
            attached.len()
        ));
        return evidence;
    }
    let authorities = Arc::new(authorities);
    let mut found = futures::stream::iter(attached.into_iter().map(|attached| {
        let authorities = Arc::clone(&authorities);
        async move {
            let limit = attached.size.min(MAX_BLOB);
            let _held = room.enter(limit).await;
            match fetch.blob(at, &attached.digest, limit).await {
                Ok(bytes) => examine(authorities, attached, image.clone(), at.to_string(), bytes).await,
                Err(error) => {
                    let mut nothing = Evidence::default();
                    nothing.unavailable(error.to_string());
                    nothing
                }
            }
        }
    }))
    .buffered(CONCURRENT);
    while let Some(found) = found.next().await {
        evidence.merge(found);
    }
    evidence
}

/// What of an artifact may be evidence; the error is for the reason alone, since the bytes are known.
async fn layers(
    fetch: &dyn Fetch,
    at: &Location,
    digest: &Digest,
) -> Result<Result<Vec<Attached>, Rejected>, FetchError> {
    let manifest = fetch.manifest(at, digest).await?;
    let parsed: ArtifactManifest = match json::parse(&manifest.bytes, "an artifact's manifest") {
        Ok(parsed) => parsed,
        Err(error) => {
            return Ok(Err(Rejected {
                source: digest.clone(),
                attestor: None,
                kind: None,
                reason: error.to_string(),
                forged: true,
            }));
        }
    };
    let attached = parsed.layers.into_iter().filter_map(|layer| {
        form(&layer.media_type).map(|form| Attached { form, digest: layer.digest, size: layer.size })
    });
    Ok(Ok(attached.collect()))
}

/// Off the async threads: a large SBOM takes its time.
async fn examine(
    authorities: Arc<Authorities>,
    attached: Attached,
    image: Digest,
    repository_path: String,
    bytes: Bytes,
) -> Evidence {
    let work = move || {
        let (source, mut found) = (attached.digest, Evidence::default());
        match attached.form {
            Form::Bundle => authorities.examine_bundle(&image, &source, &bytes, &mut found),
            Form::Attestation => {
                authorities.examine_attestation(&image, &repository_path, &source, &bytes, &mut found);
            }
        }
        found
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(found) => found,
        // A verifier that panicked on hostile bytes has verified nothing.
        Err(error) => {
            let mut nothing = Evidence::default();
            nothing.unavailable(format!("a piece of evidence could not be examined: {error}"));
            nothing
        }
    }
}
