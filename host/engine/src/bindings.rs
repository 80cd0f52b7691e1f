//! What is generated from the contract in `wit/`; nothing is written by hand here.

#![allow(missing_docs, unreachable_pub, reason = "the macro writes this module")]

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "function",
    // The call's texts and its payload go into the guest without a copy on the way.
    ownership: Borrowing { duplicate_if_necessary: true },
    exports: { default: async },
});
