//! GitHub's signature over the raw body, compared in constant time.

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Whether `header` (`sha256=<hex>`) is the HMAC-SHA256 of `body` under `secret`.
pub fn holds(secret: &[u8], header: Option<&str>, body: &[u8]) -> bool {
    let Some(hex) = header.and_then(|header| header.strip_prefix("sha256=")) else { return false };
    let Ok(claimed) = hex::decode(hex) else { return false };
    // An empty secret would let everybody sign.
    let Some(mut mac) = (!secret.is_empty()).then(|| Hmac::<Sha256>::new_from_slice(secret).ok()).flatten() else {
        return false;
    };
    mac.update(body);
    mac.verify_slice(&claimed).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"It's a Secret to Everybody";
    const BODY: &[u8] = b"Hello, World!";
    const HEX: &str = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    #[test]
    fn githubs_published_vector_holds() {
        assert!(holds(SECRET, Some(&format!("sha256={HEX}")), BODY));
    }

    #[test]
    fn nothing_else_does() {
        for (secret, header, body) in [
            (SECRET, None, BODY),
            (SECRET, Some(String::new()), BODY),
            (SECRET, Some(HEX.to_owned()), BODY),
            (SECRET, Some(format!("sha1={HEX}")), BODY),
            (SECRET, Some("sha256=".to_owned()), BODY),
            (SECRET, Some("sha256=zz".to_owned()), BODY),
            (SECRET, Some(format!("sha256={}", &HEX[..62])), BODY),
            (SECRET, Some(format!("sha256={}", HEX.replace('7', "8"))), BODY),
            (SECRET, Some(format!("sha256={HEX}")), b"Hello, World?".as_slice()),
            (b"another".as_slice(), Some(format!("sha256={HEX}")), BODY),
            (b"".as_slice(), Some(format!("sha256={HEX}")), BODY),
        ] {
            assert!(!holds(secret, header.as_deref(), body), "{header:?}");
        }
    }
}
