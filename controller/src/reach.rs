//! Whether an API server answers: seen on every call of a client, told once when it goes away and once when it is back.
//! Delays no call, repeats none, and changes no answer.

use std::error::Error as StdError;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use kube::client::Body;
use tokio::sync::watch;
use tokio::time::Instant;
use tower::{BoxError, Layer, Service};

use crate::connect::CALL_DEADLINE;

/// A connection that the server closed between two calls fails one call and is no outage.
const HICCUP: Duration = Duration::from_secs(1);

/// Others that watch the same server start over with a backoff of their own (client-go: 0.8 s doubled up to 30 s, each
/// wait up to twice as long): after an outage it may last as long again twice, and a minute at most.
const OTHERS_AT_MOST: Duration = Duration::from_secs(60);
/// A server that begins to answer refuses some calls first, and each refusal is one more wait.
const STARTING: Duration = Duration::from_secs(5);

/// Since when, and what the last call met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Away {
    pub since: Instant,
    pub why: String,
    /// Longer than a hiccup.
    pub told: bool,
}

/// What one client knows of its server. Clones share it.
#[derive(Clone, Debug)]
pub struct Reach {
    server: Arc<str>,
    state: Arc<watch::Sender<Option<Away>>>,
    /// When the others that watch it have started over after its last outage.
    others: Arc<watch::Sender<Option<Instant>>>,
}

impl Reach {
    pub fn of(server: &str) -> Self {
        Reach {
            server: server.into(),
            state: Arc::new(watch::Sender::new(None)),
            others: Arc::new(watch::Sender::new(None)),
        }
    }

    /// Some once the server has gone without an answer for more than a hiccup.
    pub fn away(&self) -> Option<Away> {
        self.state.borrow().clone().filter(|away| away.told)
    }

    /// How long others that watch this server may still lack what changed in it. Zero: they follow, as far as this
    /// client can know.
    pub fn others_catch_up(&self) -> Duration {
        self.others_at(Instant::now())
    }

    fn others_at(&self, now: Instant) -> Duration {
        let away = self.away().map(|away| now + others_behind(now.saturating_duration_since(away.since)));
        let until = away.max(*self.others.borrow());
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    fn others_start_over(&self, outage: Duration, now: Instant) {
        let until = now + others_behind(outage);
        self.others.send_modify(|others| *others = (*others).max(Some(until)));
    }

    fn answered(&self) {
        if self.state.borrow().is_none() {
            return;
        }
        if let Some(away) = self.state.send_replace(None).filter(|away| away.told) {
            let away = away.since.elapsed();
            self.others_start_over(away, Instant::now());
            let seconds = away.as_secs();
            tracing::info!(server = %self.server, seconds, "the API server answers again");
        }
    }

    fn failed(&self, why: &str) {
        let mut tell = false;
        self.state.send_modify(|state| {
            let (away, now_told) = after_failure(state.take(), why, Instant::now());
            tell = now_told;
            *state = Some(away);
        });
        if tell {
            tracing::warn!(server = %self.server, error = why, "the API server does not answer; calls go on being tried");
        } else {
            tracing::debug!(server = %self.server, error = why, "no answer from the API server");
        }
    }
}

fn others_behind(outage: Duration) -> Duration {
    (outage * 2 + STARTING).min(OTHERS_AT_MOST)
}

/// The outage after one more failure, and whether to tell of it now.
fn after_failure(state: Option<Away>, why: &str, now: Instant) -> (Away, bool) {
    let since = state.as_ref().map_or(now, |away| away.since);
    let known = state.is_some_and(|away| away.told);
    let told = known || now.saturating_duration_since(since) >= HICCUP;
    (Away { since, why: why.to_owned(), told }, told && !known)
}

/// Why this is no answer of the server; none: it is one.
fn silence(answer: &Result<StatusCode, String>) -> Option<String> {
    match answer {
        // What stands in front of a server says so when there is none behind it.
        Ok(code)
            if [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT]
                .contains(code) =>
        {
            Some(code.to_string())
        }
        Ok(_) => None,
        Err(why) => Some(why.clone()),
    }
}

/// Whether a call that was dropped after this long met its deadline. Half of it: who gave it up may have begun to
/// count before it was sent.
fn given_up(after: Duration) -> bool {
    after >= CALL_DEADLINE / 2
}

impl<S> Layer<S> for Reach {
    type Service = Watched<S>;

