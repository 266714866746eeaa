//! Stores one BuildEvent, once, under a name that was chosen before the first call: a call that nobody answered is asked
//! again under it. Never leaves one that speaks for more pipelines than it was meant for without saying so.

use std::time::Duration;

use http::Uri;
use kube::Resource;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use tidegate_pipelines::api::{BuildEvent, BuildEventSpec, names};
use tokio::time::Instant;

use super::hub::{CliError, Hub};
use crate::connect::{CallError, bounded};

/// Where a person looks for it.
pub fn look(name: &str) -> String {
    format!("`kubectl get tbe -n {} {name}`", names::SYSTEM_NAMESPACE)
}

/// Stores `asked`; what got no answer is tried again until `deadline`.
pub async fn store(hub: &Hub, asked: &BuildEvent, deadline: Instant) -> Result<(), CliError> {
    let name = asked.name_any();
    let api: Api<BuildEvent> = Api::namespaced(hub.client.clone(), names::SYSTEM_NAMESPACE);
    let mut open = false;
    loop {
        let mut answer = bounded(create(hub, asked)).await;
        if answer.as_ref().is_err_and(|error| error.code() == Some(409)) {
            // Ours, of a call that was not answered; or another's.
            answer = bounded(api.get(&name)).await;
            open = true;
        }
        let error = match answer {
            Ok(stored) if is_same(&stored.spec, &asked.spec) => return narrow(hub, &api, asked, &stored).await,
            Ok(_) => return Err(CliError::Refused(format!("BuildEvent {name} is another one: try again"))),
            Err(error) => error,
        };
        open |= error.leaves_open();
        let again = error.leaves_open() || error.was_never_sent();
        match open {
            true if again && Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(300)).await,
            true => {
                let (why, look) = (hub.failed("create BuildEvent")(error), look(&name));
                return Err(CliError::MayShip(format!("whether it is stored is unknown: {why}; {look} tells")));
            }
            false if drops_the_namespace(&error) => return Err(CliError::OlderKinds(error.to_string())),
            false => return Err(hub.failed("create BuildEvent")(error)),
        }
    }
}

/// Strict: an API server whose kinds are older would drop a field that it does not know, and store the rest.
async fn create(hub: &Hub, asked: &BuildEvent) -> kube::Result<BuildEvent> {
    let body = serde_json::to_vec(asked).map_err(kube::Error::SerdeError)?;
    let url = BuildEvent::url_path(&(), Some(names::SYSTEM_NAMESPACE));
    let request = kube::core::Request::new(url).create(&PostParams::default(), body);
    let mut request = request.map_err(kube::Error::BuildRequest)?;
    let strict = format!("{}?fieldValidation=Strict", request.uri().path());
    *request.uri_mut() = strict.parse::<Uri>().map_err(|error| kube::Error::HttpError(error.into()))?;
    hub.client.request(request).await
}

fn drops_the_namespace(error: &CallError) -> bool {
    error.code() == Some(400) && error.to_string().contains("unknown field \"spec.pipelineNamespace\"")
}

/// Whether it says the same, the namespace apart, which an API server may have dropped, and the time, which it may have
/// rounded: the key holds that.
fn is_same(stored: &BuildEventSpec, asked: &BuildEventSpec) -> bool {
    let (received_at, pipeline_namespace) = (asked.received_at.clone(), asked.pipeline_namespace.clone());
    BuildEventSpec { received_at, pipeline_namespace, ..stored.clone() } == *asked
}

