//! SLSA provenance v0.2 and v1, reduced to builder, source and revision. What a builder puts into
//! its list of materials is not its source: only the configured source counts, else a build that
//! merely depends on a trusted repository would pass for a build of it.

use serde::Deserialize;
use std::collections::BTreeMap;

use super::statement::Statement;
use crate::json::JsonError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    builder: String,
    source: Option<String>,
    revision: Option<String>,
}

impl Provenance {
    pub fn builder(&self) -> &str {
        &self.builder
    }

    /// Source repository, normalised by [`normalise_source`].
    pub fn source(&self) -> Option<&str> {
        self.source.as_deref()
    }

    /// Source commit, lower-case hex.
    pub fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    pub(super) fn is_v02(predicate_type: &str) -> bool {
        predicate_type == "https://slsa.dev/provenance/v0.2"
    }

    pub(super) fn is_v1(predicate_type: &str) -> bool {
        matches!(predicate_type, "https://slsa.dev/provenance/v1" | "https://slsa.dev/provenance/v1.0")
    }

    pub(super) fn parse_v02(payload: &[u8]) -> Result<Self, JsonError> {
        let wire: V02 = Statement::predicate(payload, "the provenance")?;
        let source = wire
            .invocation
            .and_then(|i| i.config_source)
            .filter(|source| source.uri.is_some())
            .or_else(|| wire.materials.into_iter().next());
        Ok(Self {
            builder: wire.builder.id,
            revision: source.as_ref().and_then(Resource::commit),
            source: source.and_then(|s| s.uri).map(|uri| normalise_source(&uri)),
        })
    }

    pub(super) fn parse_v1(payload: &[u8]) -> Result<Self, JsonError> {
        let wire: V1 = Statement::predicate(payload, "the provenance")?;
        let definition = wire.build_definition;
        let named = definition.external_parameters.source();
        let dependencies = definition.resolved_dependencies;
        let same = |r: &Resource, named: &str| r.uri.as_deref().map(normalise_source).as_deref() == Some(named);
        let (source, revision) = match named {
            // The parameter says which source was asked for; the dependency says what it resolved to.
            Some(Named { uri: Some(uri), commit }) => {
                let uri = normalise_source(&uri);
                let revision =
                    commit.or_else(|| dependencies.iter().find(|r| same(r, &uri)).and_then(Resource::commit));
                (Some(uri), revision)
            }
            _ => {
                let first = dependencies.first();
                (first.and_then(|r| r.uri.as_deref()).map(normalise_source), first.and_then(Resource::commit))
            }
        };
        Ok(Self { builder: wire.run_details.builder.id, source, revision })
    }
}

/// Without `git+`, a trailing `@ref`, `.git` and `/`: tools spell the same repository differently.
pub fn normalise_source(uri: &str) -> String {
    let uri = uri.strip_prefix("git+").unwrap_or(uri);
    // An `@` before the last slash belongs to the host (`ssh://git@host/..`).
    let uri = match uri.rsplit_once('@') {
        Some((before, _)) if before.contains("://") && before.matches('/').count() > 2 => before,
        _ => uri,
    };
    let uri = uri.trim_end_matches('/');
    uri.strip_suffix(".git").unwrap_or(uri).to_owned()
}

#[derive(Deserialize)]
struct Builder {
    id: String,
}

#[derive(Deserialize)]
struct Resource {
    #[serde(default)]
    uri: Option<String>,
    #[serde(default)]
    digest: BTreeMap<String, String>,
}

