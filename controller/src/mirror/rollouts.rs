//! How an intent and its execution are merged: `abort` latches, `paused` ORs, and neither field is the mirror's.
//! Pure functions from objects to what is written; they never see a cluster.

use kube::ResourceExt;
use serde_json::{Map, Value, json};
use tidegate_pipelines::api::{Rollout, RolloutPhase, RolloutStatus, names};

/// What to do about one intent.
#[derive(Clone, Debug, PartialEq)]
pub enum Merge {
    Nothing,
    /// Server-side apply of this body, as the mirror's field manager.
    Write(Value),
    /// It was here and somebody deleted it here: an abort, which is reported and never undone.
    DeletedHere,
}

/// What the hub hears of a rollout that is no longer here.
#[derive(Clone, Debug)]
pub enum LastReport {
    /// It had ended: that end, not its removal.
    Ended(Box<RolloutStatus>),
    /// It was taken away before its end; the intent with all that is known of it.
    Withdrawn(Box<Rollout>),
}

/// `last`: the status that the local copy had when it went, if this process saw it.
pub fn last_report(source: &Rollout, last: Option<RolloutStatus>) -> LastReport {
    match last {
        Some(status) if status.phase.is_some_and(RolloutPhase::is_terminal) => LastReport::Ended(Box::new(status)),
        Some(status) => LastReport::Withdrawn(Box::new(Rollout { status: Some(status), ..source.clone() })),
        None => LastReport::Withdrawn(Box::new(source.clone())),
    }
}

/// Fields of the spec that belong to whoever sets them here.
const NOT_OURS: [&str; 2] = ["abort", "paused"];

fn ended(rollout: &Rollout) -> bool {
    rollout.status.as_ref().and_then(|s| s.phase).is_some_and(RolloutPhase::is_terminal)
}

fn set(rollout: &Rollout, key: &str) -> bool {
    rollout.annotations().get(key).is_some_and(|v| v == "true")
}

/// `source` is the intent at the hub. That there is none changes nothing and has no place here.
pub fn merge(source: &Rollout, local: Option<&Rollout>) -> Merge {
    let reported = source.status.as_ref().is_some_and(|s| s.phase.is_some());
    let leaving = source.metadata.deletion_timestamp.is_some();
    let Some(local) = local else {
        return match (ended(source), reported, leaving) {
            (true, ..) | (_, false, true) => Merge::Nothing,
            (false, true, _) => Merge::DeletedHere,
            (false, false, false) => Merge::Write(body(source, None)),
        };
    };
    if ended(local) || local.metadata.deletion_timestamp.is_some() {
        return Merge::Nothing;
    }
    let body = body(source, Some(local));
    if holds(&body, local) { Merge::Nothing } else { Merge::Write(body) }
}

fn body(source: &Rollout, local: Option<&Rollout>) -> Value {
    let mut spec = serde_json::to_value(&source.spec).unwrap_or_default();
    if let Some(fields) = spec.as_object_mut() {
        fields.retain(|key, value| !NOT_OURS.contains(&key.as_str()) && !value.is_null());
        // A person here may have let more steps pass than a person at the hub.
        let here = local.and_then(|l| l.spec.promote_through);
        if here > source.spec.promote_through {
            fields.remove("promoteThrough");
        }
    }
    let kept = |key| local.is_some_and(|l| set(l, key));
    let mut annotations = Map::new();
    for (key, wanted) in [
        (names::HUB_ABORT, source.spec.abort || kept(names::HUB_ABORT)),
        (names::HUB_PAUSED, source.spec.paused),
        (names::WITHDRAWN, source.metadata.deletion_timestamp.is_some() || kept(names::WITHDRAWN)),
        (names::RETIRE, set(source, names::RETIRE) || kept(names::RETIRE)),
    ] {
        if wanted {
            annotations.insert(key.into(), json!("true"));
        }
    }
    let mut labels: Map<String, Value> = source
        .labels()
        .iter()
        .filter(|(k, _)| k.starts_with("tidegate.io/"))
        .map(|(k, v)| (k.clone(), json!(v)))
        .collect();
    labels.insert(names::ENVIRONMENT_LABEL.into(), json!(source.spec.environment));
    json!({
        "apiVersion": "tidegate.io/v1alpha1",
        "kind": "Rollout",
        "metadata": {
            "name": source.name_any(), "namespace": source.spec.namespace,
            "labels": labels, "annotations": annotations,
        },
        "spec": spec,
    })
}

