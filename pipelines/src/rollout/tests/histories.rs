//! Random histories: whatever happens, when it stops happening the rollout ends and then writes nothing more.

use std::time::Duration;

use proptest::prelude::*;

use super::world::*;
use crate::api::{BreachKind, RolloutPhase, RolloutReason};
use crate::rollout::*;

#[derive(Clone, Debug)]
enum Event {
    Abort,
    Pause(bool),
    Supersede,
    Bad,
    Blind(bool),
    MetricsAway(bool),
    Hub(bool),
    ForeignWeight(u32),
    ForeignImages,
    Verdict(bool, u8),
    Quarantine(bool),
    Broken(bool, bool),
    Delete,
    Withdraw,
    Retire,
    Crash(bool),
    Stale(usize),
    Ceiling(u8),
    CanaryGone,
    HpaLowered,
    PromoteThrough(u8),
    NeverGood,
    Health,
    Latency(u8),
    /// Our annotations are taken off the route.
    Stripped,
    /// The route is applied again from its source, without our ref; with or without what is not in it.
    Replaced(bool),
    /// An old copy of the route is put back: our ref at 0, no annotations.
    Restored,
    Twice(bool),
    StableGone,
    LateRule,
    /// Another backend comes beside our two; with a weight: from the route's source, in which stable has that.
    Beside(Option<u32>),
    RouteGone(bool),
    Load(u32),
    Scaled(u32),
    NoAutoscaler,
    AutoscalerRefuses,
    ApiBack(u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Abort),
        any::<bool>().prop_map(Event::Pause),
        Just(Event::Supersede),
        Just(Event::Bad),
        any::<bool>().prop_map(Event::Blind),
        any::<bool>().prop_map(Event::MetricsAway),
        any::<bool>().prop_map(Event::Hub),
        (0u32..=100).prop_map(Event::ForeignWeight),
        Just(Event::ForeignImages),
        (any::<bool>(), 0u8..4).prop_map(|(new, word)| Event::Verdict(new, word)),
        any::<bool>().prop_map(Event::Quarantine),
        (any::<bool>(), any::<bool>()).prop_map(|(new, on)| Event::Broken(new, on)),
        Just(Event::Delete),
        Just(Event::Withdraw),
        Just(Event::Retire),
        any::<bool>().prop_map(Event::Crash),
        (0usize..4).prop_map(Event::Stale),
        (0u8..=100).prop_map(Event::Ceiling),
        Just(Event::CanaryGone),
        Just(Event::HpaLowered),
        (0u8..5).prop_map(Event::PromoteThrough),
        Just(Event::NeverGood),
        Just(Event::Health),
        (0u8..90).prop_map(Event::Latency),
        of_the_route(),
        of_the_route(),
        (1u32..12).prop_map(Event::Load),
        (0u32..9).prop_map(Event::Scaled),
        Just(Event::NoAutoscaler),
        Just(Event::AutoscalerRefuses),
        (1u8..60).prop_map(Event::ApiBack),
    ]
}

fn of_the_route() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Stripped),
        any::<bool>().prop_map(Event::Replaced),
        Just(Event::Restored),
        any::<bool>().prop_map(Event::Twice),
        Just(Event::StableGone),
        Just(Event::LateRule),
        prop::option::of(1u32..40).prop_map(Event::Beside),
        any::<bool>().prop_map(Event::RouteGone),
    ]
}

/// What others do to the route.
fn to_the_route(world: &mut World, event: &Event) {
    let now = world.now;
    if let Event::RouteGone(gone) = event {
        if *gone && world.route.is_some() {
            world.away = world.route.take();
        } else if let Some(mut route) = world.away.take() {
            route.touch(now);
            world.route.get_or_insert(route);
        }
        return;
    }
    let Some(route) = &mut world.route else { return };
    match event {
        Event::Stripped => route.strip(),
        Event::Replaced(strip) => {
            (route.stable, route.canary, route.twice, route.stable_gone, route.late) = (1, None, None, false, None);
            if *strip {
                route.strip();
            }
        }
        Event::Restored => {
            (route.stable, route.canary) = (100, Some(0));
            route.strip();
        }
        Event::Twice(on) => route.twice = on.then_some(1),
        Event::StableGone => route.stable_gone = route.canary.is_some(),
        Event::LateRule => route.late = Some((1, None)),
        Event::Beside(source) => {
            route.foreign = true;
            if let Some(stable) = source {
                (route.stable, route.canary, route.twice, route.stable_gone) = (*stable, None, None, false);
            }
        }
        _ => return,
    }
    route.touch(now);
}

