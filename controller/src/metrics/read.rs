//! One evaluation's reading: which queries, at which time, and whose series they are.
//! All queries of a reading end at the same moment, so that their left edges agree too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use tidegate_pipelines::api::{GatewayMetrics, MetricsSource, Objective};
use tidegate_pipelines::judge::selector::{self, Selector};
use tidegate_pipelines::judge::{Batch, ObjectiveSamples, RawSeries, Reading};

use super::prometheus::{PrometheusClient, Series};
use super::room::{Budget, Turn};
use super::{MetricsError, ReadRequest};

/// What the judge's recent window needs, whatever the watermark.
const RECENT: Duration = Duration::from_secs(30);
/// A spoke that was away for longer judges the last hour only.
const LONGEST: Duration = Duration::from_secs(3600);
/// Over-dispersion wants an hour; a server that cannot give it is asked for less.
pub(super) const HISTORY: [Duration; 2] = [Duration::from_secs(3600), Duration::from_secs(600)];

struct Asked {
    total: Result<Selector, String>,
    errors: Result<Selector, String>,
}

type Answers = BTreeMap<String, Result<Vec<Series>, MetricsError>>;

/// Whose answers, within which part of a turn.
#[derive(Clone, Copy)]
struct Reader<'a> {
    client: &'a PrometheusClient,
    budget: Budget<'a>,
}

impl Reader<'_> {
    async fn samples(
        self,
        base: &str,
        query: &str,
        range: Duration,
        until: Timestamp,
    ) -> Result<Vec<Series>, MetricsError> {
        self.client.samples(self.budget, base, query, range, until).await
    }
}

/// All at the same time: what does not answer in time is a line in the batch and takes nothing from the rest.
pub(super) async fn read(client: &PrometheusClient, turn: &Turn<'_>, request: &ReadRequest, now: Timestamp) -> Batch {
    let (from, apart) = (Reader { client, budget: turn.pods() }, Reader { client, budget: turn.gateway() });
    let asked: Vec<Asked> = request.objectives.iter().map(|o| ask(o, &request.source)).collect();
    let arms = &request.arms;
    let pods: Vec<&str> = arms.stable.iter().chain(&arms.canary).map(|p| p.name.as_str()).collect();
    let range = range(request, now);
    let (objectives, up, gateway) = tokio::join!(
        objectives(from, request, &asked, &pods, range, now),
        up(from, request, &pods, range, now),
        gateway(apart, request, range, now),
    );
    Batch { objectives, up, gateway, config_errors: vec![] }
}

/// The gateway's counters, where the pods' are known to need more room than this.
pub(super) async fn gateway_alone(
    client: &PrometheusClient,
    turn: &Turn<'_>,
    request: &ReadRequest,
    now: Timestamp,
) -> Batch {
    let apart = Reader { client, budget: turn.gateway() };
    let gateway = gateway(apart, request, range(request, now), now).await;
    Batch { gateway, ..unread(request, &MetricsError::NotYet) }
}

/// What was read anew. The gateway's word counts even if it was only given the first time.
pub(super) fn with_first(anew: Batch, first: Batch) -> Batch {
    let gateway = match (anew.gateway, first.gateway) {
        (Some(anew), Some(first)) if anew.total.is_err() && first.total.is_ok() => Some(first),
        (anew, _) => anew,
    };
    Batch { gateway, config_errors: first.config_errors, ..anew }
}

/// What was read stands; of all else the line says `why` it could not be read at last.
pub(super) fn still_lacking(first: Batch, why: &MetricsError) -> Batch {
    let or = |reading: Reading| reading.map_err(|_| why.to_string());
    let both = |read: ObjectiveSamples| ObjectiveSamples { total: or(read.total), errors: or(read.errors) };
    Batch {
        objectives: first.objectives.into_iter().map(both).collect(),
        up: or(first.up),
        // It was asked: what it says of itself is nearer the truth.
        gateway: first.gateway,
        config_errors: first.config_errors,
    }
}

