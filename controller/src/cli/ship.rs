//! `tidegate release IMAGE`: ships an image without an event, by a BuildEvent in the user's own name, and waits for
//! what the hub makes of it. It makes no Release itself.

use std::process::ExitCode;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, ResourceExt};
use sha2::{Digest, Sha256};
use tidegate_pipelines::api::{BuildEvent, BuildEventPhase, BuildEventSpec, BuildEventStatus, EventImage, Span, names};
use tidegate_policies::image::ImageRef;
use tokio::time::Instant;

use super::hub::{CliError, Hub};
use super::store;
use crate::connect::bounded;

#[derive(clap::Args, Clone, Debug)]
pub struct ReleaseArgs {
    /// `registry/path:tag` or `registry/path@sha256:...`.
    pub image: String,
    /// Commit that the image was built from, where the policy asks for provenance of one.
    #[arg(long)]
    pub revision: Option<String>,
    /// For the pipelines of all namespaces that ship this image, not of one.
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// Wait this long for the hub's answer.
    #[arg(long, default_value = "1m")]
    pub timeout: Span,
    /// Store the BuildEvent and wait for no answer.
    #[arg(long, conflicts_with = "timeout")]
    pub no_wait: bool,
}

/// What the hub made of the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Names of Releases, and what else there is to say.
    Released {
        names: Vec<String>,
        besides: Option<String>,
    },
    Nothing(String),
}

/// Ships an image without an event. Exit code 0: the hub made or repeated the Releases whose names are printed; 1: it
/// made none; 2: stored, or it may be, and no answer.
pub async fn release(
    hub: &Hub,
    args: &ReleaseArgs,
    now: Timestamp,
    print: impl Fn(&str),
    complain: impl Fn(&str),
) -> Result<ExitCode, CliError> {
    let event = event(args, (!args.all_namespaces).then_some(hub.namespace.as_str()), now)?;
    let (name, deadline) = (event.name_any(), Instant::now() + args.timeout.as_duration());
    store::store(hub, &event, deadline).await?;
    let look = store::look(&name);
    if args.no_wait {
        print(&format!("BuildEvent {name} stored; {look} tells what becomes of it\n"));
        return Ok(ExitCode::SUCCESS);
    }
    let api: Api<BuildEvent> = Api::namespaced(hub.client.clone(), names::SYSTEM_NAMESPACE);
    let mut last = None;
    loop {
        match bounded(api.get_opt(&name)).await {
            Ok(found) => last = found.and_then(|event| event.status),
            Err(error) if error.is_unanswered() && Instant::now() < deadline => {}
            Err(error) => {
                let why = hub.failed(&format!("get BuildEvent {name}"))(error);
                return Err(CliError::MayShip(format!(
                    "stored, but its answer cannot be read: {why}; {look} tells it"
                )));
            }
        }
        match last.as_ref().and_then(|status| answer(status, args.all_namespaces)) {
            Some(Answer::Released { names, besides }) => {
                names.iter().for_each(|name| print(&format!("{name}\n")));
                besides.iter().for_each(|line| complain(line));
                return Ok(ExitCode::SUCCESS);
            }
            Some(Answer::Nothing(why)) => {
                complain(&format!("nothing released: {why}"));
                return Ok(ExitCode::from(1));
            }
            None if Instant::now() >= deadline => {
                let waits = last.and_then(|status| status.message);
                let waits = waits.unwrap_or_else(|| "the hub has not answered the event".into());
                complain(&format!("not in time: {waits}; it stays stored: {look} tells what becomes of it"));
                return Ok(ExitCode::from(2));
            }
            None => tokio::time::sleep(Duration::from_millis(300)).await,
        }
    }
}

/// The event: for the pipelines of `namespace`, or of all.
fn event(args: &ReleaseArgs, namespace: Option<&str>, now: Timestamp) -> Result<BuildEvent, CliError> {
    let image: ImageRef = args.image.parse().map_err(|error| CliError::Usage(format!("'{}': {error}", args.image)))?;
    // Read as a reference it would be `latest`: nobody said so.
    let tagged = args.image.rsplit('/').next().is_some_and(|last| last.contains(':'));
    if !tagged && image.digest.is_none() {
        return Err(CliError::Usage(format!("'{}' names no version: add a tag or a digest", args.image)));
    }
    let place = namespace.map(|namespace| format!("{namespace}/")).unwrap_or_default();
    let key = format!("{}@{place}{}", now.as_nanosecond(), args.image);
    // All that it says, and not what of it fits into the key.
    let whole = format!("{key} {}", args.revision.as_deref().unwrap_or_default());
    let name = format!("person-{}", &hex::encode(Sha256::digest(whole.as_bytes()))[..24]);
    let spec = BuildEventSpec {
        source: names::PERSON_SOURCE.to_owned(),
        type_: "release".into(),
        key: key.chars().take(200).collect(),
        occurred_at: None,
        received_at: Time(now),
        repository: None,
        git_ref: None,
        revision: args.revision.clone(),
        images: vec![EventImage {
            repository: image.repository_path(),
            tag: image.tag.clone(),
            digest: image.digest.as_ref().map(ToString::to_string),
        }],
        pipeline_namespace: namespace.map(str::to_owned),
        nothing_to_ship: None,
    };
    let mut event = BuildEvent::new(&name, spec);
    event.metadata.namespace = Some(names::SYSTEM_NAMESPACE.to_owned());
    Ok(event)
}

