//! Which release a name stands for, and what its state lets a person do. Pure: it looks at what was listed and asks
//! nobody.

use jiff::Timestamp;
use kube::ResourceExt;
use tidegate_pipelines::api::{Release, ReleasePhase};
use tidegate_pipelines::release::current;

use super::hub::CliError;

/// The phase of the attempt that was asked for. The hub may not have answered a person's last word yet: what its
/// status tells until then is an end that holds no more.
pub fn phase(release: &Release) -> Option<ReleasePhase> {
    use ReleasePhase::{Promoted, RolledBack, RollingBack, Stopped, Verifying};
    let status = release.status.as_ref()?;
    if status.attempt != 0 && status.attempt != release.spec.attempt {
        return Some(Verifying);
    }
    match status.phase? {
        Promoted | RolledBack | Stopped if release.spec.undo => Some(RollingBack),
        phase => Some(phase),
    }
}

pub fn is_under_way(release: &Release) -> bool {
    !phase(release).is_some_and(ReleasePhase::is_terminal)
}

/// When its present attempt began.
fn began(release: &Release) -> Option<Timestamp> {
    let verifying = release.status.as_ref().and_then(|status| status.verifying_since.as_ref()).map(|time| time.0);
    verifying.max(release.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

fn newest(releases: Vec<Release>) -> Option<Release> {
    releases.into_iter().max_by_key(|release| (is_under_way(release), began(release), release.name_any()))
}

/// To look at: the one under way, else the one that began last.
pub fn to_show(of_pipeline: Vec<Release>) -> Option<Release> {
    newest(of_pipeline)
}

/// To act on: the one under way; no guess where there are several.
pub fn to_act(of_pipeline: Vec<Release>) -> Result<Option<Release>, CliError> {
    let (mut open, ended): (Vec<Release>, Vec<Release>) = of_pipeline.into_iter().partition(is_under_way);
    if open.len() > 1 {
        let names: Vec<String> = open.iter().map(|r| format!("{} ({})", r.name_any(), word(r))).collect();
        return Err(CliError::Refused(format!(
            "several releases are under way: {}; name one of them",
            names.join(", ")
        )));
    }
    match open.pop() {
        Some(release) => Ok(Some(release)),
        None => newest(ended).map_or(Ok(None), |release| Err(ended_already(&release))),
    }
}

/// To take back: the one under way, else what runs, else the one that began last.
pub fn to_undo(of_pipeline: Vec<Release>) -> Result<Option<Release>, CliError> {
    let runs = current(&of_pipeline).cloned();
    match (of_pipeline.iter().any(is_under_way), runs) {
        (false, Some(runs)) => Ok(Some(runs)),
        (false, None) => Ok(newest(of_pipeline)),
        (true, _) => to_act(of_pipeline),
    }
}

/// To ship once more: the one under way (which may refuse), else the one that began last.
pub fn to_retry(of_pipeline: Vec<Release>) -> Result<Option<Release>, CliError> {
    match of_pipeline.iter().any(is_under_way) {
        true => to_act(of_pipeline),
        false => Ok(newest(of_pipeline)),
    }
}

/// The phase as a word.
pub fn word(release: &Release) -> String {
    phase(release).map_or_else(|| "not seen by the hub yet".into(), |phase| format!("{phase:?}"))
}

/// Why nothing can be done to a release any more, and what can.
pub fn ended_already(release: &Release) -> CliError {
    let name = release.name_any();
    let hint = match phase(release) {
        Some(ReleasePhase::Promoted) => "; `tidegate undo` takes it back",
        Some(ReleasePhase::Withdrawn | ReleasePhase::Stopped) => "; `tidegate retry` ships it again",
        Some(ReleasePhase::RolledBack) => "; its digest is quarantined: ship a mended one",
        Some(ReleasePhase::Denied) => "; `tidegate describe` says what denies it",
        Some(ReleasePhase::Superseded) => "; a newer one took over",
        _ => "",
    };
    CliError::Refused(format!("{name}: already {}{hint}", word(release)))
}

/// Whether an undo would find anything: the hub takes back what is under way and what has shipped.
pub fn undoable(release: &Release) -> Result<(), CliError> {
    match phase(release) {
        Some(phase @ (ReleasePhase::Denied | ReleasePhase::Superseded | ReleasePhase::Withdrawn)) => {
            let name = release.name_any();
            Err(CliError::Refused(format!("{name}: already {phase:?}; there is nothing of it to take back")))
        }
        _ => Ok(()),
    }
}

/// Refuses an environment that the release does not ship to.
pub fn environment_of(release: &Release, environment: Option<&str>) -> Result<(), CliError> {
    let known: Vec<&str> =
        release.spec.snapshot.stages.iter().flat_map(|stage| &stage.environments).map(String::as_str).collect();
    match environment.filter(|environment| !known.contains(environment)) {
        None => Ok(()),
        Some(unknown) => {
            let (name, known) = (release.name_any(), known.join(", "));
            Err(CliError::Refused(format!("'{unknown}' is no environment of {name}: it ships to {known}")))
        }
    }
}

#[cfg(test)]
pub mod samples {
    use serde_json::{Value, json};
    use tidegate_pipelines::api::{Release, Rollout};

    /// A release of pipeline `portal` that was made `day` days into January, with this status beside its attempt.
    pub fn release(name: &str, day: u8, status: Value) -> Release {
        let stages = json!([
            {"name": "staging", "environments": ["staging"], "soak": "10m"},
            {"name": "prod", "environments": ["prod-east", "prod-west"], "requireApproval": true}]);
        let mut made = json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": "Release",
            "metadata": {"name": name, "namespace": "portal", "creationTimestamp": format!("2026-01-{day:02}T00:00:00Z")},
            "spec": {"pipeline": "portal", "pipelineUid": "uid", "attempt": 1, "images": [], "snapshot": {
                "images": [], "workload": {"name": "portal"}, "service": "portal", "route": {"httpRoute": "portal"},
                "stages": stages, "strategy": {"steps": [{"setWeight": 10}, {"setWeight": 50}, {"setWeight": 100}]},
                "objectives": []}},
            "status": {"attempt": 1}});
        if let (Some(own), Some(more)) = (made["status"].as_object_mut(), status.as_object()) {
            own.extend(more.clone());
        }
        serde_json::from_value(made).unwrap()
    }

    /// Its rollout in an environment.
    pub fn rollout(release: &str, environment: &str, reason: &str, status: Value) -> Rollout {
        serde_json::from_value(json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": "Rollout",
            "metadata": {"name": format!("{release}-1"), "namespace": format!("env-{environment}")},
            "spec": {"environment": environment, "pipelineNamespace": "portal", "pipeline": "portal", "release": release,
                "attempt": 1, "reason": reason, "namespace": "portal", "images": [], "workload": {"name": "portal"},
                "service": "portal", "route": {"httpRoute": "portal"}, "objectives": [],
                "strategy": {"steps": [{"setWeight": 10}, {"setWeight": 50}, {"setWeight": 100}]}},
            "status": status}))
        .unwrap()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::samples::release;
    use super::*;

    fn named(found: Result<Option<Release>, CliError>) -> Result<String, String> {
        found.map(|r| r.map_or_else(String::new, |r| r.name_any())).map_err(|error| error.to_string())
    }

    #[test]
    fn a_pipelines_name_means_the_release_under_way_whatever_was_made_later() {
        let older = release("old", 1, json!({"phase": "Shipping"}));
        let newer = release("new", 2, json!({"phase": "Promoted"}));
        let all = vec![older.clone(), newer.clone()];
        assert_eq!(to_show(all.clone()).unwrap().name_any(), "old");
        for choose in [to_act, to_undo, to_retry] {
            assert_eq!(named(choose(all.clone())).unwrap(), "old");
        }
        let mut retried = release("old", 1, json!({"phase": "RolledBack"}));
        retried.spec.attempt = 2;
        assert_eq!(named(to_act(vec![retried, newer])).unwrap(), "old");
    }

    #[test]
    fn nothing_is_guessed_among_several_and_an_end_is_told_with_what_can_be_done() {
        let several = vec![
            release("a", 1, json!({"phase": "Shipping"})),
            release("b", 2, json!({"phase": "Verifying"})),
            release("c", 3, json!({"phase": "Promoted"})),
        ];
        for choose in [to_act, to_undo, to_retry] {
            let told = named(choose(several.clone())).unwrap_err();
            assert_eq!(told, "several releases are under way: a (Shipping), b (Verifying); name one of them");
        }
        let ended = vec![release("p", 2, json!({"phase": "Promoted"})), release("q", 1, json!({"phase": "Denied"}))];
        let told = named(to_act(ended.clone())).unwrap_err();
        assert_eq!(told, "p: already Promoted; `tidegate undo` takes it back");
        assert_eq!(named(to_undo(ended.clone())).unwrap(), "p");
        assert_eq!(named(to_retry(ended)).unwrap(), "p");
        assert_eq!(named(to_act(vec![])).unwrap(), "");
    }

    #[test]
    fn what_runs_is_taken_back_although_something_newer_came_to_nothing() {
        let runs = release("runs", 1, json!({"phase": "Promoted", "admittedAt": "2026-01-01T00:00:00Z"}));
        let denied = release("denied", 2, json!({"phase": "Denied"}));
        assert_eq!(named(to_undo(vec![runs.clone(), denied.clone()])).unwrap(), "runs");
        assert!(undoable(&runs).is_ok());
        assert!(undoable(&denied).unwrap_err().to_string().contains("already Denied"));
    }

    #[test]
    fn an_end_that_a_person_has_asked_to_leave_is_none() {
        let mut promoted = release("p", 1, json!({"phase": "Promoted"}));
        assert!(!is_under_way(&promoted));
        promoted.spec.undo = true;
        assert_eq!(phase(&promoted), Some(ReleasePhase::RollingBack));
        promoted.spec.attempt = 2;
        assert_eq!(phase(&promoted), Some(ReleasePhase::Verifying));
    }

    #[test]
    fn an_environment_that_is_not_on_the_way_is_refused() {
        let shipped = release("p", 1, json!({"phase": "Shipping"}));
        assert!(environment_of(&shipped, None).is_ok() && environment_of(&shipped, Some("prod-west")).is_ok());
        let told = environment_of(&shipped, Some("prod-wets")).unwrap_err();
        assert_eq!(told.to_string(), "'prod-wets' is no environment of p: it ships to staging, prod-east, prod-west");
        assert_eq!(told.code(), 1);
    }
}
