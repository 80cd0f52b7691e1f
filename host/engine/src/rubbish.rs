//! What has to hold for any file before it is compiled. For property tests, and for fuzzing from outside (feature `fuzz`):
//! no host has this in it.

#![allow(clippy::missing_panics_doc, reason = "to panic is how this says that something does not hold")]

use crate::check;
use crate::log::harmless;

/// A file: the checks before compiling let it pass or refuse it in words that are short and harmless.
pub fn file(bytes: &[u8]) {
    if let Err(error) = check::kind(bytes).and_then(|()| check::before_compiling(bytes)) {
        let said = error.to_string();
        assert!(said.len() < 2_000 && said == harmless(&said), "{said:?}");
    }
    let text = harmless(&String::from_utf8_lossy(bytes));
    assert!(text.chars().all(|c| c == '\t' || !c.is_control()), "{text:?}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_bytes_a_file_has_they_pass_or_are_refused(
            head in prop::sample::select(vec![&b"\0asm\x0d\0\x01\0"[..], b"\0asm\x01\0\0\0", b"\x7fELF", b""]),
            rest in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            super::file(&[head, &rest].concat());
        }
    }
}
