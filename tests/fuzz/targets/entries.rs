//! Entries of a stream.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| baton_broker::rubbish::entry(bytes));
