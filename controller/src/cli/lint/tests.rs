use super::*;

fn of(text: &str) -> Report {
    let (documents, problems) = documents::parse("f.yaml", text);
    assert!(problems.is_empty(), "{problems:?}");
    lint(&documents)
}

const PIPELINE: &str = r#"
apiVersion: tidegate.io/v1alpha1
kind: Pipeline
metadata: {name: portal, namespace: portal}
spec:
  images: [{container: portal, repository: registry.example/acme/portal}]
  workload: {name: portal}
  service: portal
  route: {httpRoute: portal}
  stages: [{name: staging, environments: [staging]}]
  strategy:
    steps: [{setWeight: 5}, {setWeight: 50}, {pause: {duration: 1m}}, {setWeight: 100}]
  objectives:
  - {name: errors, target: 0.99, ratio: {total: requests_total, errors: 'requests_total{code=~"5.."}'}}
"#;

#[test]
fn a_good_pipeline_passes() {
    let report = of(PIPELINE);
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert_eq!(report.checked, 1);
}

#[test]
fn what_is_wrong_with_a_pipeline_is_told_with_its_path() {
    for (was, is, told) in [
        ("strategy:", "stratgy:", "Pipeline/portal spec.stratgy: is not a field: did you mean 'strategy'?"),
        ("steps: [", "stepz: [", "spec.strategy.stepz: is not a field: did you mean 'steps'?"),
        (
            "{setWeight: 5}",
            "{setWeigth: 5}",
            "spec.strategy.steps[0].setWeigth: is not a field: did you mean 'setWeight'?",
        ),
        ("{setWeight: 5}", "{setWeight: '5'}", "spec.strategy.steps[0].setWeight: is text, and must be a whole number"),
        ("{setWeight: 5}", "{setWeight: 101}", "spec.strategy.steps[0].setWeight: is 101, and must be from 1 to 100"),
        ("{setWeight: 5}", "{setWeight: 50}", "spec.strategy.steps[1].setWeight: 50 does not rise above 50"),
        ("{setWeight: 5}", "{setWeight: 5, pause: {}}", "spec.strategy.steps[0]: must have exactly one of"),
        ("[{setWeight: 5}, {setWeight: 50}, {pause: {duration: 1m}}, ", "[", "nothing would be judged"),
        ("duration: 1m", "duration: 1 minute", "spec.strategy.steps[2].pause.duration: '1 minute' is not a duration"),
        ("strategy:", "strategy:\n    mask: 1h", "spec.strategy.mask: 1h is not below stepMaxTime (30m)"),
        (
            "strategy:",
            "strategy:\n    stepMinTime: 1h",
            "spec.strategy.stepMinTime: 1h is longer than stepMaxTime (30m)",
        ),
        ("strategy:", "strategy:\n    onHubLost: panic", "spec.strategy.onHubLost: 'panic' is not one of "),
        ("name: staging,", "name: staging, soak: soon,", "spec.stages[0].soak: 'soon' is not a duration"),
        (
            "environments: [staging]",
            "environments: [staging, staging]",
            "spec.stages[0].environments[1]: 'staging' is that of",
        ),
        ("environments: [staging]", "environments: []", "spec.stages[0].environments: has 0 items: at least 1 needed"),
        ("registry.example/acme/portal}", "registry.example/acme/portal:v1}", "spec.images[0].repository: "),
        ("registry.example/acme/portal}", "acme/portal}", "write docker.io/acme/portal"),
        ("  service: portal\n", "", "spec.service: is missing"),
        ("target: 0.99", "target: 99", "spec.objectives[0].target: is 99"),
        (
            "total: requests_total",
            "total: 'rate(requests_total[1m])'",
            "spec.objectives: objective errors: ratio.total: ",
        ),
        ("total: requests_total", "total: 'requests_total{pod=\"a\"}'", "label 'pod'"),
        ("kind: Pipeline", "kind: Pipelines", "kind: tidegate.io/v1alpha1 has no such kind; known in"),
        ("v1alpha1", "v1", "known in tidegate.io/v1alpha1"),
        ("name: staging,", "name: downgrade,", "spec.stages[0].name: 'downgrade' is the name of the approval"),
        ("metadata: {name: portal", "metadata: {nam: portal", "metadata.nam: is not a field: did you mean 'name'?"),
        ("metadata: {name: portal", "metadata: {name: Portal", "metadata.name: 'Portal' is no name"),
    ] {
        assert!(PIPELINE.contains(was), "{was}");
        let report = of(&PIPELINE.replace(was, is));
        assert!(report.problems.iter().any(|line| line.contains(told)), "{told}: {:#?}", report.problems);
        assert!(report.problems.iter().all(|line| line.starts_with("f.yaml document 1 ")), "{:#?}", report.problems);
    }
}

