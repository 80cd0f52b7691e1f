//! What has to hold for any request. For property tests, and for fuzzing from outside (feature `fuzz`): no host has this
//! in it.

#![allow(clippy::missing_panics_doc, reason = "to panic is how this says that something does not hold")]

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use baton_model::{CallId, FunctionId};

use crate::request;

/// The headers of a call, one `name: value` a line, as hyper would let them through, and times and ids: what is handed on
/// is what an entry of a stream may hold, and a place that names a call names that call again.
pub fn request(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(100) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    if let Ok(wishes) = request::wishes(&headers) {
        let options = wishes.options;
        let harmless = |text: &str| text.len() <= 4096 && !text.chars().any(char::is_control);
        assert!(options.headers.len() <= 64);
        for (name, value) in &options.headers {
            assert!(name.starts_with("x-") && harmless(name) && harmless(value), "{name}: {value}");
        }
        assert!(options.media_type.as_deref().is_none_or(harmless));
        assert!(options.traceparent.as_deref().is_none_or(harmless));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = request::duration("Baton-Deadline", text);
        if let Some(id) = CallId::parse(text) {
            location(&id);
        }
    }
}

fn location(id: &CallId) {
    let function: FunctionId = "acme/resize".parse().expect("a function");
    let place = request::location(&function, id);
    assert!(place.bytes().all(|byte| byte.is_ascii_graphic()), "{place}");
    let encoded = place.strip_prefix("/v1/calls/acme/resize/").expect("the place of this function's calls");
    assert!(!encoded.contains('/') && !encoded.contains('?') && !encoded.contains('#'), "{place}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    fn header() -> impl Strategy<Value = Vec<u8>> {
        let name = prop_oneof![
            prop::sample::select(vec![
                "content-type",
                "idempotency-key",
                "baton-deadline",
                "baton-attempts",
                "baton-backoff",
                "baton-retry-on",
                "traceparent",
                "tracestate",
                "connection",
                "x-forwarded-for",
                "x-real-ip",
                "authorization",
                "transfer-encoding",
            ])
            .prop_map(str::to_owned),
            "x-[a-zA-Z0-9_.!-]{0,70}",
        ];
        let value = prop_oneof![
            "[0-9]{0,9}(ms|s|m|h|y)?".prop_map(String::into_bytes),
            "00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]".prop_map(String::into_bytes),
            "\"?[!-~]{0,140}\"?".prop_map(String::into_bytes),
            "x-[a-z, -]{0,40}".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..60),
        ];
        (name, value).prop_map(|(name, value)| [name.as_bytes(), b": ", &value].concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_headers_come_they_are_a_call_or_refused(headers in prop::collection::vec(header(), 0..8)) {
            super::request(&headers.join(&b'\n'));
        }

        #[test]
        fn whatever_text_comes_is_a_call_or_refused(text in prop_oneof!["[!-~]{1,128}", "(?s).{0,200}"]) {
            super::request(text.as_bytes());
        }
    }
}
