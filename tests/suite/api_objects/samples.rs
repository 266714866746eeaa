//! One valid object of every kind, as a user would write it; the tables change one thing at a time.

use anyhow::{Context, Result};
use serde_json::Value;
use tidegate_tests::rig::apply;

pub const NAMESPACE: &str = "objects";
pub const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

const ALL: &str = r#"
apiVersion: tidegate.io/v1alpha1
kind: Pipeline
metadata: {name: portal, namespace: objects}
spec:
  sources: [{eventSource: github, repository: acme/portal}]
  images: [{container: app, repository: "registry.example:5000/acme/portal"}]
  workload: {name: portal}
  service: portal
  route: {httpRoute: portal}
  stages:
  - {name: staging, environments: [staging], soak: 10m}
  - {name: production, environments: [prod-east, prod-west], requireApproval: true}
  strategy:
    steps: [{setWeight: 5}, {pause: {duration: 10m}}, {setWeight: 25}, {pause: {}}, {setWeight: 100}]
  objectives:
  - name: availability
    target: 0.999
    ratio: {total: http_requests_total, errors: 'http_requests_total{code=~"5(..)|429"}'}
---
apiVersion: tidegate.io/v1alpha1
kind: Environment
metadata: {name: objects-east}
spec:
  policy: shop
  metrics:
    prometheus: "https://prometheus.example"
    gateway:
      requests: traefik_service_requests_total
      serviceLabel: service
      servicePattern: ".*-{namespace}-{service}-{port}@kubernetesgateway"
      codeLabel: code
  allowedPipelines:
  - {namespaceSelector: {matchLabels: {team: shop}}, targetNamespaces: [shop]}
---
apiVersion: tidegate.io/v1alpha1
kind: EventSource
metadata: {name: github, namespace: objects}
spec:
  kind: github
  hmacSecret: {name: github, key: webhook}
  repositories: [acme/portal]
  images: ["registry.example/acme/**"]
---
apiVersion: tidegate.io/v1alpha1
kind: BuildEvent
metadata: {name: event, namespace: objects}
spec:
  source: github
  type: package
  key: "package/1"
  receivedAt: "2026-01-02T03:04:05Z"
  revision: "0123456789abcdef0123456789abcdef01234567"
  images: [{repository: registry.example/acme/portal, tag: v1, digest: "@DIGEST@"}]
---
apiVersion: tidegate.io/v1alpha1
kind: Release
metadata: {name: portal-0123456789, namespace: objects}
spec:
  pipeline: portal
  pipelineUid: 3b0a
  images: [{container: app, repository: registry.example/acme/portal, digest: "@DIGEST@"}]
  snapshot:
    images: [{container: app, repository: registry.example/acme/portal}]
    workload: {name: portal}
    service: portal
    route: {httpRoute: portal}
    stages: [{name: staging, environments: [staging]}]
    objectives: [{name: availability, target: 0.9, ratio: {total: requests_total, errors: "requests_total{code='500'}"}}]
---
apiVersion: tidegate.io/v1alpha1
kind: Rollout
metadata: {name: portal-0123456789-1, namespace: objects}
spec:
  environment: staging
  pipelineNamespace: portal
  pipeline: portal
  release: portal-0123456789
  attempt: 1
  namespace: portal
  images: [{container: app, repository: registry.example/acme/portal, digest: "@DIGEST@"}]
  workload: {name: portal}
  service: portal
  route: {httpRoute: portal}
  strategy: {}
  objectives: [{name: availability, target: 0.9, ratio: {total: requests_total, errors: "requests_total{code='500'}"}}]
---
apiVersion: tidegate.io/v1alpha1
kind: Approval
metadata: {name: go, namespace: objects}
spec: {release: portal-0123456789, stage: production, user: cluster-admin}
---
apiVersion: tidegate.io/v1alpha1
kind: VerificationPolicy
metadata: {name: objects}
spec:
  mode: Enforce
  imageAllowlist: {allowPattern: ["registry.example/base/**"]}
  registries: [{host: "registry.example:5000"}]
  deployers: [{kind: ServiceAccount, name: "ci:deployer"}, {kind: Group, name: deployers}]
  checkSets:
  - displayName: payments
    scope: {kubernetesNamespace: payments}
    checks: [{displayName: nothing runs here, alwaysDeny: true}]
  - displayName: everywhere
    checks:
    - {displayName: signed, sigstoreSignatureCheck: {attestors: [builder], threshold: 1}}
    - displayName: no bans
      sbomCheck: {attestors: [builder], bannedPackages: [{purl: "pkg:npm/left-pad", versions: "<2"}]}
---
apiVersion: tidegate.io/v1alpha1
kind: Attestor
metadata: {name: objects}
spec: {keyless: {identity: "ci@example.com", issuer: "https://accounts.google.com"}}
---
apiVersion: tidegate.io/v1alpha1
kind: TrustRoot
metadata: {name: objects}
spec: {trustedRoot: '{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}'}
---
apiVersion: tidegate.io/v1alpha1
kind: Verdict
metadata: {name: objects}
spec:
  image: "registry.example/acme/portal@@DIGEST@"
  digest: "@DIGEST@"
  policyDigest: "@DIGEST@"
  trustRootDigest: "@DIGEST@"
  namespace: portal
  decision: Allow
  summary: signed
  verifiedAt: "2026-01-02T03:04:05Z"
---
apiVersion: tidegate.io/v1alpha1
kind: BreakGlass
metadata: {name: night, namespace: objects}
spec: {user: cluster-admin, digest: "@DIGEST@", expiresAt: "2030-01-02T03:04:05Z", reason: the registry of signatures is down}
---
apiVersion: tidegate.io/v1alpha1
kind: Quarantine
metadata: {name: objects}
spec: {digests: ["@DIGEST@"], environments: [prod-east], reason: errors rose}
"#;

pub fn all() -> Result<Vec<Value>> {
    apply::documents(&ALL.replace("@DIGEST@", DIGEST))
}

pub fn of(kind: &str) -> Result<Value> {
    all()?.into_iter().find(|object| object["kind"] == kind).with_context(|| format!("no sample of {kind}"))
}

/// The sample of that kind under another name.
pub fn named(kind: &str, name: &str) -> Result<Value> {
    let mut object = of(kind)?;
    object["metadata"]["name"] = name.into();
    Ok(object)
}

/// RFC 7386: objects merge, null removes, everything else replaces.
pub fn merge(target: &mut Value, change: &Value) {
    let Value::Object(change) = change else {
        *target = change.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in change {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}
