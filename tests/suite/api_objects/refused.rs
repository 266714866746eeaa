//! The table of bad objects: what is wrong, and the part of the API server's sentence that tells its author.

use anyhow::{Result, ensure};
use kube::Client;
use serde_json::{Value, json};

use super::{ask, samples};

struct Bad {
    kind: &'static str,
    /// Merged into the sample's spec.
    change: Value,
    says: &'static str,
}

fn table() -> Vec<Bad> {
    let image = |repository: &str| json!({"images": [{"container": "app", "repository": repository}]});
    let steps = |steps: Value| json!({"strategy": {"steps": steps}});
    let ratio = |total: &str, errors: &str| json!({"objectives": [{"name": "a", "target": 0.9, "ratio": {"total": total, "errors": errors}}]});
    let objective =
        |name: &str, target: f64| json!({"name": name, "target": target, "ratio": {"total": "t", "errors": "e"}});
    let stage = |name: &str, environments: Value| json!({"name": name, "environments": environments});
    let checks = |check: Value| json!({"checkSets": [{"displayName": "set", "checks": [check]}]});
    let released = |repository: &str, digest: &str| json!({"images": [{"container": "app", "repository": repository, "digest": digest}]});
    let plain = "a ratio's selectors are plain, such as http_requests_total{code=~\"5..\"}";
    let one_check = "a check sets exactly one of the ...Check fields and alwaysDeny";
    let duration = "a duration is a whole number and one unit, such as 500ms, 90s, 10m or 2h";
    let not_a_digest = "should match '^sha256:[0-9a-f]{64}$'";
    let spelt = samples::DIGEST;
    let rows = [
        // Pipeline
        (
            "Pipeline",
            steps(json!([{"setWeight": 25}, {"setWeight": 5}])),
            "each setWeight must be above the one before it",
        ),
        (
            "Pipeline",
            steps(json!([{"setWeight": 5}, {"pause": {}}, {"setWeight": 5}])),
            "each setWeight must be above the one before it",
        ),
        ("Pipeline", steps(json!([{"pause": {}}])), "strategy.steps has no setWeight: nothing would be judged"),
        ("Pipeline", steps(json!([{"setWeight": 5, "pause": {}}])), "a step has exactly one of setWeight and pause"),
        ("Pipeline", steps(json!([{}, {"setWeight": 5}])), "a step has exactly one of setWeight and pause"),
        (
            "Pipeline",
            steps(json!([{"setWeight": 101}])),
            "spec.strategy.steps[0].setWeight in body should be less than or equal to 100",
        ),
        (
            "Pipeline",
            steps(json!([{"setWeight": 0}])),
            "spec.strategy.steps[0].setWeight in body should be greater than or equal to 1",
        ),
        ("Pipeline", steps(json!([{"setweight": 5}])), "unknown field \"spec.strategy.steps[0].setweight\""),
        ("Pipeline", steps(json!([{"pause": {"duration": "1h30m"}}, {"setWeight": 5}])), duration),
        ("Pipeline", json!({"strategy": {"bake": "10 minutes"}}), duration),
        ("Pipeline", json!({"strategy": {"mask": 60}}), "spec.strategy.mask in body must be of type string"),
        (
            "Pipeline",
            json!({"strategy": {"onInconclusive": "ignore"}}),
            "supported values: \"hold\", \"longer\", \"rollback\"",
        ),
        (
            "Pipeline",
            json!({"strategy": {"alpha": 0.5}}),
            "spec.strategy.alpha in body should be less than or equal to 0.2",
        ),
        (
            "Pipeline",
            json!({"stages": [stage("a", json!(["x"])), stage("a", json!(["y"]))]}),
            "two stages have the same name",
        ),
        (
            "Pipeline",
            json!({"stages": [stage("a", json!(["x", "z"])), stage("b", json!(["y", "x"]))]}),
            "an environment stands in two stages",
        ),
        (
            "Pipeline",
            json!({"stages": [stage("a", json!(["x", "x"]))]}),
            "spec.stages[0].environments[1]: Duplicate value: \"x\"",
        ),
        (
            "Pipeline",
            json!({"stages": [stage("a", json!([]))]}),
            "spec.stages[0].environments in body should have at least 1 items",
        ),
        (
            "Pipeline",
            json!({"stages": [{"name": "a", "environments": ["x"], "maxConcurrent": 0}]}),
            "spec.stages[0].maxConcurrent in body should be greater than or equal to 1",
        ),
        ("Pipeline", json!({"stages": []}), "spec.stages in body should have at least 1 items"),
        ("Pipeline", json!({"stages": null}), "spec.stages: Required value"),
        (
            "Pipeline",
            json!({"objectives": [objective("a", 1.0)]}),
            "spec.objectives[0].target in body should be less than or equal to",
        ),
        (
            "Pipeline",
            json!({"objectives": [objective("a", 0.0)]}),
            "spec.objectives[0].target in body should be greater than or equal to",
        ),
        (
            "Pipeline",
            json!({"objectives": [objective("a", 0.9), objective("a", 0.99)]}),
            "two objectives have the same name",
        ),
        ("Pipeline", json!({"objectives": []}), "spec.objectives in body should have at least 1 items"),
        ("Pipeline", ratio("", "e"), "spec.objectives[0].ratio.total in body should be at least 1 chars long"),
        (
            "Pipeline",
            ratio("requests", "requests"),
            "ratio.errors is ratio.total: every request would count as an error",
        ),
        ("Pipeline", ratio("rate(requests[5m])", "e"), plain),
        ("Pipeline", ratio("requests", "requests{code='500'}[1m]"), plain),
        ("Pipeline", image("registry.example/portal:v1"), "an image repository is written without tag and digest"),
        (
            "Pipeline",
            image("registry.example/portal@sha256:00"),
            "an image repository is written without tag and digest",
        ),
        ("Pipeline", image("acme/portal"), "an image repository begins with its registry's host"),
        (
            "Pipeline",
            json!({"images": [{"container": "a", "repository": "r.example/a"}, {"container": "a", "repository": "r.example/b"}]}),
            "images name a container twice",
        ),
        ("Pipeline", json!({"workload": {"kind": "DaemonSet"}}), "supported values: \"Deployment\""),
        ("Pipeline", json!({"rolback": "release"}), "unknown field \"spec.rolback\""),
        // Environment
        ("Environment", json!({"metrics": {"prometheus": "prometheus.example:9090"}}), "should match '^https?://'"),
        (
            "Environment",
            json!({"metrics": {"podLabel": "pod", "namespaceLabel": "pod"}}),
            "podLabel and namespaceLabel are two labels",
        ),
        (
            "Environment",
            json!({"metrics": {"gateway": {"servicePattern": ".*"}}}),
            "servicePattern must contain {namespace} and {service}",
        ),
        (
            "Environment",
            json!({"metrics": {"namespaceLabel": "namespace=~\".*\"} or up{a"}}),
            "spec.metrics.namespaceLabel in body should match",
        ),
        (
            "Environment",
            json!({"metrics": {"gateway": {"requests": "up or {}"}}}),
            "spec.metrics.gateway.requests in body should match",
        ),
        ("Environment", json!({"metrics": null}), "spec.metrics: Required value"),
        ("Environment", json!({"policy": ""}), "spec.policy in body should be at least 1 chars long"),
        ("Environment", json!({"loosenDelay": "-5m"}), duration),
        // EventSource
        ("EventSource", json!({"hmacSecret": null}), "a github source needs hmacSecret"),
        (
            "EventSource",
            json!({"kind": "cloudbuild", "hmacSecret": null}),
            "source needs oidc: issuer, audience and e-mail",
        ),
        (
            "EventSource",
            json!({"oidc": {"issuer": "https://i.example", "audience": "a", "email": "a@b"}}),
            "a source authenticates in one way",
        ),
        (
            "EventSource",
            json!({"kind": "gitlab"}),
            "supported values: \"github\", \"cloudbuild\", \"artifactregistry\"",
        ),
        ("EventSource", json!({"hmacSecret": {"key": null}}), "spec.hmacSecret.key: Required value"),
        ("EventSource", json!({"secret": "s3cr3t"}), "unknown field \"spec.secret\""),
        // BuildEvent
        (
            "BuildEvent",
            json!({"revision": "main"}),
            "spec.revision in body should match '^([0-9a-f]{40}|[0-9a-f]{64})$'",
        ),
        ("BuildEvent", json!({"images": [{"repository": "r.example/a", "digest": "sha1:00"}]}), not_a_digest),
        ("BuildEvent", json!({"receivedAt": "yesterday"}), "spec.receivedAt"),
        // Release
        ("Release", released("registry.example/a", "sha256:abc"), not_a_digest),
        (
            "Release",
            released("registry.example/a:v1", spelt),
            "repository is written without tag and digest: digest says which image",
        ),
        ("Release", json!({"images": []}), "spec.images in body should have at least 1 items"),
        ("Release", json!({"attempt": 0}), "spec.attempt in body should be greater than or equal to 1"),
        (
            "Release",
            json!({"indexes": [{"digest": "portal:v1", "children": []}]}),
            "spec.indexes[0].digest in body should match",
        ),
        // Rollout
        ("Rollout", json!({"maxWeight": 101}), "spec.maxWeight in body should be less than or equal to 100"),
        ("Rollout", json!({"alphaShare": 0.0}), "spec.alphaShare in body should be greater than or equal to"),
        ("Rollout", json!({"reason": "Undo"}), "supported values: \"Ship\", \"Rollback\", \"Retire\""),
        ("Rollout", released("registry.example/a", "latest"), not_a_digest),
        ("Rollout", json!({"promotethrough": 2}), "unknown field \"spec.promotethrough\""),
        // Approval, BreakGlass
        (
            "Approval",
            json!({"user": "dana"}),
            "an Approval is given in one's own name: spec.user must be cluster-admin",
        ),
        ("Approval", json!({"attempt": 0}), "spec.attempt in body should be greater than or equal to 1"),
        ("Approval", json!({"stage": ""}), "spec.stage in body should be at least 1 chars long"),
        ("BreakGlass", json!({"user": "dana"}), "a BreakGlass names its own maker: spec.user must be cluster-admin"),
        ("BreakGlass", json!({"reason": "because"}), "spec.reason in body should be at least 10 chars long"),
        ("BreakGlass", json!({"digest": "portal:v1"}), not_a_digest),
        ("BreakGlass", json!({"expiresAt": null}), "spec.expiresAt: Required value"),
        // VerificationPolicy
        (
            "VerificationPolicy",
            checks(
                json!({"displayName": "c", "alwaysDeny": true, "slsaCheck": {"attestors": ["a"], "builders": ["b"]}}),
            ),
            one_check,
        ),
        ("VerificationPolicy", checks(json!({"displayName": "c"})), one_check),
        (
            "VerificationPolicy",
            checks(json!({"displayName": "c", "sigstoreSignatureCheck": {"attestors": []}})),
            "attestors in body should have at least 1 items",
        ),
        (
            "VerificationPolicy",
            checks(json!({"displayName": "c", "sigstoreSignatureCheck": {"attestors": ["a"], "threshold": 0}})),
            "threshold in body should be greater than or equal to 1",
        ),
        (
            "VerificationPolicy",
            checks(json!({"displayName": "c", "signatureCheck": {"attestors": ["a"]}})),
            "unknown field \"spec.checkSets[0].checks[0].signatureCheck\"",
        ),
        (
            "VerificationPolicy",
            checks(
                json!({"displayName": "c", "sbomCheck": {"attestors": ["a"], "bannedPackages": [{"purl": "log4j-core"}]}}),
            ),
            "purl in body should match '^pkg:",
        ),
        (
            "VerificationPolicy",
            json!({"checkSets": [{"displayName": "a"}, {"displayName": "b", "scope": {"kubernetesNamespace": "x"}}]}),
            "only the last check set may be without scope",
        ),
        (
            "VerificationPolicy",
            json!({"checkSets": [{"displayName": "a", "scope": {}}]}),
            "a scope has exactly one of kubernetesNamespace and kubernetesServiceAccount",
        ),
        (
            "VerificationPolicy",
            json!({"imageAllowlist": {"allowPattern": ["**"]}}),
            "spec.imageAllowlist.allowPattern[0] in body should match",
        ),
        (
            "VerificationPolicy",
            json!({"registries": [{"host": "https://registry.example"}]}),
            "host is a host, or host:port, without scheme and path",
        ),
        (
            "VerificationPolicy",
            json!({"deployers": [{"kind": "ServiceAccount", "name": "ci"}]}),
            "a ServiceAccount is named namespace:name",
        ),
        ("VerificationPolicy", json!({"mode": "Off"}), "spec.mode: Unsupported value: \"Off\": supported values: "),
        // Attestor, TrustRoot
        (
            "Attestor",
            json!({"keys": [{"pem": "-----BEGIN PUBLIC KEY-----"}]}),
            "an Attestor has exactly one of keyless and keys",
        ),
        ("Attestor", json!({"keyless": null}), "an Attestor has exactly one of keyless and keys"),
        ("Attestor", json!({"keyless": null, "keys": [{"pem": "ssh-ed25519 AAAA"}]}), "pem is a PEM PUBLIC KEY"),
        (
            "Attestor",
            json!({"keyless": {"identity": "*@example.com"}}),
            "identity and issuer are compared exactly: patterns are not read",
        ),
        (
            "Attestor",
            json!({"keyless": {"issuer": "accounts.google.com"}}),
            "spec.keyless.issuer in body should match '^https?://'",
        ),
        ("TrustRoot", json!({"trustedRoot": "tuf-repo-cdn.sigstore.dev"}), "spec.trustedRoot in body should match"),
        // Verdict, Quarantine
        ("Verdict", json!({}), "only the guard of this cluster writes Verdicts"),
        ("Verdict", json!({"digest": "sha256:short"}), not_a_digest),
        ("Verdict", json!({"decision": "Maybe"}), "supported values: \"Allow\", \"Deny\", \"Error\""),
        ("Quarantine", json!({"digests": []}), "spec.digests in body should have at least 1 items"),
        ("Quarantine", json!({"digests": ["portal:v1"]}), not_a_digest),
        ("Quarantine", json!({"repositories": [""]}), "spec.repositories[0] in body should be at least 3 chars long"),
        (
            "Quarantine",
            json!({"lifted": {"by": "dana", "reason": "fine"}}),
            "spec.lifted.reason in body should be at least 10 chars long",
        ),
    ];
    rows.map(|(kind, change, says)| Bad { kind, change, says }).into()
}

/// Every row, so that one run tells all that is wrong with the table.
pub async fn each_with_its_sentence(client: &Client) -> Result<()> {
    let rows = table();
    ensure!(rows.len() >= 30, "only {} rows", rows.len());
    let mut wrong = Vec::new();
    for bad in &rows {
        let mut object = samples::named(bad.kind, "bad")?;
        samples::merge(&mut object["spec"], &bad.change);
        if let Err(error) = ask::try_create(client, &object).await?.refused_with(bad.says) {
            wrong.push(format!("{} with {}: {error}", bad.kind, bad.change));
        }
    }
    ensure!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n\n"));
    Ok(())
}