/// A batch that says of all that was wanted why it was not read.
pub(super) fn unread(request: &ReadRequest, why: &MetricsError) -> Batch {
    let gateway = request.source.gateway.as_ref();
    Batch {
        objectives: unread_objectives(request, why),
        up: Err(why.to_string()),
        gateway: gateway.map(|_| nothing(why)),
        config_errors: vec![],
    }
}

pub(super) fn unread_objectives(request: &ReadRequest, why: &MetricsError) -> Vec<ObjectiveSamples> {
    request.objectives.iter().map(|_| nothing(why)).collect()
}

fn nothing(why: &MetricsError) -> ObjectiveSamples {
    ObjectiveSamples { total: Err(why.to_string()), errors: Err(why.to_string()) }
}

fn ask(objective: &Objective, source: &MetricsSource) -> Asked {
    let parse = |text: &str| selector::parse(text, source).map_err(|e| e.to_string());
    Asked { total: parse(&objective.ratio.total), errors: parse(&objective.ratio.errors) }
}

/// From a little before what the judge has seen; the recent window is measured from there.
fn range(request: &ReadRequest, now: Timestamp) -> Duration {
    let interval = request.source.scrape_interval.as_duration();
    let since = request
        .watermark
        .map_or(Duration::ZERO, |w| Duration::try_from(now.duration_since(w)).unwrap_or(Duration::ZERO));
    (since + RECENT.max(3 * interval) + 4 * interval).min(LONGEST)
}

async fn objectives(
    from: Reader<'_>,
    request: &ReadRequest,
    asked: &[Asked],
    pods: &[&str],
    range: Duration,
    until: Timestamp,
) -> Vec<ObjectiveSamples> {
    let bound = |s: &Selector| s.query(&request.source, &request.namespace, pods);
    if pods.is_empty() {
        // Without pods our matcher would be missing, and the query would see everyone's.
        return asked.iter().map(|_| ObjectiveSamples { total: Ok(vec![]), errors: Ok(vec![]) }).collect();
    }
    let base = &request.source.prometheus;
    let totals = asked.iter().filter_map(|a| a.total.as_ref().ok()).map(bound);
    let mut answers = all(from, base, totals.collect(), range, until).await;
    // Errors are asked after the totals: they then know every scrape that those do. Most are a part of the total and
    // need no query at all.
    let errors = asked.iter().filter(|a| !errors_inside(a)).filter_map(|a| a.errors.as_ref().ok()).map(bound);
    let missing = errors.filter(|q| !answers.contains_key(q)).collect();
    answers.extend(all(from, base, missing, range, until).await);
    let reading = |selector: &Result<Selector, String>, keep: &dyn Fn(&Series) -> bool| -> Reading {
        let selector = selector.as_ref().map_err(Clone::clone)?;
        reading(answers.get(&bound(selector)), keep, &|s| s.metric.get(&request.source.pod_label).cloned())
    };
    let of = |asked: &Asked| {
        let total = reading(&asked.total, &|_| true);
        let errors = match (&asked.total, &asked.errors) {
            (Ok(_), Ok(errors)) if errors_inside(asked) => {
                let get = |s: &Series| errors.selects(|label| s.metric.get(label).map_or("", String::as_str));
                reading(&asked.total, &get)
            }
            _ => reading(&asked.errors, &|_| true),
        };
        ObjectiveSamples { total, errors }
    };
    asked.iter().map(of).collect()
}

fn errors_inside(asked: &Asked) -> bool {
    matches!((&asked.total, &asked.errors), (Ok(total), Ok(errors)) if errors.is_part_of(total))
}

/// Distinct queries, at the same time.
async fn all(from: Reader<'_>, base: &str, queries: BTreeSet<String>, range: Duration, until: Timestamp) -> Answers {
    let one = async |query: String| {
        let answer = from.samples(base, &query, range, until).await;
        (query, answer)
    };
    join_all(queries.into_iter().map(one)).await.into_iter().collect()
}

