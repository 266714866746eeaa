//! Commit statuses, deployments and deployment statuses with GitHub's own checks and refusals.
//! Pure over the stand-in's world: it reads no request but the parsed body.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Value, json};

use super::{Answer, Told, World, refusal};
use crate::supply::now;

const STATUS_STATES: [&str; 4] = ["error", "failure", "pending", "success"];
const DEPLOYMENT_STATES: [&str; 7] = ["error", "failure", "inactive", "in_progress", "queued", "pending", "success"];
const LONGEST_DESCRIPTION: usize = 140;
const LONGEST_CONTEXT: usize = 255;

pub struct Deployment {
    repo: String,
    sha: String,
    environment: String,
    body: Value,
    statuses: Vec<Value>,
}

pub fn create_status(world: &mut World, repo: &str, sha: &str, body: &Value) -> Answer {
    if !is_commit(world, sha) {
        return refusal(StatusCode::UNPROCESSABLE_ENTITY, &format!("No commit found for SHA: {sha}"));
    }
    let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
    let context = if body["context"].is_null() { "default".to_owned() } else { text("context") };
    let mut problems = Problems::of("Status");
    problems.state(body, &STATUS_STATES);
    problems.length("description", &text("description"), LONGEST_DESCRIPTION);
    problems.length("context", &context, LONGEST_CONTEXT);
    problems.web_link(body, "target_url");
    if let Some(refused) = problems.refusal() {
        return refused;
    }
    let id = world.next_id();
    world.told.push(Told::Status {
        repo: repo.to_owned(),
        sha: sha.to_owned(),
        state: text("state"),
        context: context.clone(),
        description: text("description"),
        target_url: text("target_url"),
    });
    let at = now().to_string();
    let created = json!({
        "url": format!("https://api.github.com/repos/{repo}/statuses/{sha}"),
        "id": id,
        "node_id": format!("SC_{id}"),
        "state": body["state"],
        "description": body["description"],
        "target_url": body["target_url"],
        "context": context,
        "created_at": at,
        "updated_at": at,
    });
    (StatusCode::CREATED, created)
}

pub fn create_deployment(world: &mut World, repo: &str, body: &Value) -> Answer {
    let Some(reference) = body["ref"].as_str() else {
        let message = "Invalid request.\n\n\"ref\" wasn't supplied.";
        return refusal(StatusCode::UNPROCESSABLE_ENTITY, message);
    };
    // The rig has commits and one branch; GitHub takes any ref.
    if !is_commit(world, reference) && reference != "main" {
        return refusal(StatusCode::UNPROCESSABLE_ENTITY, &format!("No ref found for: {reference}"));
    }
    if let Some(refused) = failed_contexts(world, reference, &body["required_contexts"]) {
        return refused;
    }
    let id = world.next_id();
    let environment = body["environment"].as_str().unwrap_or("production").to_owned();
    world.told.push(Told::Deployment {
        repo: repo.to_owned(),
        id,
        reference: reference.to_owned(),
        environment: environment.clone(),
    });
    let at = now().to_string();
    let url = format!("https://api.github.com/repos/{repo}/deployments/{id}");
    let payload = if body["payload"].is_null() { json!({}) } else { body["payload"].clone() };
    let created = json!({
        "url": url,
        "id": id,
        "node_id": format!("DE_{id}"),
        "sha": reference,
        "ref": reference,
        "task": body["task"].as_str().unwrap_or("deploy"),
        "payload": payload,
        "original_environment": environment,
        "environment": environment,
        "description": body["description"],
        "created_at": at,
        "updated_at": at,
        "statuses_url": format!("{url}/statuses"),
        "repository_url": format!("https://api.github.com/repos/{repo}"),
        "transient_environment": body["transient_environment"].as_bool().unwrap_or(false),
        "production_environment": body["production_environment"].as_bool().unwrap_or(environment == "production"),
    });
    let sha = reference.to_owned();
    let deployment =
        Deployment { repo: repo.to_owned(), sha, environment, body: created.clone(), statuses: Vec::new() };
    world.deployments.insert(id, deployment);
    (StatusCode::CREATED, created)
}

pub fn create_deployment_status(world: &mut World, repo: &str, id: &str, body: &Value) -> Answer {
    let number = id.parse::<u64>().unwrap_or_default();
    let known = world.deployments.get(&number).is_some_and(|deployment| deployment.repo == repo);
    if !known {
        return refusal(StatusCode::NOT_FOUND, "Not Found");
    }
    let description = body["description"].as_str().unwrap_or_default();
    let mut problems = Problems::of("DeploymentStatus");
    problems.state(body, &DEPLOYMENT_STATES);
    problems.length("description", description, LONGEST_DESCRIPTION);
    problems.web_link(body, "log_url");
    problems.web_link(body, "environment_url");
    if let Some(refused) = problems.refusal() {
        return refused;
    }
    let status = world.next_id();
    world.told.push(Told::DeploymentStatus {
        repo: repo.to_owned(),
        deployment: number,
        state: body["state"].as_str().unwrap_or_default().to_owned(),
        description: description.to_owned(),
    });
    let at = now().to_string();
    let url = format!("https://api.github.com/repos/{repo}/deployments/{number}");
    let environment = world.deployments.get(&number).map(|deployment| deployment.environment.clone());
    let created = json!({
        "url": format!("{url}/statuses/{status}"),
        "id": status,
        "node_id": format!("DES_{status}"),
        "state": body["state"],
        "description": description,
        "environment": environment,
        "target_url": body["log_url"].as_str().unwrap_or_default(),
        "log_url": body["log_url"].as_str().unwrap_or_default(),
        "environment_url": body["environment_url"].as_str().unwrap_or_default(),
        "created_at": at,
        "updated_at": at,
        "deployment_url": url,
        "repository_url": format!("https://api.github.com/repos/{repo}"),
    });
    if let Some(deployment) = world.deployments.get_mut(&number) {
        // Newest first, as GitHub lists them.
        deployment.statuses.insert(0, created.clone());
    }
    (StatusCode::CREATED, created)
}

