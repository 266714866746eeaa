//! Route patches against raw objects: what is not ours stays byte for byte.

use super::*;

fn route(rules: Value, annotations: Value) -> HttpRoute {
    serde_json::from_value(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "portal", "namespace": "acme", "resourceVersion": "7", "generation": 3, "annotations": annotations},
        "spec": {"parentRefs": [{"name": "gw"}], "hostnames": ["portal.local"], "rules": rules}
    }))
    .unwrap()
}

fn foreign_rule() -> Value {
    json!({
        "matches": [{"path": {"type": "PathPrefix", "value": "/legacy"}}],
        "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x", "value": "1"}]}}],
        "backendRefs": [{"name": "legacy", "port": 80, "fieldOfTomorrow": [1, 2]}]
    })
}

fn plain() -> HttpRoute {
    route(
        json!([foreign_rule(), {"backendRefs": [{"name": "portal", "port": 80, "filters": [{"type": "X"}]}], "timeouts": {"request": "5s"}}]),
        json!({"team": "records"}),
    )
}

fn read(route: &HttpRoute) -> Route {
    Route::read(route, "portal", "portal-canary")
}

/// The same share in every rule, as the planner computes it.
fn at(route: &HttpRoute, percent: u32) -> Vec<RuleWeights> {
    let rules = read(route).view.rules;
    rules
        .iter()
        .map(|r| {
            let canary = r.total() * percent / 100;
            RuleWeights { rule: r.rule, stable: r.total() - canary, canary }
        })
        .collect()
}

fn decision() -> RouteDecision {
    RouteDecision { rollout: "u-1".into(), epoch: 2, n: 5 }
}

fn mark(rollout: &str, reason: &str) -> LoweredMark {
    let at = "2026-11-22T10:00:00.123456Z".parse().ok();
    LoweredMark { rollout: rollout.into(), reason: reason.into(), at }
}

fn adopt(route: &HttpRoute) -> HttpRoute {
    let rules: Vec<usize> = read(route).view.rules.iter().map(|r| r.rule).collect();
    apply(route, &read(route).adopt("7", &decision(), &rules)).unwrap()
}

fn raise(route: &HttpRoute, percent: u32) -> HttpRoute {
    apply(route, &read(route).set_weights("7", &decision(), &at(route, percent)).unwrap()).unwrap()
}

/// Applies as the API server does; there a `test` for null passes on a missing member.
fn apply(route: &HttpRoute, patch: &Patch) -> Result<HttpRoute, String> {
    let mut document = serde_json::to_value(route).unwrap();
    let mut rest = Vec::new();
    for op in &patch.0 {
        match op {
            PatchOperation::Test(t) if t.value.is_null() => {
                let found = document.pointer(t.path.as_str()).filter(|v| !v.is_null());
                if let Some(found) = found {
                    return Err(format!("test {} failed: {found}", t.path));
                }
            }
            other => rest.push(other.clone()),
        }
    }
    json_patch::patch(&mut document, &rest).map_err(|e| e.to_string())?;
    Ok(serde_json::from_value(document).unwrap())
}

#[test]
fn onboarding_adds_our_backend_with_weight_0_and_nothing_else() {
    let before = plain();
    let after = adopt(&before);
    assert_eq!(after.data["spec"]["rules"][0], before.data["spec"]["rules"][0], "foreign rule");
    assert_eq!(after.data["spec"]["rules"][1]["timeouts"], before.data["spec"]["rules"][1]["timeouts"]);
    assert_eq!(
        after.data["spec"]["rules"][1]["backendRefs"],
        json!([
            {"name": "portal", "port": 80, "filters": [{"type": "X"}]},
            {"name": "portal-canary", "port": 80, "filters": [{"type": "X"}], "weight": 0}
        ])
    );
    assert!(read(&after).view.stands_at(0));
    assert_eq!(adopt(&after).data, after.data, "once is enough");
}

