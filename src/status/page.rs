//! The status page: one HTML document that requests `/status` alone, and shows its content.
//!
//! Script and style are allowed by a nonce, which cannot be guessed and differs in each response; the browser allows nothing
//! else. Without JavaScript the page shows the output of `bots-ctl status`.

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};

use super::model::Status;
use super::text;

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// The response to a request for the page.
pub(crate) fn answer(status: &Status) -> Response {
    let Ok(random) = getrandom::u64().and_then(|high| Ok((high, getrandom::u64()?))) else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the system provides no random numbers\n").into_response();
    };
    let nonce = format!("{:016x}{:016x}", random.0, random.1);
    let headers: [(HeaderName, String); 5] = [
        (CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (CACHE_CONTROL, "no-store".to_owned()),
        (CONTENT_SECURITY_POLICY, policy(&nonce)),
        (REFERRER_POLICY, "no-referrer".to_owned()),
        (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    (headers, page(&nonce, status)).into_response()
}

fn policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// Text from outside is inserted last, so that no placeholder in it is replaced.
fn page(nonce: &str, status: &Status) -> String {
    let page = PAGE.replace("@style@", STYLE.trim_end()).replace("@script@", SCRIPT.trim_end());
    page.replace("@nonce@", nonce).replace("@summary@", &escaped(&summary(status)))
}

fn summary(status: &Status) -> String {
    let ready = if status.ready { "ready" } else { "not ready" };
    format!("bots-ctl {}: {ready}\n\n{}", status.version, text::text(status))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a phone has to load, but for the data.
    const LARGEST: usize = 20_000;

    fn status(error: &str) -> Status {
        let problem =
            serde_json::json!({"kind": "not_ready", "problem": format!("not ready: {error}"), "action": "see"});
        let rendered =
            serde_json::json!({"version": "1", "ready": false, "errors": [], "problems": [problem], "services": []});
        serde_json::from_value(rendered).expect("a status")
    }

    #[test]
    fn page_is_small_and_loads_no_external_content() {
        let page = page("n0", &status("x"));
        assert!(page.len() < LARGEST, "{}", page.len());
        for word in ["http://", "https://", "//cdn", "innerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            let allowed = page.replace("http://www.w3.org/2000/svg", "");
            assert!(!allowed.contains(word), "{word}");
        }
        assert!(!page.contains(" style=") && !page.contains(" onclick="), "the policy forbids it");
    }

    #[test]
    fn page_escapes_content_and_fills_every_placeholder() {
        let page = page("n0", &status("<script>alert(1)</script> & @script@ @nonce@"));
        assert!(page.contains("not ready: &lt;script&gt;alert(1)&lt;/script&gt; &amp; @script@ @nonce@"), "{page}");
        assert_eq!(page.matches("<script").count(), 1);
        assert_eq!(page.matches("nonce=\"n0\"").count(), 2);
        assert_eq!(page.matches('@').count(), 4 + SCRIPT.matches('@').count() + STYLE.matches('@').count());
    }
}
