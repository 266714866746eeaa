//! The Prometheus HTTP API: bounded requests, bounded answers, and every way in which an answer can be wrong as a
//! named error. Knows nothing of arms, objectives or judgement.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tidegate_pipelines::judge::ObjectiveSamples;
use tokio::time::{Instant, timeout_at};

use super::room::{Budget, Room, Rooms, Turn};
use super::{MetricsError, MetricsPort, ReadRequest, Taken, preflight, read};
use crate::clock::Clock;

/// One query may take so long; an evaluation is worth nothing much later.
const DEADLINE: Duration = Duration::from_secs(2);
/// A past delays nobody: it may wait for so many deadlines where the first look waits for one.
const PATIENCE_OF_A_PAST: u32 = 10;
/// So many of the longest turns are waited for where the room is large: who gave up after less would begin anew behind
/// those who hold it. The gateway's word does not wait with it.
const TURNS_UNTIL_LARGE: u32 = 2;
/// Some 300,000 samples. More is a selector that matches too much.
const MOST_BYTES: usize = 8 << 20;

/// Reads any server that speaks the Prometheus HTTP API. One per process: it keeps its connections, and bounds what
/// all evaluations hold.
#[derive(Clone, Debug)]
pub struct PrometheusClient {
    http: reqwest::Client,
    deadline: Duration,
    most_bytes: usize,
    rooms: Arc<Rooms>,
}

#[derive(Debug, Deserialize)]
struct Answer<T> {
    status: String,
    data: Option<T>,
    #[serde(rename = "errorType", default)]
    error_type: String,
    #[serde(default)]
    error: String,
}

/// `data` of a query.
#[derive(Debug, Deserialize)]
struct QueryData {
    #[serde(rename = "resultType")]
    kind: String,
    result: Vec<Series>,
}

/// One series as the server gave it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Series {
    pub metric: BTreeMap<String, String>,
    #[serde(default)]
    pub values: Vec<Sample>,
}

/// One sample. A value that is no number becomes NaN, which the judge tells.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(from = "(f64, String)")]
pub struct Sample {
    pub at_ms: i64,
    pub value: f64,
}

impl From<(f64, String)> for Sample {
    fn from((seconds, value): (f64, String)) -> Self {
        Sample { at_ms: (seconds * 1000.0).round() as i64, value: value.parse().unwrap_or(f64::NAN) }
    }
}

impl PrometheusClient {
    pub fn new() -> Result<Self, MetricsError> {
        let http = reqwest::Client::builder()
            .no_proxy()
            // A redirect would lead the spoke to wherever the answer says.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(DEADLINE)
            .build()
            .map_err(|e| MetricsError::Client(chain(&e)))?;
        Ok(PrometheusClient { http, deadline: DEADLINE, most_bytes: MOST_BYTES, rooms: Arc::default() })
    }

    #[cfg(test)]
    pub(crate) fn bounded(mut self, deadline: Duration, most_bytes: usize) -> Self {
        (self.deadline, self.most_bytes) = (deadline, most_bytes);
        self
    }

    #[cfg(test)]
    pub(crate) fn with_rooms(mut self, sizes: super::room::Sizes) -> Self {
        self.rooms = Arc::new(Rooms::new(sizes));
        self
    }