/// None while the hub waits for something. Names carry their namespace only where there may be several.
fn answer(status: &BuildEventStatus, all_namespaces: bool) -> Option<Answer> {
    let message = status.message.clone().unwrap_or_default();
    match status.phase? {
        BuildEventPhase::Waiting => None,
        BuildEventPhase::Released if !status.releases.is_empty() => {
            let short = |name: &String| name.rsplit('/').next().unwrap_or(name).to_owned();
            let names =
                status.releases.iter().map(|name| if all_namespaces { name.clone() } else { short(name) }).collect();
            let besides = message.split_once("; ").map(|(_, rest)| rest.to_owned());
            Some(Answer::Released { names, besides })
        }
        BuildEventPhase::Released | BuildEventPhase::Ignored | BuildEventPhase::Expired => {
            Some(Answer::Nothing(message))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use clap::Parser;
    use serde_json::json;

    use super::*;
    use crate::cli::choose::samples::release;
    use crate::cli::fake::{self, Call};
    use crate::cli::show::{self, StatusArgs};
    use crate::cli::{Cli, Command};

    fn args(line: &[&str]) -> ReleaseArgs {
        match Cli::try_parse_from([&["tidegate", "release"], line].concat()).unwrap().command {
            Command::Release(found) => found.args,
            other => panic!("{other:?}"),
        }
    }

    fn status(phase: Option<BuildEventPhase>, releases: &[&str], message: &str) -> BuildEventStatus {
        let releases = releases.iter().map(|name| (*name).to_owned()).collect();
        BuildEventStatus { phase, releases, message: Some(message.into()), ..BuildEventStatus::default() }
    }

    #[test]
    fn an_event_that_came_to_nothing_is_no_release() {
        for (phase, message) in [
            (BuildEventPhase::Ignored, "portal-c48 already runs everywhere"),
            (BuildEventPhase::Expired, "r.example/a:v9 is not there yet"),
            (BuildEventPhase::Released, "said without a name"),
        ] {
            let told = answer(&status(Some(phase), &[], message), false);
            assert_eq!(told, Some(Answer::Nothing(message.into())));
        }
        assert_eq!(answer(&status(None, &[], ""), false), None);
        assert_eq!(answer(&status(Some(BuildEventPhase::Waiting), &["portal/a"], "one is open"), false), None);
    }

    #[test]
    fn what_was_released_is_named_as_status_takes_it() {
        let both =
            status(Some(BuildEventPhase::Released), &["a/p-1", "b/p-2"], "released a/p-1, b/p-2; c/p is refused");
        for (all, expected) in [(false, ["p-1", "p-2"]), (true, ["a/p-1", "b/p-2"])] {
            let names = expected.map(str::to_owned).to_vec();
            let besides = Some("c/p is refused".to_owned());
            assert_eq!(answer(&both, all), Some(Answer::Released { names, besides }));
        }
    }

    /// A hub that answers every event so, and has these releases.
    fn answering(event: serde_json::Value, releases: &'static [(&str, &str)]) -> Hub {
        let answered = move |call: &Call| match (call.method.as_str(), call.uri.rsplit('/').next()) {
            ("POST", _) => fake::Answer::Say(201, call.body.clone()),
            (_, Some(name)) if name.starts_with("person-") => {
                let mut found = serde_json::to_value(
                    super::event(&args(&["r.example/a:v1"]), None, Timestamp::UNIX_EPOCH).unwrap(),
                )
                .unwrap();
                found["status"] = event.clone();
                fake::Answer::Say(200, found)
            }
            (_, Some(name)) => match releases.iter().find(|(release, _)| *release == name) {
                Some((name, phase)) => {
                    fake::Answer::Say(200, serde_json::to_value(release(name, 1, json!({"phase": phase}))).unwrap())
                }
                None => fake::Answer::refusal(404, "not found"),
            },
            other => panic!("{other:?}"),
        };
        fake::hub("portal", answered).0
    }

    /// How the command ended, what it printed, and what it complained of.
    async fn shipped(hub: &Hub, line: &[&str]) -> (Result<ExitCode, CliError>, String, String) {
        let (printed, complained) = (RefCell::new(String::new()), RefCell::new(String::new()));
        let keep = |to: &RefCell<String>, text: &str| to.borrow_mut().push_str(text);
        let (print, complain) = (|text: &str| keep(&printed, text), |line: &str| keep(&complained, line));
        let ended = super::release(hub, &args(line), Timestamp::UNIX_EPOCH, print, complain).await;
        (ended, printed.into_inner(), complained.into_inner())
    }

    #[tokio::test]
    async fn what_release_prints_is_what_status_waits_for() {
        let event =
            json!({"phase": "Released", "releases": ["portal/portal-2"], "message": "released portal/portal-2"});
        for (phase, code) in [("Promoted", 0), ("RolledBack", 1), ("Shipping", 2)] {
            let releases: &'static [(&str, &str)] = match phase {
                "Promoted" => &[("portal-2", "Promoted"), ("portal-1", "RolledBack")],
                "RolledBack" => &[("portal-2", "RolledBack"), ("portal-1", "Promoted")],
                _ => &[("portal-2", "Shipping"), ("portal-1", "Promoted")],
            };
            let hub = answering(event.clone(), releases);
            let (ended, printed, complained) = shipped(&hub, &["r.example/a:v1", "-n", "portal"]).await;
            assert_eq!(ended.unwrap(), ExitCode::SUCCESS, "{complained:?}");
            // As `name=$(tidegate release ..)` has it.
            let name = printed.trim_end().to_owned();
            let asked = StatusArgs { name, timeout: Span::from_secs(0) };
            let told = show::status(&hub, &asked, |_| ()).await.unwrap();
            assert_eq!(told, ExitCode::from(code), "{phase}");
        }
    }

    #[tokio::test]
    async fn an_event_without_a_release_ends_with_another_code_than_one_without_an_answer() {
        let ignored = json!({"phase": "Ignored", "message": "no pipeline ships it"});
        let waiting = json!({"phase": "Waiting", "message": "the registry is away"});
        for (status, code, told) in [
            (ignored, 1, "nothing released: no pipeline ships it"),
            (waiting, 2, "not in time: the registry is away; it stays stored"),
            (json!({}), 2, "not in time: the hub has not answered the event"),
        ] {
            let hub = answering(status, &[]);
            let line = ["r.example/a:v1", "-n", "portal", "--timeout", "0s"];
            let (ended, printed, complained) = shipped(&hub, &line).await;
            assert_eq!(ended.unwrap(), ExitCode::from(code), "{told}");
            assert!(complained.starts_with(told) && printed.is_empty(), "{complained:?} {printed:?}");
        }
    }

    #[tokio::test]
    async fn what_is_stored_and_cannot_be_asked_after_may_still_ship() {
        let (hub, _calls) = fake::hub("portal", |call| match call.method.as_str() {
            "POST" => fake::Answer::Say(201, call.body.clone()),
            _ => fake::Answer::refusal(403, "may not get"),
        });
        let told = shipped(&hub, &["r.example/a:v1", "-n", "portal"]).await.0.unwrap_err();
        assert!(told.to_string().starts_with("stored, but its answer cannot be read: "), "{told}");
        assert_eq!(told.code(), 2);
    }

    #[test]
    fn events_of_one_moment_that_say_another_thing_have_another_name() {
        let long = format!("r.example/{}", "a".repeat(220));
        let named = |line: &[&str]| event(&args(line), Some("shop"), Timestamp::UNIX_EPOCH).unwrap().name_any();
        let (one, two) = (format!("{long}:v1"), format!("{long}:v2"));
        assert_eq!(named(&[&one]), named(&[&one]));
        assert_ne!(named(&[&one]), named(&[&two]), "its key is cut before the tag");
        assert_ne!(named(&[&one]), named(&[&one, "--revision", "abc"]));
    }

    #[test]
    fn an_event_concerns_one_namespace_unless_all_are_asked_for() {
        let now = Timestamp::UNIX_EPOCH;
        let bound = event(&args(&["r.example/a:v1", "-n", "shop"]), Some("shop"), now).unwrap();
        let all = event(&args(&["r.example/a:v1", "-A"]), None, now).unwrap();
        assert_eq!(bound.spec.pipeline_namespace.as_deref(), Some("shop"));
        assert_eq!(all.spec.pipeline_namespace, None);
        assert_ne!(bound.name_any(), all.name_any());
        assert!(Cli::try_parse_from(["tidegate", "release", "r.example/a:v1", "-A", "-n", "shop"]).is_err());
        assert_eq!(event(&args(&["r.example/a"]), None, now).unwrap_err().code(), 64);
    }
}