#[test]
fn raising_writes_two_weights_and_our_annotations_only() {
    let before = adopt(&plain());
    let after = raise(&before, 25);
    let refs = &after.data["spec"]["rules"][1]["backendRefs"];
    assert_eq!((refs[0]["weight"].as_i64(), refs[1]["weight"].as_i64()), (Some(75), Some(25)));
    assert_eq!(after.data["spec"]["rules"][0], before.data["spec"]["rules"][0], "foreign rule");
    let annotations = after.metadata.annotations.clone().unwrap();
    assert_eq!(annotations["team"], "records");
    assert_eq!(annotations[names::ROUTE_ROLLOUT], "u-1");
    assert_eq!(annotations[names::ROUTE_DECISION], "u-1/2/5");
    assert!(read(&after).view.stands_at(25));
}

#[test]
fn a_raise_from_a_stale_view_is_refused() {
    let before = adopt(&plain());
    let patch = read(&before).set_weights("7", &decision(), &at(&before, 25)).unwrap();
    let mut moved_on = before.clone();
    moved_on.metadata.resource_version = Some("8".into());
    assert!(apply(&moved_on, &patch).is_err());
    assert!(apply(&before, &patch).is_ok());
}

#[test]
fn a_raise_works_on_a_route_without_annotations() {
    let mut before = adopt(&plain());
    before.metadata.annotations = None;
    assert_eq!(read(&raise(&before, 5)).view.rollout.as_deref(), Some("u-1"));
}

#[test]
fn lowering_needs_no_resource_version_but_the_same_rollout() {
    let raised = raise(&adopt(&plain()), 50);
    let patch = read(&raised).lower_to_zero(&mark("u-1", "Judge"), &at(&raised, 0)).unwrap();
    let mut moved_on = raised.clone();
    moved_on.metadata.resource_version = Some("99".into());
    let lowered = apply(&moved_on, &patch).unwrap();
    assert_eq!(lowered.metadata.annotations.as_ref().unwrap()[names::ROUTE_LOWERED], "u-1/Judge", "for older readers");
    let after = read(&lowered).view;
    assert!(after.stands_at(0));
    assert_eq!(after.decision, Some(decision()), "the recorded epoch is left alone");
    assert_eq!(after.lowered, Some(mark("u-1", "Judge")));
    let other = read(&raised).lower_to_zero(&mark("u-2", "Judge"), &at(&raised, 0)).unwrap();
    assert!(apply(&raised, &other).is_err(), "another rollout's route");
}

#[test]
fn lowering_is_refused_once_promoting_is_written() {
    let raised = raise(&adopt(&plain()), 100);
    let promoting = apply(&raised, &read(&raised).mark_promoting("7", &decision())).unwrap();
    assert!(read(&promoting).view.promoting);
    assert!(read(&promoting).view.stands_at(100), "the mark moves nothing");
    let patch = read(&promoting).lower_to_zero(&mark("u-1", "Judge"), &at(&promoting, 0)).unwrap();
    assert!(apply(&promoting, &patch).is_err());
    assert!(read(&raise(&promoting, 0)).view.promoting, "the mark outlives weight writes");
    assert!(!read(&apply(&promoting, &read(&promoting).clear("7", false)).unwrap()).view.promoting);
}

#[test]
fn a_later_raise_takes_the_mark_of_an_old_lowering_away() {
    let raised = raise(&adopt(&plain()), 50);
    let patch = read(&raised).lower_to_zero(&mark("u-1", "Blind"), &at(&raised, 0)).unwrap();
    let lowered = apply(&raised, &patch).unwrap();
    let again = raise(&lowered, 5);
    assert_eq!(read(&again).view.lowered, None);
    assert!(!again.metadata.annotations.unwrap().contains_key(names::ROUTE_LOWERED_AT));
}