/// Whether the local copy already says all of that.
fn holds(body: &Value, local: &Rollout) -> bool {
    let here = serde_json::to_value(&local.spec).unwrap_or_default();
    let spec = body["spec"].as_object().into_iter().flatten().all(|(key, value)| here.get(key) == Some(value));
    let annotations = [names::HUB_ABORT, names::HUB_PAUSED, names::WITHDRAWN, names::RETIRE]
        .into_iter()
        .all(|key| set(local, key) == body["metadata"]["annotations"].get(key).is_some());
    spec && annotations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollout(namespace: &str) -> Rollout {
        serde_json::from_value(json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": "Rollout",
            "metadata": {"name": "portal-1-1", "namespace": namespace, "labels": {"tidegate.io/pipeline": "portal"}},
            "spec": {
                "environment": "staging", "pipelineNamespace": "acme", "pipeline": "portal", "release": "portal-1", "attempt": 1,
                "namespace": "acme", "images": [], "workload": {"name": "portal"}, "service": "portal",
                "route": {"httpRoute": "portal"}, "strategy": {}, "objectives": []
            }
        }))
        .unwrap()
    }

    fn intent() -> Rollout {
        rollout("env-staging")
    }

    /// As the API server merges a server-side apply of fields and annotations of one manager.
    fn applied(local: Option<&Rollout>, body: &Value) -> Rollout {
        let mut object = local.map_or_else(|| body.clone(), |l| serde_json::to_value(l).unwrap());
        object["metadata"]["annotations"] = body["metadata"]["annotations"].clone();
        for (key, value) in body["spec"].as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        serde_json::from_value(object).unwrap()
    }

    fn written(merge: Merge) -> Value {
        match merge {
            Merge::Write(body) => body,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_intent_is_copied_without_abort_and_paused() {
        let body = written(merge(&intent(), None));
        assert_eq!(body["metadata"]["namespace"], "acme");
        assert!(body["spec"].get("abort").is_none() && body["spec"].get("paused").is_none());
        let local = applied(None, &body);
        assert_eq!(merge(&intent(), Some(&local)), Merge::Nothing, "copied once");
    }

    #[test]
    fn abort_latches_even_if_the_hubs_copy_no_longer_says_so() {
        let local = applied(None, &written(merge(&intent(), None)));
        let mut aborted = intent();
        aborted.spec.abort = true;
        let local = applied(Some(&local), &written(merge(&aborted, Some(&local))));
        assert!(set(&local, names::HUB_ABORT));
        assert!(!local.spec.abort, "the field stays a person's");
        let restored = intent();
        assert_eq!(merge(&restored, Some(&local)), Merge::Nothing, "an older source takes nothing back");
    }

    #[test]
    fn paused_here_or_at_the_hub_is_paused_and_each_resumes_its_own() {
        let mut local = applied(None, &written(merge(&intent(), None)));
        local.spec.paused = true;
        assert_eq!(merge(&intent(), Some(&local)), Merge::Nothing, "what a person set here is not reset");
        let mut paused = intent();
        paused.spec.paused = true;
        let local = applied(Some(&local), &written(merge(&paused, Some(&local))));
        assert!(set(&local, names::HUB_PAUSED) && local.spec.paused);
        let local = applied(Some(&local), &written(merge(&intent(), Some(&local))));
        assert!(!set(&local, names::HUB_PAUSED) && local.spec.paused);
    }

    #[test]
    fn a_rollout_deleted_here_is_not_made_again() {
        let mut reported = intent();
        reported.status = serde_json::from_value(json!({"phase": "Canary"})).unwrap();
        assert_eq!(merge(&reported, None), Merge::DeletedHere);
        reported.status = serde_json::from_value(json!({"phase": "Withdrawn"})).unwrap();
        assert_eq!(merge(&reported, None), Merge::Nothing, "told once");
    }

    #[test]
    fn what_ended_here_and_went_is_reported_with_its_end() {
        let mut reported = intent();
        reported.status = serde_json::from_value(json!({"phase": "Canary"})).unwrap();
        for end in ["Promoted", "RolledBack", "Failed", "Denied"] {
            let last: RolloutStatus = serde_json::from_value(json!({"phase": end, "weight": 0})).unwrap();
            let LastReport::Ended(told) = last_report(&reported, Some(last.clone())) else { panic!("{end}") };
            assert_eq!(*told, last);
        }
        let running: RolloutStatus = serde_json::from_value(json!({"phase": "Canary", "weight": 25})).unwrap();
        let LastReport::Withdrawn(known) = last_report(&reported, Some(running)) else { panic!("it had not ended") };
        assert_eq!(known.status.unwrap().weight, 25, "what was known last is kept");
        assert!(
            matches!(last_report(&reported, None), LastReport::Withdrawn(known) if known.status == reported.status)
        );
    }

    #[test]
    fn an_intent_under_deletion_withdraws_and_an_ended_rollout_is_left_alone() {
        let mut local = applied(None, &written(merge(&intent(), None)));
        let mut leaving = serde_json::to_value(intent()).unwrap();
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let leaving: Rollout = serde_json::from_value(leaving).unwrap();
        let body = written(merge(&leaving, Some(&local)));
        assert_eq!(body["metadata"]["annotations"][names::WITHDRAWN], "true");
        assert_eq!(merge(&leaving, None), Merge::Nothing, "it never came here");
        local.status = serde_json::from_value(json!({"phase": "Promoted"})).unwrap();
        assert_eq!(merge(&leaving, Some(&local)), Merge::Nothing);
    }

    #[test]
    fn more_steps_let_pass_here_stay_let_pass() {
        let mut local = applied(None, &written(merge(&intent(), None)));
        local.spec.promote_through = Some(2);
        assert_eq!(merge(&intent(), Some(&local)), Merge::Nothing);
        let mut further = intent();
        further.spec.promote_through = Some(3);
        assert_eq!(written(merge(&further, Some(&local)))["spec"]["promoteThrough"], 3);
    }
}
