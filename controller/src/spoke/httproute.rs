//! HTTPRoutes as this program needs them: where stable and canary stand in the rules, and the JSON
//! Patches that move weight. Works on the raw object, so that foreign rules, filters and backends stay
//! byte for byte; never talks to a cluster and never decides a weight.

use std::borrow::Cow;

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation, TestOperation};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidegate_pipelines::api::names;
use tidegate_pipelines::rollout::{LoweredMark, Odd, RouteDecision, RouteView, RuleView, RuleWeights};

use super::users_weights::{UsersWeights, key};

/// A route with everything that is in it; only the metadata are typed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HttpRoute {
    pub metadata: ObjectMeta,
    #[serde(flatten)]
    pub data: Value,
}

impl Resource for HttpRoute {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "HTTPRoute".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "gateway.networking.k8s.io".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "httproutes".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Why a patch cannot be made from what was read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    #[error("rule {rule} no longer names the stable Service")]
    RuleGone { rule: usize },
    #[error("rule {rule} has no backendRef for the canary yet")]
    NotOnboarded { rule: usize },
}

impl RouteError {
    pub fn reason(&self) -> &'static str {
        match self {
            RouteError::RuleGone { .. } => "RuleGone",
            RouteError::NotOnboarded { .. } => "NotOnboarded",
        }
    }
}

/// Where stable and canary stand in one rule: once each, unless somebody wrote it otherwise.
#[derive(Clone, Debug, PartialEq)]
struct Place {
    rule: usize,
    /// None: another rule has the same one, so that nothing is remembered of either.
    key: Option<String>,
    stable: Option<usize>,
    canaries: Vec<usize>,
    stable_ref: Value,
    /// Refs that are neither.
    others: bool,
}

/// A route as read: what the planner sees of it, and the places that patches name.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    pub view: RouteView,
    places: Vec<Place>,
    stable: String,
    canary: String,
    has_annotations: bool,
    /// What is remembered of the user's weights; none: the annotation is not there.
    users: Option<UsersWeights>,
    /// The annotation is there, readable or not.
    lowered_at: bool,
    /// Port that the route's stable ref names, where it names one.
    pub port: Option<u16>,
}

fn is_service(backend: &Value, name: &str, namespace: &str) -> bool {
    let text = |key: &str| backend.get(key).and_then(Value::as_str);
    text("name") == Some(name)
        && matches!(text("kind"), None | Some("Service"))
        && matches!(text("group"), None | Some(""))
        && text("namespace").is_none_or(|n| n == namespace)
}

/// Gateway API: an absent weight is 1.
const UNSAID: u32 = 1;

fn weight_of(backend: &Value) -> u32 {
    backend.get("weight").and_then(Value::as_u64).and_then(|w| u32::try_from(w).ok()).unwrap_or(UNSAID)
}

/// The newest generation for which some parent said both `Accepted` and `ResolvedRefs`.
fn accepted_generation(route: &HttpRoute) -> Option<i64> {
    let parents = route.data.pointer("/status/parents").and_then(Value::as_array)?;
    let of_parent = |parent: &Value| {
        let said = |kind: &str| {
            let conditions = parent.get("conditions").and_then(Value::as_array)?;
            let condition = conditions.iter().find(|c| c.get("type").and_then(Value::as_str) == Some(kind))?;
            (condition.get("status").and_then(Value::as_str) == Some("True"))
                .then(|| condition.get("observedGeneration").and_then(Value::as_i64))?
        };
        Some(said("Accepted")?.min(said("ResolvedRefs")?))
    };
    parents.iter().filter_map(of_parent).max()
}

/// Only requests that ask for it come to this rule: a person's own way to the canary, which is no share of traffic.
fn asked_for(rule: &Value) -> bool {
    let some = |one: &Value, key: &str| one.get(key).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    let matches = rule.get("matches").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    !matches.is_empty() && matches.iter().all(|one| some(one, "headers") || some(one, "queryParams"))
}