#[test]
fn beside_foreign_backends_our_two_share_stables_weight() {
    let before = route(
        json!([{"backendRefs": [{"name": "other", "port": 80, "weight": 300}, {"name": "portal", "port": 80, "weight": 200}]}]),
        json!({}),
    );
    let after = raise(&adopt(&before), 25);
    let refs = &after.data["spec"]["rules"][0]["backendRefs"];
    assert_eq!(refs[0], before.data["spec"]["rules"][0]["backendRefs"][0], "foreign backend");
    assert_eq!((refs[1]["weight"].as_i64(), refs[2]["weight"].as_i64()), (Some(150), Some(50)));
    assert!(read(&after).view.rules[0].foreign);
    assert!(read(&after).view.stands_at(25));
}

#[test]
fn a_backend_of_that_name_in_another_namespace_or_kind_is_not_ours() {
    let route = route(
        json!([{"backendRefs": [
            {"name": "portal", "namespace": "other", "port": 80},
            {"name": "portal", "kind": "ServiceImport", "group": "multicluster.x-k8s.io", "port": 80}
        ]}]),
        json!({}),
    );
    assert!(read(&route).view.rules.is_empty());
}

#[test]
fn a_rule_that_names_stable_twice_is_refused() {
    let route =
        route(json!([{"backendRefs": [{"name": "portal", "port": 80}, {"name": "portal", "port": 81}]}]), json!({}));
    assert_eq!(read(&route).view.odd().map(|(code, _)| code), Some("AmbiguousStable"));
    assert!(!read(&route).view.lacks_ref(), "and gets no ref of ours");
}

fn weights_in(route: &HttpRoute, rule: usize) -> Vec<(String, i64)> {
    let refs = route.data["spec"]["rules"][rule]["backendRefs"].as_array().unwrap();
    refs.iter().map(|b| (b["name"].as_str().unwrap().to_owned(), b["weight"].as_i64().unwrap_or(1))).collect()
}

#[test]
fn lowering_works_on_a_rule_that_became_ambiguous_in_mid_canary() {
    let mut raised = raise(&adopt(&plain()), 50);
    raised.data["spec"]["rules"][1]["backendRefs"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "portal", "port": 81, "weight": 1}));
    let view = read(&raised).view;
    assert!(view.most() > 49.0 && view.odd().is_some());
    let rules: Vec<_> = view.rules.iter().map(|r| RuleWeights { rule: r.rule, stable: r.total(), canary: 0 }).collect();
    let after = apply(&raised, &read(&raised).lower_to_zero(&mark("u-1", "Judge"), &rules).unwrap()).unwrap();
    let expected = [("portal".to_owned(), 100), ("portal-canary".to_owned(), 0), ("portal".to_owned(), 1)];
    assert_eq!(weights_in(&after, 1), expected);
    assert_eq!(read(&after).view.most(), 0.0);
}

#[test]
fn lowering_gives_stable_the_place_of_a_canary_that_stands_alone() {
    let mut raised = raise(&adopt(&plain()), 50);
    raised.data["spec"]["rules"][1]["backendRefs"].as_array_mut().unwrap().remove(0);
    let view = read(&raised).view;
    assert_eq!((view.most(), view.odd().map(|(code, _)| code)), (100.0, Some("StableNotInRule")));
    let rules: Vec<_> = view.rules.iter().map(|r| RuleWeights { rule: r.rule, stable: r.total(), canary: 0 }).collect();
    let after = apply(&raised, &read(&raised).lower_to_zero(&mark("u-1", "Judge"), &rules).unwrap()).unwrap();
    assert_eq!(weights_in(&after, 1), [("portal".to_owned(), 50)]);
    assert_eq!(read(&after).view.most(), 0.0);
}

#[test]
fn a_persons_own_way_to_the_canary_is_no_share_of_traffic() {
    let by_header = json!({
        "matches": [{"headers": [{"name": "x-canary", "value": "1"}]}],
        "backendRefs": [{"name": "portal-canary", "port": 80}]
    });
    let route = route(json!([by_header, {"backendRefs": [{"name": "portal", "port": 80}]}]), json!({}));
    let view = read(&adopt(&route)).view;
    assert_eq!((view.rules.len(), view.most(), view.odd()), (1, 0.0, None));
}

