//! The printable form of a value: secrets inside of values that are not secrets themselves are hidden.

use serde_json::Value;

/// Printed in place of a secret.
pub const HIDDEN: &str = "(hidden)";

/// Keys of database options whose values are secrets.
const SECRET_OPTIONS: [&str; 3] = ["password", "passwd", "sslpassword"];

/// A value as it may be shown: without passwords of JSON objects, and without the user information of URLs. JSON with an
/// error is hidden, since it is unknown which part of it is a secret.
#[must_use]
pub fn redact(text: &str) -> String {
    if !text.trim_start().starts_with('{') {
        return without_user_info(text);
    }
    let Ok(mut object) = serde_json::from_str::<Value>(text) else { return HIDDEN.to_owned() };
    if hide_options(&mut object) { object.to_string() } else { without_user_info(text) }
}

/// Whether there was a secret.
fn hide_options(value: &mut Value) -> bool {
    let mut has_secret = false;
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                let is_secret = SECRET_OPTIONS.iter().any(|name| key.eq_ignore_ascii_case(name));
                if is_secret {
                    *value = HIDDEN.into();
                }
                has_secret |= is_secret || hide_options(value);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| has_secret |= hide_options(item)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    has_secret
}

/// Hides the part of each URL between `://` and an `@` before the next slash.
fn without_user_info(text: &str) -> String {
    let mut parts = text.split("://");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let authority = part.split('/').next().unwrap_or_default();
        shown.push_str("://");
        match authority.rfind('@') {
            Some(at) => shown.extend([HIDDEN, &part[at..]]),
            None => shown.push_str(part),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_of_json_and_user_information_of_urls_are_hidden() {
        for (text, shown) in [
            ("plain text", "plain text"),
            (r#"{ "sslmode": "require" }"#, r#"{ "sslmode": "require" }"#),
            (r#"{"sslpassword":"hush"}"#, r#"{"sslpassword":"(hidden)"}"#),
            (r#"{"ssl":[{"Passwd":"hush"}]}"#, r#"{"ssl":[{"Passwd":"(hidden)"}]}"#),
            (r#"{"url":"http://hush@h"}"#, r#"{"url":"http://(hidden)@h"}"#),
            (r#" {"password": "hush""#, "(hidden)"),
            ("http://user:hush@queue:28083/path@x", "http://(hidden)@queue:28083/path@x"),
            ("ftp://hu@sh@a, ftp://b/c, sftp://hush@d", "ftp://(hidden)@a, ftp://b/c, sftp://(hidden)@d"),
            ("http://queue:28083/path", "http://queue:28083/path"),
        ] {
            assert_eq!(redact(text), shown, "{text}");
        }
    }
}
