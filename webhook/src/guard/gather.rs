//! Collects what a decision needs and nothing beyond: images as the request's questions name them,
//! owners only where a controller claims them. Never decides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::Value;
use tidegate_pipelines::api::{Rollout, VerdictDecision};
use tidegate_policies::image::{ImageRef, ImageRefError};
use tidegate_policies::model::Scope;
use tokio::time::Instant;

use super::assess::{Assessor, Want};
use super::cluster::{Cluster, quarantined};
use super::decide::Questions;
use super::facts::{Chain, ImageFact, InForce, Judged, Standing, Top};
use super::review::{Object, Review, Subject};
use super::stable;

/// Different images of one pod that are looked at; each may cost a registry's answer.
const MOST_IMAGES: usize = 64;
const TOO_MANY: &str = "a pod with more than 64 different images is not looked at: split it";

/// Which ControllerRevision a StatefulSet's pod is of.
const REVISION: &str = "controller-revision-hash";

/// Owners above a pod: ReplicaSet and Deployment, or Job and CronJob. More would be no built-in chain.
const DEPTH: usize = 2;

/// By their text.
pub type Tags = BTreeMap<String, ImageRef>;

pub struct Gatherer<'a> {
    pub cluster: &'a dyn Cluster,
    pub assessor: &'a Assessor,
    pub environment: &'a str,
    pub dry_run: bool,
    /// When all must be known.
    pub deadline: Instant,
}