#[test]
fn the_parents_answer_counts_for_the_generation_it_was_given_for() {
    let mut route = plain();
    route.data["status"] = json!({"parents": [
        {"controllerName": "a", "conditions": [{"type": "Accepted", "status": "True", "observedGeneration": 3}, {"type": "ResolvedRefs", "status": "True", "observedGeneration": 2}]},
        {"controllerName": "b", "conditions": [{"type": "Accepted", "status": "False", "observedGeneration": 3}]}
    ]});
    assert_eq!(read(&route).view.accepted_generation, Some(2));
    assert!(!read(&route).view.accepted());
}

#[test]
fn clearing_leaves_the_users_route_as_it_was() {
    let weighted = |weight: Value| {
        let mut route = plain();
        route.data["spec"]["rules"][1]["backendRefs"][0]["weight"] = weight;
        route
    };
    let beside = route(
        json!([{"backendRefs": [{"name": "other", "port": 80, "weight": 300}, {"name": "portal", "port": 80, "weight": 200}]}]),
        json!({"team": "records"}),
    );
    for (before, case) in [
        (plain(), "no weight"),
        (weighted(json!(1)), "a weight of its own"),
        (weighted(json!(100)), "our weight"),
        (beside, "beside a foreign backend"),
    ] {
        // The whole walk, another leader's marks in the middle of it, and weight 0 by either way.
        let raised = raise(&adopt(&raise(&raise(&adopt(&before), 2), 50)), 100);
        let lowered = read(&raised).lower_to_zero(&mark("u-1", "Aborted.5"), &at(&raised, 0)).unwrap();
        for zero in [raise(&raised, 0), apply(&raised, &lowered).unwrap()] {
            let after = apply(&zero, &read(&zero).clear("7", true)).unwrap();
            assert_eq!((after.data, after.metadata), (before.data.clone(), before.metadata.clone()), "{case}");
            // Between rollouts our backendRef stays, without weight.
            let kept = apply(&zero, &read(&zero).clear("7", false)).unwrap();
            assert_eq!(kept.data, adopt(&before).data, "{case}");
            assert_eq!(kept.metadata, before.metadata, "{case}");
        }
    }
}

#[test]
fn a_users_weight_is_given_back_only_where_it_moves_no_request() {
    let zero = raise(&raise(&adopt(&plain()), 50), 0);
    type Change = fn(&mut Value);
    let table: [(&str, Change, i64); 4] = [
        ("stable has another weight by now", |refs| refs[0]["weight"] = json!(7), 7),
        ("the canary has weight", |refs| refs[1]["weight"] = json!(5), 100),
        ("somebody shares the rule", |refs| refs.as_array_mut().unwrap().push(json!({"name": "new", "port": 80})), 100),
        ("stable stands there twice", |refs| refs.as_array_mut().unwrap().push(json!({"name": "portal"})), 100),
    ];
    for (case, change, expected) in table {
        let mut touched = zero.clone();
        change(&mut touched.data["spec"]["rules"][1]["backendRefs"]);
        let after = apply(&touched, &read(&touched).clear("7", false)).unwrap();
        assert_eq!(after.data["spec"]["rules"][1]["backendRefs"][0]["weight"], expected, "{case}");
    }
    // A rule that was cut off by its own weight; another may stand in its place by now.
    let mut off = plain();
    off.data["spec"]["rules"][1]["backendRefs"][0]["weight"] = json!(0);
    let zero = raise(&raise(&adopt(&off), 50), 0);
    let mut forged = zero.clone();
    let annotations = forged.metadata.annotations.as_mut().unwrap();
    let rule = key(&off.data["spec"]["rules"][1]);
    annotations.insert(names::ROUTE_USERS_WEIGHTS.into(), format!("{rule}=0"));
    for route in [zero, forged] {
        let after = apply(&route, &read(&route).clear("7", false)).unwrap();
        assert_eq!(after.data["spec"]["rules"][1]["backendRefs"][0]["weight"], 100);
        assert!(!after.metadata.annotations.unwrap().contains_key(names::ROUTE_USERS_WEIGHTS));
    }
}

