//! Readings that wait for room, and what they hold.

use futures::FutureExt;

use super::super::room::{Room, Sizes};
use super::*;

fn sizes(at_once: usize) -> Sizes {
    let (small, small_gateway, large, large_gateway) = (1_000, 8_000, 12_000, 16_000);
    Sizes { at_once, small, small_gateway, large_at_once: 1, large, large_gateway, past_at_once: 1 }
}

/// One series, of some 5 kB.
fn long() -> Option<(u16, String)> {
    matrix(&[(&format!("pod=c-1,instance=i,job={}", "j".repeat(5_000)), 1.0)])
}

#[tokio::test]
async fn a_reading_that_waits_for_room_is_read_in_its_turn_and_not_late() {
    for (room, large) in [(Room::Small, false), (Room::Large, true)] {
        let server = server(|_, _| matrix(&[("pod=c-1,instance=i,job=j", 1.0)])).await;
        let client = PrometheusClient::new().unwrap().with_rooms(sizes(1));
        let mut request = request(&server.url, "x_total", r#"x_total{code="500"}"#);
        request.large = large;
        let queries = if large { 2 } else { 3 };
        if large {
            // Of the gateway it would ask before.
            request.source.gateway = None;
        }
        let clock = At::default();
        let held = client.turn(room).await.unwrap();
        let mut waits = Box::pin(evaluation(&client, &request, &clock));
        assert!(waits.as_mut().now_or_never().is_none());
        clock.0.store(5_000, Ordering::Relaxed);
        drop(held);
        let taken = waits.await;
        assert_eq!(taken.batch.objectives[0].total.as_ref().map(Vec::len), Ok(1));
        assert_eq!(taken.at.as_millisecond(), NOW_MS + 5_000, "{room:?}");
        let asked = server.asked.lock().await;
        assert!(asked.len() == queries && asked.iter().all(|(_, _, time)| time == "1700000005.000"), "{asked:?}");
    }
}

#[tokio::test]
async fn who_waits_for_a_large_room_keeps_nobody_from_reading() {
    let server = server(|_, query| if query.contains("other") { matrix(&[("pod=c-1", 1.0)]) } else { long() }).await;
    let client = PrometheusClient::new().unwrap().with_rooms(sizes(1));
    let mut large = request(&server.url, "x_total", r#"x_total{code="500"}"#);
    large.source.gateway = None;
    let small = ReadRequest { namespace: "other".into(), ..large.clone() };
    let clock = At::default();
    let held = client.turn(Room::Large).await.unwrap();
    let mut first = Box::pin(evaluation(&client, &large, &clock));
    assert!(first.as_mut().now_or_never().is_none(), "it has the only small place");
    let second = tokio::select! {
        biased;
        taken = &mut first => unreachable!("there is no room: {taken:?}"),
        taken = client.read(&small, &clock) => taken,
    };
    assert_eq!(second.batch.up.as_ref().map(Vec::len), Ok(1));
    assert!(!second.large);
    clock.0.store(7_000, Ordering::Relaxed);
    drop(held);
    let first = first.await;
    assert_eq!((first.batch.up.as_ref().map(Vec::len), first.large), (Ok(1), true));
    assert_eq!(first.at.as_millisecond(), NOW_MS + 7_000, "what came while it waited is read too");
}

#[tokio::test]
async fn a_turn_that_does_not_come_is_told_and_is_no_evidence() {
    let server = server(|_, _| matrix(&[])).await;
    let client = PrometheusClient::new().unwrap().bounded(Duration::from_millis(20), 10_000).with_rooms(sizes(1));
    let request = request(&server.url, "x_total", r#"x_total{code="500"}"#);
    let all = [Room::Small, Room::Large, Room::Past];
    let _held = futures::future::join_all(all.map(|room| client.turn(room))).await;
    let told = "no turn to read within 20 ms";
    // A large one is waited for as long as two may take.
    for (large, pods) in [(false, told), (true, "no turn to read within 60 ms")] {
        let batch = live(client.clone(), &ReadRequest { large, ..request.clone() }).await;
        for reading in [&batch.objectives[0].total, &batch.objectives[0].errors, &batch.up] {
            assert!(reading.as_ref().unwrap_err().contains(pods), "{reading:?}");
        }
        let gateway = batch.gateway.unwrap().total.unwrap_err();
        assert!(gateway.contains(told), "{gateway}");
    }
    assert!(client.preflight(&request, &At::default()).await.unwrap_err().to_string().contains(told));
    let past = client.past(&ReadRequest { history_until: Some(now()), ..request }).await;
    assert!(past[0].total.as_ref().unwrap_err().contains("within 200 ms"), "it may wait longer: {past:?}");
    assert!(server.asked.lock().await.is_empty());
}

#[tokio::test]
async fn a_past_that_is_too_much_takes_no_room_from_live_evidence() {
    let server = server(|_, query| {
        let of_the_past = query.ends_with("[3600000ms]") || query.ends_with("[600000ms]");
        if of_the_past { matrix(&[(&format!("pod={}", "p".repeat(20_000)), 1.0)]) } else { long() }
    })
    .await;
    let client = PrometheusClient::new().unwrap().with_rooms(sizes(1));
    let mut request = request(&server.url, "x_total", r#"x_total{code="500"}"#);
    (request.source.gateway, request.history_until) = (None, Some(now()));
    let clock = At::default();
    let (past, taken) = tokio::join!(client.past(&request), evaluation(&client, &request, &clock));
    assert!(past[0].total.as_ref().unwrap_err().contains("larger than 12000 bytes"), "{past:?}");
    let batch = taken.batch;
    assert_eq!((batch.objectives[0].total.as_ref().map(Vec::len), batch.up.as_ref().map(Vec::len)), (Ok(1), Ok(1)));
}

/// Who may answer at all: each query for itself.
fn of_the_gateway(query: &str) -> bool {
    query.starts_with("traefik")
}

#[tokio::test]
async fn one_evaluation_holds_no_more_than_its_room_and_the_gateways_part_is_its_own() {
    let server = server(|_, query| if of_the_gateway(query) { gateway_saw(true) } else { long() }).await;
    let mut rooms = sizes(8);
    rooms.large = 6_000;
    let client = PrometheusClient::new().unwrap().with_rooms(rooms);
    let taken = evaluation(&client, &request(&server.url, "x_total", r#"x_total{code="500"}"#), &At::default()).await;
    let batch = taken.batch;
    let readings = [&batch.objectives[0].total, &batch.up];
    let refused: Vec<&String> = readings.iter().filter_map(|reading| reading.as_ref().err()).collect();
    assert!(refused.len() == 1 && refused[0].contains("larger than 6000 bytes"), "{refused:?}");
    assert_eq!((batch.gateway.unwrap().total.map(|t| t.len()), taken.large), (Ok(4), true));
}

#[tokio::test]
async fn the_gateways_breach_is_told_although_the_pods_outgrow_the_small_room_and_no_large_turn_comes() {
    use tidegate_pipelines::judge::Decision;
    let server = server(|_, query| if of_the_gateway(query) { gateway_saw(true) } else { long() }).await;
    let deadline = Duration::from_secs(10);
    let client = PrometheusClient::new().unwrap().bounded(deadline, 1 << 20).with_rooms(sizes(1));
    let _held = client.turn(Room::Large).await.unwrap();
    let request = request(&server.url, "x_total", r#"x_total{code="500"}"#);
    let (answer, took) = judged(client.clone(), request).await;
    assert!(matches!(answer.assessment.decision, Decision::RollBack { .. }), "{:?}", answer.assessment);
    assert!(took < deadline / 2, "it waits for no large room: {took:?}");
}

#[tokio::test]
async fn what_was_read_stands_although_no_large_turn_comes() {
    let server = server(|_, query| if of_the_gateway(query) { gateway_saw(false) } else { long() }).await;
    let deadline = Duration::from_millis(200);
    let client = PrometheusClient::new().unwrap().bounded(deadline, 1 << 20).with_rooms(sizes(1));
    let _held = client.turn(Room::Large).await.unwrap();
    let clock = At::default();
    for (large, queries) in [(false, 3), (true, 1)] {
        server.asked.lock().await.clear();
        let request = ReadRequest { large, ..request(&server.url, "x_total", r#"x_total{code="500"}"#) };
        clock.0.store(0, Ordering::Relaxed);
        let first = client.read(&request, &clock).await;
        clock.0.store(9_000, Ordering::Relaxed);
        let taken = client.rest(&request, first, &clock).await;
        assert_eq!((taken.batch.gateway.unwrap().total.map(|t| t.len()), taken.large), (Ok(4), true));
        assert_eq!(taken.at.as_millisecond(), NOW_MS, "nothing newer was read");
        for reading in [&taken.batch.objectives[0].total, &taken.batch.up] {
            assert!(reading.as_ref().unwrap_err().contains("no turn to read within 600 ms"), "{reading:?}");
        }
        assert_eq!(server.asked.lock().await.len(), queries, "of a large one the gateway alone is asked: {large}");
    }
}

#[tokio::test]
async fn the_gateways_first_word_counts_where_it_gives_no_second() {
    let given = Arc::new(AtomicI64::new(0));
    let times = given.clone();
    let server = server(move |_, query| {
        if !of_the_gateway(query) {
            return long();
        }
        if times.fetch_add(1, Ordering::Relaxed) == 0 { gateway_saw(true) } else { Some((503, "away".into())) }
    })
    .await;
    let client = PrometheusClient::new().unwrap().with_rooms(sizes(1));
    let batch = live(client, &request(&server.url, "x_total", r#"x_total{code="500"}"#)).await;
    assert_eq!(given.load(Ordering::Relaxed), 2, "it is asked anew, with the pods");
    assert_eq!(batch.gateway.unwrap().total.map(|t| t.len()), Ok(4));
    assert_eq!(batch.objectives[0].total.as_ref().map(Vec::len), Ok(1));
}