#[test]
fn the_environments_in_the_files_tell_which_labels_are_ours() {
    let environment = r#"
apiVersion: tidegate.io/v1alpha1
kind: Environment
metadata: {name: staging}
spec: {policy: p, metrics: {prometheus: "http://p:9090", podLabel: kubernetes_pod, scrapeInterval: 40s}}
"#;
    let pipeline = PIPELINE.replace("total: requests_total", "total: 'requests_total{kubernetes_pod=\"a\"}'");
    assert!(of(&pipeline).problems.is_empty());
    let report = of(&format!("{environment}---{pipeline}"));
    assert!(report.problems.iter().any(|line| line.contains("label 'kubernetes_pod'")), "{:?}", report.problems);
    assert!(report.problems.iter().any(|line| line.contains("less than two scrapes")), "{:?}", report.problems);
}

#[test]
fn what_is_wrong_with_the_other_kinds_is_told() {
    for (kind, spec, told) in [
        ("EventSource", "{kind: github, repositories: [a/b]}", "spec.hmacSecret: is missing"),
        ("EventSource", "{kind: cloudbuild, repositories: [p]}", "spec.oidc: is missing"),
        (
            "EventSource",
            "{kind: cloudbuild, oidc: {issuer: 'https://i', audience: a, email: a@b}, repositories: [p]}",
            "spec.images: is empty",
        ),
        ("EventSource", "{kind: gitlab}", "spec.kind: 'gitlab' is not one of '"),
        ("EventSource", "{kind: github, hmacSecret: {name: s, key: k}}", "may speak for nothing"),
        ("EventSource", "{kind: github, hmacSecret: {name: s, key: k}, repositories: [a]}", "'a' is not owner/name"),
        (
            "EventSource",
            "{kind: github, hmacSecret: {name: s, key: k}, images: ['r.example/*/x']}",
            "only /** at the end",
        ),
        ("Environment", "{policy: p}", "spec.metrics: is missing"),
        ("Environment", "{policy: p, metrics: {prometheus: 'p:9090'}}", "is no URL"),
        (
            "Environment",
            "{policy: p, metrics: {prometheus: 'http://p', gateway: {requests: r_total, serviceLabel: s, servicePattern: '.*', codeLabel: c}}}",
            "must contain {namespace} and {service}",
        ),
        ("VerificationPolicy", "{mode: enforce}", "spec.mode: 'enforce' is not one of '"),
        ("VerificationPolicy", "{chekSets: []}", "spec.chekSets: is not a field: did you mean 'checkSets'?"),
        (
            "VerificationPolicy",
            "{checkSets: [{displayName: s, checks: [{displayName: c}]}]}",
            "spec.checkSets[0].checks[0]: says nothing",
        ),
        ("Attestor", "{}", "spec.keyless: neither keyless nor keys"),
        ("Attestor", "{keys: [{pem: x}]}", "spec.keys[0].pem: is no PEM PUBLIC KEY"),
        ("TrustRoot", "{trustedRoot: '{}'}", "spec.trustedRoot: "),
        ("Quarantine", "{}", "spec."),
    ] {
        let report =
            of(&format!("apiVersion: tidegate.io/v1alpha1\nkind: {kind}\nmetadata: {{name: x}}\nspec: {spec}\n"));
        assert!(report.problems.iter().any(|line| line.contains(told)), "{kind} {spec}: {:#?}", report.problems);
    }
}

#[test]
fn other_peoples_kinds_are_left_alone_and_ours_misnamed_are_not() {
    assert_eq!(of("apiVersion: apps/v1\nkind: Deployment\nmetadata: {nam: x}\n").problems.len(), 0);
    assert_eq!(of("apiVersion: tekton.dev/v1\nkind: Pipeline\nmetadata: {name: x}\n").problems.len(), 0);
    assert_eq!(of("apiVersion: tidegate.dev/v1\nkind: Pipeline\nmetadata: {name: x}\n").problems.len(), 1);
    assert_eq!(of("kind: Pipeline\nmetadata: {name: x}\n").problems.len(), 1);
}

#[test]
fn a_name_that_is_not_in_the_files_is_a_note() {
    let report = of("apiVersion: tidegate.io/v1alpha1
kind: Attestor
metadata: {name: a}
spec: {keyless: {identity: a@example, issuer: https://issuer.example}}
---
apiVersion: tidegate.io/v1alpha1
kind: VerificationPolicy
metadata: {name: p}
spec: {checkSets: [{displayName: s, checks: [{displayName: c, sigstoreSignatureCheck: {attestors: [a, b]}}]}]}
");
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert_eq!(report.notes.len(), 1, "{:?}", report.notes);
    assert!(report.notes[0].contains("attestors[1]: Attestor 'b' is not in these files"), "{:?}", report.notes);
}

#[test]
fn the_examples_pass() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    let (documents, unreadable) = documents::read(&files);
    assert!(unreadable.is_empty(), "{unreadable:?}");
    let report = lint(&documents);
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
    assert!(report.notes.is_empty(), "{:#?}", report.notes);
    assert!(report.checked >= 8, "{}", report.checked);
}