    /// A reading asks once for what it wants and once more for what depends on it: one deadline for both. A turn that
    /// does not come in time is told like an answer that does not.
    pub(super) async fn turn(&self, room: Room) -> Result<Turn<'_>, MetricsError> {
        let span = self.deadline * 3 / 2;
        let wait = match room {
            Room::Small => self.deadline,
            Room::Large => span * TURNS_UNTIL_LARGE,
            Room::Past => self.deadline * PATIENCE_OF_A_PAST,
        };
        self.rooms.turn(room, wait, span).await.ok_or(MetricsError::NoTurn(wait.as_millis()))
    }

    /// Raw samples of `selector` in the `range` up to `until`: an instant query of a range vector.
    pub async fn samples(
        &self,
        budget: Budget<'_>,
        base: &str,
        selector: &str,
        range: Duration,
        until: Timestamp,
    ) -> Result<Vec<Series>, MetricsError> {
        let query = format!("{selector}[{}ms]", range.as_millis().max(1));
        let data: QueryData = self.post(budget, base, "query", &[("query", &query), ("time", &seconds(until))]).await?;
        if data.kind != "matrix" {
            return Err(MetricsError::Shape(format!("a {} where raw samples were asked for", data.kind)));
        }
        Ok(data.result)
    }

    /// Whether `selector` matches anything now.
    pub async fn matches(&self, base: &str, selector: &str, clock: &dyn Clock) -> Result<bool, MetricsError> {
        let query = format!("count({selector})");
        let turn = self.turn(Room::Small).await?;
        let form = [("query", query.as_str()), ("time", &seconds(clock.now()))];
        let data: QueryData = self.post(turn.pods(), base, "query", &form).await?;
        Ok(!data.result.is_empty())
    }

    /// Names of the labels that series of `selector` had in the last hour. Empty: there are no such series.
    pub async fn label_names(
        &self,
        base: &str,
        selector: &str,
        clock: &dyn Clock,
    ) -> Result<Vec<String>, MetricsError> {
        let turn = self.turn(Room::Small).await?;
        let now = clock.now();
        let start = now.checked_sub(jiff::SignedDuration::from_hours(1)).unwrap_or(now);
        let form = [("match[]", selector), ("start", &seconds(start)), ("end", &seconds(now))];
        self.post(turn.pods(), base, "labels", &form).await
    }

    /// A form in the body: a selector that names a thousand pods is too long for a URL.
    async fn post<T: DeserializeOwned>(
        &self,
        budget: Budget<'_>,
        base: &str,
        call: &str,
        form: &[(&str, &str)],
    ) -> Result<T, MetricsError> {
        let url = format!("{}/api/v1/{call}", base.trim_end_matches('/'));
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = self.http.post(url).header("content-type", "application/x-www-form-urlencoded").body(body);
        let mut body = Vec::new();
        let answer = match self.exchange(budget, request, &mut body).await {
            Ok(status) => read_answer(status, &body),
            Err(error) => Err(error),
        };
        if answer.is_err() {
            budget.give_back(body.len());
        }
        answer
    }

    /// The status; what was read is in `body`, and there is room for it.
    async fn exchange(
        &self,
        budget: Budget<'_>,
        request: reqwest::RequestBuilder,
        body: &mut Vec<u8>,
    ) -> Result<u16, MetricsError> {
        let unreachable = |e: reqwest::Error| MetricsError::Unreachable(chain(&e));
        let ends = budget.ends().min(Instant::now() + self.deadline);
        let late = |_| MetricsError::Deadline(self.deadline.as_millis());
        let mut response = timeout_at(ends, request.send()).await.map_err(late)?.map_err(unreachable)?;
        let status = response.status();
        while let Some(chunk) = timeout_at(ends, response.chunk()).await.map_err(late)?.map_err(unreachable)? {
            if body.len() + chunk.len() > self.most_bytes {
                return Err(MetricsError::TooLarge(self.most_bytes));
            }
            budget.take(chunk.len()).map_err(MetricsError::TooMuch)?;
            body.extend_from_slice(&chunk);
        }
        Ok(status.as_u16())
    }
}

#[async_trait]
impl MetricsPort for PrometheusClient {
    async fn read(&self, request: &ReadRequest, clock: &dyn Clock) -> Taken {
        if request.large && request.source.gateway.is_none() {
            return Taken { batch: read::unread(request, &MetricsError::NotYet), at: clock.now(), large: true };
        }
        match self.turn(Room::Small).await {
            Ok(turn) => {
                let at = clock.now();
                if request.large {
                    return Taken { batch: read::gateway_alone(self, &turn, request, at).await, at, large: true };
                }
                let batch = read::read(self, &turn, request, at).await;
                Taken { batch, at, large: turn.needs_large() }
            }
            Err(why) => Taken { batch: read::unread(request, &why), at: clock.now(), large: request.large },
        }
    }