    fn layer(&self, inner: S) -> Watched<S> {
        Watched { inner, reach: self.clone() }
    }
}

/// A client's service under the eyes of its [`Reach`].
#[derive(Clone, Debug)]
pub struct Watched<S> {
    inner: S,
    reach: Reach,
}

impl<S, B> Service<Request<Body>> for Watched<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<B>, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let call = Call { reach: self.reach.clone(), started: Instant::now(), ended: false };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await.map_err(Into::into);
            call.ended(answer.as_ref().map(Response::status).map_err(|error: &BoxError| causes(error.as_ref())));
            answer
        })
    }
}

/// A call under way. One that is given up at its deadline had no answer either.
struct Call {
    reach: Reach,
    started: Instant,
    ended: bool,
}

impl Call {
    fn ended(mut self, answer: Result<StatusCode, String>) {
        self.ended = true;
        match silence(&answer) {
            Some(why) => self.reach.failed(&why),
            None => self.reach.answered(),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let after = self.started.elapsed();
        if !self.ended && given_up(after) {
            self.reach.failed(&format!("no answer within {} s", after.as_secs()));
        }
    }
}

/// The error with its causes: "client error (Connect)" alone says nothing.
fn causes(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_begins_with_the_first_silence_and_is_told_once_it_is_no_hiccup() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let (first, told) = after_failure(None, "reset", start);
        assert!(!told && !first.told, "a connection closed between two calls fails one call");
        let (second, told) = after_failure(Some(first), "refused", at(1500));
        assert!(told && second.told);
        assert_eq!((second.since, second.why.as_str()), (start, "refused"));
        let (third, told) = after_failure(Some(second), "refused", at(3000));
        assert!(!told && third.told, "told once");
    }

    #[test]
    fn what_stands_in_front_of_a_server_is_not_the_server() {
        for (answer, away) in [
            (Ok(StatusCode::OK), false),
            (Ok(StatusCode::CONFLICT), false),
            (Ok(StatusCode::TOO_MANY_REQUESTS), false),
            (Ok(StatusCode::INTERNAL_SERVER_ERROR), false),
            (Ok(StatusCode::SERVICE_UNAVAILABLE), true),
            (Ok(StatusCode::BAD_GATEWAY), true),
            (Err("refused".to_owned()), true),
        ] {
            assert_eq!(silence(&answer).is_some(), away, "{answer:?}");
        }
    }

    #[test]
    fn a_call_that_is_given_up_had_no_answer_and_one_that_nobody_waits_for_says_nothing() {
        assert!(given_up(CALL_DEADLINE));
        assert!(!given_up(Duration::from_secs(1)));
    }

    #[test]
    fn after_an_outage_others_are_given_time_to_start_over_and_after_a_hiccup_none() {
        let seconds = Duration::from_secs;
        for (outage, left) in [(20, 45), (600, 60)] {
            let reach = Reach::of("https://api");
            let start = Instant::now();
            reach.others_start_over(seconds(outage), start);
            assert_eq!(reach.others_at(start), seconds(left), "after {outage} s");
            assert_eq!(reach.others_at(start + seconds(left)), seconds(0));
            reach.others_start_over(seconds(1), start + seconds(10));
            assert_eq!(
                reach.others_at(start + seconds(10)),
                seconds(left - 10),
                "a short outage after it takes no time away"
            );
        }
        let reach = Reach::of("https://api");
        let since = Instant::now().checked_sub(seconds(20)).unwrap();
        reach.state.send_replace(Some(Away { since, why: "refused".to_owned(), told: true }));
        reach.answered();
        assert!(reach.away().is_none() && reach.others_catch_up() > seconds(44), "the server is back, others are not");
        let reach = Reach::of("https://api");
        reach.failed("reset");
        reach.answered();
        assert_eq!(reach.others_catch_up(), seconds(0), "a hiccup");
    }

    #[test]
    fn while_the_server_is_away_nobody_follows_it() {
        let reach = Reach::of("https://api");
        let since = Instant::now();
        reach.state.send_replace(Some(Away { since, why: "refused".to_owned(), told: true }));
        assert_eq!(reach.others_at(since + Duration::from_secs(10)), Duration::from_secs(25));
    }

    #[tokio::test]
    async fn every_call_of_a_client_is_seen() {
        let reach = Reach::of("https://api");
        for (status, known) in [(503, true), (503, true), (404, false)] {
            let mut server = reach.layer(tower::service_fn(move |_: Request<Body>| async move {
                Response::builder().status(status).body(()).map_err(BoxError::from)
            }));
            server.call(Request::new(Body::empty())).await.unwrap();
            assert_eq!(reach.state.borrow().is_some(), known, "after {status}");
        }
    }
}
