//! The adapter against a server that answers as told, over a real socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tidegate_pipelines::api::{MetricsSource, Objective, RatioMetric};
use tidegate_pipelines::judge::{Arms, Pod};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use super::*;

mod room;

const NOW_MS: i64 = 1_700_000_000_000;

/// What it was asked: path, decoded query and its time, in order of arrival.
type Asked = Arc<Mutex<Vec<(String, String, String)>>>;

struct Server {
    url: String,
    asked: Asked,
}

/// Answers each call with what `answer(path, query)` gives; `None`: never.
#[allow(clippy::disallowed_methods)] // the test's own server task
async fn server(answer: impl Fn(&str, &str) -> Option<(u16, String)> + Send + Sync + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (asked, answer) = (Asked::default(), Arc::new(answer));
    let log = asked.clone();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let (log, answer) = (log.clone(), answer.clone());
            tokio::spawn(async move {
                let Some((path, body)) = receive(&mut socket).await else { return };
                let form: Vec<(String, String)> = url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
                let field =
                    |names: &[&str]| form.iter().find(|(k, _)| names.contains(&k.as_str())).map(|(_, v)| v.clone());
                let query = field(&["query", "match[]"]).unwrap_or_default();
                log.lock().await.push((path.clone(), query.clone(), field(&["time", "end"]).unwrap_or_default()));
                let Some((status, body)) = answer(&path, &query) else { return std::future::pending().await };
                let head =
                    format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                let _ = socket.write_all(head.as_bytes()).await;
                let _ = socket.write_all(body.as_bytes()).await;
            });
        }
    });
    Server { url, asked }
}

async fn receive(socket: &mut tokio::net::TcpStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let n = socket.read(&mut chunk).await.ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&chunk[..n]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|l| l.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
        if body.len() >= length.and_then(|l| l.parse().ok()).unwrap_or(0) {
            return Some((head.split(' ').nth(1)?.to_owned(), body.to_owned()));
        }
    }
}

fn matrix(series: &[(&str, f64)]) -> Option<(u16, String)> {
    let one = |(labels, value): &(&str, f64)| {
        let labels: serde_json::Map<String, serde_json::Value> =
            labels.split(',').filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.into())).collect();
        serde_json::json!({"metric": labels, "values": [[1699999999.5, "0"], [1699999999.999, value.to_string()]]})
    };
    let result: Vec<_> = series.iter().map(one).collect();
    Some((
        200,
        serde_json::json!({"status": "success", "data": {"resultType": "matrix", "result": result}}).to_string(),
    ))
}

fn request(url: &str, total: &str, errors: &str) -> ReadRequest {
    let source: MetricsSource = serde_json::from_value(serde_json::json!({
        "prometheus": url, "scrapeInterval": "1s",
        "gateway": {"requests": "traefik_service_requests_total", "serviceLabel": "service", "codeLabel": "code",
            "servicePattern": ".*-svc-{namespace}-{service}-[0-9]+@kubernetesgateway"},
    }))
    .unwrap();
    let since = Timestamp::from_millisecond(NOW_MS - 600_000).unwrap();
    let pod = |name: &str| Pod { name: name.into(), since };
    ReadRequest {
        source,
        namespace: "portal".into(),
        objectives: vec![Objective {
            name: "errors".into(),
            target: 0.9,
            ratio: RatioMetric { total: total.into(), errors: errors.into() },
        }],
        arms: Arms { stable: vec![pod("s-1")], canary: vec![pod("c-1")] },
        stable_service: "portal".into(),
        canary_service: "portal-canary".into(),
        service_port: 80,
        watermark: None,
        large: false,
        history_until: None,
    }
}

fn now() -> Timestamp {
    Timestamp::from_millisecond(NOW_MS).unwrap()
}

/// Milliseconds since `NOW_MS`, until somebody sets it.
#[derive(Default)]
struct At(AtomicI64);

impl Clock for At {
    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(NOW_MS + self.0.load(Ordering::Relaxed)).unwrap()
    }
}

async fn live(client: PrometheusClient, request: &ReadRequest) -> Batch {
    evaluation(&client, request, &At::default()).await.batch
}

