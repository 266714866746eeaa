//! The plain selectors that users write in `objectives[].ratio`, and the queries they become.
//! Never lets a query leave its namespace: a user's matcher on the namespace or pod label is refused, ours is added.

use promql_parser::label::{MatchOp, Matcher};
use promql_parser::parser::{self, Expr};

use crate::api::{GatewayMetrics, MetricsSource, Objective};

/// Why a text is not a selector that can be judged. Each says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error("'{text}' is not PromQL: {why}; write a plain selector such as http_requests_total{{code=~\"5..\"}}")]
    Syntax { text: String, why: String },
    #[error(
        "'{text}' is {what}; the judge needs raw counters: write the plain selector, such as http_requests_total{{code=~\"5..\"}}, without functions, ranges or operators"
    )]
    NotPlain { text: String, what: &'static str },
    #[error("'{text}' has {what}; leave it out: the judge chooses the time itself")]
    Shifted { text: String, what: &'static str },
    #[error("'{text}' names no metric; write its name before the braces, such as http_requests_total{{...}}")]
    NoMetric { text: String },
    #[error(
        "'{text}' matches on label '{label}', which Tidegate sets itself from the pods of each arm; leave that matcher out"
    )]
    Forbidden { text: String, label: String },
    #[error(
        "'{text}' names '{name}', which is no plain name of a metric or label: letters, digits, '_' (and ':' in metrics) only"
    )]
    Name { text: String, name: String },
}

/// Names are written into queries as they are: one with other characters could close the braces and select
/// what it likes. Prometheus takes such names in quotes; the judge takes none.
fn is_name(name: &str, colons: bool) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':');
    name.chars().all(plain) && name.chars().next().is_some_and(|c| !c.is_ascii_digit())
}

/// A plain selector of one metric.
#[derive(Clone, Debug)]
pub struct Selector {
    metric: String,
    matchers: Vec<Matcher>,
}

/// Parses `text`; `source` names the labels that are Tidegate's own.
pub fn parse(text: &str, source: &MetricsSource) -> Result<Selector, SelectorError> {
    let shown = || text.trim().chars().take(120).collect::<String>();
    let expression = parser::parse(text).map_err(|why| SelectorError::Syntax { text: shown(), why: one_line(&why) })?;
    let not_plain = |what| SelectorError::NotPlain { text: shown(), what };
    let vector = match expression {
        Expr::VectorSelector(vector) => vector,
        Expr::MatrixSelector(_) => return Err(not_plain("a range vector (its [..] is added by the judge)")),
        Expr::Call(_) => return Err(not_plain("a function call")),
        Expr::Aggregate(_) => return Err(not_plain("an aggregation")),
        Expr::Binary(_) | Expr::Unary(_) => return Err(not_plain("an operator expression")),
        Expr::Subquery(_) => return Err(not_plain("a subquery")),
        Expr::Paren(_) => return Err(not_plain("in parentheses")),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) => return Err(not_plain("a literal")),
        _ => return Err(not_plain("no plain selector")),
    };
    if vector.offset.is_some() {
        return Err(SelectorError::Shifted { text: shown(), what: "an offset" });
    }
    if vector.at.is_some() {
        return Err(SelectorError::Shifted { text: shown(), what: "an @ modifier" });
    }
    if !vector.matchers.or_matchers.is_empty() {
        return Err(not_plain("a selector with 'or'"));
    }
    let mut metric = vector.name;
    let mut matchers = Vec::new();
    for matcher in vector.matchers.matchers {
        if matcher.name == "__name__" {
            match matcher.op {
                MatchOp::Equal if metric.as_deref().is_none_or(|m| m == matcher.value) => metric = Some(matcher.value),
                _ => return Err(not_plain("a pattern over metric names")),
            }
        } else if matcher.name == source.pod_label || matcher.name == source.namespace_label {
            return Err(SelectorError::Forbidden { text: shown(), label: matcher.name });
        } else {
            matchers.push(matcher);
        }
    }
    let metric = metric.filter(|m| !m.is_empty()).ok_or_else(|| SelectorError::NoMetric { text: shown() })?;
    let odd = matchers.iter().map(|m| &m.name).find(|name| !is_name(name, false));
    if let Some(name) = Some(&metric).filter(|name| !is_name(name, true)).or(odd) {
        return Err(SelectorError::Name { text: shown(), name: name.chars().take(120).collect() });
    }
    Ok(Selector { metric, matchers })
}

impl Selector {
    pub fn metric(&self) -> &str {
        &self.metric
    }

