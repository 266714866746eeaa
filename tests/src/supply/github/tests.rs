//! The stand-in refuses what GitHub refuses: a client that passes here has met those checks.

use super::*;
use jsonwebtoken::{Algorithm, EncodingKey, Header};

const SHA: &str = "8f2d6d2f3d3e0d6d5d9a4f6f7b1c2d3e4f5a6b7c";

async fn github() -> Github {
    Github::start("127.0.0.1:0".parse().unwrap(), &["shop/portal"]).await.unwrap()
}

async fn post(github: &Github, path: &str, token: Option<&str>, body: &Value) -> (u16, Value) {
    let client = web::client(None).unwrap();
    let mut request =
        client.post(format!("{}{path}", github.base())).header("user-agent", "test").body(body.to_string());
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap_or_default())
}

fn app_jwt(github: &Github, issuer: u64, lives: i64) -> String {
    let now = crate::supply::unix_now();
    let key = EncodingKey::from_rsa_pem(github.app_private_key().as_bytes()).unwrap();
    let claims = json!({"iss": issuer, "iat": now - 60, "exp": now + lives});
    jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &key).unwrap()
}

#[tokio::test]
async fn statuses_are_checked_as_github_checks_them() {
    let github = github().await;
    let statuses = format!("/repos/shop/portal/statuses/{SHA}");
    let good = json!({"state": "pending", "context": "tidegate/staging", "description": "canary at 5 %"});
    let long = json!({"state": "success", "description": "x".repeat(141)});
    let cases = [
        (statuses.as_str(), None, good.clone(), 401, "Requires authentication"),
        (statuses.as_str(), Some("guess"), good.clone(), 401, "Bad credentials"),
        ("/repos/shop/other/statuses/0", Some(TOKEN), good.clone(), 404, "Not Found"),
        ("/repos/shop/portal/statuses/8f2d6d2", Some(TOKEN), good.clone(), 422, "No commit found for SHA: 8f2d6d2"),
        (statuses.as_str(), Some(TOKEN), json!({"state": "running"}), 422, "Validation Failed"),
        (statuses.as_str(), Some(TOKEN), long, 422, "Validation Failed"),
        (statuses.as_str(), Some(TOKEN), json!({"state": "success", "target_url": "x"}), 422, "Validation Failed"),
    ];
    for (path, token, body, status, message) in cases {
        let (got, answer) = post(&github, path, token, &body).await;
        assert_eq!((got, answer["message"].as_str().unwrap()), (status, message), "{path} {body}");
    }
    assert!(github.told().is_empty());
    assert_eq!(post(&github, &statuses, Some(TOKEN), &good).await.0, 201);
    assert_eq!(github.status_of(SHA, "tidegate/staging").as_deref(), Some("pending"));
}

#[tokio::test]
async fn own_pending_status_blocks_a_deployment_that_names_no_contexts() {
    let github = github().await;
    let status = json!({"state": "pending", "context": "tidegate"});
    post(&github, &format!("/repos/shop/portal/statuses/{SHA}"), Some(TOKEN), &status).await;
    let deployments = "/repos/shop/portal/deployments";
    let careless = json!({"ref": SHA, "environment": "staging"});
    assert_eq!(post(&github, deployments, Some(TOKEN), &careless).await.0, 409);
    let careful = json!({"ref": SHA, "environment": "staging", "auto_merge": false, "required_contexts": []});
    let (status, deployment) = post(&github, deployments, Some(TOKEN), &careful).await;
    assert_eq!(status, 201);
    let list = async |query: &str| {
        let url = format!("{}{deployments}?{query}", github.base());
        let request = web::client(None).unwrap().get(url).header("user-agent", "test").bearer_auth(TOKEN);
        request.send().await.unwrap().json::<Vec<Value>>().await.unwrap()
    };
    assert_eq!(list(&format!("sha={SHA}&environment=staging")).await.len(), 1);
    assert!(list(&format!("sha={SHA}&environment=prod-east")).await.is_empty());
    let statuses = format!("{deployments}/{}/statuses", deployment["id"]);
    assert_eq!(post(&github, &statuses, Some(TOKEN), &json!({"state": "done"})).await.0, 422);
    assert_eq!(post(&github, &statuses, Some(TOKEN), &json!({"state": "in_progress"})).await.0, 201);
    assert_eq!(post(&github, &format!("{deployments}/999/statuses"), Some(TOKEN), &json!({})).await.0, 404);
}

#[tokio::test]
async fn app_exchanges_its_jwt_for_a_token_that_ends() {
    let github = github().await;
    let path = format!("/app/installations/{INSTALLATION_ID}/access_tokens");
    for jwt in [app_jwt(&github, 1, 300), app_jwt(&github, APP_ID, 3_600), app_jwt(&github, APP_ID, -30)] {
        assert_eq!(post(&github, &path, Some(&jwt), &json!({})).await.0, 401);
    }
    let (status, answer) = post(&github, &path, Some(&app_jwt(&github, APP_ID, 300)), &json!({})).await;
    assert_eq!(status, 201);
    let token = answer["token"].as_str().unwrap();
    let statuses = format!("/repos/shop/portal/statuses/{SHA}");
    assert_eq!(post(&github, &statuses, Some(token), &json!({"state": "success"})).await.0, 201);
    github.expire_installation_tokens();
    assert_eq!(post(&github, &statuses, Some(token), &json!({"state": "success"})).await.0, 401);
}

#[tokio::test]
async fn dead_github_answers_500_or_nothing_and_records_no_fact() {
    let github = github().await;
    let statuses = format!("/repos/shop/portal/statuses/{SHA}");
    github.set_mode(Mode::Failing);
    assert_eq!(post(&github, &statuses, Some(TOKEN), &json!({"state": "success"})).await.0, 500);
    github.set_mode(Mode::Hanging);
    let body = json!({"state": "success"});
    let hanging = post(&github, &statuses, Some(TOKEN), &body);
    assert!(tokio::time::timeout(Duration::from_millis(200), hanging).await.is_err());
    assert!(github.told().is_empty());
    github.set_mode(Mode::Alive);
    post(&github, &statuses, Some(TOKEN), &json!({"state": "success"})).await;
    let told = github.wait_until_told(Duration::from_secs(1), |told| matches!(told, Told::Status { .. })).await;
    assert!(told.is_ok());
}
