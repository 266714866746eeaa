//! GitHub's authentication: tokens, and an App's JWT exchanged for an installation token. It grants no scopes: whoever
//! is known may do all that the stand-in can do.

use bytes::Bytes;
use http::{Request, StatusCode};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};

use super::{APP_ID, Answer, INSTALLATION_ID, TOKEN, World, refusal};
use crate::supply::unix_now;

/// GitHub refuses an App's JWT that lives longer.
const LONGEST_JWT: i64 = 600;
/// Clocks drift; GitHub advises `iat` 60 s in the past.
const DRIFT: i64 = 60;

fn credentials(request: &Request<Bytes>) -> Option<&str> {
    let header = request.headers().get(http::header::AUTHORIZATION)?.to_str().ok()?;
    header.strip_prefix("Bearer ").or_else(|| header.strip_prefix("token "))
}

pub fn check_token(world: &World, request: &Request<Bytes>) -> Result<(), Answer> {
    let Some(token) = credentials(request) else {
        return Err(refusal(StatusCode::UNAUTHORIZED, "Requires authentication"));
    };
    let installed = world.installation_tokens.get(token).is_some_and(|end| *end > unix_now());
    if token == TOKEN || installed {
        return Ok(());
    }
    Err(refusal(StatusCode::UNAUTHORIZED, "Bad credentials"))
}

/// `POST /app/installations/{id}/access_tokens`
pub fn exchange(world: &mut World, app_public: &str, request: &Request<Bytes>, id: &str) -> Answer {
    if let Err(message) = check_jwt(app_public, credentials(request)) {
        return refusal(StatusCode::UNAUTHORIZED, &message);
    }
    if id != INSTALLATION_ID.to_string() {
        return refusal(StatusCode::NOT_FOUND, "Not Found");
    }
    let token = format!("rig-installation-token-{}", world.next_id());
    let end = unix_now() + 3_600;
    world.installation_tokens.insert(token.clone(), end);
    let expires_at = jiff::Timestamp::from_second(end).expect("an hour from now").to_string();
    let permissions = json!({"statuses": "write", "deployments": "write", "metadata": "read"});
    let body = json!({
        "token": token,
        "expires_at": expires_at,
        "permissions": permissions,
        "repository_selection": "selected",
    });
    (StatusCode::CREATED, body)
}

fn check_jwt(app_public: &str, token: Option<&str>) -> Result<(), String> {
    const UNDECODED: &str = "A JSON web token could not be decoded";
    let token = token.ok_or(UNDECODED)?;
    let key = DecodingKey::from_rsa_pem(app_public.as_bytes()).map_err(|error| error.to_string())?;
    let mut validation = Validation::new(Algorithm::RS256);
    validation.validate_aud = false;
    validation.leeway = 0;
    let claims = jsonwebtoken::decode::<Value>(token, &key, &validation).map_err(|_| UNDECODED)?.claims;
    let issuer = &claims["iss"];
    if issuer.as_u64() != Some(APP_ID) && issuer.as_str() != Some(&APP_ID.to_string()) {
        return Err("Integration not found".into());
    }
    let now = unix_now();
    if claims["iat"].as_i64().is_none_or(|issued| issued > now + DRIFT) {
        return Err(
            "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued".into()
        );
    }
    if claims["exp"].as_i64().is_none_or(|end| end > now + LONGEST_JWT) {
        return Err("'Expiration time' claim ('exp') is too far in the future".into());
    }
    Ok(())
}
