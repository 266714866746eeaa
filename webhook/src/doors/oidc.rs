//! The OIDC token of a Pub/Sub push: RS256 by a key of its issuer, for our audience, of the expected
//! verified e-mail, in its time. The signature is checked before any claim is spoken of.

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde::Deserialize;
use tidegate_pipelines::api::OidcPolicy;

use super::jwks::{KeyCache, KeysError};

/// Clocks differ.
const LEEWAY: i64 = 60;
/// Google's tokens have some 1,000 characters.
const LONGEST: usize = 8 * 1024;
const GOOGLE: [&str; 2] = ["https://accounts.google.com", "accounts.google.com"];

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Nothing is said about why: whoever cannot sign learns nothing.
    #[error("the bearer token is missing or not accepted")]
    NotAccepted,
    #[error("the token is signed, but {0}")]
    Claims(&'static str),
    #[error(transparent)]
    Keys(#[from] KeysError),
}

#[derive(Deserialize)]
struct Claims {
    exp: Option<serde_json::Number>,
    nbf: Option<serde_json::Number>,
    iat: Option<serde_json::Number>,
    email: Option<String>,
    email_verified: Option<bool>,
}

/// Checks the value of `Authorization` against what the source expects.
pub async fn check(
    keys: &KeyCache,
    policy: &OidcPolicy,
    authorization: Option<&str>,
    now: Timestamp,
) -> Result<(), TokenError> {
    let token = authorization.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let token = token.filter(|token| token.len() <= LONGEST).ok_or(TokenError::NotAccepted)?;
    // `alg: none` has no place in the library's type: the header does not parse.
    let header = decode_header(token).map_err(|_| TokenError::NotAccepted)?;
    if header.alg != Algorithm::RS256 {
        return Err(TokenError::NotAccepted);
    }
    let id = header.kid.as_deref().ok_or(TokenError::NotAccepted)?;
    let key = keys.key(&policy.issuer, id).await?.ok_or(TokenError::NotAccepted)?;
    let mut validation = Validation::new(Algorithm::RS256);
    // The library reads the machine's clock; times are checked below, against the one handed in.
    validation.validate_exp = false;
    validation.set_required_spec_claims(&["exp", "iss", "aud"]);
    validation.set_audience(&[&policy.audience]);
    match GOOGLE.contains(&policy.issuer.as_str()) {
        true => validation.set_issuer(&GOOGLE),
        false => validation.set_issuer(&[&policy.issuer]),
    }
    let claims = decode::<Claims>(token, &key, &validation).map_err(|error| {
        use jsonwebtoken::errors::ErrorKind::*;
        match error.kind() {
            InvalidIssuer => TokenError::Claims("by another issuer"),
            InvalidAudience => TokenError::Claims("for another audience"),
            MissingRequiredClaim(_) => TokenError::Claims("it lacks exp, iss or aud"),
            _ => TokenError::NotAccepted,
        }
    })?;
    in_time(&claims.claims, now.as_second())?;
    if claims.claims.email_verified != Some(true) || claims.claims.email.as_deref() != Some(policy.email.as_str()) {
        return Err(TokenError::Claims("not by the verified e-mail that this source expects"));
    }
    Ok(())
}

fn in_time(claims: &Claims, now: i64) -> Result<(), TokenError> {
    let seconds = |number: &serde_json::Number| number.as_i64().or_else(|| number.as_f64().map(|s| s as i64));
    let exp = claims.exp.as_ref().and_then(seconds).ok_or(TokenError::Claims("its exp is no time"))?;
    if exp.saturating_add(LEEWAY) <= now {
        return Err(TokenError::Claims("it has expired"));
    }
    let starts = [&claims.nbf, &claims.iat].into_iter().flatten().filter_map(seconds).max();
    if starts.is_some_and(|start| start > now.saturating_add(LEEWAY)) {
        return Err(TokenError::Claims("its time has not come"));
    }
    Ok(())
}