fn happen(world: &mut World, event: &Event) {
    let now = world.now;
    match event {
        Event::Abort => world.spec.abort = true,
        Event::Pause(on) => world.spec.paused = *on,
        Event::Supersede => world.spec.superseded_by = Some("portal-newer".into()),
        Event::Bad => world.bad = Some(BreachKind::Judge),
        Event::Blind(on) => world.blind_from = on.then_some(now),
        Event::MetricsAway(on) => world.metrics_away = *on,
        Event::Hub(away) => world.hub_away = away.then_some(now),
        Event::ForeignWeight(percent) => {
            if let Some(route) = &mut world.route
                && route.canary.is_some()
            {
                (route.stable, route.canary) = (100 - percent, Some(*percent));
                (route.rv, route.generation, route.changed) = (route.rv + 1, route.generation + 1, now);
            }
        }
        Event::ForeignImages => {
            if let Some(stable) = &mut world.stable {
                stable.images = images("ee");
                stable.rv += 1;
                stable.generation += 1;
                stable.updated_ready = 0;
            }
        }
        Event::Verdict(new, word) => {
            let verdict = match word {
                0 => VerdictView::Allow,
                1 => VerdictView::Error { reason: "registry away".into() },
                2 => VerdictView::Pending,
                _ => VerdictView::Deny { reason: "turned".into(), revoked: false },
            };
            world.verdict(if *new { NEW } else { OLD }, verdict);
        }
        Event::Quarantine(new) => {
            world.quarantined.insert(images(if *new { NEW } else { OLD })[0].digest.clone());
        }
        Event::Broken(new, on) => {
            let digest = images(if *new { NEW } else { OLD })[0].digest.clone();
            if *on {
                world.broken.insert(digest)
            } else {
                world.broken.remove(&digest)
            };
        }
        Event::Delete => world.deleting = true,
        Event::Withdraw => world.withdrawn = true,
        Event::Retire => world.retire = true,
        Event::Crash(reaches) => world.crash_at = Some((world.log.len(), *reaches)),
        Event::Stale(passes) => world.stale = *passes,
        Event::Ceiling(weight) => world.spec.max_weight = *weight,
        Event::CanaryGone => world.canary = None,
        Event::HpaLowered => {
            if let Some(hpa) = &mut world.hpa {
                hpa.min = 1;
            }
        }
        Event::PromoteThrough(step) => world.spec.promote_through = Some(*step),
        Event::NeverGood => world.good_after = None,
        Event::Health => world.health.new = PodTrouble { pods: 2, restarts: 6, ..Default::default() },
        Event::Latency(seconds) => world.pod_latency = Duration::from_secs((*seconds).into()),
        Event::Load(pods) => world.load = Some(*pods),
        Event::Scaled(pods) => {
            if let Some(stable) = &mut world.stable {
                stable.scale(*pods, now);
            }
        }
        Event::NoAutoscaler => world.hpa = None,
        Event::AutoscalerRefuses => world.hpa_refused = true,
        Event::ApiBack(seconds) => {
            world.catching_up_until = Some(now + jiff::SignedDuration::from_secs(i64::from(*seconds)));
        }
        _ => to_the_route(world, event),
    }
}

/// What passes by itself passes; what is decided (abort, breach, denial) stays.
fn calm(world: &mut World) {
    world.spec.paused = false;
    world.blind_from = None;
    world.metrics_away = false;
    world.hub_away = None;
    world.broken.clear();
    world.stale = 0;
    world.crash_at = None;
    world.hpa_refused = false;
    world.pod_latency = Duration::from_secs(3);
    // A person mends what only a person can.
    to_the_route(world, &Event::RouteGone(false));
    if world.route.as_ref().is_some_and(|route| route.twice.is_some()) {
        to_the_route(world, &Event::Twice(false));
    }
    if world.stable.as_ref().is_some_and(|stable| stable.wanted == 0) {
        happen(world, &Event::Scaled(2));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_history_ends_and_then_writes_nothing(
        events in prop::collection::vec((0u32..60, event()), 0..9),
        back in prop::bool::weighted(0.2),
    ) {
        let mut world = World::with(|world| world.load = Some(4));
        if back {
            world.spec.reason = RolloutReason::Rollback;
            world.spec.images = images(OLD);
            world.stable.as_mut().unwrap().images = images(NEW);
        }
        for (wait, event) in &events {
            world.until(*wait, |_| false);
            happen(&mut world, event);
        }
        calm(&mut world);
        if world.until(1500, World::ended) {
            world.run_to_end();
        } else {
            // It waits for a person, and says so.
            prop_assert_eq!(world.phase(), RolloutPhase::RollbackBlocked, "no end: {} {:?}", world.code(), world.status);
            prop_assert!(world.last.as_ref().unwrap().page.is_some(), "{}", world.code());
        }
    }
}
