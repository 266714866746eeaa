//! What must hold while parts are away, and what must move nothing. All on the stage's `staging`, with a pipeline through
//! that environment alone or, to see others go on, through one more beside it; each case sets the pipeline as it needs it
//! and waits for the end of what it began.

mod autoscaler;
mod deleted;
mod doors;
mod events;
mod github;
mod grace;
mod hands;
mod keys;
mod outage;
mod refused;
mod rotation;
mod stateful;
mod strangers;
mod takeover;

use crate::case::Case;

pub fn cases() -> Vec<Case> {
    vec![
        // Before the table: the doors ask an issuer for unknown keys five times a minute, and this needs four.
        Case::new("must_hold::a_rotated_key_is_learnt_and_a_lost_issuer_refuses_nobody", keys::rotation),
        Case::new("must_hold::github_is_told_and_a_dead_one_delays_nothing", github::told),
        Case::new("must_hold::an_image_of_a_foreign_registry_never_ships", events::foreign_registry),
        Case::new("must_hold::ambiguous_pipelines_ship_nothing", events::ambiguous_pipelines),
        Case::new("must_hold::a_tag_that_moves_is_one_digest", events::moved_tag),
        Case::new("must_hold::hostile_inputs_at_the_doors_leave_what_they_should_and_no_rollout", doors::table),
        Case::new("must_hold::a_namespace_that_is_not_allowed_sees_nothing", refused::namespace_not_allowed),
        Case::new("must_hold::a_misspelt_metric_is_refused_before_any_traffic", refused::misspelt_metric),
        Case::new("must_hold::a_canary_that_nobody_scrapes_is_told_before_any_weight", refused::nobody_scrapes),
        Case::new(
            "must_hold::deleting_the_pipeline_in_mid_canary_leaves_the_users_route_as_it_was",
            deleted::in_mid_canary,
        ),
        Case::new("must_hold::deleting_a_pipeline_at_rest_takes_our_leftovers_away", deleted::nothing_under_way).slow(),
        Case::new("must_hold::a_retry_ships_by_the_mended_pipeline", refused::retry_of_a_mended_pipeline).slow(),
        Case::new("must_hold::registry_away", outage::registry).beside_another().slow(),
        Case::new("must_hold::hub_away", outage::hub).beside_another().slow(),
        Case::new("must_hold::environment_api_away", outage::environment_api).beside_another().slow(),
        Case::new("must_hold::gateway_away", outage::gateway).beside_another().slow(),
        Case::new("must_hold::prometheus_away", outage::prometheus).beside_another().slow(),
        Case::new("must_hold::a_second_spoke_takes_over_and_the_first_ones_late_write_is_refused", takeover::takeover),
        // After a case that ends with something promoted, or it has to ship first.
        Case::new(
            "must_hold::what_is_stable_outlasts_its_quarantine_for_a_grace_and_nothing_else_does",
            grace::quarantine,
        ),
        Case::new(
            "must_hold::the_guards_certificate_and_its_authority_are_rotated_without_a_gap",
            rotation::without_a_gap,
        ),
        Case::new("must_hold::a_stateful_sets_pods_come_back_by_the_revision_they_are_of", stateful::between_revisions),
        Case::new("must_hold::who_is_not_the_api_server_gets_no_answer_of_the_guard", strangers::at_the_guard),
        Case::new("must_hold::an_autoscaler_is_held_and_given_back", autoscaler::held_and_given_back).slow(),
        Case::new("must_hold::finished_objects_cause_no_writes", refused::idle),
    ]
}