    /// Names of the labels it matches on.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.matchers.iter().map(|m| m.name.as_str())
    }

    /// Its own matchers, bound to `namespace` and, unless there are none, to exactly these pods.
    pub fn query(&self, source: &MetricsSource, namespace: &str, pods: &[&str]) -> String {
        let mut matchers: Vec<String> = self.matchers.iter().map(written).collect();
        matchers.push(format!("{}={}", source.namespace_label, quoted(namespace)));
        if !pods.is_empty() {
            matchers.push(pods_matcher(source, pods));
        }
        format!("{}{{{}}}", self.metric, matchers.join(","))
    }

    /// Without any binding: only for the data plane's own counters.
    pub fn unbound(&self) -> String {
        let matchers: Vec<String> = self.matchers.iter().map(written).collect();
        format!("{}{{{}}}", self.metric, matchers.join(","))
    }

    /// Whether every series that `self` selects is selected by `total` too, so that one query serves both.
    pub fn is_part_of(&self, total: &Selector) -> bool {
        self.metric == total.metric && total.matchers.iter().all(|m| self.matchers.contains(m))
    }

    /// Whether it selects a series of its metric with these labels (`get` answers "" for a label that is not there).
    pub fn selects<'a>(&self, get: impl Fn(&str) -> &'a str) -> bool {
        self.matchers.iter().all(|m| m.is_match(get(&m.name)))
    }
}

/// `pod=~"a|b"`, each name escaped: exactly these pods.
pub fn pods_matcher(source: &MetricsSource, pods: &[&str]) -> String {
    let names: Vec<String> = pods.iter().map(|p| escaped(p)).collect();
    format!("{}=~{}", source.pod_label, quoted(&names.join("|")))
}

/// The gateway's label pattern for one backend, `{namespace}`, `{service}` and `{port}` filled in and escaped.
pub fn backend_pattern(pattern: &str, namespace: &str, service: &str, port: u16) -> String {
    pattern
        .replace("{namespace}", &escaped(namespace))
        .replace("{service}", &escaped(service))
        .replace("{port}", &port.to_string())
}

/// The series of the gateway's backends whose label matches this anchored pattern.
pub fn backends(gateway: &GatewayMetrics, pattern: &str) -> Result<Selector, SelectorError> {
    let (metric, label) = (gateway.requests.as_str(), gateway.service_label.as_str());
    let mut text = format!("{metric}{{{label}=~{}", quoted(pattern));
    for (name, value) in &gateway.match_labels {
        text.push_str(&format!(",{name}={}", quoted(value)));
    }
    text.push('}');
    let further = gateway.match_labels.keys().map(|name| (name.as_str(), false));
    for (name, colons) in [(metric, true), (label, false)].into_iter().chain(further) {
        if !is_name(name, colons) {
            return Err(SelectorError::Name { text, name: name.to_owned() });
        }
    }
    match parser::parse(&text) {
        Ok(Expr::VectorSelector(vector)) if vector.matchers.or_matchers.is_empty() => {
            Ok(Selector { metric: metric.to_owned(), matchers: vector.matchers.matchers })
        }
        Ok(_) => Err(SelectorError::NotPlain { text, what: "no plain selector" }),
        Err(why) => Err(SelectorError::Syntax { text, why: one_line(&why) }),
    }
}

/// One line for each objective that cannot be judged: `lint` and the planner's refusal before any traffic moves.
pub fn lint(objectives: &[Objective], source: &MetricsSource) -> Vec<String> {
    let mut lines = Vec::new();
    for objective in objectives {
        if !(objective.target > 0.0 && objective.target < 1.0) {
            lines.push(format!(
                "objective {}: target {} is not between 0 and 1, such as 0.99",
                objective.name, objective.target
            ));
        }
        let mut read = |field: &str, text: &str| match parse(text, source) {
            Ok(selector) => Some(selector),
            Err(why) => {
                lines.push(format!("objective {}: ratio.{field}: {why}", objective.name));
                None
            }
        };
        let total = read("total", &objective.ratio.total);
        let errors = read("errors", &objective.ratio.errors);
        if let (Some(total), Some(errors)) = (total, errors)
            && total.is_part_of(&errors)
        {
            lines.push(format!(
                "objective {}: ratio.errors selects everything that ratio.total does: every request would be an error",
                objective.name
            ));
        }
    }
    lines
}

