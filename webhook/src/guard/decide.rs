//! The decision, pure: a request and what is known about it give an answer with its reasons. Reads
//! no clock, asks nobody. Every finding is told, not the first alone.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;
use tidegate_policies::deployers::is_deployer;
use tidegate_policies::image::ImageRef;
use tidegate_policies::model::Mode;

pub use super::reason::{Answer, Exception, Reason};

use super::facts::{Chain, Facts, ImageFact, InForce, Judged, Quarantined, Standing};
use super::review::{Object, Review, Subject};
use super::stable::Place;
use super::template::{Placed, changed, images, made_from, same};

/// The account under which Tidegate itself sets images: a deployer everywhere.
const SPOKE: &str = "system:serviceaccount:tidegate-system:tidegate-spoke";
/// All controllers at once, where they are not given accounts of their own.
const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";
const NOT_ASKED: &str = "it was not looked at";
const BREAK_GLASS_KEYS: [&str; 2] = ["image-policy.k8s.io/break-glass", "alpha.image-policy.k8s.io/break-glass"];

/// What must be looked at, so that only that is gathered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Questions {
    /// Images that decide.
    pub images: Vec<Placed>,
    /// Whether they only warn.
    pub warn_only: bool,
    /// Whether the owners above must be known.
    pub owners: bool,
    /// Whether this user must be a deployer, and for what.
    pub deployer_for: Option<&'static str>,
}

/// What this request raises. Nothing at all: it passes.
pub fn questions(review: &Review) -> Questions {
    match &review.subject {
        Subject::Passes => Questions::default(),
        Subject::Pod { new, old: None } => Questions {
            images: images(&new.pod),
            warn_only: false,
            owners: is_controller(&review.user, None),
            deployer_for: Some("making a pod"),
        },
        Subject::Pod { new, old: Some(old) } => {
            let before: Vec<Placed> = images(&old.pod);
            let changed: Vec<Placed> = images(&new.pod).into_iter().filter(|image| !before.contains(image)).collect();
            let deployer_for = (!changed.is_empty()).then_some("changing a pod's images");
            Questions { images: changed, deployer_for, ..Questions::default() }
        }
        Subject::Workload { kind, new, old } => match old {
            // An older template is a Deployment's to bring back, which needs a deployer; whoever scales its
            // ReplicaSet up would bring it back as well.
            Some(old) if !changed(&old.raw, &new.raw) => Questions {
                deployer_for: (new.replicas > old.replicas
                    && old.of_deployment
                    && !is_controller(&review.user, Some(kind)))
                .then_some("scaling up a ReplicaSet that a Deployment made"),
                ..Questions::default()
            },
            _ => Questions {
                images: images(&new.pod),
                warn_only: true,
                owners: is_controller(&review.user, Some(kind)),
                deployer_for: Some(match old {
                    None => "making a workload",
                    Some(_) => "changing a pod template",
                }),
            },
        },
    }
}

/// Whether this is the user of a built-in controller that makes such objects (`None`: pods).
fn is_controller(user: &str, kind: Option<&str>) -> bool {
    let account = user.strip_prefix("system:serviceaccount:kube-system:");
    let makers: &[&str] = match kind {
        None => &[
            "replicaset-controller",
            "statefulset-controller",
            "daemon-set-controller",
            "job-controller",
            "replication-controller",
        ],
        Some("ReplicaSet") => &["deployment-controller"],
        Some("Job") => &["cronjob-controller"],
        Some("ControllerRevision") => &["statefulset-controller", "daemon-set-controller"],
        Some(_) => &[],
    };
    !makers.is_empty() && (user == CONTROLLER_MANAGER || account.is_some_and(|name| makers.contains(&name)))
}

pub fn decide(review: &Review, facts: &Facts) -> Answer {
    let asked = questions(review);
    let (new, old) = match &review.subject {
        Subject::Passes => return Answer::allow(),
        Subject::Pod { new, old } | Subject::Workload { new, old, .. } => (new, old.as_deref()),
    };
    let label = break_glass_label(new, old);
    if asked == Questions::default() && label.is_none() {
        return Answer::allow();
    }
    let in_force = match &facts.in_force {
        Ok(in_force) => in_force,
        Err(error) => {
            return Answer::refuse(Reason::NoPolicy, format!("{error}; without a policy nothing new starts"));
        }
    };
    let mut case = Case::new(review, facts, in_force);
    case.person(&asked, label, new);
    for placed in &asked.images {
        if asked.warn_only { case.warn(placed) } else { case.image(placed) }
    }
    let Case { mut answer, .. } = case;
    answer.allowed = answer.findings.is_empty() || in_force.policy.mode == Mode::Audit;
    if answer.allowed {
        answer.warnings.extend(answer.findings.iter().map(|(_, text)| format!("would be refused in Enforce: {text}")));
    }
    answer
}

