//! What a deleted pipeline leaves to do before it may go: every environment that it came to takes our backendRef,
//! canary Deployment and Service away. Waits for their reports, but not for ever for one that is away.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use sha2::Digest as _;

use super::plan::Write;
use crate::api::{Pipeline, Rollout, RolloutPhase, RolloutReason, RolloutSpec, names};

/// So long a deletion waits for a spoke that does not report. Above an upgrade of its nodes, below what a person
/// waits for; the intents stay, so that it still clears up when it is back.
pub const PATIENCE: SignedDuration = SignedDuration::from_mins(10);

/// An environment that exists at the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// Its spoke reports.
    pub answers: bool,
    /// Gone for good, as a person said.
    pub decommissioned: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Retirement {
    pub writes: Vec<Write>,
    /// What keeps the pipeline, a line each.
    pub waits: Vec<String>,
    /// What is not waited for any more, a line each with its reason.
    pub left: Vec<String>,
    pub wake_at: Option<Timestamp>,
}

impl Retirement {
    /// The pipeline may go.
    pub fn done(&self) -> bool {
        self.writes.is_empty() && self.waits.is_empty()
    }
}

/// Where a pipeline has left objects: one Deployment, Service and route in one namespace.
type Place<'a> = (&'a str, &'a str, &'a str, &'a str);

fn place_of(spec: &RolloutSpec) -> Place<'_> {
    (&spec.namespace, &spec.workload.name, &spec.service, &spec.route.http_route)
}

/// `<pipeline>-retire-<first 10 hex of sha256(pipeline uid, namespace, workload, service, route)>`.
pub fn retire_name(pipeline: &str, uid: &str, of: &RolloutSpec) -> String {
    let (namespace, workload, service, route) = place_of(of);
    let text = [uid, namespace, workload, service, route].join("\n");
    let hash = hex::encode(sha2::Sha256::digest(text.as_bytes()));
    format!("{pipeline}-retire-{}", hash.get(..10).unwrap_or_default())
}

fn over(rollout: &Rollout) -> bool {
    rollout.status.as_ref().and_then(|s| s.phase).is_some_and(RolloutPhase::is_terminal)
}

/// Under way, and not told yet that its pipeline is gone.
pub(super) fn retirable(rollout: &Rollout) -> bool {
    let told = rollout.annotations().get(names::RETIRE).is_some_and(|v| v == "true");
    !over(rollout) && !told && rollout.spec.reason != RolloutReason::Retire
}

/// `rollouts`: all intents of the pipeline; `places`: the environments that exist.
pub fn retire(
    pipeline: &Pipeline,
    rollouts: &[&Rollout],
    places: &BTreeMap<String, Spot>,
    now: Timestamp,
) -> Retirement {
    let mut plan = Retirement::default();
    let since = pipeline.metadata.deletion_timestamp.as_ref().map_or(now, |t| t.0);
    let until = since.checked_add(PATIENCE).unwrap_or(now);
    let environments: BTreeSet<&str> = rollouts.iter().map(|r| r.spec.environment.as_str()).collect();
    for environment in environments {
        let here: Vec<&Rollout> = rollouts.iter().copied().filter(|r| r.spec.environment == environment).collect();
        let Some(spot) = places.get(environment).filter(|spot| !spot.decommissioned) else {
            plan.left.push(format!("{environment} is gone: nobody is left there to clear up"));
            continue;
        };
        let writes = plan.writes.len();
        of_environment(pipeline, &here, &mut plan.writes);
        let ordered = plan.writes.len() > writes;
        let open: Vec<String> = here.iter().filter(|r| !over(r)).map(|r| r.name_any()).collect();
        if open.is_empty() && !ordered {
            continue;
        }
        let what = if open.is_empty() { "its objects are to go".into() } else { open.join(", ") };
        if spot.answers || now < until {
            plan.waits.push(format!("{environment}: {what}"));
        } else {
            plan.left.push(format!(
                "{environment} has not reported for {} min: {what}; it clears up when it is back",
                PATIENCE.as_mins()
            ));
        }
        if !spot.answers && now < until {
            plan.wake_at = Some(until);
        }
    }
    plan
}

