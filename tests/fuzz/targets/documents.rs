//! Result documents and notices.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| baton_model::rubbish::documents(bytes));