async fn up(from: Reader<'_>, request: &ReadRequest, pods: &[&str], range: Duration, until: Timestamp) -> Reading {
    if pods.is_empty() {
        return Ok(vec![]);
    }
    let source = &request.source;
    let namespace = selector::quoted(&request.namespace);
    let query = format!("up{{{}={namespace},{}}}", source.namespace_label, selector::pods_matcher(source, pods));
    let answer = from.samples(&source.prometheus, &query, range, until).await;
    reading(Some(&answer), &|_| true, &|s| s.metric.get(&source.pod_label).cloned())
}

async fn gateway(
    from: Reader<'_>,
    request: &ReadRequest,
    range: Duration,
    until: Timestamp,
) -> Option<ObjectiveSamples> {
    let gateway = request.source.gateway.as_ref()?;
    let backends = match backends(gateway, request) {
        Ok(backends) => backends,
        Err(why) => return Some(ObjectiveSamples { total: Err(why.clone()), errors: Err(why) }),
    };
    let answer = from.samples(&request.source.prometheus, &backends.query, range, until).await;
    let backend = |s: &Series| {
        let label = |name: &str| s.metric.get(name).map_or("", String::as_str);
        match (backends.stable.selects(label), backends.canary.selects(label)) {
            (true, false) => Some("stable".to_owned()),
            (false, true) => Some("canary".to_owned()),
            // A pattern that cannot tell the arms apart tells nothing.
            _ => None,
        }
    };
    // What the gateway answers for a backend that refuses or never answers is a 502, 503 or 504.
    let failed = |s: &Series| s.metric.get(&gateway.code_label).is_some_and(|code| code.starts_with('5'));
    Some(ObjectiveSamples {
        total: reading(Some(&answer), &|_| true, &backend),
        errors: reading(Some(&answer), &failed, &backend),
    })
}

struct Backends {
    query: String,
    stable: Selector,
    canary: Selector,
}

fn backends(gateway: &GatewayMetrics, request: &ReadRequest) -> Result<Backends, String> {
    let pattern = |service: &str| {
        selector::backend_pattern(&gateway.service_pattern, &request.namespace, service, request.service_port)
    };
    let (stable, canary) = (pattern(&request.stable_service), pattern(&request.canary_service));
    let select = |pattern: &str| selector::backends(gateway, pattern).map_err(|e| format!("metrics.gateway: {e}"));
    let both = select(&format!("(?:{stable})|(?:{canary})"))?;
    Ok(Backends { query: both.unbound(), stable: select(&stable)?, canary: select(&canary)? })
}

/// The stable pods' past over `range`.
pub(super) async fn past(
    client: &PrometheusClient,
    turn: &Turn<'_>,
    request: &ReadRequest,
    range: Duration,
) -> Vec<ObjectiveSamples> {
    let Some(until) = request.history_until else { return vec![] };
    let asked: Vec<Asked> = request.objectives.iter().map(|o| ask(o, &request.source)).collect();
    let pods: Vec<&str> = request.arms.stable.iter().map(|p| p.name.as_str()).collect();
    objectives(Reader { client, budget: turn.pods() }, request, &asked, &pods, range, until).await
}

/// Series with their owner.
fn reading(
    answer: Option<&Result<Vec<Series>, MetricsError>>,
    keep: &dyn Fn(&Series) -> bool,
    owner: &dyn Fn(&Series) -> Option<String>,
) -> Reading {
    let series = match answer {
        Some(Ok(series)) => series,
        Some(Err(why)) => return Err(why.to_string()),
        None => return Err("metrics: not asked".to_owned()),
    };
    let raw = |s: &Series| {
        let label = |name: &str| s.metric.get(name).map_or("", String::as_str);
        let of = owner(s)?;
        Some(RawSeries {
            of,
            source: format!("{}|{}", label("job"), label("instance")),
            key: s.metric.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(","),
            samples: s.values.iter().map(|sample| (sample.at_ms, sample.value)).collect(),
        })
    };
    Ok(series.iter().filter(|s| keep(s)).filter_map(raw).collect())
}