/// Withdraws what was stored without its namespace (by an API server that knows no strictness either): it means the
/// pipelines of all namespaces.
async fn narrow(hub: &Hub, api: &Api<BuildEvent>, asked: &BuildEvent, stored: &BuildEvent) -> Result<(), CliError> {
    if stored.spec.pipeline_namespace == asked.spec.pipeline_namespace {
        return Ok(());
    }
    let name = stored.name_any();
    let this = Preconditions { uid: stored.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(this), ..DeleteParams::default() };
    let place = asked.spec.pipeline_namespace.as_deref().unwrap_or_default();
    let lost = format!(
        "BuildEvent {name} was stored without spec.pipelineNamespace '{place}' and means the pipelines of all namespaces: the hub's \
         CRDs are older than this tidegate, update them first (`tidegate install --role hub`)"
    );
    Err(CliError::MayShip(match bounded(api.delete(&name, &params)).await {
        Ok(_) => format!(
            "{lost}; it is deleted again: `tidegate get -A` shows what the hub made of it meanwhile, if anything"
        ),
        Err(error) => {
            let (error, namespace) = (hub.failed("delete it")(error), names::SYSTEM_NAMESPACE);
            format!("{lost}; have it deleted now: `kubectl delete tbe -n {namespace} {name}` ({error})")
        }
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::{Value, json};

    use super::*;
    use crate::cli::fake::{self, Answer, Call};

    fn asked() -> BuildEvent {
        let image = json!({"repository": "r.example/a", "tag": "v1"});
        let spec = json!({"source": "person", "type": "release", "key": "k", "receivedAt": "2026-01-01T00:00:00.123456Z",
            "images": [image], "pipelineNamespace": "shop"});
        let mut event = BuildEvent::new("person-1", serde_json::from_value(spec).unwrap());
        event.metadata.namespace = Some(names::SYSTEM_NAMESPACE.into());
        event
    }

    /// As the API server gives it back, with other fields of its spec.
    fn stored(change: impl Fn(&mut Value)) -> Value {
        let mut event = serde_json::to_value(asked()).unwrap();
        event["metadata"]["uid"] = "u1".into();
        change(&mut event["spec"]);
        event
    }

    /// Stores with no time to wait, and what the API server was asked.
    async fn told(answer: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> (Result<(), CliError>, Vec<String>) {
        told_within(Duration::ZERO, answer).await
    }

    async fn told_within(
        time: Duration,
        answer: impl Fn(&Call) -> Answer + Send + Sync + 'static,
    ) -> (Result<(), CliError>, Vec<String>) {
        let (hub, calls) = fake::hub("shop", answer);
        let result = store(&hub, &asked(), Instant::now() + time).await;
        (result, fake::lines(calls))
    }

    const POST: &str = "POST /apis/tidegate.io/v1alpha1/namespaces/tidegate-system/buildevents?fieldValidation=Strict";

    #[tokio::test]
    async fn an_older_hub_stores_no_release_that_would_mean_all_namespaces() {
        let strict = "BuildEvent in version \"v1alpha1\" cannot be handled as a BuildEvent: strict decoding error: \
                      unknown field \"spec.pipelineNamespace\"";
        let (result, calls) = told(move |_| Answer::refusal(400, strict)).await;
        let error = result.unwrap_err();
        assert!(error.to_string().contains("update them first: `tidegate install --role hub`"), "{error}");
        assert_eq!(error.code(), 3, "nothing is stored");
        assert_eq!(calls, [POST], "asked for strictly, once");
    }

    #[tokio::test]
    async fn what_was_stored_for_all_namespaces_is_withdrawn_or_said_to_be_there() {
        for (right, part) in [(200, "it is deleted again"), (403, "`kubectl delete tbe -n tidegate-system person-1`")] {
            let (result, calls) = told(move |call| match call.method.as_str() {
                "POST" => {
                    Answer::Say(201, stored(|spec| drop(spec.as_object_mut().unwrap().remove("pipelineNamespace"))))
                }
                "DELETE" if right == 200 => {
                    assert_eq!(call.body["preconditions"]["uid"], "u1", "this very one");
                    Answer::Say(200, json!({"kind": "Status", "status": "Success"}))
                }
                _ => Answer::refusal(right, "no"),
            })
            .await;
            let error = result.unwrap_err();
            assert!(error.to_string().contains("means the pipelines of all namespaces"), "{error}");
            assert!(error.to_string().contains(part), "{error}");
            assert_eq!(error.code(), 2, "the hub may have seen it");
            assert!(calls[1].starts_with("DELETE ") && calls.len() == 2, "{calls:?}");
        }
    }

    #[tokio::test]
    async fn an_unanswered_call_is_asked_again_under_its_name_and_meets_its_own_object() {
        let posts = AtomicUsize::new(0);
        // The server keeps whole seconds.
        let kept = || stored(|spec| spec["receivedAt"] = "2026-01-01T00:00:00Z".into());
        let (result, calls) = told_within(Duration::from_secs(60), move |call| match call.method.as_str() {
            "POST" if posts.fetch_add(1, Ordering::Relaxed) == 0 => Answer::Lost,
            "POST" => Answer::refusal(409, "already exists"),
            _ => Answer::Say(200, kept()),
        })
        .await;
        result.unwrap();
        assert_eq!(calls.len(), 3, "{calls:?}");
        assert!(calls[2].ends_with("/buildevents/person-1"), "{calls:?}");
    }

    #[tokio::test]
    async fn what_may_be_stored_is_not_called_unreachable() {
        for answer in [|_: &Call| Answer::Lost, |_: &Call| Answer::refusal(504, "timeout")] {
            let error = told(answer).await.0.unwrap_err();
            let told = error.to_string();
            assert!(told.starts_with("whether it is stored is unknown: "), "{told}");
            assert!(told.ends_with("`kubectl get tbe -n tidegate-system person-1` tells"), "{told}");
            assert_eq!(error.code(), 2);
        }
    }

    #[tokio::test]
    async fn what_was_certainly_not_stored_is_said_at_once() {
        let (refused, calls) = told_within(Duration::from_secs(60), |_| Answer::refusal(403, "may not")).await;
        assert_eq!((refused.unwrap_err().code(), calls.len()), (3, 1));
        let hub = fake::nowhere("shop");
        let error = store(&hub, &asked(), Instant::now() + Duration::from_secs(60)).await.unwrap_err();
        assert!(matches!(error, CliError::Unreachable { .. }), "{error}");
    }

    #[tokio::test]
    async fn anothers_event_of_the_same_name_is_not_taken_for_ones_own() {
        let (result, _) = told(|call| match call.method.as_str() {
            "POST" => Answer::refusal(409, "already exists"),
            _ => Answer::Say(200, stored(|spec| spec["images"][0]["tag"] = "v2".into())),
        })
        .await;
        assert!(matches!(result.unwrap_err(), CliError::Refused(_)));
    }
}
