//! Tokens good and bad, and the keys that an issuer publishes.

use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::house::{AUDIENCE, EMAIL, ISSUER, NOW};

struct Key {
    private: EncodingKey,
    public: Jwk,
    pem: String,
}

fn key(which: usize) -> &'static Key {
    static KEYS: [OnceLock<Key>; 3] = [const { OnceLock::new() }; 3];
    KEYS[which].get_or_init(|| {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let private = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).unwrap();
        let mut public = Jwk::from_encoding_key(&private, Algorithm::RS256).unwrap();
        public.common.key_id = Some(format!("key-{}", which + 1));
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        Key { private, public, pem: pair.public_key_pem() }
    })
}

/// Before the rotation one key, after it two; the third is a stranger's.
pub fn published(rotated: bool) -> Vec<Jwk> {
    let count = if rotated { 2 } else { 1 };
    (0..count).map(|which| key(which).public.clone()).collect()
}

fn claims(changes: Value) -> Value {
    let mut claims = json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "1", "email": EMAIL, "email_verified": true,
                            "iat": NOW, "exp": NOW + 3600});
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name).map(drop).unwrap_or_default(),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

fn sign(which: usize, id: &str, claims: &Value) -> String {
    let mut header = Header::new(Algorithm::RS256);
    header.kid = Some(id.to_owned());
    jsonwebtoken::encode(&header, claims, &key(which).private).unwrap()
}

/// A good token but for these claims; `null` takes one away.
pub fn token(changes: Value) -> String {
    sign(0, "key-1", &claims(changes))
}

pub fn rotated_token(changes: Value) -> String {
    sign(1, "key-2", &claims(changes))
}

pub fn by_stranger(id: &str) -> String {
    sign(2, id, &claims(json!({})))
}

pub fn unsigned() -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", part(&json!({"alg": "none", "typ": "JWT", "kid": "key-1"})), part(&claims(json!({}))))
}

/// The public key's text as an HMAC key: the classic confusion of algorithms.
pub fn confused() -> String {
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("key-1".to_owned());
    jsonwebtoken::encode(&header, &claims(json!({})), &EncodingKey::from_secret(key(0).pem.as_bytes())).unwrap()
}

/// A good token's signature over other claims.
pub fn altered() -> String {
    let good = token(json!({}));
    let mut parts: Vec<&str> = good.split('.').collect();
    let other = URL_SAFE_NO_PAD.encode(claims(json!({"email": "eve@evil.example"})).to_string());
    parts[1] = &other;
    parts.join(".")
}
