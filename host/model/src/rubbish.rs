//! What has to hold for any bytes from outside that become words of ours. For property tests, and for fuzzing from outside
//! (feature `fuzz`): no host has this in it.

#![allow(clippy::missing_panics_doc, reason = "to panic is how these say that something does not hold")]

use std::fmt::Display;

use bytes::Bytes;

use crate::{CallId, Digest, EntryId, FunctionId, HostId, HttpTarget, Name, ReplyTo, ResultDocument};

/// Result documents and notices: what is read is never more than there is, and reads the same once it is written again.
pub fn documents(bytes: &[u8]) {
    let mut rest = Bytes::copy_from_slice(bytes);
    while !rest.is_empty() {
        let before = rest.clone();
        let Ok(document) = ResultDocument::decode(&mut rest) else {
            assert_eq!(rest, before, "what is no document stays as it is");
            return;
        };
        assert!(rest.len() < before.len(), "a document is never nothing");
        let mut again = Bytes::from(document.encode());
        assert_eq!(ResultDocument::decode(&mut again).expect("our own document"), document);
        assert!(again.is_empty());
    }
}

/// Names, ids and targets: what is one is written as it was read, and says nothing in between.
pub fn words(bytes: &[u8]) {
    fn same<T: Display + PartialEq + std::fmt::Debug>(read: Option<T>, again: impl Fn(&str) -> Option<T>) {
        if let Some(word) = read {
            let written = word.to_string();
            assert!(written.chars().all(|c| !c.is_control() && c != ' '), "{written:?}");
            assert_eq!(again(&written).as_ref(), Some(&word));
        }
    }

    let Ok(text) = std::str::from_utf8(bytes) else { return };
    same(Name::parse(text).ok(), |text| Name::parse(text).ok());
    same(text.parse::<FunctionId>().ok(), |text| text.parse().ok());
    same(CallId::parse(text), CallId::parse);
    same(ReplyTo::parse(text), ReplyTo::parse);
    same(HostId::parse(text), HostId::parse);
    same(EntryId::parse(text), EntryId::parse);
    same(Digest::parse(text), Digest::parse);
    same(HttpTarget::parse(text).ok(), |text| HttpTarget::parse(text).ok());
    if let Ok(name) = Name::parse(text) {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(name.as_str().len() <= 63 && name.as_str().chars().all(is_plain), "{text:?}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes that look like a document: a line of JSON in which something may be wrong, and a body.
    fn documents_nearly() -> impl Strategy<Value = Vec<u8>> {
        let known = prop::sample::select(vec!["ok", "error", "dead", "expired"]).prop_map(str::to_owned);
        let status = prop_oneof![known, ".{0,9}"];
        let one = (status, 0usize..40, ".{0,12}", prop::collection::vec(any::<u8>(), 0..40)).prop_map(
            |(status, length, id, body)| {
                let line = serde_json::json!({
                    "status": status, "id": id, "type": "text/plain", "media_type": "text/plain", "length": length,
                });
                [line.to_string().as_bytes(), b"\n", &body].concat()
            },
        );
        prop::collection::vec(one, 1..4).prop_map(|some| some.concat())
    }

    fn words_nearly() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z][a-z0-9-]{0,70}(/[a-zA-Z][a-z0-9-]{0,70})?",
            "[0-9]{0,22}-[0-9]{0,22}",
            r"https?://(\*\.)?[a-zA-Z0-9.\[\]:%-]{0,40}(:[0-9]{0,6})?/?",
            "[0-9a-fA-F]{60,66}",
            ".{0,140}",
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_stands_there_is_a_document_or_refused(bytes in prop_oneof![
            documents_nearly(),
            prop::collection::vec(any::<u8>(), 0..200),
        ]) {
            documents(&bytes);
        }

        #[test]
        fn whatever_stands_there_is_a_word_or_refused(text in words_nearly()) {
            words(text.as_bytes());
        }

        #[test]
        fn a_document_cut_anywhere_is_refused_whole(cut in 0usize..200) {
            let id = CallId::parse("1-0").unwrap();
            let document = ResultDocument::new(crate::Status::Ok, id, "text/plain".into(), Bytes::from(vec![b'x'; 60]));
            let whole = document.encode();
            let mut cut = Bytes::from(whole).split_to(cut.min(document.encode().len() - 1));
            let before = cut.clone();
            prop_assert!(ResultDocument::decode(&mut cut).is_err());
            prop_assert_eq!(cut, before);
        }
    }
}
