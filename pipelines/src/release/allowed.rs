//! Which pipelines may act where, and which two of them want the same workload.

use std::collections::{BTreeMap, BTreeSet};

use kube::core::{Selector, SelectorExt};

use crate::api::{AllowedPipelines, EnvironmentSpec, PipelineSpec, names};

/// Why an environment does not let a pipeline act on a namespace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAllowed {
    #[error("no entry of its allowedPipelines selects the namespace '{pipeline_namespace}'")]
    NotSelected { pipeline_namespace: String },
    #[error("its allowedPipelines do not let pipelines of '{pipeline_namespace}' act on the namespace '{target}'")]
    Target { pipeline_namespace: String, target: String },
    #[error("no pipeline acts on the namespace '{target}': it is the cluster's or Tidegate's own")]
    OutOfReach { target: String },
}

/// Where the guard does not judge, and beside secrets of ours, nothing is shipped, whatever an Environment says.
const OUT_OF_REACH: [&str; 6] = [
    "kube-system",
    "kube-node-lease",
    "kube-public",
    names::SYSTEM_NAMESPACE,
    names::DOORS_NAMESPACE,
    names::HUB_NAMESPACE,
];

/// Whether this entry lets a pipeline of `pipeline_namespace` act on `target`: on what it lists, or, where it
/// lists nothing, on the namespace of the same name. The spoke asks this of every entry: it cannot see the
/// labels at the hub by which entries are selected.
pub fn reaches(entry: &AllowedPipelines, pipeline_namespace: &str, target: &str) -> bool {
    let listed = &entry.target_namespaces;
    let named = if listed.is_empty() { target == pipeline_namespace } else { listed.iter().any(|n| n == target) };
    named && !OUT_OF_REACH.contains(&target)
}

/// The namespace in the environments on which a pipeline acts.
pub fn target_namespace<'a>(spec: &'a PipelineSpec, pipeline_namespace: &'a str) -> &'a str {
    spec.target_namespace.as_deref().unwrap_or(pipeline_namespace)
}

/// `labels` are those of the pipeline's namespace at the hub.
pub fn namespace_allowed(
    environment: &EnvironmentSpec,
    pipeline_namespace: &str,
    labels: &BTreeMap<String, String>,
    target: &str,
) -> Result<(), NotAllowed> {
    let selecting: Vec<_> = environment
        .allowed_pipelines
        .iter()
        // A selector that cannot be read selects nothing.
        .filter(|entry| Selector::try_from(entry.namespace_selector.clone()).is_ok_and(|s| s.matches(labels)))
        .collect();
    let pipeline_namespace = pipeline_namespace.to_owned();
    if selecting.is_empty() {
        return Err(NotAllowed::NotSelected { pipeline_namespace });
    }
    if selecting.iter().any(|entry| reaches(entry, &pipeline_namespace, target)) {
        return Ok(());
    }
    if OUT_OF_REACH.contains(&target) {
        return Err(NotAllowed::OutOfReach { target: target.to_owned() });
    }
    Err(NotAllowed::Target { pipeline_namespace, target: target.to_owned() })
}

/// A workload in an environment, as a pipeline wants it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    pub environment: String,
    pub namespace: String,
    pub workload: String,
}

/// What a pipeline claims: in environments that let it, so that nobody can block another team's
/// service by naming it.
pub fn claims(spec: &PipelineSpec, pipeline_namespace: &str, allowed: impl Fn(&str) -> bool) -> BTreeSet<Claim> {
    spec.stages
        .iter()
        .flat_map(|stage| &stage.environments)
        .filter(|environment| allowed(environment))
        .map(|environment| Claim {
            environment: environment.clone(),
            namespace: target_namespace(spec, pipeline_namespace).to_owned(),
            workload: spec.workload.name.clone(),
        })
        .collect()
}

/// Of the pipelines (`namespace/name`) that claim what another claims too, these others, in order of their names. In
/// one pass over all claims: the pipelines are not held against each other.
pub fn ambiguous<'a>(
    all: impl IntoIterator<Item = (&'a str, &'a BTreeSet<Claim>)>,
) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
    let mut claimants: BTreeMap<&Claim, Vec<&str>> = BTreeMap::new();
    for (name, claims) in all {
        claims.iter().for_each(|claim| claimants.entry(claim).or_default().push(name));
    }
    let mut found: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for rivals in claimants.into_values().filter(|names| names.len() > 1) {
        for &me in &rivals {
            found.entry(me).or_default().extend(rivals.iter().filter(|&&other| other != me));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

    use super::*;
    use crate::api::{MetricsSource, Span};

    fn environment(allowed: Vec<(LabelSelector, &[&str])>) -> EnvironmentSpec {
        EnvironmentSpec {
            policy: "p".into(),
            metrics: MetricsSource {
                prometheus: "http://prometheus".into(),
                pod_label: "pod".into(),
                namespace_label: "namespace".into(),
                scrape_interval: Span::from_secs(1),
                gateway: None,
            },
            allowed_pipelines: allowed
                .into_iter()
                .map(|(namespace_selector, targets)| AllowedPipelines {
                    namespace_selector,
                    target_namespaces: targets.iter().map(|t| (*t).to_owned()).collect(),
                })
                .collect(),
            decommissioned: false,
            loosen_delay: None,
        }
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn team(value: &str) -> LabelSelector {
        LabelSelector { match_labels: Some(labels(&[("team", value)])), match_expressions: None }
    }

    #[test]
    fn an_environment_without_entries_lets_nobody_in() {
        assert!(namespace_allowed(&environment(vec![]), "acme", &labels(&[]), "acme").is_err());
    }

    #[test]
    fn only_selected_namespaces_act_and_only_on_their_own_or_named_ones() {
        let expression = LabelSelector {
            match_labels: None,
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: "tier".into(),
                operator: "In".into(),
                values: Some(vec!["gold".into(), "silver".into()]),
            }]),
        };
        let environment = environment(vec![(team("a"), &[]), (expression, &["shared"])]);
        for (given, target, expected) in [
            (labels(&[("team", "a")]), "acme", true),
            (labels(&[("team", "a")]), "shared", false),
            (labels(&[("team", "b")]), "acme", false),
            (labels(&[("tier", "gold")]), "shared", true),
            (labels(&[("tier", "gold")]), "acme", false),
            (labels(&[("team", "a"), ("tier", "gold")]), "acme", true),
            (labels(&[("tier", "gold")]), "kube-system", false),
            (labels(&[("tier", "lead")]), "shared", false),
        ] {
            let answer = namespace_allowed(&environment, "acme", &given, target);
            assert_eq!(answer.is_ok(), expected, "{given:?} on {target}: {answer:?}");
        }
    }

    #[test]
    fn nobody_reaches_the_clusters_own_namespaces() {
        let environment = environment(vec![(LabelSelector::default(), &[]), (LabelSelector::default(), &OUT_OF_REACH)]);
        for target in OUT_OF_REACH {
            let answer = namespace_allowed(&environment, target, &labels(&[]), target);
            assert!(matches!(answer, Err(NotAllowed::OutOfReach { .. })), "{target}: {answer:?}");
        }
    }

    #[test]
    fn an_unreadable_selector_selects_nothing() {
        let broken = LabelSelector {
            match_labels: None,
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: "tier".into(),
                operator: "Sometimes".into(),
                values: None,
            }]),
        };
        assert!(namespace_allowed(&environment(vec![(broken, &[])]), "acme", &labels(&[]), "acme").is_err());
    }
}