impl Resource {
    fn commit(&self) -> Option<String> {
        ["gitCommit", "sha1"].iter().find_map(|key| self.digest.get(*key)).map(|hex| hex.to_ascii_lowercase())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct V02 {
    builder: Builder,
    #[serde(default)]
    invocation: Option<Invocation>,
    #[serde(default)]
    materials: Vec<Resource>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Invocation {
    #[serde(default)]
    config_source: Option<Resource>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct V1 {
    build_definition: BuildDefinition,
    run_details: RunDetails,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BuildDefinition {
    #[serde(default)]
    external_parameters: ExternalParameters,
    #[serde(default)]
    resolved_dependencies: Vec<Resource>,
}

#[derive(Deserialize)]
struct RunDetails {
    builder: Builder,
}

/// The places where GitHub's, Cloud Build's and the generic build types name the source.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExternalParameters {
    #[serde(default)]
    workflow: Option<RepositoryParameter>,
    #[serde(default)]
    build_config_source: Option<RepositoryParameter>,
    #[serde(default)]
    source: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct RepositoryParameter {
    #[serde(default)]
    repository: Option<String>,
}

struct Named {
    uri: Option<String>,
    commit: Option<String>,
}

impl ExternalParameters {
    fn source(self) -> Option<Named> {
        let repository = |p: Option<RepositoryParameter>| p.and_then(|p| p.repository);
        if let Some(uri) = repository(self.workflow).or(repository(self.build_config_source)) {
            return Some(Named { uri: Some(uri), commit: None });
        }
        match self.source? {
            serde_json::Value::String(uri) => Some(Named { uri: Some(uri), commit: None }),
            value => serde_json::from_value::<Resource>(value).ok().map(|r| Named { commit: r.commit(), uri: r.uri }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(predicate: &str) -> Vec<u8> {
        format!(r#"{{"predicate":{predicate}}}"#).into_bytes()
    }

    #[test]
    fn builders_name_their_source_in_different_places() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let expected = Provenance {
            builder: "https://builder".into(),
            source: Some("https://github.com/acme/portal".into()),
            revision: Some(commit.into()),
        };
        let v02 = [
            format!(
                r#"{{"builder":{{"id":"https://builder"}},"invocation":{{"configSource":{{"uri":"git+https://github.com/acme/portal@refs/heads/main","digest":{{"sha1":"{commit}"}}}}}}}}"#
            ),
            format!(
                r#"{{"builder":{{"id":"https://builder"}},"materials":[{{"uri":"https://github.com/acme/portal.git","digest":{{"sha1":"{}"}}}}]}}"#,
                commit.to_uppercase()
            ),
        ];
        for text in v02 {
            assert_eq!(Provenance::parse_v02(&statement(&text)).unwrap(), expected, "{text}");
        }
        let dependency = format!(
            r#"{{"uri":"git+https://github.com/acme/portal@refs/heads/main","digest":{{"gitCommit":"{commit}"}}}}"#
        );
        let trusted_but_not_source = r#"{"uri":"git+https://github.com/acme/library","digest":{"gitCommit":"ff"}}"#;
        for parameters in [
            r#"{"workflow":{"repository":"https://github.com/acme/portal","ref":"refs/heads/main"}}"#,
            r#"{"buildConfigSource":{"repository":"https://github.com/acme/portal"}}"#,
            r#"{"source":"git+https://github.com/acme/portal@refs/heads/main"}"#,
            r#"{"source":{"uri":"https://github.com/acme/portal"}}"#,
        ] {
            let text = format!(
                r#"{{"buildDefinition":{{"externalParameters":{parameters},"resolvedDependencies":[{trusted_but_not_source},{dependency}]}},"runDetails":{{"builder":{{"id":"https://builder"}}}}}}"#
            );
            assert_eq!(Provenance::parse_v1(&statement(&text)).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn a_dependency_on_a_repository_is_not_its_source() {
        let text = r#"{"buildDefinition":{"externalParameters":{"workflow":{"repository":"https://github.com/evil/fork"}},
            "resolvedDependencies":[{"uri":"git+https://github.com/acme/portal","digest":{"gitCommit":"aa"}}]},
            "runDetails":{"builder":{"id":"b"}}}"#;
        let provenance = Provenance::parse_v1(&statement(text)).unwrap();
        assert_eq!(provenance.source(), Some("https://github.com/evil/fork"));
        assert_eq!(provenance.revision(), None);
    }

    #[test]
    fn provenance_without_a_builder_is_malformed() {
        assert!(Provenance::parse_v02(&statement(r#"{"materials":[]}"#)).is_err());
        assert!(Provenance::parse_v1(&statement(r#"{"buildDefinition":{},"runDetails":{}}"#)).is_err());
    }

    #[test]
    fn spellings_of_one_repository_compare_equal() {
        for uri in [
            "git+https://github.com/acme/portal.git@refs/tags/v1",
            "https://github.com/acme/portal/",
            "https://github.com/acme/portal",
        ] {
            assert_eq!(normalise_source(uri), "https://github.com/acme/portal", "{uri}");
        }
        assert_eq!(normalise_source("ssh://git@github.com/acme/portal"), "ssh://git@github.com/acme/portal");
    }
}
