//! The two headers of a registry that steer further requests: `WWW-Authenticate` and `Link`.

use http::{HeaderMap, header};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

impl Challenge {
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        headers.get_all(header::WWW_AUTHENTICATE).iter().find_map(|value| Self::parse(value.to_str().ok()?))
    }

    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let parameter = |name: &str| {
            parameters(rest).into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        };
        Some(Self::Bearer { realm: parameter("realm")?, service: parameter("service") })
    }
}

/// `key="value"` or `key=value`, separated by commas; quoted values may hold commas.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut rest = text.trim_start();
    while let Some((key, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').map_or((after, ""), |(value, after)| (value, after)),
        };
        out.push((key.trim().to_owned(), value.trim().to_owned()));
        rest = after.trim_start_matches([',', ' ']);
    }
    out
}

/// The path of the next page, if it lies at the same place: a registry may not send us elsewhere.
pub(super) fn next_page(headers: &HeaderMap, current: &str) -> Option<String> {
    let link = headers.get(header::LINK)?.to_str().ok()?;
    let (target, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    if !rest.contains("rel=\"next\"") && !rest.contains("rel=next") {
        return None;
    }
    let base = current.split('?').next().unwrap_or(current);
    let same = target.split('?').next() == Some(base);
    same.then(|| target.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.into(), service: service.map(str::to_owned) })
        };
        for (text, expected) in [
            (
                r#"Bearer realm="https://auth.example/token",service="registry.example",scope="a,b""#,
                bearer("https://auth.example/token", Some("registry.example")),
            ),
            (r#"bearer scope="a,b", realm=https://auth.example"#, bearer("https://auth.example", None)),
            (r#"Basic realm="x""#, Some(Challenge::Basic)),
            ("Negotiate", None),
            (r#"Bearer service="x""#, None),
            ("", None),
        ] {
            assert_eq!(Challenge::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn pages_stay_where_the_list_is() {
        let next = |link: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::LINK, link.parse().unwrap());
            next_page(&headers, "/v2/a/referrers/d")
        };
        assert_eq!(next(r#"</v2/a/referrers/d?n=2>; rel="next""#).as_deref(), Some("/v2/a/referrers/d?n=2"));
        assert_eq!(next(r#"</v2/b/referrers/d?n=2>; rel="next""#), None);
        assert_eq!(next(r#"<https://evil.example/v2/a/referrers/d>; rel="next""#), None);
        assert_eq!(next(r#"</v2/a/referrers/d>; rel="prev""#), None);
    }
}
