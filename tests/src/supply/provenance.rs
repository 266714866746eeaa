//! SLSA provenance predicates as build systems write them. Pure: what was built, from what, by whom, as arguments.

use serde_json::{Value, json};

/// Whose shape the external parameters have: SLSA leaves them to the build type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildSystem {
    CloudBuild,
    GitHubActions,
}

#[derive(Debug, Clone)]
pub struct Provenance {
    pub system: BuildSystem,
    pub builder_id: String,
    /// `https://github.com/shop/portal`
    pub source: String,
    /// `refs/heads/main`
    pub reference: String,
    /// 40 hex digits.
    pub revision: String,
}

/// Cloud Build's hosted worker, as its provenance names it.
pub const CLOUD_BUILD: &str = "https://cloudbuild.googleapis.com/GoogleHostedWorker";

impl Provenance {
    pub fn cloud_build(source: &str, revision: &str) -> Self {
        Self {
            system: BuildSystem::CloudBuild,
            builder_id: CLOUD_BUILD.into(),
            source: source.to_owned(),
            reference: "refs/heads/main".into(),
            revision: revision.to_owned(),
        }
    }

    pub fn github_actions(source: &str, workflow: &str, revision: &str) -> Self {
        Self {
            system: BuildSystem::GitHubActions,
            builder_id: format!("{source}/{workflow}@refs/heads/main"),
            ..Self::cloud_build(source, revision)
        }
    }

    pub fn builder(mut self, id: &str) -> Self {
        self.builder_id = id.to_owned();
        self
    }

    /// The predicate of type `https://slsa.dev/provenance/v1`.
    pub fn v1(&self) -> Value {
        let (build_type, external) = match self.system {
            BuildSystem::CloudBuild => (
                "https://cloud.google.com/build/gcb-buildtypes/google-worker/v1",
                json!({"buildConfigSource": {
                    "path": "cloudbuild.yaml", "ref": self.reference, "repository": self.source,
                }}),
            ),
            BuildSystem::GitHubActions => (
                "https://actions.github.io/buildtypes/workflow/v1",
                json!({"workflow": {
                    "path": ".github/workflows/build.yaml", "ref": self.reference, "repository": self.source,
                }}),
            ),
        };
        json!({
            "buildDefinition": {
                "buildType": build_type,
                "externalParameters": external,
                "internalParameters": {},
                "resolvedDependencies": [self.material()],
            },
            "runDetails": {
                "builder": {"id": self.builder_id},
                "metadata": {
                    "invocationId": format!("{}/builds/{}", self.source, self.revision),
                    "startedOn": "2026-01-01T00:00:00Z",
                    "finishedOn": "2026-01-01T00:01:00Z",
                },
            },
        })
    }

    /// The predicate of type `https://slsa.dev/provenance/v0.2`.
    pub fn v02(&self) -> Value {
        json!({
            "builder": {"id": self.builder_id},
            "buildType": "https://cloudbuild.googleapis.com/CloudBuildYaml@v1",
            "invocation": {"configSource": {
                "uri": format!("git+{}@{}", self.source, self.reference),
                "digest": {"sha1": self.revision},
                "entryPoint": "cloudbuild.yaml",
            }},
            "metadata": {
                "buildInvocationId": self.revision,
                "buildStartedOn": "2026-01-01T00:00:00Z",
                "buildFinishedOn": "2026-01-01T00:01:00Z",
                "completeness": {"parameters": true, "environment": false, "materials": true},
                "reproducible": false,
            },
            "materials": [{
                "uri": format!("git+{}@{}", self.source, self.reference),
                "digest": {"sha1": self.revision},
            }],
        })
    }

    fn material(&self) -> Value {
        json!({
            "uri": format!("git+{}@{}", self.source, self.reference),
            "digest": {"gitCommit": self.revision},
        })
    }
}
