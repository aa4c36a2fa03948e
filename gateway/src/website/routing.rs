//! Where visitors are sent instead: the routing rules of a web site, and how addresses are written.

use http::StatusCode;
use s3s::dto::{RedirectAllRequestsTo, RoutingRule};

/// Bytes that stand for themselves in a path.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~/!$&'()*+,;=:@".contains(&byte)
}

/// A key as the path of an address, with its slash.
pub(super) fn encoded_path(key: &str) -> String {
    let mut path = String::with_capacity(key.len() + 1);
    path.push('/');
    // Two slashes at the beginning would name another host.
    let mut may_mislead = true;
    for byte in key.bytes() {
        if is_plain(byte) && !(may_mislead && byte == b'/') {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
        may_mislead = false;
    }
    path
}

/// The bytes that a path stands for. What is no encoding stands for itself.
pub(super) fn percent_decoded(path: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind.first_chunk::<2>().filter(|_| *first == b'%');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        // `from_str_radix` takes a sign, too.
        let digits = digits.filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = behind.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    bytes
}

/// Another host's address; without a protocol the visitor's own is kept.
fn at_host(protocol: Option<&str>, host: &str, path: &str) -> String {
    match protocol {
        Some(protocol) => format!("{protocol}://{host}{path}"),
        None => format!("//{host}{path}"),
    }
}

/// Where everybody is sent.
pub(super) fn to_all(all: &RedirectAllRequestsTo, key: &str) -> String {
    let protocol = all.protocol.as_ref().map(|protocol| protocol.as_str());
    at_host(protocol, &all.host_name, &encoded_path(key))
}

/// Where a visitor of `key` is sent: before it is looked for (`answered` is `None`), or since it could not be
/// had.
pub(super) fn route(
    rules: &[RoutingRule],
    key: &str,
    answered: Option<StatusCode>,
) -> Option<(StatusCode, String)> {
    let rule = rules.iter().find(|rule| applies(rule, key, answered))?;
    let prefix = rule.condition.as_ref().and_then(|condition| condition.key_prefix_equals.as_ref());
    let redirect = &rule.redirect;
    let target = match (&redirect.replace_key_with, &redirect.replace_key_prefix_with) {
        (Some(whole), _) => whole.clone(),
        (None, Some(start)) => {
            let rest = key.strip_prefix(prefix.map_or("", String::as_str)).unwrap_or(key);
            format!("{start}{rest}")
        }
        (None, None) => key.to_owned(),
    };
    let path = encoded_path(&target);
    let protocol = redirect.protocol.as_ref().map(|protocol| protocol.as_str());
    let location = match &redirect.host_name {
        Some(host) => at_host(protocol, host, &path),
        None => path,
    };
    let status = redirect.http_redirect_code.as_ref().and_then(|code| code.parse().ok());
    Some((status.unwrap_or(StatusCode::MOVED_PERMANENTLY), location))
}

fn applies(rule: &RoutingRule, key: &str, answered: Option<StatusCode>) -> bool {
    let Some(condition) = &rule.condition else { return answered.is_none() };
    let wanted = condition.http_error_code_returned_equals.as_deref();
    let is_prefix =
        condition.key_prefix_equals.as_ref().is_none_or(|prefix| key.starts_with(prefix));
    let is_code = match (wanted, answered) {
        (None, None) => true,
        (Some(code), Some(status)) => code == status.as_str(),
        _ => false,
    };
    is_prefix && is_code
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use s3s::dto::{Condition, Protocol, Redirect};

    use super::*;

    fn rule(prefix: Option<&str>, code: Option<&str>, redirect: Redirect) -> RoutingRule {
        let condition = Condition {
            key_prefix_equals: prefix.map(str::to_owned),
            http_error_code_returned_equals: code.map(str::to_owned),
        };
        let condition = (prefix.is_some() || code.is_some()).then_some(condition);
        RoutingRule { condition, redirect }
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn the_first_rule_that_applies_says_where_to() {
        let moved = Redirect { replace_key_prefix_with: some("documents/"), ..Redirect::default() };
        let other = Redirect {
            host_name: some("example.org"),
            protocol: Some(Protocol::from_static("https")),
            http_redirect_code: some("307"),
            replace_key_with: some("report 404.html"),
            ..Redirect::default()
        };
        let host = Redirect { host_name: some("old.example.org"), ..Redirect::default() };
        let rules = [
            rule(Some("docs/"), None, moved),
            rule(None, Some("404"), other),
            rule(Some("x/"), Some("403"), host),
        ];
        let at = |key, status: Option<u16>| {
            let status = status.map(|code| StatusCode::from_u16(code).unwrap());
            route(&rules, key, status).map(|(code, place)| (code.as_u16(), place))
        };
        assert_eq!(at("docs/a b", None), Some((301, "/documents/a%20b".to_owned())));
        assert_eq!(at("other", None), None);
        let gone = "https://example.org/report%20404.html".to_owned();
        assert_eq!(at("other", Some(404)), Some((307, gone)));
        assert_eq!(at("x/y", Some(403)), Some((301, "//old.example.org/x/y".to_owned())));
        assert_eq!(at("y", Some(403)), None);
        // Without a condition a rule is for all.
        let all =
            [rule(None, None, Redirect { replace_key_with: some("k"), ..Redirect::default() })];
        assert_eq!(route(&all, "any", None).unwrap().1, "/k");
    }

    proptest! {
        #[test]
        fn keys_come_back_and_lead_to_no_other_host(key in ".{0,40}") {
            let path = encoded_path(&key);
            prop_assert!(!path.starts_with("//"));
            prop_assert!(path.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(percent_decoded(&path[1..]), key.as_bytes());
        }

        #[test]
        fn any_path_stands_for_some_bytes(path in ".{0,40}") {
            prop_assert!(percent_decoded(&path).len() <= path.len());
        }
    }
}
