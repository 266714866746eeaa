//! Whether a change lets something pass that was refused before. Errs to "yes": what it cannot tell waits.

use serde_json::Value;
use tidegate_pipelines::api::Span;

use super::kinds::Kind;

/// Seconds, when `Environment.spec.loosenDelay` is not set.
const LOOSEN_DELAY: i64 = 300;

fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    value.pointer(path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn within(new: &[Value], old: &[Value]) -> bool {
    new.iter().all(|item| old.contains(item))
}

/// All but these fields are equal.
fn same_but(old: &Value, new: &Value, fields: &[&str]) -> bool {
    let strip = |value: &Value| {
        let mut value = value.clone();
        if let Some(map) = value.as_object_mut() {
            map.retain(|key, v| !fields.contains(&key.as_str()) && !v.is_null() && *v != Value::Bool(false));
        }
        value
    };
    strip(old) == strip(new)
}

/// `old` and `new` are specs.
pub fn loosens(kind: Kind, old: &Value, new: &Value) -> bool {
    match kind {
        Kind::Environment => environment(old, new),
        Kind::Policy => !policy_tightens(old, new),
        // Fewer keys vouch for less; anything else may vouch for more.
        Kind::Attestor => !(same_but(old, new, &["keys"]) && within(list(new, "/keys"), list(old, "/keys"))),
        Kind::TrustRoot => true,
        Kind::Quarantine => quarantine(old, new),
    }
}

/// Another policy may ask for less, a shorter delay would let all the rest pass sooner, other metrics would speak to
/// the local judge, and more pipelines could ship. Only fewer of these and a longer delay are sure to tighten.
fn environment(old: &Value, new: &Value) -> bool {
    let (old_pipelines, new_pipelines) = (list(old, "/allowedPipelines"), list(new, "/allowedPipelines"));
    loosen_delay(new) < loosen_delay(old)
        || !within(new_pipelines, old_pipelines)
        || !same_but(old, new, &["loosenDelay", "allowedPipelines", "decommissioned"])
}

fn loosen_delay(environment: &Value) -> i64 {
    let set = environment.get("loosenDelay").filter(|delay| !delay.is_null());
    seconds(set.and_then(|delay| serde_json::from_value(delay.clone()).ok()))
}

/// An Environment's `loosenDelay` in seconds, its default where it is not set or cannot be read.
pub fn seconds(loosen_delay: Option<Span>) -> i64 {
    loosen_delay.map_or(LOOSEN_DELAY, |d| i64::try_from(d.as_duration().as_secs()).unwrap_or(i64::MAX))
}

fn mode(spec: &Value) -> u8 {
    u8::from(spec.get("mode").and_then(Value::as_str) == Some("Enforce"))
}

fn policy_tightens(old: &Value, new: &Value) -> bool {
    let known = ["mode", "imageAllowlist", "checkSets", "deployers", "withdrawn"];
    let allow = "/imageAllowlist/allowPattern";
    let (old_sets, new_sets) = (list(old, "/checkSets"), list(new, "/checkSets"));
    let (old_deployers, new_deployers) = (list(old, "/deployers"), list(new, "/deployers"));
    same_but(old, new, &known)
        && mode(new) >= mode(old)
        && within(list(new, allow), list(old, allow))
        && old_sets.len() == new_sets.len()
        && old_sets.iter().zip(new_sets).all(|(old, new)| {
            same_but(old, new, &["checks", "imageAllowlist"])
                && within(list(new, allow), list(old, allow))
                && within(list(old, "/checks"), list(new, "/checks"))
        })
        // An empty list restricts nobody.
        && (old_deployers.is_empty() || (!new_deployers.is_empty() && within(new_deployers, old_deployers)))
}

fn quarantine(old: &Value, new: &Value) -> bool {
    let lifted = new.get("lifted").is_some_and(|l| !l.is_null()) && old.get("lifted").is_none_or(Value::is_null);
    let (old_places, new_places) = (list(old, "/environments"), list(new, "/environments"));
    let narrower = !new_places.is_empty() && (old_places.is_empty() || !within(old_places, new_places));
    lifted || narrower || !within(list(old, "/digests"), list(new, "/digests"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_policy_that_asks_for_more_tightens_and_anything_else_loosens() {
        let base = json!({
            "mode": "Enforce",
            "imageAllowlist": {"allowPattern": ["r/base/**"]},
            "checkSets": [{"displayName": "all", "checks": [{"name": "signed"}]}],
            "deployers": [{"kind": "User", "name": "ci"}]
        });
        let with = |path: &str, value: Value| {
            let mut changed = base.clone();
            *changed.pointer_mut(path).unwrap() = value;
            changed
        };
        for (new, expected, case) in [
            (base.clone(), false, "nothing"),
            (with("/mode", json!("Audit")), true, "Audit"),
            (with("/checkSets/0/checks", json!([{"name": "signed"}, {"name": "sbom"}])), false, "one check more"),
            (with("/checkSets/0/checks", json!([])), true, "no check"),
            (with("/checkSets/0/checks/0/name", json!("other")), true, "another check"),
            (with("/imageAllowlist/allowPattern", json!([])), false, "nothing exempt"),
            (with("/imageAllowlist/allowPattern", json!(["r/base/**", "x/**"])), true, "more exempt"),
            (with("/deployers", json!([])), true, "anybody deploys"),
            (
                with("/deployers", json!([{"kind": "User", "name": "ci"}, {"kind": "User", "name": "eve"}])),
                true,
                "one more",
            ),
            (with("/checkSets", json!([])), true, "no check set"),
        ] {
            assert_eq!(loosens(Kind::Policy, &base, &new), expected, "{case}");
        }
    }

    #[test]
    fn another_policy_or_a_shorter_delay_loosens_an_environment() {
        let with = |delay: Value, policy: &str| json!({"policy": policy, "loosenDelay": delay});
        let base = with(json!("5m"), "strict");
        for (new, expected, case) in [
            (base.clone(), false, "nothing"),
            (with(json!("10m"), "strict"), false, "longer"),
            (with(json!("0s"), "strict"), true, "none at all"),
            (with(json!("299s"), "strict"), true, "shorter"),
            (with(Value::Null, "strict"), false, "not set is 5 min"),
            (with(json!("5m"), "lax"), true, "another policy"),
            (
                json!({"policy": "strict", "loosenDelay": "5m", "metrics": {"prometheus": "http://elsewhere"}}),
                true,
                "metrics",
            ),
            (json!({"policy": "strict", "loosenDelay": "5m", "allowedPipelines": [{}]}), true, "more pipelines"),
        ] {
            assert_eq!(loosens(Kind::Environment, &base, &new), expected, "{case}");
        }
        let two = json!({"policy": "p", "allowedPipelines": [{"targetNamespaces": ["a"]}, {}]});
        let one = json!({"policy": "p", "allowedPipelines": [{}]});
        assert!(!loosens(Kind::Environment, &two, &one), "fewer pipelines");
        assert!(loosens(Kind::Environment, &with(Value::Null, "p"), &with(json!("1s"), "p")));
    }

    #[test]
    fn a_revoked_key_takes_effect_at_once_and_a_new_one_waits() {
        let two = json!({"keys": [{"pem": "a"}, {"pem": "b"}]});
        let one = json!({"keys": [{"pem": "a"}]});
        assert!(!loosens(Kind::Attestor, &two, &one));
        assert!(loosens(Kind::Attestor, &one, &two));
    }
}