/// The answer to a request that is refused whatever a registry says of its images; `None` if that
/// depends on them, and in Audit, where all of them are told. The facts are what the cluster knows by itself.
pub fn refused_anyway(review: &Review, facts: &Facts) -> Option<Answer> {
    let in_force = facts.in_force.as_ref().ok().filter(|in_force| in_force.policy.mode == Mode::Enforce)?;
    let asked = questions(review);
    let (new, old) = match &review.subject {
        Subject::Passes => return None,
        Subject::Pod { new, old } | Subject::Workload { new, old, .. } => (new, old.as_deref()),
    };
    let mut case = Case::new(review, facts, in_force);
    case.person(&asked, break_glass_label(new, old), new);
    let mut unseen = 0;
    for placed in &asked.images {
        match facts.images.get(&placed.image) {
            _ if asked.warn_only => case.warn(placed),
            Some(ImageFact::Unreadable(_)) => case.image(placed),
            Some(ImageFact::Pinned(standing)) if case.held_back(placed, standing) => {}
            _ => unseen += 1,
        }
    }
    let Case { mut answer, .. } = case;
    if answer.findings.is_empty() {
        return None;
    }
    // An exception that let nothing in was not used.
    answer.exceptions.clear();
    if unseen > 0 {
        answer.warnings.push(format!("{unseen} image(s) were not verified, since this is refused in any case"));
    }
    Some(answer)
}

/// The key of Google's break-glass mark, if this request brings it in.
fn break_glass_label(new: &Object, old: Option<&Object>) -> Option<&'static str> {
    let marks = |object: &Object| -> BTreeSet<&'static str> {
        let maps = [&object.metadata, &object.pod_metadata].into_iter().flat_map(|m| [&m.labels, &m.annotations]);
        let keys = maps.flatten().flat_map(|map| map.keys());
        keys.filter_map(|key| BREAK_GLASS_KEYS.into_iter().find(|mark| mark == key)).collect()
    };
    let before = old.map(marks).unwrap_or_default();
    marks(new).into_iter().find(|mark| !before.contains(mark))
}

struct Case<'a> {
    review: &'a Review,
    facts: &'a Facts,
    in_force: &'a InForce,
    answer: Answer,
    /// A built-in controller made it, under a live owner that it matches.
    made_by_owner: bool,
}

impl<'a> Case<'a> {
    fn new(review: &'a Review, facts: &'a Facts, in_force: &'a InForce) -> Self {
        Self { review, facts, in_force, answer: Answer::default(), made_by_owner: false }
    }

    /// Who asks, and by which right.
    fn person(&mut self, asked: &Questions, label: Option<&str>, new: &Object) {
        if let Some(key) = label {
            self.find(
                Reason::BreakGlassLabel,
                format!("`{key}` lets nothing in here: make a BreakGlass object in this namespace (user, digest, expiry, reason; verb `breakglass`)"),
            );
        }
        if let Some(what) = asked.deployer_for {
            self.deployer(what, new);
        }
    }

    fn find(&mut self, reason: Reason, text: String) {
        self.answer.findings.push((reason, text));
    }