fn of_environment(pipeline: &Pipeline, here: &[&Rollout], writes: &mut Vec<Write>) {
    for rollout in here.iter().filter(|r| retirable(r)) {
        writes.push(Write::Retire { environment: rollout.spec.environment.clone(), name: rollout.name_any() });
    }
    let (name, uid) = (pipeline.name_any(), pipeline.uid().unwrap_or_default());
    let mut newest: BTreeMap<Place<'_>, &Rollout> = BTreeMap::new();
    let made = |r: &Rollout| (r.metadata.creation_timestamp.as_ref().map(|t| t.0), r.spec.attempt, r.name_any());
    for rollout in here {
        let known = newest.entry(place_of(&rollout.spec)).or_insert(rollout);
        if made(known) < made(rollout) {
            *known = rollout;
        }
    }
    for last in newest.into_values() {
        let name = retire_name(&name, &uid, &last.spec);
        // Cleared up already, by this pipeline or one of its name before it.
        if last.spec.reason == RolloutReason::Retire || here.iter().any(|r| r.name_any() == name) {
            continue;
        }
        let spec = RolloutSpec {
            reason: RolloutReason::Retire,
            // Nothing of it may ever get a request.
            max_weight: 0,
            superseded_by: None,
            paused: false,
            abort: false,
            promote_through: None,
            ..last.spec.clone()
        };
        writes.push(Write::Create { name, spec: Box::new(spec) });
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::json;

    use super::*;

    fn deleted_at() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn pipeline() -> Pipeline {
        let mut pipeline: Pipeline = serde_json::from_value(json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": "Pipeline",
            "metadata": {"name": "portal", "namespace": "shop", "uid": "u-1"},
            "spec": {
                "images": [], "workload": {"name": "portal"}, "service": "portal", "route": {"httpRoute": "portal"},
                "stages": [], "objectives": []
            }
        }))
        .unwrap();
        pipeline.metadata.deletion_timestamp = Some(Time(deleted_at()));
        pipeline
    }

    fn rollout(environment: &str, name: &str, phase: &str) -> Rollout {
        serde_json::from_value(json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": "Rollout",
            "metadata": {"name": name, "namespace": format!("env-{environment}")},
            "spec": {
                "environment": environment, "pipelineNamespace": "shop", "pipeline": "portal", "release": "portal-1",
                "attempt": 1, "namespace": "shop", "images": [], "workload": {"name": "portal"}, "service": "portal",
                "route": {"httpRoute": "portal"}, "strategy": {}, "objectives": []
            },
            "status": {"phase": phase}
        }))
        .unwrap()
    }

    fn spots(answers: bool) -> BTreeMap<String, Spot> {
        [("east".to_owned(), Spot { answers, decommissioned: false })].into()
    }

    fn planned(rollouts: &[Rollout], places: &BTreeMap<String, Spot>, seconds: i64) -> Retirement {
        let now = deleted_at() + SignedDuration::from_secs(seconds);
        retire(&pipeline(), &rollouts.iter().collect::<Vec<_>>(), places, now)
    }

    /// As the API server would.
    fn carry_out(rollouts: &mut Vec<Rollout>, plan: &Retirement) {
        for write in &plan.writes {
            match write {
                Write::Create { name, spec } => rollouts.push(Rollout::new(name, (**spec).clone())),
                Write::Retire { name, .. } => {
                    let rollout = rollouts.iter_mut().find(|r| r.name_any() == *name).unwrap();
                    rollout.annotations_mut().insert(names::RETIRE.into(), "true".into());
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_is_under_way_is_told_and_the_rest_is_cleared_up_before_the_pipeline_goes() {
        let mut rollouts = vec![rollout("east", "portal-1-1", "Canary")];
        let first = planned(&rollouts, &spots(true), 1);
        let named = |r: &Retirement| format!("{:?}", r.writes);
        assert!(named(&first).contains("Retire { environment: \"east\", name: \"portal-1-1\""), "{first:?}");
        assert!(!first.done());
        carry_out(&mut rollouts, &first);
        let second = planned(&rollouts, &spots(true), 2);
        assert!(second.writes.is_empty() && second.waits.len() == 1, "{second:?}");
        for rollout in &mut rollouts {
            rollout.status.get_or_insert_default().phase = Some(RolloutPhase::Withdrawn);
        }
        assert!(planned(&rollouts, &spots(true), 3).done());
    }

    #[test]
    fn where_nothing_is_under_way_one_retiring_intent_takes_the_leftovers_away() {
        let mut rollouts = vec![rollout("east", "portal-1-1", "Promoted"), rollout("east", "portal-2-1", "Promoted")];
        let plan = planned(&rollouts, &spots(true), 1);
        let [Write::Create { name, spec }] = plan.writes.as_slice() else { panic!("{plan:?}") };
        assert!(name.starts_with("portal-retire-"), "{name}");
        assert_eq!((spec.reason, spec.max_weight, spec.workload.name.as_str()), (RolloutReason::Retire, 0, "portal"));
        assert!(!plan.done());
        carry_out(&mut rollouts, &plan);
        assert!(planned(&rollouts, &spots(true), 2).writes.is_empty(), "once");
    }

    #[test]
    fn a_pipeline_that_never_came_anywhere_goes_at_once() {
        assert!(planned(&[], &spots(true), 0).done());
    }

    #[test]
    fn an_environment_that_is_gone_or_away_does_not_keep_a_pipeline_for_ever() {
        let mut rollouts = vec![rollout("east", "portal-1-1", "Promoted")];
        let gone = planned(&rollouts, &BTreeMap::new(), 1);
        assert!(gone.done() && gone.left.len() == 1, "{gone:?}");
        let mut decommissioned = spots(false);
        decommissioned.get_mut("east").unwrap().decommissioned = true;
        let left = planned(&rollouts, &decommissioned, 1);
        assert!(left.done() && left.left.len() == 1, "{left:?}");
        // Away: asked all the same, waited for, and then told and left; the intent stays for its return.
        let away = planned(&rollouts, &spots(false), 1);
        assert_eq!(away.wake_at, Some(deleted_at() + PATIENCE));
        carry_out(&mut rollouts, &away);
        assert!(!planned(&rollouts, &spots(false), 599).done());
        let patience_over = planned(&rollouts, &spots(false), 600);
        assert!(patience_over.done(), "{patience_over:?}");
        assert!(patience_over.left[0].contains("clears up when it is back"), "{patience_over:?}");
        assert!(!planned(&rollouts, &spots(true), 600).done(), "one that answers is waited for");
    }
}
