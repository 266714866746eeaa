//! The one write for which every moment counts: the canary's weight to 0, tried again at once while another writer is
//! faster or no answer comes. Nothing but this rollout's own weight is at stake, and writing it twice is writing it once.

use std::time::Duration;

use kube::Api;
use kube::api::{Patch, PatchParams};
use tidegate_pipelines::api::names;
use tidegate_pipelines::rollout::{LoweredMark, RuleWeights};
use tokio::time::timeout;

use super::apply::{ApplyError, called};
use super::httproute::{HttpRoute, Route};
use crate::clock::SharedClock;
use crate::connect::{CallError, bounded};
use crate::lease::Permit;

const WHAT: &str = "lower the canary's weight to 0";
/// How often it is tried again at once when another writer was faster.
const TRIES: usize = 20;
/// Between two such tries.
const PAUSE: Duration = Duration::from_millis(20);
/// An API server answers within some 10 ms. One connection that hangs (its replica went away) must not cost the whole
/// deadline of a call: the next try takes another.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// As long as one call may take in all; then the rollout looks again.
const UNANSWERED: usize = 5;

/// What is to be lowered, as the plan saw it.
pub(super) struct Lowering<'a> {
    pub route: &'a Route,
    /// Name of the HTTPRoute.
    pub name: &'a str,
    /// Stable's Service.
    pub service: &'a str,
    /// uid of the rollout that must still drive the route.
    pub rollout: &'a str,
    pub reason: &'a str,
    pub rules: &'a [RuleWeights],
    /// Each try says when it was written.
    pub clock: &'a SharedClock,
    /// [`PATIENCE`]
    pub patience: Duration,
}

/// `remember` takes what the API server answered.
pub(super) async fn to_zero(
    api: &Api<HttpRoute>,
    permit: &Permit,
    wanted: &Lowering<'_>,
    remember: impl Fn(HttpRoute),
) -> Result<(), ApplyError> {
    let (mut fresh, mut rules) = (None, wanted.rules.to_vec());
    let params = PatchParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PatchParams::default() };
    let mut unanswered = 0;
    for _ in 0..TRIES {
        if !permit.held() {
            return Err(ApplyError::NotLeading);
        }
        let mark = LoweredMark {
            rollout: wanted.rollout.to_owned(),
            reason: wanted.reason.to_owned(),
            at: Some(wanted.clock.now()),
        };
        let route = fresh.as_ref().unwrap_or(wanted.route);
        let write = Patch::Json::<()>(route.lower_to_zero(&mark, &rules)?);
        match timeout(wanted.patience, bounded(api.patch(wanted.name, &params, &write))).await {
            Ok(Ok(written)) => {
                remember(written);
                return Ok(());
            }
            Ok(Err(error)) if error.is_conflict() => {}
            Ok(Err(error)) => return Err(called(WHAT)(error)),
            // Perhaps written, perhaps not: the same once more.
            Err(_) => {
                unanswered += 1;
                if unanswered == UNANSWERED {
                    return Err(called(WHAT)(CallError::Deadline));
                }
                continue;
            }
        }
        tokio::time::sleep(PAUSE).await;
        let Ok(found) = timeout(wanted.patience, bounded(api.get(wanted.name))).await else { continue };
        let found = found.map_err(called(WHAT))?;
        let route = Route::read(&found, wanted.service, &names::canary_name(wanted.service));
        remember(found);
        if route.view.promoting || route.view.rollout.as_deref() != Some(wanted.rollout) {
            return Err(ApplyError::Stale { what: WHAT });
        }
        rules = route.view.rules.iter().map(|r| RuleWeights { rule: r.rule, stable: r.total(), canary: 0 }).collect();
        fresh = Some(route);
    }
    Err(ApplyError::Stale { what: WHAT })
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use http::{Method, Request, Response};
    use kube::Client;
    use kube::client::Body;
    use serde_json::{Value, json};
    use tokio::sync::Mutex;
    use tokio::time::Instant;

    use super::*;
    use crate::connect::CALL_DEADLINE;

    #[derive(Clone, Copy)]
    enum Answer {
        Never,
        Conflict,
        Written,
    }

    fn object() -> Value {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "portal", "namespace": "acme", "resourceVersion": "7", "generation": 3,
                         "annotations": {"tidegate.io/rollout": "u-1"}},
            "spec": {"rules": [{"backendRefs": [
                {"name": "portal", "port": 80, "weight": 90}, {"name": "portal-canary", "port": 80, "weight": 10}]}]}
        })
    }

    /// Answers patches in this order and reads with the route; how long the lowering took, and its patches.
    async fn lowered(answers: &[Answer]) -> (Result<(), ApplyError>, Duration, usize) {
        let left = Arc::new(Mutex::new(answers.iter().copied().collect::<VecDeque<_>>()));
        let service = {
            let left = left.clone();
            tower::service_fn(move |request: Request<Body>| {
                let left = left.clone();
                async move {
                    let answer = match *request.method() {
                        Method::GET => Answer::Written,
                        _ => left.lock().await.pop_front().unwrap_or(Answer::Never),
                    };
                    let (code, body) = match answer {
                        Answer::Never => std::future::pending().await,
                        Answer::Written => (200, object()),
                        Answer::Conflict => {
                            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
                                                "status": "Failure", "code": 409, "reason": "Conflict", "message": "m"});
                            (409, status)
                        }
                    };
                    let answer = Response::builder().status(code).body(Body::from(body.to_string().into_bytes()));
                    answer.map_err(std::io::Error::other)
                }
            })
        };
        let api: Api<HttpRoute> = Api::namespaced(Client::new(service, "acme"), "acme");
        let route: HttpRoute = serde_json::from_value(object()).unwrap();
        let route = Route::read(&route, "portal", "portal-canary");
        let rules = [RuleWeights { rule: 0, stable: 100, canary: 0 }];
        let clock = crate::clock::wall();
        let wanted = Lowering {
            route: &route,
            name: "portal",
            service: "portal",
            rollout: "u-1",
            reason: "JudgeBreach.1",
            rules: &rules,
            clock: &clock,
            patience: Duration::from_millis(100),
        };
        let began = Instant::now();
        let result = to_zero(&api, &Permit::unconditional(), &wanted, drop).await;
        (result, began.elapsed(), answers.len() - left.lock().await.len())
    }

    #[tokio::test]
    async fn a_connection_that_hangs_costs_one_try_and_not_the_whole_deadline() {
        let (result, took, tried) = lowered(&[Answer::Never, Answer::Written]).await;
        assert!(result.is_ok(), "{result:?}");
        assert_eq!(tried, 2);
        assert!(took < CALL_DEADLINE / 2, "{took:?}");
    }

    #[tokio::test]
    async fn a_faster_writer_costs_a_moment() {
        let (result, took, tried) = lowered(&[Answer::Conflict, Answer::Conflict, Answer::Written]).await;
        assert!(result.is_ok(), "{result:?}");
        assert_eq!(tried, 3);
        assert!(took < CALL_DEADLINE / 2, "{took:?}");
    }

    #[tokio::test]
    async fn a_server_that_never_answers_is_given_up_and_looked_at_again() {
        let (result, took, _) = lowered(&[]).await;
        assert!(took < CALL_DEADLINE, "{took:?}");
        assert!(matches!(result, Err(ApplyError::Call { source: CallError::Deadline, .. })), "{result:?}");
    }
}
