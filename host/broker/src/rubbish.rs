//! What has to hold for any entry of a stream. For property tests, and for fuzzing from outside (feature `fuzz`): no host
//! has this in it.

#![allow(clippy::missing_panics_doc, reason = "to panic is how this says that something does not hold")]

use baton_model::{EntryId, FunctionId, is_own_reply};

use crate::entry::{self, Rule};
use crate::seal::Seal;

const PAYLOAD_BYTES_MAX: usize = 64;

/// One entry, whose names and values are the parts of `bytes` between zeros: it is a call within its limits, or refused
/// with a reason that is short and harmless.
pub fn entry(bytes: &[u8]) {
    for own_replies_only in [false, true] {
        let seal = Seal::default();
        entry_under(Rule { payload_bytes_max: PAYLOAD_BYTES_MAX, own_replies_only, seal: &seal }, bytes);
    }
}

fn entry_under(rule: Rule<'_>, bytes: &[u8]) {
    let fields: Vec<Vec<u8>> = bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    let entry = EntryId::parse("1795220024366-0").expect("an entry's id");
    let function: FunctionId = "acme/resize".parse().expect("a function");
    match entry::read(&function, entry, fields, rule) {
        Ok(call) => {
            assert_eq!(call.function, function, "whose call it is the key says, and nothing in the entry");
            assert!(call.payload.len() <= PAYLOAD_BYTES_MAX && call.headers.len() <= 64 && call.attempt >= 1);
            let is_own = |reply: &_| is_own_reply(function.tenant(), reply);
            assert!(!rule.own_replies_only || call.reply.as_ref().is_none_or(is_own), "{:?}", call.reply);
            let harmless = |text: &str| text.len() <= 4096 && !text.chars().any(char::is_control);
            for past in &call.history {
                assert!(harmless(&past.end) && harmless(&past.error), "{past:?}");
            }
            assert!(harmless(&call.media_type) && harmless(call.id.as_str()));
            for (name, value) in &call.headers {
                assert!(!name.starts_with("x-baton-"), "{name} is for hosts");
                assert!(name.starts_with("x-") && name.len() <= 64 && harmless(name) && harmless(value), "{name}");
            }
        }
        Err(malformed) => {
            assert_eq!(malformed.entry, entry);
            assert!(!malformed.detail.is_empty() && malformed.detail.len() < 1_000, "{}", malformed.detail);
            assert!(!malformed.detail.chars().any(char::is_control), "{:?}", malformed.detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    fn field() -> impl Strategy<Value = Vec<u8>> {
        let name = prop_oneof![
            prop::sample::select(vec![
                "payload",
                "id",
                "type",
                "reply",
                "deadline",
                "traceparent",
                "tracestate",
                "v",
                "attempt",
                "accepted",
                "spent",
                "history",
                "attempts_max",
                "backoff_base_ms",
                "retry_on",
                "priority",
            ])
            .prop_map(str::to_owned),
            "x-[a-z0-9A-Z_-]{0,66}",
            ".{0,20}",
        ];
        let value = prop_oneof![
            "[0-9]{0,22}(-[0-9]{0,3})?".prop_map(String::into_bytes),
            "00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]".prop_map(String::into_bytes),
            "[a-z]{1,9}/[a-z]{1,9}".prop_map(String::into_bytes),
            ".{0,80}".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..80),
        ];
        (name, value).prop_map(|(name, value)| [name.as_bytes(), b"\0", &value].concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_024, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_stands_in_a_stream_is_a_call_or_refused(fields in prop::collection::vec(field(), 0..7)) {
            super::entry(&fields.join(&0));
        }

        #[test]
        fn whatever_bytes_stand_in_a_stream_are_a_call_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            super::entry(&bytes);
        }
    }
}
