//! What is merged where for the kinds that hold here by name: environment, policies, attestors, trust roots,
//! quarantines. Pure functions from JSON to JSON; they never see a cluster.

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tidegate_pipelines::api::names;

use super::loosen;
use super::reliance::Footing;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Environment,
    Policy,
    Attestor,
    TrustRoot,
    Quarantine,
}

/// What is here of one object.
#[derive(Clone, Copy, Debug)]
pub enum Here<'a> {
    Copy(&'a Value),
    /// Neither a copy nor anything that relies on one.
    Nothing,
    /// No copy, although what is in force names it; and the digest of the document whose delay runs, since when.
    Missed(Option<(&'a str, Timestamp)>),
    /// No copy of the policy that governed here, and the source says what that one said.
    Lost,
}

/// How long what loosens waits here.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The environment's `loosenDelay` in seconds.
    pub delay: i64,
    pub now: Timestamp,
    /// Since when what the document newly relies on is known here: its own wait is not over before that one's.
    pub footing: Footing,
}

impl Pace {
    /// Whether the delay of a document that loosens is over; `since`: when it began, if it did.
    fn over(&self, since: Option<Timestamp>) -> bool {
        self.delay <= 0 || since.is_some_and(|at| self.now.duration_since(at).as_secs() >= self.delay)
    }

    fn firm(&self) -> bool {
        match self.footing {
            Footing::Firm => true,
            Footing::Since(at) => self.over(Some(at)),
            Footing::Open => self.over(None),
        }
    }
}

/// What to do with the local copy of one object.
#[derive(Clone, Debug, PartialEq)]
pub enum Merge {
    Nothing,
    /// Apply this `spec` with these annotations of ours.
    Write {
        spec: Value,
        annotations: Value,
    },
    /// An explicit tombstone: the local copy goes.
    Remove,
    /// A first copy that loosens: the delay of the document with this digest begins.
    Await(String),
}

/// Whole: whoever writes both documents could find two that share a short one.
fn digest(spec: &Value) -> String {
    hex::encode(Sha256::digest(spec.to_string().as_bytes()))
}

/// Of what an object says, the same for all that are the [`same`].
pub fn fingerprint(object: &Value) -> String {
    digest(&lean(object.get("spec").unwrap_or(&Value::Null)))
}

fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.pointer("/metadata/annotations")?.get(key)?.as_str()
}

/// Without the nulls and empty values that a schema's defaults leave out or put in.
fn lean(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .map(|(k, v)| (k.clone(), lean(v)))
                .filter(|(_, v)| !(v.is_null() || *v == json!([]) || *v == json!({}) || *v == json!(false)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(lean).collect()),
        other => other.clone(),
    }
}

fn same(a: &Value, b: &Value) -> bool {
    lean(a) == lean(b)
}