impl Gatherer<'_> {
    /// What this cluster knows of the images by itself: which of them are none, and which are quarantined; and those
    /// that are tags, of which it knows nothing. Asks no registry.
    pub fn known(&self, review: &Review, asked: &Questions) -> (BTreeMap<String, ImageFact>, Tags) {
        let rollouts = self.cluster.rollouts(Some(&review.namespace));
        let mut texts: Vec<&str> = asked.images.iter().map(|placed| placed.image.as_str()).collect();
        texts.sort_unstable();
        texts.dedup();
        let beyond = texts.split_off(texts.len().min(MOST_IMAGES));
        let beyond = beyond.into_iter().map(|text| (text.to_owned(), ImageFact::Unreadable(TOO_MANY.to_owned())));
        let (mut known, mut tags) = (BTreeMap::from_iter(beyond), Tags::new());
        for text in texts {
            let fact = match parse(text) {
                Err(why) => ImageFact::Unreadable(why),
                Ok(image) if image.digest.is_some() => ImageFact::Pinned(self.standing(image, &rollouts)),
                Ok(image) => {
                    tags.insert(text.to_owned(), image);
                    continue;
                }
            };
            known.insert(text.to_owned(), fact);
        }
        (known, tags)
    }

    /// The same, verified; tags are resolved.
    pub async fn images(
        &self,
        review: &Review,
        in_force: &Arc<InForce>,
        warn_only: bool,
        (known, tags): (BTreeMap<String, ImageFact>, Tags),
    ) -> BTreeMap<String, ImageFact> {
        let scope = &scope(review);
        let known = known.into_iter().map(async |(text, fact)| match fact {
            ImageFact::Pinned(standing) => {
                (text, ImageFact::Pinned(self.verified(standing, in_force, scope, warn_only).await))
            }
            fact => (text, fact),
        });
        let tags =
            tags.into_iter().map(async |(text, image)| (text, self.resolved(image, in_force, scope, warn_only).await));
        let (known, tags) = tokio::join!(join_all(known), join_all(tags));
        known.into_iter().chain(tags).collect()
    }

    async fn resolved(&self, image: ImageRef, in_force: &Arc<InForce>, scope: &Scope, warn_only: bool) -> ImageFact {
        let now = match self.assessor.resolve(in_force, &scope.namespace, &image, self.left()).await {
            Err(why) => Err(why),
            Ok(digest) => {
                let rollouts = self.cluster.rollouts(Some(&scope.namespace));
                let standing = self.standing(image.with_digest(digest), &rollouts);
                Ok(self.verified(standing, in_force, scope, warn_only).await)
            }
        };
        ImageFact::Tag { image, now }
    }

    fn standing(&self, image: ImageRef, rollouts: &[Arc<Rollout>]) -> Standing {
        let digest = image.digest.as_ref().map(ToString::to_string).unwrap_or_default();
        let mut quarantine = quarantined(&self.cluster.quarantines(), self.environment, &digest);
        if let Some(quarantine) = &mut quarantine
            && let Some(since) = quarantine.since
        {
            quarantine.stable_in = stable::since_before(rollouts, &image.repository_path(), &digest, since);
        }
        let stable = stable::runs(rollouts, &digest);
        Standing { image, judged: Judged::NotAsked, quarantine, stable, expired: None }
    }

    async fn verified(&self, standing: Standing, in_force: &Arc<InForce>, scope: &Scope, warn_only: bool) -> Standing {
        let want = Want { image: standing.image.clone(), scope: scope.clone(), revision: None };
        let (judged, expired) = if warn_only {
            // A warning is worth a look, not a verification.
            let judged = match self.assessor.kept(in_force, &want) {
                Some(kept) if kept.decision == VerdictDecision::Deny => Judged::Deny(kept.summary.clone()),
                Some(kept) if kept.decision == VerdictDecision::Allow => Judged::Allow,
                _ => Judged::Error("not verified yet".to_owned()),
            };
            (judged, None)
        } else {
            let found = self.assessor.assess(in_force, &want, self.left(), !self.dry_run).await;
            (found.judged, found.expired)
        };
        Standing { judged, expired, ..standing }
    }

    /// For how long owners may be looked up, one after the other: by them it is known whether any registry is to be asked
    /// at all. A registry has its half of the time; where none is to be asked, the API server may have all of it.
    pub fn for_owners(&self, review: &Review, in_force: &InForce, asked: &Questions) -> Duration {
        let scope = scope(review);
        let asks_nobody = |text: &str| {
            let Ok(image) = text.parse::<ImageRef>() else { return true };
            let pinned = image.digest.is_some();
            let want = Want { image, scope: scope.clone(), revision: None };
            pinned && (asked.warn_only || self.assessor.kept_allow(in_force, &want))
        };
        match asked.images.iter().all(|placed| asks_nobody(&placed.image)) {
            true => self.left(),
            false => self.left() / 2,
        }
    }

    /// The owners above this object, each read live.
    pub async fn chain(&self, review: &Review, object: &Object, within: Duration) -> Chain {
        match tokio::time::timeout(within, self.owners(review, object)).await {
            Ok(chain) => chain,
            Err(_) => Chain::Unknown(format!("the API server did not say within {} ms", within.as_millis())),
        }
    }

    async fn owners(&self, review: &Review, object: &Object) -> Chain {
        let Some(first) = object.controller() else { return Chain::None };
        let mut nearest = None;
        let mut top = None;
        let mut next: Option<OwnerReference> = Some(first.clone());
        for _ in 0..DEPTH {
            let Some(reference) = next.take() else { break };
            let (kind, name) = (reference.kind.as_str(), reference.name.as_str());
            let title = format!("{kind} `{name}`");
            if !is_built_in(&reference) {
                // Whoever set the template below was judged as a deployer; above it is no concern of ours.
                if nearest.is_some() {
                    break;
                }
                return Chain::Broken(format!("{title} is no built-in workload"));
            }
            let owner = match self.cluster.owner(&review.namespace, kind, name).await {
                Ok(Some(owner)) => owner,
                Ok(None) => return Chain::Broken(format!("{title} does not exist")),
                Err(error) => return Chain::Unknown(error),
            };
            if owner.uid != reference.uid {
                return Chain::Broken(format!("{title} has another uid than the owner reference"));
            }
            if owner.deleting {
                return Chain::Broken(format!("{title} is being deleted"));
            }
            next = owner.controller.clone();
            top = Some(Top {
                kind: reference.kind.clone(),
                name: reference.name.clone(),
                template: owner.template.clone(),
            });
            if nearest.is_none() {
                let template = match self.revision(review, object, &reference).await {
                    Ok(revision) => revision.unwrap_or(owner.template),
                    Err(why) => return Chain::Unknown(why),
                };
                nearest = Some((title, template, owner.claims));
            }
        }
        match (nearest, top) {
            (Some((owner, template, claims)), Some(top)) => Chain::Live { owner, template, claims, top },
            _ => Chain::None,
        }
    }

    /// The template of the revision that a StatefulSet's pod is of: below the partition, and until an update
    /// has come to it, that is an older one than the StatefulSet's own.
    async fn revision(&self, review: &Review, object: &Object, set: &OwnerReference) -> Result<Option<Value>, String> {
        let label = object.pod_metadata.labels.as_ref().and_then(|labels| labels.get(REVISION));
        let Some(name) = label.filter(|_| set.kind == "StatefulSet") else { return Ok(None) };
        let found = self.cluster.owner(&review.namespace, "ControllerRevision", name).await?;
        let own = found.filter(|revision| revision.controller.as_ref().is_some_and(|owner| owner.uid == set.uid));
        Ok(own.map(|revision| revision.template).filter(|template| template.get("spec").is_some_and(Value::is_object)))
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// For whom a check set may be.
fn scope(review: &Review) -> Scope {
    let account = match &review.subject {
        Subject::Pod { new, .. } | Subject::Workload { new, .. } => new.pod.service_account_name.clone(),
        Subject::Passes => None,
    };
    let account = account.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned());
    Scope { namespace: review.namespace.clone(), service_account: Some(account) }
}

/// The image, or why the text names none.
fn parse(text: &str) -> Result<ImageRef, String> {
    if text.is_empty() {
        return Err("it names no image".to_owned());
    }
    text.parse().map_err(|error: ImageRefError| error.to_string())
}

fn is_built_in(reference: &OwnerReference) -> bool {
    matches!(
        (reference.api_version.as_str(), reference.kind.as_str()),
        ("apps/v1", "ReplicaSet" | "Deployment" | "StatefulSet" | "DaemonSet")
            | ("batch/v1", "Job" | "CronJob")
            | ("v1", "ReplicationController")
    )
}
