//! Before any traffic moves: can these objectives be judged here at all?
//! Tells the difference between "the selector is wrong" (a line) and "the server cannot be asked" (an error).

use std::collections::BTreeSet;

use tidegate_pipelines::api::Objective;
use tidegate_pipelines::judge::selector::{self, Selector};

use super::prometheus::PrometheusClient;
use super::{MetricsError, ReadRequest};
use crate::clock::Clock;

pub(super) async fn preflight(
    client: &PrometheusClient,
    request: &ReadRequest,
    clock: &dyn Clock,
) -> Result<Vec<String>, MetricsError> {
    let mut lines = selector::lint(&request.objectives, &request.source);
    if !lines.is_empty() || request.arms.stable.is_empty() {
        return Ok(lines);
    }
    for objective in &request.objectives {
        let parse =
            |text: &str| selector::parse(text, &request.source).map_err(|e| MetricsError::Selector(e.to_string()));
        let (total, errors) = (parse(&objective.ratio.total)?, parse(&objective.ratio.errors)?);
        lines.extend(total_matches(client, request, objective, &total, clock).await?);
        lines.extend(errors_exist(client, request, objective, &errors, clock).await?);
    }
    Ok(lines)
}

/// *Total* must match on stable now.
async fn total_matches(
    client: &PrometheusClient,
    request: &ReadRequest,
    objective: &Objective,
    total: &Selector,
    clock: &dyn Clock,
) -> Result<Option<String>, MetricsError> {
    let pods: Vec<&str> = request.arms.stable.iter().map(|p| p.name.as_str()).collect();
    let base = &request.source.prometheus;
    let query = total.query(&request.source, &request.namespace, &pods);
    if client.matches(base, &query, clock).await? {
        return Ok(None);
    }
    let up = format!(
        "up{{{}={},{}}}",
        request.source.namespace_label,
        selector::quoted(&request.namespace),
        selector::pods_matcher(&request.source, &pods)
    );
    let name = &objective.name;
    Ok(Some(if client.matches(base, &up, clock).await? {
        format!(
            "objective {name}: ratio.total '{}' matches no series of the stable pods, though they are scraped: check the metric's name and its labels",
            objective.ratio.total
        )
    } else {
        format!(
            "objective {name}: the metrics server scrapes none of the stable pods (no 'up' with {}=\"{}\" and their names in label '{}'): check its discovery and the Environment's podLabel and namespaceLabel",
            request.source.namespace_label, request.namespace, request.source.pod_label
        )
    }))
}

/// An errors selector may match nothing yet, but its metric's and labels' *names* must exist.
async fn errors_exist(
    client: &PrometheusClient,
    request: &ReadRequest,
    objective: &Objective,
    errors: &Selector,
    clock: &dyn Clock,
) -> Result<Option<String>, MetricsError> {
    let source = &request.source;
    let metric = format!("{}{{{}={}}}", errors.metric(), source.namespace_label, selector::quoted(&request.namespace));
    let names: BTreeSet<String> = client.label_names(&source.prometheus, &metric, clock).await?.into_iter().collect();
    let name = &objective.name;
    if names.is_empty() {
        return Ok(Some(format!(
            "objective {name}: ratio.errors: no metric '{}' in namespace {}: check its name",
            errors.metric(),
            request.namespace
        )));
    }
    let missing: Vec<&str> = errors.labels().filter(|label| !names.contains(*label)).collect();
    if missing.is_empty() {
        return Ok(None);
    }
    let there: Vec<&str> = names.iter().map(String::as_str).filter(|n| !n.starts_with("__")).take(20).collect();
    Ok(Some(format!(
        "objective {name}: ratio.errors: metric '{}' has no label '{}'; it has: {}",
        errors.metric(),
        missing.join("', '"),
        there.join(", ")
    )))
}