/// `source` is the hub's object as it is there now; `None` (absent, unreachable, not listed) changes nothing, so
/// there is no such argument.
pub fn merge(kind: Kind, source: &Value, here: Here<'_>, pace: Pace) -> Merge {
    let wanted = source.get("spec").cloned().unwrap_or_else(|| json!({}));
    let withdrawn = wanted.get("withdrawn").and_then(Value::as_bool).unwrap_or(false);
    let local = match here {
        Here::Copy(local) => local,
        _ if withdrawn => return Merge::Nothing,
        Here::Nothing => return Merge::Write { spec: wanted, annotations: json!({}) },
        Here::Lost if pace.firm() => return Merge::Write { spec: wanted, annotations: json!({}) },
        Here::Lost => return Merge::Nothing,
        Here::Missed(waiting) => {
            let this = digest(&wanted);
            let since = waiting.filter(|(digest, _)| *digest == this).map(|(_, since)| since);
            return match (pace.over(since) && pace.firm(), since) {
                // What names it in turn has no need to wait for it once more.
                (true, since) => {
                    let annotations = since.map_or(json!({}), |at| json!({ names::FIRST_SEEN: at.to_string() }));
                    Merge::Write { spec: wanted, annotations }
                }
                (false, Some(_)) => Merge::Nothing,
                (false, None) => Merge::Await(this),
            };
        }
    };
    let present = local.get("spec").cloned().unwrap_or_else(|| json!({}));
    let waiting = annotation(local, names::PENDING);
    if same(&wanted, &present) && !withdrawn {
        let clear = Merge::Write { spec: present, annotations: json!({}) };
        return if waiting.is_some() { clear } else { Merge::Nothing };
    }
    if !withdrawn && !loosen::loosens(kind, &present, &wanted) {
        return Merge::Write { spec: wanted, annotations: json!({}) };
    }
    let since = annotation(local, names::PENDING_SINCE).and_then(|text| text.parse::<Timestamp>().ok());
    let this = digest(&wanted);
    let since = since.filter(|_| waiting == Some(this.as_str()));
    // A tombstone relies on nothing.
    match (pace.over(since) && (withdrawn || pace.firm()), withdrawn) {
        (true, true) => Merge::Remove,
        (true, false) => Merge::Write { spec: wanted, annotations: json!({}) },
        // Its time runs already.
        (false, _) if waiting == Some(this.as_str()) && since.is_some() => Merge::Nothing,
        (false, _) => Merge::Write {
            spec: present,
            annotations: json!({ names::PENDING: this, names::PENDING_SINCE: pace.now.to_string() }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(spec: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": spec})
    }

    fn now() -> Timestamp {
        "2026-01-01T00:10:00Z".parse().unwrap()
    }

    fn pace(delay: i64, now: Timestamp) -> Pace {
        Pace { delay, now, footing: Footing::Firm }
    }

    fn later(seconds: i64) -> Timestamp {
        now() + jiff::SignedDuration::from_secs(seconds)
    }

    fn enforce() -> Value {
        json!({"mode": "Enforce", "checkSets": [{"displayName": "all", "checks": [{"name": "signed"}]}]})
    }

    fn audit() -> Value {
        json!({"mode": "Audit", "checkSets": [{"displayName": "all", "checks": [{"name": "signed"}]}]})
    }

    #[test]
    fn what_is_new_is_taken_at_once_and_what_is_the_same_is_left_alone() {
        let source = policy(enforce());
        assert!(matches!(merge(Kind::Policy, &source, Here::Nothing, pace(300, now())), Merge::Write { .. }));
        let local = policy(
            json!({"mode": "Enforce", "deployers": [], "withdrawn": false, "checkSets": enforce()["checkSets"]}),
        );
        assert_eq!(
            merge(Kind::Policy, &source, Here::Copy(&local), pace(300, now())),
            Merge::Nothing,
            "defaults make no difference"
        );
    }

    #[test]
    fn tightening_takes_effect_at_once() {
        let merged = merge(Kind::Policy, &policy(enforce()), Here::Copy(&policy(audit())), pace(300, now()));
        assert_eq!(merged, Merge::Write { spec: enforce(), annotations: json!({}) });
    }

    #[test]
    fn loosening_waits_is_told_and_then_takes_effect() {
        let source = policy(audit());
        let Merge::Write { spec, annotations } =
            merge(Kind::Policy, &source, Here::Copy(&policy(enforce())), pace(300, now()))
        else {
            panic!("it must be told");
        };
        assert_eq!(spec, enforce(), "what holds goes on holding");
        let mut local = policy(enforce());
        local["metadata"]["annotations"] = annotations;
        assert_eq!(merge(Kind::Policy, &source, Here::Copy(&local), pace(300, later(299))), Merge::Nothing);
        let merged = merge(Kind::Policy, &source, Here::Copy(&local), pace(300, later(300)));
        assert_eq!(merged, Merge::Write { spec: audit(), annotations: json!({}) });
    }

    #[test]
    fn a_changed_mind_starts_the_delay_anew_and_a_withdrawn_one_ends_it() {
        let mut local = policy(enforce());
        local["metadata"]["annotations"] =
            json!({names::PENDING: "other", names::PENDING_SINCE: "2026-01-01T00:00:00Z"});
        let merged = merge(Kind::Policy, &policy(audit()), Here::Copy(&local), pace(300, now()));
        assert!(matches!(merged, Merge::Write { spec, .. } if spec == enforce()), "another digest waits its own time");
        let merged = merge(Kind::Policy, &policy(enforce()), Here::Copy(&local), pace(300, now()));
        assert_eq!(merged, Merge::Write { spec: enforce(), annotations: json!({}) });
    }

    #[test]
    fn only_a_tombstone_removes_and_only_after_the_delay() {
        let mut source = policy(enforce());
        source["spec"]["withdrawn"] = json!(true);
        assert_eq!(merge(Kind::Policy, &source, Here::Nothing, pace(0, now())), Merge::Nothing);
        assert_eq!(merge(Kind::Policy, &source, Here::Copy(&policy(enforce())), pace(0, now())), Merge::Remove);
        assert!(matches!(
            merge(Kind::Policy, &source, Here::Copy(&policy(enforce())), pace(300, now())),
            Merge::Write { .. }
        ));
    }

    #[test]
    fn a_lifted_quarantine_waits_and_a_widened_one_does_not() {
        let held = json!({"spec": {"digests": ["sha256:00"], "environments": ["east"], "reason": "x"}});
        let lifted = json!({"spec": {"digests": ["sha256:00"], "environments": ["east"], "reason": "x", "lifted": {"by": "ann", "reason": "a mistake, see the report"}}});
        let everywhere = json!({"spec": {"digests": ["sha256:00", "sha256:11"], "reason": "x"}});
        let merged = merge(Kind::Quarantine, &lifted, Here::Copy(&held), pace(300, now()));
        assert!(matches!(merged, Merge::Write { spec, .. } if spec == held["spec"]));
        let merged = merge(Kind::Quarantine, &everywhere, Here::Copy(&held), pace(300, now()));
        assert!(matches!(merged, Merge::Write { spec, .. } if spec == everywhere["spec"]));
    }

    #[test]
    fn a_first_copy_of_what_a_policy_in_force_names_waits_as_any_loosening() {
        let source = policy(json!({"keys": [{"pem": "a"}]}));
        let written = Merge::Write { spec: source["spec"].clone(), annotations: json!({}) };
        let at = |here, delay, now| merge(Kind::Attestor, &source, here, pace(delay, now));
        assert_eq!(at(Here::Nothing, 300, now()), written, "nobody relies on it");
        let Merge::Await(digest) = at(Here::Missed(None), 300, now()) else { panic!("it loosens") };
        let begun = Here::Missed(Some((&digest, now())));
        assert_eq!(at(begun, 300, later(299)), Merge::Nothing, "its time runs");
        let Merge::Write { annotations, .. } = at(begun, 300, later(300)) else { panic!("its time is over") };
        assert_eq!(annotations, json!({names::FIRST_SEEN: now().to_string()}), "what names it need not wait anew");
        let other = Here::Missed(Some(("other", now())));
        assert_eq!(at(other, 300, later(300)), Merge::Await(digest.clone()), "another document's time is not its own");
        assert_eq!(at(Here::Missed(None), 0, now()), written, "an environment without delay");
        let mut gone = source.clone();
        gone["spec"]["withdrawn"] = json!(true);
        assert_eq!(merge(Kind::Attestor, &gone, begun, pace(0, now())), Merge::Nothing, "a tombstone brings nothing");
    }

    /// A loosened policy whose own time is over.
    fn due() -> (Value, Value) {
        let (source, mut local) = (policy(audit()), policy(enforce()));
        local["metadata"]["annotations"] =
            json!({names::PENDING: digest(&audit()), names::PENDING_SINCE: later(-300).to_string()});
        (source, local)
    }

    #[test]
    fn what_loosens_waits_until_what_it_newly_relies_on_was_known_as_long() {
        let (source, local) = due();
        for (footing, delay, released, case) in [
            (Footing::Firm, 300, true, "it relies on nothing new"),
            (Footing::Since(later(-300)), 300, true, "known as long"),
            (Footing::Since(later(-299)), 300, false, "a second too young"),
            (Footing::Open, 300, false, "not here at all"),
            (Footing::Open, 0, true, "an environment without delay"),
        ] {
            let pace = Pace { delay, now: now(), footing };
            let merged = merge(Kind::Policy, &source, Here::Copy(&local), pace);
            let written = Merge::Write { spec: audit(), annotations: json!({}) };
            assert_eq!(merged, if released { written } else { Merge::Nothing }, "{case}");
            let begun = digest(&audit());
            let first = merge(Kind::Policy, &source, Here::Missed(Some((&begun, later(-300)))), pace);
            assert_eq!(matches!(first, Merge::Write { .. }), released, "a first copy: {case}");
        }
    }

    #[test]
    fn tightening_and_a_tombstone_wait_for_nothing_that_they_name() {
        let open = Pace { footing: Footing::Open, ..pace(300, now()) };
        let merged = merge(Kind::Policy, &policy(enforce()), Here::Copy(&policy(audit())), open);
        assert_eq!(merged, Merge::Write { spec: enforce(), annotations: json!({}) });
        let (mut source, mut local) = due();
        source["spec"]["withdrawn"] = json!(true);
        local["metadata"]["annotations"][names::PENDING] = json!(digest(&source["spec"]));
        assert_eq!(merge(Kind::Policy, &source, Here::Copy(&local), open), Merge::Remove);
    }

    #[test]
    fn a_lost_policy_returns_at_once_unless_what_it_names_is_younger() {
        let source = policy(enforce());
        let written = Merge::Write { spec: enforce(), annotations: json!({}) };
        assert_eq!(merge(Kind::Policy, &source, Here::Lost, pace(300, now())), written);
        let young = Pace { footing: Footing::Since(later(-1)), ..pace(300, now()) };
        assert_eq!(merge(Kind::Policy, &source, Here::Lost, young), Merge::Nothing);
    }

    #[test]
    fn two_documents_that_wait_share_no_digest() {
        assert_eq!(digest(&enforce()).len(), 64, "a shorter one can be met by whoever writes both");
        let defaults = json!({"spec": {"mode": "Enforce", "deployers": [], "withdrawn": false, "checkSets": enforce()["checkSets"]}});
        assert_eq!(fingerprint(&policy(enforce())), fingerprint(&defaults), "defaults make no difference");
        assert_ne!(fingerprint(&policy(enforce())), fingerprint(&policy(audit())));
    }
}
