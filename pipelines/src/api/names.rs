//! The names by which Tidegate marks what is its own: one place, so that the
//! RBAC, the admission policies and the code cannot drift apart.

/// Namespace of the roles themselves, of EventSources and of BuildEvents.
pub const SYSTEM_NAMESPACE: &str = "tidegate-system";
/// Holds the Secrets by which senders are known, for the doors alone.
pub const DOORS_NAMESPACE: &str = "tidegate-doors";
/// Holds the tokens with which results are reported, for the hub alone.
pub const HUB_NAMESPACE: &str = "tidegate-hub";
/// Source of BuildEvents that a person made (`tidegate release`): bound to no EventSource, only to RBAC.
pub const PERSON_SOURCE: &str = "person";
/// Field manager of the roles' own server-side applies.
pub const FIELD_MANAGER: &str = "tidegate";
/// Field manager that raises an HPA's `minReplicas` during a rollout.
pub const HPA_FIELD_MANAGER: &str = "tidegate-rollout-capacity";
/// Field manager of the mirror; it owns neither `abort` nor `paused`.
pub const MIRROR_FIELD_MANAGER: &str = "tidegate-mirror";
/// Field manager of what the mirror remembers on an object and its applies must not take off again.
pub const MEMORY_FIELD_MANAGER: &str = "tidegate-mirror-memory";

/// On pods of a canary: `canary`. Added to the labels of the stable template.
pub const ROLE_LABEL: &str = "tidegate.io/role";
/// On objects we made: the pipeline's name.
pub const PIPELINE_LABEL: &str = "tidegate.io/pipeline";
/// On objects we made: the release's name.
pub const RELEASE_LABEL: &str = "tidegate.io/release";
/// On hub objects: the environment's name.
pub const ENVIRONMENT_LABEL: &str = "tidegate.io/environment";
/// Value that replaces each of stable's selector labels on canary pods.
pub fn canary_label_value(stable: &str) -> String {
    let stem: String = stable.chars().take(56).collect();
    format!("{stem}-canary")
}
/// Name of our canary Deployment and Service beside a workload `name`.
pub fn canary_name(name: &str) -> String {
    format!("{name}-canary")
}

/// On the route: uid of the Rollout that drives it.
pub const ROUTE_ROLLOUT: &str = "tidegate.io/rollout";
/// On the route: `<rollout uid>/<epoch>/<n>`, written with every raise.
pub const ROUTE_DECISION: &str = "tidegate.io/decision";
/// On the route: `promoting` from before stable's template is written.
pub const ROUTE_PHASE: &str = "tidegate.io/phase";
/// On the route: `<rollout uid>/<reason>`, written with a lowering to 0.
pub const ROUTE_LOWERED: &str = "tidegate.io/lowered";
/// On the route: the same with `@<time>`, for the time alone.
pub const ROUTE_LOWERED_AT: &str = "tidegate.io/lowered-at";
/// On the route: `<rule>=<weight>,...`, the weights that stable had before ours; `-` for none. A rule is `@<name>`, or
/// `#<digest of its matches>` where it has no name.
pub const ROUTE_USERS_WEIGHTS: &str = "tidegate.io/users-weights";
/// Kubernetes' own, on each ReplicaSet that the deployment controller makes, in its selector, and on the pods.
pub const TEMPLATE_HASH_LABEL: &str = "pod-template-hash";
/// On the Deployment: the release that its template carries.
pub const RELEASE_ANNOTATION: &str = "tidegate.io/release";
/// On our canary Deployment: uid of the Rollout whose images it carries.
pub const CANARY_ROLLOUT: &str = "tidegate.io/rollout";
/// On a mirrored Rollout: the hub's intent says `abort`. Set by the mirror, which owns no spec field that a person
/// may set here; once there it stays.
pub const HUB_ABORT: &str = "tidegate.io/hub-abort";
/// On a mirrored Rollout: the hub's intent says `paused`; removed when it no longer does.
pub const HUB_PAUSED: &str = "tidegate.io/hub-paused";
/// On a mirrored Rollout: its intent at the hub was explicitly taken away.
pub const WITHDRAWN: &str = "tidegate.io/withdrawn";
/// On an intent, mirrored: its pipeline is gone, so it goes back and our objects and our backendRef go with it.
pub const RETIRE: &str = "tidegate.io/retire";
/// On a spoke's heartbeat: what it says of its own API server while that does not answer; else empty.
pub const API_SERVER_AWAY: &str = "tidegate.io/api-server-away";
/// On an HPA: the `minReplicas` that a rollout holds it at.
pub const HPA_RAISED: &str = "tidegate.io/raised-min-replicas";
/// On a mirrored object whose source was loosened: when that was first seen, and the digest of what waits.
pub const PENDING_SINCE: &str = "tidegate.io/pending-since";
pub const PENDING: &str = "tidegate.io/pending";
/// On a mirrored object that waited before its first copy came: when it was first seen.
pub const FIRST_SEEN: &str = "tidegate.io/first-seen";
/// On the Environment in its own cluster: the digest of the policy that last governed there. On the copy of a policy
/// there: the environment that it governed.
pub const GOVERNED: &str = "tidegate.io/governed";
/// Finalizer: traffic returns to stable before the object goes.
pub const FINALIZER: &str = "tidegate.io/return-traffic";

/// On a Release: the latest BuildEvents that it answers, so that none is counted as two attempts.
pub const EVENTS_ANNOTATION: &str = "tidegate.io/events";
/// On a Rollout intent: it was paused with its Release, and goes on with it.
pub const PAUSED_BY_RELEASE: &str = "tidegate.io/paused-by-release";

/// Namespace at the hub that is an environment's own.
pub fn environment_namespace(environment: &str) -> String {
    format!("env-{environment}")
}