impl Route {
    /// Reads whatever stands there: a rule that cannot be driven is said to be odd, and its canary's refs are
    /// known all the same, since lowering must always be possible.
    pub fn read(route: &HttpRoute, stable: &str, canary: &str) -> Self {
        let namespace = route.metadata.namespace.as_deref().unwrap_or_default();
        let (mut places, mut rules) = (Vec::new(), Vec::new());
        let all = route.data.pointer("/spec/rules").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let annotations = route.metadata.annotations.as_ref();
        let annotation = |key: &str| annotations.and_then(|a| a.get(key)).map(String::as_str);
        let users = annotation(names::ROUTE_USERS_WEIGHTS).map(UsersWeights::parse);
        let keys: Vec<String> = all.iter().map(key).collect();
        for (index, rule) in all.iter().enumerate() {
            let refs = rule.get("backendRefs").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let found = |name: &str| -> Vec<usize> {
                refs.iter().enumerate().filter(|(_, b)| is_service(b, name, namespace)).map(|(i, _)| i).collect()
            };
            let (at_stable, canaries) = (found(stable), found(canary));
            let sum = |places: &[usize]| places.iter().fold(0u32, |sum, i| sum.saturating_add(weight_of(&refs[*i])));
            let (canary_sum, place) = (sum(&canaries), at_stable.first().copied());
            if place.is_none() && (canaries.is_empty() || asked_for(rule)) {
                continue;
            }
            let odd = match place {
                None => Some(Odd::StableGone),
                Some(_) if at_stable.len() > 1 || canaries.len() > 1 => Some(Odd::Ambiguous),
                Some(_) => None,
            };
            let others = refs.len() > at_stable.len() + canaries.len();
            let key = Some(&keys[index]).filter(|key| keys.iter().filter(|other| other == key).count() == 1);
            let own = users.as_ref().zip(key).and_then(|(users, key)| users.0.get(key));
            // Without weight it sends nothing to the canary, and without stable it is no rule of ours.
            if place.is_some() || canary_sum > 0 {
                rules.push(RuleView {
                    rule: index,
                    stable_weight: place.map_or(0, |p| weight_of(&refs[p])),
                    stable_elsewhere: sum(at_stable.get(1..).unwrap_or_default()),
                    canary_weight: (!canaries.is_empty()).then_some(canary_sum),
                    foreign: others,
                    odd,
                    users_weight: own.map(|own| own.unwrap_or(UNSAID)),
                });
            }
            let stable_ref = place.map_or(Value::Null, |p| refs[p].clone());
            places.push(Place { rule: index, key: key.cloned(), stable: place, canaries, stable_ref, others });
        }
        let port = places.iter().find_map(|p| p.stable_ref.get("port")).and_then(Value::as_u64);
        let stands = |rule: &&String| places.iter().any(|p| p.key.as_ref() == Some(*rule));
        let lost_weights = users.iter().flat_map(|users| users.0.keys()).filter(|rule| !stands(rule)).count();
        let lowered_at = annotation(names::ROUTE_LOWERED_AT);
        let view = RouteView {
            uid: route.metadata.uid.clone().unwrap_or_default(),
            resource_version: route.metadata.resource_version.clone().unwrap_or_default(),
            generation: route.metadata.generation.unwrap_or_default(),
            accepted_generation: accepted_generation(route),
            rules,
            rollout: annotation(names::ROUTE_ROLLOUT).map(str::to_owned),
            decision: annotation(names::ROUTE_DECISION).and_then(RouteDecision::parse),
            promoting: annotation(names::ROUTE_PHASE) == Some("promoting"),
            lowered: annotation(names::ROUTE_LOWERED).and_then(|mark| LoweredMark::read(mark, lowered_at)),
            lost_weights,
        };
        Route {
            view,
            places,
            stable: stable.to_owned(),
            canary: canary.to_owned(),
            has_annotations: annotations.is_some_and(|a| !a.is_empty()),
            users,
            lowered_at: lowered_at.is_some(),
            port: port.and_then(|p| u16::try_from(p).ok()),
        }
    }

    /// Takes the route over: our annotations, and our backendRef at weight 0 in the rules named. The copy of
    /// stable's ref keeps its port and filters, so that the canary's requests are treated alike.
    pub fn adopt(&self, version: &str, decision: &RouteDecision, rules: &[usize]) -> Patch {
        let mut ops = self.guarded(version);
        for place in self.places.iter().filter(|p| p.canaries.is_empty() && rules.contains(&p.rule)) {
            let Some(stable) = place.stable else { continue };
            let refs = format!("/spec/rules/{}/backendRefs", place.rule);
            ops.push(test(&format!("{refs}/{stable}/name"), json!(self.stable)));
            let mut canary = place.stable_ref.clone();
            canary["name"] = json!(self.canary);
            canary["weight"] = json!(0);
            ops.push(add(&format!("{refs}/-"), canary));
        }
        self.stamp(decision, &mut ops);
        Patch(ops)
    }

