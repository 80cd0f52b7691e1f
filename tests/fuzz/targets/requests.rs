//! Headers, times and ids of HTTP requests.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| baton_gateway::rubbish::request(bytes));