    fn deployer(&mut self, what: &str, new: &Object) {
        let Review { user, groups, subject, .. } = self.review;
        let kind = match subject {
            Subject::Workload { kind, .. } => Some(kind.as_str()),
            _ => None,
        };
        let controller = is_controller(user, kind);
        if controller {
            match (self.owned(new), &self.facts.chain) {
                (Ok(()), _) => self.made_by_owner = true,
                // Who restricts nobody restricts no controllers either.
                _ if !self.in_force.policy.deployers.is_empty() => {
                    let (reason, text) = self.owned(new).err().unwrap_or((Reason::OwnerMismatch, String::new()));
                    self.find(reason, text);
                }
                _ => {}
            }
            return;
        }
        let mirror = groups.iter().any(|group| group == "system:nodes")
            && new.metadata.annotations.as_ref().is_some_and(|a| a.contains_key("kubernetes.io/config.mirror"));
        if user == SPOKE || is_deployer(&self.in_force.policy, user, groups) || (mirror && kind.is_none()) {
            return;
        }
        let forged = match new.controller() {
            Some(owner) if kind.is_none() => format!(
                "; its owner reference to {} `{}` does not count, since that owner's controller did not make it",
                owner.kind, owner.name
            ),
            _ => String::new(),
        };
        let policy = &self.in_force.name;
        self.find(
            Reason::NotADeployer,
            format!("`{user}` is not a deployer under policy `{policy}`, and {what} needs one{forged}"),
        );
    }

    /// Whether the owners live and the object is what the nearest one makes.
    fn owned(&self, new: &Object) -> Result<(), (Reason, String)> {
        let mismatch = |text: String| Err((Reason::OwnerMismatch, text));
        match &self.facts.chain {
            Chain::Live { owner, template, claims, .. } => {
                let matches = match &self.review.subject {
                    Subject::Workload { kind, .. } if kind == "ReplicaSet" => {
                        if same(template, &new.raw) {
                            Ok(())
                        } else {
                            Err("its template is another".to_owned())
                        }
                    }
                    _ => made_from(template, &new.raw, claims),
                };
                matches.or_else(|why| mismatch(format!("it is not what its owner {owner} makes: {why}")))
            }
            Chain::None | Chain::NotAsked => mismatch("it has no controlling owner".to_owned()),
            Chain::Broken(why) => mismatch(format!("its owner does not hold: {why}")),
            Chain::Unknown(why) => {
                Err((Reason::OwnerUnknown, format!("its owner could not be looked up ({why}); try again")))
            }
        }
    }

    fn image(&mut self, placed: &Placed) {
        let Placed { place, image } = placed;
        match self.facts.images.get(image) {
            None => self.find(Reason::ImageUnverified, format!("{place}: image `{image}` was not looked at")),
            Some(ImageFact::Unreadable(why)) => self.find(Reason::NotAnImage, format!("{place}: {why}")),
            Some(ImageFact::Pinned(standing)) => self.digest(placed, standing),
            Some(ImageFact::Tag { image, now }) => {
                self.find(Reason::TagNotAllowed, format!("{place}: {}", tag(image, now)))
            }
        }
    }

    /// Whether its quarantine refuses this image.
    fn held_back(&mut self, placed: &Placed, standing: &Standing) -> bool {
        let digest = standing.digest();
        standing.quarantine.as_ref().is_some_and(|quarantine| !self.outlasts(placed, &digest, quarantine))
    }

    fn digest(&mut self, placed: &Placed, standing: &Standing) {
        let place = &placed.place;
        let digest = standing.digest();
        if self.held_back(placed, standing) {
            return;
        }
        let (reason, why) = match &standing.judged {
            Judged::Allow => return,
            Judged::Deny(why) => (Reason::ImageDenied, why.as_str()),
            Judged::Error(why) => (Reason::ImageUnverified, why.as_str()),
            Judged::NotAsked => (Reason::ImageUnverified, NOT_ASKED),
        };
        if let Some(expired) = self.grace(standing) {
            self.answer.warnings.push(format!(
                "{place}: its verdict expired at {expired}; it may restart meanwhile, since it is stable here"
            ));
            self.except(Exception::RestartGrace, digest);
            return;
        }
        let user = &self.review.user;
        let made_by_owner = self.made_by_owner;
        let glass = self.facts.break_glass.iter().filter(|_| standing.quarantine.is_none()).find(|glass| {
            glass.digest == digest && glass.expires_at.0 > self.facts.now && (made_by_owner || glass.user == *user)
        });
        if let Some(glass) = glass {
            self.answer
                .warnings
                .push(format!("{place}: let in by break-glass of {} until {}", glass.user, glass.expires_at.0));
            let told = format!("{digest} by {}: {}", glass.user, glass.reason);
            self.except(Exception::BreakGlass, told);
            return;
        }
        self.find(reason, format!("{place}: {why}"));
    }

