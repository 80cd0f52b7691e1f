//! Generated from `wit/`: the Rust side of the contract. Nothing else lives here.
#![allow(unsafe_code, missing_docs, unreachable_pub, clippy::all, reason = "generated bindings")]

wit_bindgen::generate!({
    // What a function does not use is not imported by its component, and then it needs no grant.
    inline: "
        package baton:sdk;
        world function {
            include baton:function/function@0.1.0;
            import baton:calls/calls@0.1.0;
            import baton:durable/steps@0.1.0;
            import wasi:config/store@0.2.0-rc.1;
            import wasi:keyvalue/store@0.2.0-draft;
            import wasi:keyvalue/atomics@0.2.0-draft;
            import wasi:keyvalue/batch@0.2.0-draft;
        }
    ",
    world: "baton:sdk/function",
    path: "../wit",
    generate_all,
    pub_export_macro: true,
    runtime_path: "::baton_sdk::__private::wit_bindgen::rt",
    default_bindings_module: "::baton_sdk::__private::bindings",
});
