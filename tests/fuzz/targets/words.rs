//! Names, ids, digests and targets.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| baton_model::rubbish::words(bytes));