/// A rule for a path, with a name or without, in which stable has this weight.
fn rule(name: Option<&str>, path: &str, weight: u32) -> Value {
    let mut rule = json!({
        "matches": [{"path": {"type": "PathPrefix", "value": path}}],
        "backendRefs": [{"name": "portal", "port": 80, "weight": weight}]
    });
    if let Some(name) = name {
        rule["name"] = json!(name);
    }
    rule
}

fn stable_weights(route: &HttpRoute) -> Vec<i64> {
    (0..route.data["spec"]["rules"].as_array().unwrap().len()).map(|rule| weights_in(route, rule)[0].1).collect()
}

#[test]
fn a_users_weight_comes_back_in_its_own_rule_wherever_that_came_to_stand() {
    type Change = fn(&mut Vec<Value>);
    let rules = || vec![rule(Some("web"), "/", 3), rule(None, "/api", 7)];
    let table: [(&str, Change, &[i64], usize); 6] = [
        ("as they were", |_| {}, &[3, 7], 0),
        ("exchanged", |rules| rules.swap(0, 1), &[7, 3], 0),
        ("another before them", |rules| rules.insert(0, rule(None, "/new", 100)), &[100, 3, 7], 0),
        ("other matches under a name", |rules| rules[0]["matches"] = json!([]), &[3, 7], 0),
        ("other matches without a name", |rules| rules[1]["matches"] = json!([]), &[3, 100], 1),
        ("another name", |rules| rules[0]["name"] = json!("site"), &[100, 7], 1),
    ];
    for (case, change, expected, lost) in table {
        let raised = raise(&adopt(&route(json!(rules()), json!({}))), 50);
        let mut moved = raised.clone();
        change(moved.data["spec"]["rules"].as_array_mut().unwrap());
        assert_eq!(read(&moved).view.lost_weights, lost, "{case}");
        let zero = raise(&adopt(&moved), 0);
        let after = apply(&zero, &read(&zero).clear("7", false)).unwrap();
        assert_eq!(stable_weights(&after), expected, "{case}");
        assert!(!after.metadata.annotations.unwrap().contains_key(names::ROUTE_USERS_WEIGHTS), "{case}");
    }
}

#[test]
fn of_rules_that_nothing_tells_apart_no_weight_is_remembered() {
    let before = route(json!([rule(None, "/", 3), rule(None, "/", 7), rule(None, "/api", 5)]), json!({}));
    let zero = raise(&raise(&adopt(&before), 50), 0);
    let after = apply(&zero, &read(&zero).clear("7", false)).unwrap();
    assert_eq!(stable_weights(&after), [100, 100, 5]);
}

#[test]
fn a_backend_that_comes_in_mid_rollout_keeps_its_weight_and_the_view_says_what_ours_replaced() {
    let mut raised = raise(&adopt(&plain()), 25);
    let own = json!({"name": "own", "port": 80, "weight": 10});
    raised.data["spec"]["rules"][1]["backendRefs"].as_array_mut().unwrap().push(own);
    let view = read(&raised).view;
    assert_eq!((view.rules[0].users_weight, view.rules[0].total()), (Some(1), 100));
    let told = view.keeps_ours().unwrap();
    assert!(told.contains("rule 1") && told.contains("was 1"), "{told}");
    let after = raise(&raised, 50);
    let expected = [("portal".to_owned(), 50), ("portal-canary".to_owned(), 50), ("own".to_owned(), 10)];
    assert_eq!(weights_in(&after, 1), expected);
    let zero = raise(&after, 0);
    let cleared = apply(&zero, &read(&zero).clear("7", true)).unwrap();
    assert_eq!(weights_in(&cleared, 1), [("portal".to_owned(), 100), ("own".to_owned(), 10)], "no request moves");
}
