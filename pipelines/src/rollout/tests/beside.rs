//! Another backend beside our two in mid-rollout: what the weights mean then, and what becomes of the user's own.

use super::world::*;
use crate::api::*;

fn touched(world: &mut World, change: impl FnOnce(&mut Route)) {
    let now = world.now;
    let route = world.route.as_mut().unwrap();
    change(route);
    route.touch(now);
}

/// Message of the condition `ForeignWriter`, while it is true.
fn told(world: &World) -> Option<&str> {
    let told = world.status.conditions.iter().find(|one| one.type_ == "ForeignWriter" && one.status == "True");
    told.map(|one| one.message.as_str())
}

#[test]
fn a_backend_that_comes_beside_ours_in_mid_rollout_is_told_and_our_shares_hold() {
    for goes_again in [false, true] {
        let mut world = World::default();
        world.run_to_weight(25);
        assert_eq!(told(&world), None);
        touched(&mut world, |route| route.foreign = true);
        world.pass();
        let text = told(&world).unwrap_or_default();
        assert!(text.contains("rule 0") && text.contains("share a weight of 100") && text.contains("was 1"), "{text}");
        assert!(world.until(60, |world| world.weight() == 50), "{}", world.code());
        let route = world.route.as_ref().unwrap();
        assert_eq!((route.stable, route.canary), (50, Some(50)), "what is the user's in the rule keeps its share");
        if goes_again {
            touched(&mut world, |route| route.foreign = false);
            world.pass();
            assert_eq!(told(&world), None);
        }
        assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
        // Given back where nobody shares the rule, and else on record that it is not.
        assert_eq!(world.route.as_ref().unwrap().stable, if goes_again { 1 } else { 100 });
        assert_eq!(world.codes().contains(&"WeightKept".to_owned()), !goes_again);
    }
}

#[test]
fn weights_that_another_backend_shares_from_the_start_are_nothing_to_tell() {
    let mut world = World::with(|world| {
        let route = world.route.as_mut().unwrap();
        (route.foreign, route.stable) = (true, 100);
    });
    world.run_to_weight(25);
    assert_eq!(told(&world), None);
    assert_eq!(world.run_to_end(), RolloutPhase::Promoted);
    assert!(!world.codes().contains(&"WeightKept".to_owned()));
}

#[test]
fn a_step_that_small_weights_cannot_express_in_mid_rollout_is_not_taken_and_fails_in_time() {
    let small = |world: &mut World| {
        world.run_to_weight(25);
        // From the route's source, which has another backend by now and knows nothing of our weights.
        touched(world, |route| (route.stable, route.canary, route.foreign) = (1, None, true));
    };
    let mut world = World::default();
    small(&mut world);
    let mut most = 0;
    while !world.ended() {
        world.until(1, |_| false);
        most = most.max(world.weight());
    }
    assert_eq!((most, world.phase()), (0, RolloutPhase::Failed), "all or nothing is no share");
    assert!(world.status.message.as_ref().unwrap().contains("WeightTooCoarse"), "{:?}", world.status.message);
    let mut mended = World::default();
    small(&mut mended);
    assert!(mended.until(60, |world| world.code() == "WeightTooCoarse"), "{}", mended.code());
    touched(&mut mended, |route| route.stable = 200);
    assert_eq!(mended.run_to_end(), RolloutPhase::Promoted);
    assert_eq!(mended.route.as_ref().unwrap().stable, 200, "the user's own");
}

#[test]
fn a_weight_that_cannot_be_cut_to_the_recorded_share_is_lowered_below_it() {
    let mut world = World::default();
    world.run_to_weight(50);
    touched(&mut world, |route| (route.stable, route.canary, route.foreign) = (0, Some(1), true));
    assert_eq!(world.weight(), 100);
    world.pass();
    assert_eq!(world.weight(), 0, "half of a weight of 1 is none, not all");
    world.run_to_end();
}