/// RE2's special characters; names of Kubernetes objects hold only `.` and `-` of them.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// A PromQL string literal.
pub fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn written(matcher: &Matcher) -> String {
    // The parser keeps the pattern as the user wrote it in `value`; its own regex is already anchored.
    let op = match matcher.op {
        MatchOp::Equal => "=",
        MatchOp::NotEqual => "!=",
        MatchOp::Re(_) => "=~",
        MatchOp::NotRe(_) => "!~",
    };
    format!("{}{op}{}", matcher.name, quoted(&matcher.value))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(160).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{RatioMetric, Span};

    fn source() -> MetricsSource {
        serde_json::from_value(serde_json::json!({"prometheus": "http://p:9090"})).unwrap()
    }

    #[test]
    fn a_selector_is_bound_to_namespace_and_pods() {
        let selector = parse(r#"http_requests_total{code=~"5..", path!="/health\"z"}"#, &source()).unwrap();
        assert_eq!(
            selector.query(&source(), "portal", &["a-1.x", "b"]),
            r#"http_requests_total{code=~"5..",path!="/health\"z",namespace="portal",pod=~"a-1\\.x|b"}"#
        );
        let again = parse(r#"{__name__="x_total"}"#, &source()).unwrap();
        assert_eq!(again.query(&source(), "n", &[]), r#"x_total{namespace="n"}"#);
    }

    #[test]
    fn what_is_no_plain_selector_is_refused_with_what_to_write() {
        let table = [
            ("rate(x_total[1m])", "function"),
            ("sum(x_total)", "aggregation"),
            ("x_total[5m]", "range"),
            ("x_total offset 5m", "offset"),
            ("x_total @ 100", "@ modifier"),
            ("x_total + y_total", "operator"),
            ("(x_total)", "parentheses"),
            ("-x_total", "operator"),
            ("1", "literal"),
            ("x_total{", "not PromQL"),
            ("", "not PromQL"),
            (r#"{code="500"}"#, "names no metric"),
            (r#"{__name__=~"x.*"}"#, "metric names"),
            (r#"x_total{namespace="other"}"#, "label 'namespace'"),
            (r#"x_total{pod=~".*"}"#, "label 'pod'"),
            (r#"x_total{namespace!="portal"}"#, "label 'namespace'"),
            (r#"x_total{a="1" or namespace="other"}"#, "or"),
            ("max_over_time(x_total[10m:1m])", "function"),
            (r#"{__name__="x_total{} or up"}"#, "no plain name"),
            (r#"{"x_total} or {namespace!='portal'"}"#, "no plain name"),
            (r#"x_total{"a=\"1\"} or up{b"="2"}"#, "no plain name"),
            (r#"{__name__="9x"}"#, "no plain name"),
        ];
        for (text, told) in table {
            let error = parse(text, &source()).map(|s| s.query(&source(), "n", &[])).unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    fn gateway(requests: &str, label: &str, further: &[(&str, &str)]) -> GatewayMetrics {
        GatewayMetrics {
            requests: requests.into(),
            service_label: label.into(),
            service_pattern: String::new(),
            match_labels: further.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            code_label: "code".into(),
            lag: Span::default(),
        }
    }

    #[test]
    fn names_of_the_gateways_counter_are_plain_too() {
        assert!(backends(&gateway("traefik_service_requests_total", "service", &[]), ".*").is_ok());
        for (metric, label) in [("x_total{} or up", "service"), ("x_total", "a=\"1\"} or up{b"), ("", "a"), ("x", "")] {
            assert!(backends(&gateway(metric, label, &[]), ".*").is_err(), "{metric} {label}");
        }
        assert!(backends(&gateway("x_total", "service", &[("a=\"1\"} or up{b", "c")]), ".*").is_err());
    }

    #[test]
    fn the_gateways_series_carry_the_labels_that_the_environment_says() {
        let own = backends(&gateway("x_total", "service", &[("job", "gate\"way")]), "a|b").unwrap();
        assert_eq!(own.unbound(), r#"x_total{service=~"a|b",job="gate\"way"}"#);
        for (job, expected) in [("gate\"way", true), ("tenant", false), ("", false)] {
            let labels = |name: &str| if name == "job" { job } else { "a" };
            assert_eq!(own.selects(labels), expected, "{job}");
        }
    }

    #[test]
    fn the_environments_own_label_names_are_the_forbidden_ones() {
        let mut other = source();
        other.pod_label = "kubernetes_pod".into();
        assert!(parse(r#"x_total{kubernetes_pod="a"}"#, &other).is_err());
        assert!(parse(r#"x_total{pod="a"}"#, &other).is_ok());
    }

    #[test]
    fn errors_inside_the_total_need_no_query_of_their_own() {
        let total = parse(r#"http_requests_total{handler="/api"}"#, &source()).unwrap();
        let errors = parse(r#"http_requests_total{handler="/api",code=~"5.."}"#, &source()).unwrap();
        assert!(errors.is_part_of(&total) && !total.is_part_of(&errors));
        assert!(errors.selects(|l| if l == "code" { "503" } else { "/api" }));
        assert!(!errors.selects(|l| if l == "code" { "200" } else { "/api" }));
        let foreign = parse("errors_total", &source()).unwrap();
        assert!(!foreign.is_part_of(&total));
    }

    #[test]
    fn lint_names_objective_and_field() {
        let objective = |total: &str, errors: &str, target| Objective {
            name: "errors".into(),
            target,
            ratio: RatioMetric { total: total.into(), errors: errors.into() },
        };
        assert!(lint(&[objective("x_total", r#"x_total{code="500"}"#, 0.9)], &source()).is_empty());
        let lines = lint(&[objective("rate(x_total[1m])", "x_total[1m]", 1.5)], &source());
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[1].starts_with("objective errors: ratio.total: "), "{lines:?}");
        let same = lint(&[objective("x_total", "x_total", 0.9)], &source());
        assert!(same[0].contains("every request would be an error"), "{same:?}");
    }

    #[test]
    fn a_backend_pattern_is_filled_and_escaped() {
        assert_eq!(
            backend_pattern(".*-svc-{namespace}-{service}-[0-9]+@k", "n.s", "portal", 80),
            r".*-svc-n\.s-portal-[0-9]+@k"
        );
    }
}
