//! Generated from `wit/`: the Rust side of the contract. Nothing else lives here.
#![allow(unsafe_code, missing_docs, unreachable_pub, clippy::all, reason = "generated bindings")]

wit_bindgen::generate!({
    world: "function",
    path: "../wit",
    generate_all,
    pub_export_macro: true,
    runtime_path: "::baton_sdk::__private::wit_bindgen::rt",
    default_bindings_module: "::baton_sdk::__private::bindings",
});
