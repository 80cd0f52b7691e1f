//! Generated from the public interface definitions: those in Baton's `wit/`, and the second draft of key-value stores.
#![allow(unsafe_code, missing_docs, unreachable_pub, clippy::all, reason = "generated bindings")]

wit_bindgen::generate!({
    world: "foreign:guest/foreign",
    path: ["../../wit", "wit"],
    generate_all,
});

use super::Foreign;

export!(Foreign);