    async fn rest(&self, request: &ReadRequest, first: Taken, clock: &dyn Clock) -> Taken {
        // The small place is given back: who waits for a large room holds up nobody, and reads anew, up to the moment at
        // which its turn has come.
        match self.turn(Room::Large).await {
            Ok(turn) => {
                let at = clock.now();
                let batch = read::read(self, &turn, request, at).await;
                Taken { batch: read::with_first(batch, first.batch), at, large: turn.needs_large() }
            }
            Err(why) => Taken { batch: read::still_lacking(first.batch, &why), ..first },
        }
    }

    async fn past(&self, request: &ReadRequest) -> Vec<ObjectiveSamples> {
        let mut found = vec![];
        for range in read::HISTORY {
            found = match self.turn(Room::Past).await {
                Ok(turn) => read::past(self, &turn, request, range).await,
                Err(why) => read::unread_objectives(request, &why),
            };
            if found.iter().all(|o| o.total.is_ok() && o.errors.is_ok()) {
                break;
            }
        }
        found
    }

    async fn preflight(&self, request: &ReadRequest, clock: &dyn Clock) -> Result<Vec<String>, MetricsError> {
        preflight::preflight(self, request, clock).await
    }
}

fn read_answer<T: DeserializeOwned>(status: u16, body: &[u8]) -> Result<T, MetricsError> {
    // An error of the API carries its JSON with 400, 422 and 503 too: that says more than the status.
    match serde_json::from_slice::<Answer<T>>(body) {
        Ok(answer) if answer.status == "success" && status == 200 => {
            answer.data.ok_or_else(|| MetricsError::Shape("success without data".to_owned()))
        }
        Ok(answer) if answer.status == "error" => {
            Err(MetricsError::Refused { kind: short(&answer.error_type), text: short(&answer.error) })
        }
        _ if status != 200 => Err(MetricsError::Status { status, text: short(&String::from_utf8_lossy(body)) }),
        Ok(answer) => Err(MetricsError::Shape(format!("status '{}'", short(&answer.status)))),
        Err(why) => {
            let start = String::from_utf8_lossy(&body[..body.len().min(120)]).into_owned();
            Err(MetricsError::Shape(format!("{}; it begins '{}'", short(&why.to_string()), short(&start))))
        }
    }
}

fn seconds(time: Timestamp) -> String {
    let ms = time.as_millisecond();
    format!("{}.{:03}", ms.div_euclid(1000), ms.rem_euclid(1000))
}

/// One line of at most 120 characters: what a server says ends up in statuses.
fn short(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(120).collect()
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    short(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wrong_answer_has_its_name() {
        let read = |status, body: &str| read_answer::<QueryData>(status, body.as_bytes()).map(|d| d.result.len());
        let good = r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"pod":"a"},"values":[[1700000000.123,"4"],[1700000001,"NaN"]]}]}}"#;
        assert_eq!(read(200, good), Ok(1));
        let table = [
            (
                200,
                r#"{"status":"error","errorType":"execution","error":"query timed out"}"#,
                "execution: query timed out",
            ),
            (422, r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#, "bad_data: parse error"),
            (502, "<html>Bad Gateway</html>", "HTTP 502: <html>Bad Gateway</html>"),
            (200, "<html>Log in</html>", "begins '<html>Log in</html>'"),
            (200, r#"{"status":"success"}"#, "success without data"),
            (
                200,
                r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[["x",1]]}]}}"#,
                "not the Prometheus API's JSON",
            ),
            (200, r#"{"status":"odd","data":null}"#, "status 'odd'"),
            (302, "", "HTTP 302"),
            (200, "", "not the Prometheus API's JSON"),
        ];
        for (status, body, told) in table {
            let error = read(status, body).unwrap_err().to_string();
            assert!(error.contains(told), "{status} {body}: {error}");
        }
    }

    #[test]
    fn a_time_is_written_with_its_milliseconds() {
        assert_eq!(seconds(Timestamp::from_millisecond(1_700_000_000_007).unwrap()), "1700000000.007");
    }
}