    /// A guarded write of weights.
    pub fn set_weights(
        &self,
        version: &str,
        decision: &RouteDecision,
        rules: &[RuleWeights],
    ) -> Result<Patch, RouteError> {
        let mut ops = self.guarded(version);
        self.weigh(rules, &mut ops)?;
        self.stamp(decision, &mut ops);
        Ok(Patch(ops))
    }

    /// The mark before stable's template is written: from now on every write is guarded.
    pub fn mark_promoting(&self, version: &str, decision: &RouteDecision) -> Patch {
        let mut ops = self.guarded(version);
        self.stamp(decision, &mut ops);
        ops.push(add(&annotation_path(names::ROUTE_PHASE), json!("promoting")));
        Patch(ops)
    }

    /// Weight 0 before `Promoting`: no resourceVersion (the data plane's status writes bump it all the
    /// time), only that this rollout drives the route and that promotion has not begun. Leaves the
    /// recorded decision and its epoch alone.
    pub fn lower_to_zero(&self, mark: &LoweredMark, rules: &[RuleWeights]) -> Result<Patch, RouteError> {
        let mut ops = vec![
            test(&annotation_path(names::ROUTE_ROLLOUT), json!(mark.rollout)),
            // A missing member tests equal to null at the API server.
            test(&annotation_path(names::ROUTE_PHASE), Value::Null),
        ];
        self.weigh(rules, &mut ops)?;
        ops.push(add(&annotation_path(names::ROUTE_LOWERED), json!(mark.to_string())));
        ops.extend(mark.timed().map(|timed| add(&annotation_path(names::ROUTE_LOWERED_AT), json!(timed))));
        Ok(Patch(ops))
    }

    /// Our annotations off, the user's weights back; with `remove_canary_ref` our backendRef off too (the pipeline is
    /// gone).
    pub fn clear(&self, version: &str, remove_canary_ref: bool) -> Patch {
        let mut ops = vec![test("/metadata/resourceVersion", json!(version))];
        self.give_back(&mut ops);
        for place in self.places.iter().filter(|_| remove_canary_ref) {
            if place.stable.is_none() && !place.others {
                continue;
            }
            let refs = format!("/spec/rules/{}/backendRefs", place.rule);
            // From the last to the first: what is removed moves those behind it.
            for canary in place.canaries.iter().rev() {
                ops.push(test(&format!("{refs}/{canary}/name"), json!(self.canary)));
                ops.push(remove(&format!("{refs}/{canary}")));
            }
        }
        for (key, present) in [
            (names::ROUTE_ROLLOUT, self.view.rollout.is_some()),
            (names::ROUTE_DECISION, self.view.decision.is_some()),
            (names::ROUTE_PHASE, self.view.promoting),
            (names::ROUTE_LOWERED, self.view.lowered.is_some()),
            (names::ROUTE_LOWERED_AT, self.lowered_at),
            (names::ROUTE_USERS_WEIGHTS, self.users.is_some()),
        ] {
            if present {
                ops.push(remove(&annotation_path(key)));
            }
        }
        Patch(ops)
    }

    /// The rules in which stable stands alone with a canary without weight, with stable's place and weight there: the
    /// only ones in which its weight can be changed without moving a request.
    fn unshared(&self) -> impl Iterator<Item = (&Place, usize, Option<u32>)> {
        let idle = |rule: &&RuleView| !rule.foreign && rule.odd.is_none() && rule.canary_weight.unwrap_or(0) == 0;
        self.view.rules.iter().filter(idle).filter_map(|rule| {
            let place = self.places.iter().find(|p| p.rule == rule.rule)?;
            let stable = place.stable?;
            Some((place, stable, place.stable_ref.get("weight").map(|_| weight_of(&place.stable_ref))))
        })
    }

    /// Stable's weight as it is before a write of ours. The first that was seen stays: what stands there later may be
    /// ours. A weight that we would write ourselves needs no memory, and 0 is never given back: in a rule that moved
    /// since it would cut everything off.
    fn remember(&self, ops: &mut Vec<PatchOperation>) {
        let mut users = self.users.clone().unwrap_or_default();
        for (place, _, weight) in self.unshared().filter(|(.., weight)| !matches!(weight, Some(0 | RuleView::OURS))) {
            if let Some(key) = &place.key {
                users.0.entry(key.clone()).or_insert(weight);
            }
        }
        if !users.is_empty() && self.users.as_ref() != Some(&users) {
            ops.push(add(&annotation_path(names::ROUTE_USERS_WEIGHTS), json!(users.to_string())));
        }
    }

