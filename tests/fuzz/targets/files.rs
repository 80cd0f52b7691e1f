//! Files before they are compiled.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| baton_engine::rubbish::file(bytes));