/// The lists that a client reads to find what it had told before.
pub fn read(world: &World, repo: &str, rest: &[&str], query: &BTreeMap<String, String>) -> Answer {
    let asked = |name: &str, value: &str| query.get(name).is_none_or(|wanted| wanted == value);
    match rest {
        [] => (StatusCode::OK, json!({"full_name": repo, "default_branch": "main"})),
        ["deployments"] => {
            let found = world.deployments.values().rev().filter(|deployment| {
                deployment.repo == repo
                    && asked("sha", &deployment.sha)
                    && asked("ref", &deployment.sha)
                    && asked("environment", &deployment.environment)
            });
            (StatusCode::OK, found.map(|deployment| deployment.body.clone()).collect())
        }
        ["deployments", id, rest @ ..] => {
            let found = id.parse().ok().and_then(|id: u64| world.deployments.get(&id));
            match (found.filter(|deployment| deployment.repo == repo), rest) {
                (Some(deployment), []) => (StatusCode::OK, deployment.body.clone()),
                (Some(deployment), ["statuses"]) => (StatusCode::OK, deployment.statuses.clone().into()),
                _ => refusal(StatusCode::NOT_FOUND, "Not Found"),
            }
        }
        ["commits", sha, "statuses"] => {
            let statuses = latest_statuses(world, sha);
            let entry = |(context, state): (String, String)| json!({"context": context, "state": state});
            (StatusCode::OK, statuses.into_iter().map(entry).collect())
        }
        _ => refusal(StatusCode::NOT_FOUND, "Not Found"),
    }
}

/// Context to newest state.
pub fn latest_statuses(world: &World, sha: &str) -> BTreeMap<String, String> {
    let mut latest = BTreeMap::new();
    for told in &world.told {
        if let Told::Status { sha: of, state, context, .. } = told
            && of == sha
        {
            latest.insert(context.clone(), state.clone());
        }
    }
    latest
}

/// Without `required_contexts` every context must have succeeded: a client that sets its own `pending` status first and
/// leaves the field out blocks itself. `[]` asks for none.
fn failed_contexts(world: &World, reference: &str, required: &Value) -> Option<Answer> {
    let latest = latest_statuses(world, reference);
    let wanted: Vec<String> = match required.as_array() {
        Some(names) => names.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        None => latest.keys().cloned().collect(),
    };
    let state = |context: &String| latest.get(context).cloned().unwrap_or_else(|| "pending".into());
    let failed: Vec<Value> = wanted
        .iter()
        .map(|context| (context, state(context)))
        .filter(|(_, state)| state != "success")
        .map(|(context, state)| json!({"context": context, "state": state}))
        .collect();
    if failed.is_empty() {
        return None;
    }
    let message = format!("Conflict: Commit status checks failed for {reference}.");
    let (status, mut body) = refusal(StatusCode::CONFLICT, &message);
    body["errors"] =
        json!([{"contexts": failed, "resource": "Deployment", "field": "required_contexts", "code": "invalid"}]);
    Some((status, body))
}

fn is_commit(world: &World, sha: &str) -> bool {
    let hex = sha.len() == 40 && sha.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    hex && !world.unknown_commits.contains(sha)
}

struct Problems {
    resource: &'static str,
    found: Vec<Value>,
}

impl Problems {
    fn of(resource: &'static str) -> Self {
        Self { resource, found: Vec::new() }
    }

    fn add(&mut self, field: &str, message: &str) {
        self.found.push(json!({"resource": self.resource, "code": "custom", "field": field, "message": message}));
    }

    fn state(&mut self, body: &Value, allowed: &[&str]) {
        if !body["state"].as_str().is_some_and(|state| allowed.contains(&state)) {
            self.add("state", "state is not included in the list");
        }
    }

    fn length(&mut self, field: &str, text: &str, longest: usize) {
        if text.chars().count() > longest {
            self.add(field, &format!("{field} is too long (maximum is {longest} characters)"));
        }
    }

    fn web_link(&mut self, body: &Value, field: &str) {
        let link = body[field].as_str().unwrap_or_default();
        if !link.is_empty() && !link.starts_with("https://") && !link.starts_with("http://") {
            self.add(field, &format!("{field} must use http(s) scheme"));
        }
    }

    fn refusal(self) -> Option<Answer> {
        if self.found.is_empty() {
            return None;
        }
        let (status, mut body) = refusal(StatusCode::UNPROCESSABLE_ENTITY, "Validation Failed");
        body["errors"] = self.found.into();
        Some((status, body))
    }
}
