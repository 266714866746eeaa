//! What users of the rig's fleet have written: policies, pipeline, event sources and the service `portal`.
//! Plain texts with facts put in; nothing is applied here.

use std::fmt::Write;

pub const APP: &str = "portal";
pub const REPOSITORY: &str = "shop/portal";
pub const GITHUB_REPOSITORY: &str = "shop/portal";
pub const SOURCE: &str = "https://github.com/shop/portal";
pub const HMAC_SECRET: &str = "the-rig's-webhook-secret";
pub const PUSH_AUDIENCE: &str = "https://tidegate.example/events";
pub const PUSH_EMAIL: &str = "pubsub@shop-prod.iam.gserviceaccount.com";
pub const LOG4J: &str = "pkg:maven/org.apache.logging.log4j/log4j-core";

/// How the fleet ships; what the acts vary.
#[derive(Clone, Debug)]
pub struct Shipping {
    pub stages: Vec<String>,
    /// Stage whose start needs an Approval.
    pub approval: Option<String>,
    pub rollback: &'static str,
    pub steps: String,
    pub step_min_time: &'static str,
    pub bake: &'static str,
    pub soak: &'static str,
}

impl Shipping {
    pub fn through(stages: &[&str]) -> Self {
        Self {
            stages: stages.iter().map(ToString::to_string).collect(),
            approval: None,
            rollback: "release",
            steps: "[{setWeight: 5}, {setWeight: 25}, {setWeight: 50}, {setWeight: 100}]".into(),
            step_min_time: "3s",
            bake: "5s",
            soak: "5s",
        }
    }
}

/// Attestor, trust root and policy; the same in every environment.
pub fn trust(registry: &str, identity: &str, issuer: &str, trusted_root: &str, mode: &str) -> String {
    let root = serde_json::to_string(trusted_root).unwrap_or_default();
    format!(
        r#"
apiVersion: tidegate.io/v1alpha1
kind: TrustRoot
metadata: {{name: default}}
spec: {{trustedRoot: {root}}}
---
apiVersion: tidegate.io/v1alpha1
kind: Attestor
metadata: {{name: builder}}
spec:
  keyless: {{identity: "{identity}", issuer: "{issuer}"}}
  # The rig's Sigstore runs no certificate transparency log.
  unsafeSkipSct: true
---
apiVersion: tidegate.io/v1alpha1
kind: VerificationPolicy
metadata: {{name: shop}}
spec:
  mode: {mode}
  registries: [{{host: "{registry}", insecure: true}}]
  deployers:
  - {{kind: Group, name: deployers}}
  checkSets:
  - displayName: everywhere
    checks:
    - displayName: signed by the build
      sigstoreSignatureCheck: {{attestors: [builder]}}
    - displayName: built from our source
      slsaCheck:
        attestors: [builder]
        builders: ["https://cloudbuild.googleapis.com/GoogleHostedWorker"]
        sources: ["{SOURCE}"]
        requireRevision: true
    - displayName: no banned packages
      sbomCheck:
        attestors: [builder]
        bannedPackages:
        - {{purl: "{LOG4J}", versions: "<2.17.1", reason: "CVE-2021-44228 and its successors"}}
"#
    )
}

/// An environment whose metrics come from the rig's Prometheus and Traefik.
pub fn environment(name: &str, prometheus: &str) -> String {
    format!(
        r#"
apiVersion: tidegate.io/v1alpha1
kind: Environment
metadata: {{name: {name}}}
spec:
  policy: shop
  loosenDelay: 0s
  metrics:
    prometheus: "{prometheus}"
    scrapeInterval: 1s
    gateway:
      requests: traefik_service_requests_total
      serviceLabel: service
      servicePattern: ".*-svc-{{namespace}}-{{service}}-[0-9]+@kubernetesgateway"
      matchLabels: {{job: traefik}}
      codeLabel: code
      lag: 1s
  allowedPipelines:
  - namespaceSelector: {{matchLabels: {{team: shop}}}}
"#
    )
}