    /// Where stable still has the weight that we wrote and nothing else shares the rule.
    fn give_back(&self, ops: &mut Vec<PatchOperation>) {
        let Some(users) = &self.users else { return };
        for (place, stable, _) in self.unshared().filter(|(.., weight)| *weight == Some(RuleView::OURS)) {
            let own = place.key.as_ref().and_then(|key| users.0.get(key));
            let Some(weight) = own.filter(|weight| **weight != Some(0)) else { continue };
            let stable = format!("/spec/rules/{}/backendRefs/{stable}", place.rule);
            ops.push(test(&format!("{stable}/name"), json!(self.stable)));
            ops.push(match weight {
                Some(weight) => replace(&format!("{stable}/weight"), json!(weight)),
                None => remove(&format!("{stable}/weight")),
            });
        }
    }

    fn guarded(&self, version: &str) -> Vec<PatchOperation> {
        let mut ops = vec![test("/metadata/resourceVersion", json!(version))];
        if !self.has_annotations {
            ops.push(add("/metadata/annotations", json!({})));
        }
        ops
    }

    fn stamp(&self, decision: &RouteDecision, ops: &mut Vec<PatchOperation>) {
        ops.push(add(&annotation_path(names::ROUTE_ROLLOUT), json!(decision.rollout)));
        ops.push(add(&annotation_path(names::ROUTE_DECISION), json!(decision.to_string())));
        if self.view.lowered.is_some() {
            ops.push(remove(&annotation_path(names::ROUTE_LOWERED)));
        }
        if self.lowered_at {
            ops.push(remove(&annotation_path(names::ROUTE_LOWERED_AT)));
        }
        self.remember(ops);
    }

    fn weigh(&self, rules: &[RuleWeights], ops: &mut Vec<PatchOperation>) -> Result<(), RouteError> {
        for weights in rules {
            let place = self.places.iter().find(|p| p.rule == weights.rule);
            let Some(place) = place else { return Err(RouteError::RuleGone { rule: weights.rule }) };
            let Some(canary) = place.canaries.first() else {
                // A rule that came later and was not onboarded serves stable alone: that is weight 0.
                if weights.canary == 0 {
                    continue;
                }
                return Err(RouteError::NotOnboarded { rule: weights.rule });
            };
            let refs = format!("/spec/rules/{}/backendRefs", place.rule);
            if let Some(stable) = place.stable {
                ops.push(test(&format!("{refs}/{stable}/name"), json!(self.stable)));
            }
            ops.push(test(&format!("{refs}/{canary}/name"), json!(self.canary)));
            for more in place.canaries.iter().skip(1) {
                ops.push(test(&format!("{refs}/{more}/name"), json!(self.canary)));
                ops.push(add(&format!("{refs}/{more}/weight"), json!(0)));
            }
            match place.stable {
                Some(stable) => {
                    ops.push(add(&format!("{refs}/{stable}/weight"), json!(weights.stable)));
                    ops.push(add(&format!("{refs}/{canary}/weight"), json!(weights.canary)));
                }
                // Nothing else there would take its requests: our ref becomes stable's.
                None if weights.canary == 0 => {
                    ops.push(add(&format!("{refs}/{canary}/weight"), json!(weights.stable)));
                    ops.push(replace(&format!("{refs}/{canary}/name"), json!(self.stable)));
                }
                None => ops.push(add(&format!("{refs}/{canary}/weight"), json!(weights.canary))),
            }
        }
        Ok(())
    }
}

fn annotation_path(key: &str) -> String {
    format!("/metadata/annotations/{}", key.replace('~', "~0").replace('/', "~1"))
}

fn pointer(path: &str) -> PointerBuf {
    // Paths are built above from numbers and escaped keys; one that does not parse would be an empty
    // pointer, which a `test` before it refuses.
    PointerBuf::parse(path).unwrap_or_default()
}

pub(super) fn test(path: &str, value: Value) -> PatchOperation {
    PatchOperation::Test(TestOperation { path: pointer(path), value })
}

pub(super) fn add(path: &str, value: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation { path: pointer(path), value })
}

pub(super) fn replace(path: &str, value: Value) -> PatchOperation {
    PatchOperation::Replace(ReplaceOperation { path: pointer(path), value })
}

pub(super) fn remove(path: &str) -> PatchOperation {
    PatchOperation::Remove(RemoveOperation { path: pointer(path) })
}

#[cfg(test)]
#[path = "httproute_tests.rs"]
mod tests;