/// As the judge asks, where nothing is decided at first sight.
async fn evaluation(client: &PrometheusClient, request: &ReadRequest, clock: &dyn Clock) -> Taken {
    let first = client.read(request, clock).await;
    if first.large { client.rest(request, first, clock).await } else { first }
}

fn backend(service: &str, code: &str) -> String {
    format!(
        "service=httproute-portal-portal-gw-g-g-ep-web-0-0ea3-svc-portal-{service}@kubernetesgateway,code={code},job=gw,instance=t"
    )
}

#[tokio::test]
async fn an_evaluation_is_three_queries_bound_to_namespace_and_pods() {
    let server = server(|_, query| {
        if query.starts_with("x_total") {
            matrix(&[("pod=c-1,code=200,instance=i,job=j", 90.0), ("pod=c-1,code=503,instance=i,job=j", 10.0)])
        } else if query.starts_with("up") {
            matrix(&[("pod=c-1,instance=i,job=j", 1.0)])
        } else {
            let (stable, canary, bad) =
                (backend("portal-0", "200"), backend("portal-canary-1", "200"), backend("portal-canary-1", "502"));
            matrix(&[(&stable, 500.0), (&canary, 30.0), (&bad, 7.0), ("service=other,code=500", 9.0)])
        }
    })
    .await;
    let request = request(&server.url, "x_total", r#"x_total{code=~"5.."}"#);
    let batch = live(PrometheusClient::new().unwrap(), &request).await;
    let mut asked: Vec<String> = server.asked.lock().await.iter().map(|(_, q, _)| q.clone()).collect();
    asked.sort();
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert!(
        asked[0].starts_with("traefik_service_requests_total{service=~\"(?:.*-svc-portal-portal-[0-9]+@"),
        "{asked:?}"
    );
    assert_eq!(asked[1], r#"up{namespace="portal",pod=~"s-1|c-1"}[34000ms]"#);
    assert_eq!(asked[2], r#"x_total{namespace="portal",pod=~"s-1|c-1"}[34000ms]"#);
    let objective = &batch.objectives[0];
    let (total, errors) = (objective.total.as_ref().unwrap(), objective.errors.as_ref().unwrap());
    assert_eq!((total.len(), errors.len()), (2, 1));
    assert_eq!((errors[0].of.as_str(), errors[0].source.as_str()), ("c-1", "j|i"));
    assert_eq!(errors[0].samples, vec![(NOW_MS - 500, 0.0), (NOW_MS - 1, 10.0)]);
    let gateway = batch.gateway.unwrap();
    let of =
        |r: &tidegate_pipelines::judge::Reading| r.as_ref().unwrap().iter().map(|s| s.of.clone()).collect::<Vec<_>>();
    assert_eq!(of(&gateway.total), ["stable", "canary", "canary"]);
    assert_eq!(of(&gateway.errors), ["canary"]);
}

#[tokio::test]
async fn what_does_not_carry_the_gateways_labels_is_nobodys_evidence() {
    let server = server(|_, _| {
        let own = backend("portal-canary-1", "200");
        let tenant = backend("portal-canary-1", "502").replace("job=gw", "job=pods");
        matrix(&[(&own, 30.0), (&tenant, 900.0)])
    })
    .await;
    let mut request = request(&server.url, "x_total", "x_errors_total");
    let gateway = request.source.gateway.as_mut().unwrap();
    gateway.match_labels.insert("job".into(), "gw".into());
    let seen = live(PrometheusClient::new().unwrap(), &request).await.gateway.unwrap();
    assert_eq!((seen.total.unwrap().len(), seen.errors.unwrap().len()), (1, 0));
    let asked = server.asked.lock().await;
    assert!(asked.iter().any(|(_, query, _)| query.contains(r#",job="gw"}["#)), "{asked:?}");
}

#[tokio::test]
async fn errors_of_another_metric_are_asked_after_the_total() {
    let server = server(|_, _| matrix(&[])).await;
    let mut request = request(&server.url, "x_total", "x_errors_total");
    request.source.gateway = None;
    request.watermark = Some(Timestamp::from_millisecond(NOW_MS - 20_000).unwrap());
    live(PrometheusClient::new().unwrap(), &request).await;
    let asked: Vec<String> = server.asked.lock().await.iter().map(|(_, q, _)| q.clone()).collect();
    let place = |name: &str| asked.iter().position(|q| q.starts_with(name)).unwrap();
    assert!(place("x_errors_total") > place("x_total"), "{asked:?}");
    assert!(asked.iter().all(|q| q.ends_with("[54000ms]")), "{asked:?}");
}

#[tokio::test]
async fn a_server_that_fails_is_a_line_in_the_batch() {
    type Answer = fn() -> Option<(u16, String)>;
    let table: [(&str, Answer); 4] = [
        ("HTTP 503: away", || Some((503, "away".into()))),
        ("begins '<html>", || Some((200, "<html>log in</html>".into()))),
        ("no answer within 200 ms", || None),
        ("larger than 10000 bytes", || Some((200, " ".repeat(20_000)))),
    ];
    for (told, answer) in table {
        let server = server(move |_, _| answer()).await;
        let client = PrometheusClient::new().unwrap().bounded(Duration::from_millis(200), 10_000);
        let batch = live(client, &request(&server.url, "x_total", r#"x_total{code="500"}"#)).await;
        for reading in
            [&batch.objectives[0].total, &batch.objectives[0].errors, &batch.up, &batch.gateway.unwrap().total]
        {
            assert!(reading.as_ref().unwrap_err().contains(told), "{reading:?}");
        }
    }
    let nobody = request("http://127.0.0.1:1", "x_total", "x_total");
    let batch = live(PrometheusClient::new().unwrap(), &nobody).await;
    assert!(batch.up.unwrap_err().contains("cannot reach"));
}

#[tokio::test]
async fn history_that_is_too_much_is_asked_for_again_shorter() {
    let server = server(|_, query| {
        if query.ends_with("[3600000ms]") { Some((503, "too much".into())) } else { matrix(&[("pod=s-1", 1.0)]) }
    })
    .await;
    let mut request = request(&server.url, "x_total", r#"x_total{code="500"}"#);
    request.history_until = Some(now());
    let past = PrometheusClient::new().unwrap().past(&request).await;
    assert_eq!(past[0].total.as_ref().unwrap().len(), 1);
}

#[tokio::test]
async fn preflight_names_what_cannot_be_right() {
    let vector = |some: bool| {
        let result = if some { r#"[{"metric":{},"value":[1700000000,"4"]}]"# } else { "[]" };
        Some((200, format!(r#"{{"status":"success","data":{{"resultType":"vector","result":{result}}}}}"#)))
    };
    let server = server(move |path, query| {
        if path.ends_with("/labels") {
            let names = if query.starts_with("x_total") { r#"["__name__","code","pod"]"# } else { "[]" };
            return Some((200, format!(r#"{{"status":"success","data":{names}}}"#)));
        }
        vector(query.starts_with("count(x_total{namespace") || query.starts_with("count(up"))
    })
    .await;
    let client = PrometheusClient::new().unwrap();
    let lines = async |total: &str, errors: &str| {
        client.preflight(&request(&server.url, total, errors), &At::default()).await.unwrap()
    };
    assert!(lines("x_total", r#"x_total{code="500"}"#).await.is_empty());
    let table = [
        (
            "y_total",
            r#"x_total{code="500"}"#,
            "ratio.total 'y_total' matches no series of the stable pods, though they are scraped",
        ),
        ("x_total", r#"x_total{status="500"}"#, "has no label 'status'; it has: code, pod"),
        ("x_total", "x_errors_total", "no metric 'x_errors_total'"),
        ("rate(x_total[1m])", r#"x_total{code="500"}"#, "function call"),
    ];
    for (total, errors, told) in table {
        let found = lines(total, errors).await;
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(told), "{found:?}");
    }
}

/// The counters of a second each up to now: the gateway's word is that the canary fails, whatever its pods would say.
fn gateway_saw(canary_fails: bool) -> Option<(u16, String)> {
    let one = |service: &str, code: &str, each: i64| {
        let values: Vec<_> =
            (0..30).map(|k| serde_json::json!([(NOW_MS / 1000 - 29 + k), (each * k).to_string()])).collect();
        let labels: serde_json::Map<String, serde_json::Value> = backend(service, code)
            .split(',')
            .filter_map(|l| l.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.into()))
            .collect();
        serde_json::json!({"metric": labels, "values": values})
    };
    let bad = if canary_fails { 40 } else { 0 };
    let result = [
        one("portal-0", "200", 90),
        one("portal-0", "502", 0),
        one("portal-canary-1", "200", 50 - bad),
        one("portal-canary-1", "502", bad),
    ];
    let body = serde_json::json!({"status": "success", "data": {"resultType": "matrix", "result": result}});
    Some((200, body.to_string()))
}

/// The judge's first answer in mid-canary, and how long it took.
async fn judged(client: PrometheusClient, request: ReadRequest) -> (crate::spoke::evidence::Answer, Duration) {
    use crate::spoke::evidence::{Question, judge};
    use tidegate_pipelines::judge::{JudgeConfig, Scene, Watch};
    let strategy = serde_json::from_value(serde_json::json!({"mask": "0s"})).unwrap();
    let since = Timestamp::from_millisecond(NOW_MS - 60_000).ok();
    let scene = Scene { arms: request.arms.clone(), watch: Watch::Canary { step: 1, since } };
    let interval = request.source.scrape_interval;
    let gateway = request.source.gateway.as_ref().map(|g| g.lag);
    let config = JudgeConfig::new(&strategy, &request.objectives, 1.0, interval, gateway);
    let (_asks, asked) = tokio::sync::watch::channel(Some(Question { config, scene, request }));
    let (answers, mut answered) = tokio::sync::watch::channel(None);
    let judging = judge(Arc::new(client), Arc::new(At::default()), asked, answers, Default::default());
    let began = tokio::time::Instant::now();
    tokio::select! {
        () = judging => unreachable!("it asks as long as somebody listens"),
        _ = answered.changed() => {}
    }
    let answer = answered.borrow().clone().unwrap();
    (answer, began.elapsed())
}

#[tokio::test]
async fn a_breach_that_the_gateway_sees_is_told_within_the_deadline_while_every_other_query_hangs() {
    use tidegate_pipelines::judge::Decision;
    let deadline = Duration::from_millis(400);
    for (errors, case) in [(r#"x_total{code="500"}"#, "errors inside the total"), ("x_errors_total", "errors apart")] {
        let server = server(|_, query| query.starts_with("traefik").then(|| gateway_saw(true)).flatten()).await;
        let mut request = request(&server.url, "x_total", errors);
        // The past hangs too.
        request.history_until = Some(now());
        let client = PrometheusClient::new().unwrap().bounded(deadline, 1 << 20);
        let (answer, took) = judged(client, request).await;
        let decision = &answer.assessment.decision;
        assert!(matches!(decision, Decision::RollBack { .. }), "{case}: {:?}", answer.assessment);
        assert!(took < deadline * 2, "{case}: {took:?}");
    }
}

#[tokio::test]
async fn what_hangs_is_no_evidence_against_a_canary_that_the_gateway_finds_good() {
    use tidegate_pipelines::judge::Decision;
    let server = server(|_, query| query.starts_with("traefik").then(|| gateway_saw(false)).flatten()).await;
    let client = PrometheusClient::new().unwrap().bounded(Duration::from_millis(200), 1 << 20);
    let (answer, _) = judged(client, request(&server.url, "x_total", r#"x_total{code="500"}"#)).await;
    assert_eq!(answer.assessment.decision, Decision::Continue);
    assert!(answer.assessment.sight.both_arms().is_some(), "the gateway sees both: not blind");
}

#[tokio::test]
async fn a_past_that_hangs_delays_no_live_evidence() {
    use tidegate_pipelines::judge::Decision;
    let server = server(|_, query| {
        let of_the_past = query.ends_with("[3600000ms]") || query.ends_with("[600000ms]");
        if of_the_past { None } else { gateway_saw(true) }
    })
    .await;
    let mut request = request(&server.url, "x_total", r#"x_total{code="500"}"#);
    request.history_until = Some(now());
    let deadline = Duration::from_secs(10);
    let (answer, took) = judged(PrometheusClient::new().unwrap().bounded(deadline, 1 << 20), request).await;
    assert!(matches!(answer.assessment.decision, Decision::RollBack { .. }), "{:?}", answer.assessment);
    assert!(took < deadline / 2, "{took:?}");
}