pub fn event_sources(registry: &str, google_issuer: &str, github_api: &str, github_token: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Secret
metadata: {{name: github, namespace: tidegate-doors}}
stringData: {{webhook: "{HMAC_SECRET}"}}
---
apiVersion: v1
kind: Secret
metadata: {{name: github, namespace: tidegate-hub}}
stringData: {{token: "{github_token}"}}
---
apiVersion: tidegate.io/v1alpha1
kind: EventSource
metadata: {{name: github, namespace: tidegate-system}}
spec:
  kind: github
  hmacSecret: {{name: github, key: webhook}}
  repositories: ["{GITHUB_REPOSITORY}"]
  images: ["{registry}/{REPOSITORY}"]
  wait: 60s
  report: {{api: "{github_api}", token: {{name: github, key: token}}}}
---
apiVersion: tidegate.io/v1alpha1
kind: EventSource
metadata: {{name: cloudbuild, namespace: tidegate-system}}
spec:
  kind: cloudbuild
  oidc:
    issuer: "{google_issuer}"
    audience: "{PUSH_AUDIENCE}"
    email: "{PUSH_EMAIL}"
    subscription: projects/shop/subscriptions/tidegate-cloud-builds
  repositories: ["shop-prod", "{GITHUB_REPOSITORY}"]
  images: ["{registry}/{REPOSITORY}"]
---
apiVersion: tidegate.io/v1alpha1
kind: EventSource
metadata: {{name: artifactregistry, namespace: tidegate-system}}
spec:
  kind: artifactregistry
  oidc:
    issuer: "{google_issuer}"
    audience: "{PUSH_AUDIENCE}"
    email: "{PUSH_EMAIL}"
    subscription: projects/shop/subscriptions/tidegate-gcr
  repositories: ["shop-prod"]
  images: ["{registry}/shop/**"]
"#
    )
}

/// The pipeline `portal` in the namespace `portal` at the hub.
pub fn pipeline(registry: &str, shipping: &Shipping) -> String {
    let mut stages = String::new();
    for stage in &shipping.stages {
        let approval = shipping.approval.as_ref() == Some(stage);
        let _ = writeln!(
            stages,
            "  - {{name: {stage}, environments: [{stage}], soak: {}, requireApproval: {approval}}}",
            shipping.soak
        );
    }
    format!(
        r#"
apiVersion: v1
kind: Namespace
metadata: {{name: {APP}, labels: {{team: shop}}}}
---
apiVersion: tidegate.io/v1alpha1
kind: Pipeline
metadata: {{name: {APP}, namespace: {APP}}}
spec:
  sources:
  - {{eventSource: github, repository: "{GITHUB_REPOSITORY}"}}
  - {{eventSource: cloudbuild, repository: "{GITHUB_REPOSITORY}"}}
  images: [{{container: app, repository: "{registry}/{REPOSITORY}"}}]
  workload: {{name: {APP}}}
  service: {APP}
  route: {{httpRoute: {APP}}}
  rollback: {}
  evidenceDeadline: 0s
  stages:
{stages}
  strategy:
    steps: {}
    stepMinTime: {}
    stepMaxTime: 5m
    mask: 5s
    blindLimit: 8s
    bake: {}
    capacityDeadline: 60s
  objectives:
  - name: availability
    target: 0.9
    ratio:
      total: http_requests_total
      errors: http_requests_total{{code=~"5.."}}
"#,
        shipping.rollback, shipping.steps, shipping.step_min_time, shipping.bake
    )
}

/// What ran before Tidegate came: Deployment, Service and HTTPRoute, as a team would have them.
pub fn app(image: &str, replicas: u32) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {APP}, namespace: {APP}, labels: {{app: {APP}}}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {APP}}}}}
  template:
    metadata: {{labels: {{app: {APP}}}}}
    spec:
      serviceAccountName: default
      containers:
      - name: app
        image: {image}
        ports: [{{name: http, containerPort: 8080}}]
---
apiVersion: v1
kind: Service
metadata: {{name: {APP}, namespace: {APP}}}
spec:
  selector: {{app: {APP}}}
  ports: [{{name: http, port: 80, targetPort: 8080}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {APP}, namespace: {APP}}}
spec:
  parentRefs: [{{name: gateway, namespace: gateway-system}}]
  rules:
  - backendRefs: [{{name: {APP}, port: 80}}]
"#
    )
}