    /// Whether a quarantined image may restart where it has been stable, for a bounded time: until the
    /// rollback is through, a drained node must not take down what serves. Everywhere else it is refused.
    fn outlasts(&mut self, placed: &Placed, digest: &str, quarantine: &Quarantined) -> bool {
        let Quarantined { why, since, stable_in } = quarantine;
        let place = &placed.place;
        let until = since.filter(|_| self.serves_stable(placed, stable_in));
        let until = until.and_then(|since| since.checked_add(self.facts.restart_grace).ok());
        match until {
            Some(until) if self.facts.now <= until => {
                self.answer.warnings.push(format!(
                    "{place}: {digest} is quarantined ({why}); it is stable here and may restart until {until}, or until it is rolled back"
                ));
                self.except(Exception::QuarantineGrace, format!("{digest} until {until}: {why}"));
                true
            }
            over => {
                let ended = over.map(|until| {
                    format!("; it is stable here, but its grace to restart ended at {until}: roll it back")
                });
                self.find(
                    Reason::Quarantined,
                    format!(
                        "{place}: {digest} is quarantined ({why}); neither break-glass nor another policy lifts that{}",
                        ended.unwrap_or_default()
                    ),
                );
                false
            }
        }
    }

    /// Whether this container belongs to a workload whose stable pods run this image: by its Rollouts
    /// and by its template as it is now. Labels and owner references alone say nothing.
    fn serves_stable(&self, placed: &Placed, stable_in: &[Place]) -> bool {
        let Chain::Live { top, .. } = &self.facts.chain else { return false };
        if !self.made_by_owner || top.kind != "Deployment" {
            return false;
        }
        let runs = |container: &str| {
            let containers = top.template.pointer("/spec/containers").and_then(Value::as_array).into_iter().flatten();
            let text = |value: &'_ Value, field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
            containers.into_iter().any(|one| {
                text(one, "name").as_deref() == Some(container) && text(one, "image").as_ref() == Some(&placed.image)
            })
        };
        stable_in.iter().any(|stable| {
            stable.workload == top.name
                && placed.place == format!("container `{}`", stable.container)
                && runs(&stable.container)
        })
    }

    fn except(&mut self, exception: Exception, told: String) {
        self.answer.exceptions.push((exception, told));
    }

    /// When its verdict ran out, if what is stable here may still restart on it.
    fn grace(&self, standing: &Standing) -> Option<Timestamp> {
        let expired = standing.expired.filter(|_| self.made_by_owner && standing.stable)?;
        (self.facts.now.duration_since(expired) <= self.facts.restart_grace).then_some(expired)
    }

    /// Of a workload kind: its pods will be judged, so here it is only told.
    fn warn(&mut self, placed: &Placed) {
        let Placed { place, image } = placed;
        let told = match self.facts.images.get(image) {
            None => return,
            Some(ImageFact::Unreadable(why)) => why.clone(),
            Some(ImageFact::Tag { image, now }) => tag(image, now),
            Some(ImageFact::Pinned(Standing { quarantine: Some(quarantine), image, .. })) => {
                format!("{image} is quarantined ({})", quarantine.why)
            }
            Some(ImageFact::Pinned(Standing { judged: Judged::Deny(why), .. })) => why.clone(),
            Some(ImageFact::Pinned(_)) => return,
        };
        self.answer.warnings.push(format!("{place}: {told}"));
    }
}

/// Why a tag is refused: what it names now, and how that stands.
fn tag(image: &ImageRef, now: &Result<Standing, String>) -> String {
    match now {
        Err(why) => format!("`{image}` is a tag, and what it names could not be found out ({why}): name a digest"),
        Ok(Standing { image: pinned, quarantine: Some(quarantine), .. }) => {
            format!("`{image}` is a tag; it names `{pinned}` now, which is quarantined ({})", quarantine.why)
        }
        Ok(Standing { image: pinned, judged, .. }) => match judged {
            Judged::Allow => format!("`{image}` is a tag; write `{pinned}`, which it names now and which is allowed"),
            Judged::Deny(why) => format!("`{image}` is a tag; it names `{pinned}` now, which is denied: {why}"),
            Judged::Error(why) => unverified(image, pinned, why),
            Judged::NotAsked => unverified(image, pinned, NOT_ASKED),
        },
    }
}

fn unverified(image: &ImageRef, pinned: &ImageRef, why: &str) -> String {
    format!("`{image}` is a tag; it names `{pinned}` now, which could not be verified: {why}")
}
