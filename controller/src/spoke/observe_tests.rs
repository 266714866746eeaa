//! What `observe` makes of namespaces, epochs and marks that are not as they should be.

use super::*;

#[test]
fn a_forged_epoch_on_the_route_moves_nobody() {
    let decision = |text: &str| RouteDecision::parse(text).unwrap();
    for (recorded, on_route, expected) in [
        (3, None, 4),
        (3, Some("me/5/1"), 6),
        (3, Some("me/2/1"), 4),
        (3, Some("other/9/1"), 4),
        (3, Some("me/1000000000000000/1"), 4),
        (3, Some("me/18446744073709551615/1"), 4),
        (u64::MAX, None, u64::MAX),
    ] {
        let on_route = on_route.map(decision);
        assert_eq!(next_epoch(recorded, on_route.as_ref(), Some("me")), expected, "{recorded} {on_route:?}");
    }
}

#[test]
fn a_rollout_reaches_what_the_environment_lists_and_never_the_clusters_own() {
    let environment = |entries: serde_json::Value| -> Environment {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": "Environment", "metadata": {"name": "e"},
            "spec": {"policy": "p", "metrics": {"prometheus": "http://p:9090"}, "allowedPipelines": entries}
        }))
        .unwrap()
    };
    let open = environment(serde_json::json!([{"namespaceSelector": {}}]));
    let listed =
        environment(serde_json::json!([{"namespaceSelector": {}, "targetNamespaces": ["shop", "kube-system"]}]));
    let rollout = |from: &str, target: &str| -> RolloutSpec {
        serde_json::from_value(serde_json::json!({
            "environment": "e", "pipelineNamespace": from, "pipeline": "p", "release": "p-1", "attempt": 1,
            "namespace": target, "images": [], "workload": {"name": "p"}, "service": "p",
            "route": {"httpRoute": "p"}, "strategy": {}, "objectives": []
        }))
        .unwrap()
    };
    for (environment, from, target, expected) in [
        (&open, "acme", "acme", true),
        (&open, "acme", "shop", false),
        (&open, "kube-system", "kube-system", false),
        (&open, "tidegate-system", "tidegate-system", false),
        (&listed, "acme", "shop", true),
        (&listed, "acme", "acme", false),
        (&listed, "acme", "kube-system", false),
    ] {
        assert_eq!(namespace_allowed(environment, &rollout(from, target)), expected, "{from} on {target}");
    }
}
