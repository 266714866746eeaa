//! What is installed, held against the manifests.

use super::*;

fn args(roles: &[Role]) -> InstallArgs {
    InstallArgs {
        person: PersonArgs::default(),
        roles: roles.to_vec(),
        environment: None,
        image: None,
        webhook_ca: None,
        webhook_url: None,
        webhook_failure_policy: "Fail".into(),
        api_server: vec![],
        guard_client_ca: false,
        dry_run: false,
    }
}

#[test]
fn every_manifest_parses_and_nothing_is_left_to_fill_in() {
    let mut all = args(&[Role::Hub, Role::Doors, Role::SpokeAccess, Role::Spoke, Role::Guard]);
    all.environment = Some("prod-east".into());
    all.image = Some(format!("registry.example/tidegate@sha256:{}", "a".repeat(64)));
    let objects = documents(&all).unwrap();
    assert!(objects.len() > 30, "{}", objects.len());
    for object in &objects {
        let text = serde_json::to_string(object).unwrap();
        assert!(!text.contains("${"), "{text}");
    }
}

#[test]
fn what_is_missing_is_named() {
    assert!(matches!(documents(&args(&[Role::SpokeAccess])), Err(InstallError::EnvironmentMissing(_))));
    let mut tagged = args(&[]);
    tagged.image = Some("registry.example/tidegate:v1".into());
    assert!(matches!(documents(&tagged), Err(InstallError::ImageWithoutDigest(_))));
    let mut odd = args(&[Role::SpokeAccess]);
    odd.environment = Some("Prod East".into());
    assert!(matches!(documents(&odd), Err(InstallError::EnvironmentName(_))));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_no_unknown_kind() {
    let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    let client = Client::try_from(config).unwrap();
    let person = Person { client, namespace: "default".into(), server: "http://127.0.0.1:1".into() };
    let told = install(&args(&[Role::Hub]), person, |_| {}).await.unwrap_err();
    assert_eq!(told.to_string(), "http://127.0.0.1:1 cannot be reached: connection refused");
}

fn everything() -> InstallArgs {
    let mut all = args(&[Role::Hub, Role::Doors, Role::SpokeAccess, Role::Spoke, Role::Guard]);
    all.environment = Some("x".into());
    all.image = Some(format!("registry.example/tidegate@sha256:{}", "a".repeat(64)));
    all
}

fn kind(object: &DynamicObject) -> &str {
    &object.types.as_ref().unwrap().kind
}

/// Keys of servers, tokens of accounts and passwords of registries lie in `tidegate-system`, and are mounted by
/// whom they are for.
#[test]
fn a_role_reads_secrets_in_a_namespace_of_its_own_or_not_at_all() {
    let mut readers = vec![];
    for object in documents(&everything()).unwrap() {
        let text = serde_json::to_string(&object.data).unwrap();
        if !kind(&object).ends_with("Role") || !(text.contains("\"secrets\"") || text.contains("\"*\"")) {
            continue;
        }
        // A viewer sees every kind of our own group, where there are no Secrets.
        let ours = object
            .data
            .pointer("/rules")
            .unwrap()
            .as_array()
            .unwrap()
            .iter()
            .all(|rule| rule["apiGroups"] == serde_json::json!(["tidegate.io"]));
        if !ours {
            assert_eq!(
                object.data["rules"],
                serde_json::json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}])
            );
            readers.push(describe(&object));
        }
    }
    readers.sort();
    assert_eq!(readers, ["Role tidegate-doors/tidegate-doors", "Role tidegate-hub/tidegate-hub"]);
}

/// Of the ports that the roles listen on, as `(component, port, from)`; `from` empty: anybody.
fn let_in(objects: &[DynamicObject]) -> Vec<(String, u64, String)> {
    let mut found = vec![];
    let pods: Vec<&DynamicObject> = objects.iter().filter(|object| kind(object) == "Deployment").collect();
    for policy in objects.iter().filter(|object| kind(object) == "NetworkPolicy") {
        let labels = policy.data.pointer("/spec/podSelector/matchLabels").and_then(|labels| labels.as_object());
        let selects = |pod: &&&DynamicObject| {
            let own = &pod.data["spec"]["template"]["metadata"]["labels"];
            labels.into_iter().flatten().all(|(name, value)| own[name] == *value)
        };
        for pod in pods.iter().filter(selects) {
            for rule in policy.data.pointer("/spec/ingress").and_then(|rules| rules.as_array()).into_iter().flatten() {
                for port in rule["ports"].as_array().expect("a rule without ports lets in all of them") {
                    let from = rule.get("from").map(ToString::to_string).unwrap_or_default();
                    found.push((pod.name_any(), port["port"].as_u64().unwrap(), from));
                }
            }
        }
    }
    found.sort();
    found
}

#[test]
fn the_network_lets_in_what_each_role_serves_and_nothing_else() {
    let mut all = everything();
    let objects = documents(&all).unwrap();
    let denied = objects.iter().find(|object| object.name_any() == "tidegate-default-deny").unwrap();
    assert_eq!(denied.data["spec"], serde_json::json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
    let scrapes = r#"[{"namespaceSelector":{"matchLabels":{"tidegate.io/scrapes-metrics":"true"}}}]"#;
    let row = |role: &str, port: u64, from: &str| (format!("tidegate-{role}"), port, from.to_owned());
    let expected = [
        row("doors", 8443, ""),
        row("doors", 9440, scrapes),
        row("guard", 9440, scrapes),
        row("guard", 9443, ""),
        row("hub", 9440, scrapes),
        row("spoke", 9440, scrapes),
    ];
    assert_eq!(let_in(&objects), expected);
    // Every port that a container names is one of them.
    for object in objects.iter().filter(|object| kind(object) == "Deployment") {
        for port in object.data.pointer("/spec/template/spec/containers/0/ports").unwrap().as_array().unwrap() {
            let port = port["containerPort"].as_u64().unwrap();
            assert!(expected.iter().any(|(role, open, _)| *role == object.name_any() && *open == port), "{port}");
        }
    }
    all.api_server = vec!["192.0.2.0/28".into(), "2001:db8::/64".into()];
    let narrowed = let_in(&documents(&all).unwrap());
    let from = r#"[{"ipBlock":{"cidr":"192.0.2.0/28"}},{"ipBlock":{"cidr":"2001:db8::/64"}}]"#;
    assert!(narrowed.contains(&row("guard", 9443, from)), "{narrowed:?}");
    assert!(!narrowed.contains(&row("guard", 9443, "")), "{narrowed:?}");
}

#[test]
fn a_guard_that_demands_client_certificates_is_told_where_their_authority_is() {
    let mut all = everything();
    for demands in [false, true] {
        all.guard_client_ca = demands;
        let objects = documents(&all).unwrap();
        let guard = objects.iter().find(|o| kind(o) == "Deployment" && o.name_any() == "tidegate-guard").unwrap();
        let args = guard.data.pointer("/spec/template/spec/containers/0/args").unwrap().as_array().unwrap();
        assert_eq!(args.iter().any(|arg| arg == "--client-ca=/clients/ca.crt"), demands, "{args:?}");
    }
}
