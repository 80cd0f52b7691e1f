//! Taking memory.

use std::hint::black_box;

use baton_sdk::Failure;

use crate::{Told, number};

/// All that 32 bits can name, in one go.
pub(crate) fn at_once(_: &str) -> Told {
    let pages = 65_535 - core::arch::wasm32::memory_size(0);
    Ok(format!("{}", core::arch::wasm32::memory_grow(0, pages)))
}

/// As much as there is, a MiB at a time, each written to.
pub(crate) fn by_steps(_: &str) -> Told {
    let mut held = Vec::new();
    loop {
        held.push(vec![0xa5u8; 1 << 20]);
        black_box(&mut held);
    }
}

/// So many bytes, each page written to, and then an end as if nothing had been.
pub(crate) fn hold(argument: &str) -> Told {
    let bytes = vec![0xa5u8; number(argument)?];
    Ok(format!("held {}", black_box(&bytes).len()))
}

/// An answer of so many bytes.
pub(crate) fn result(argument: &str) -> Told {
    String::from_utf8(vec![b'x'; number(argument)?]).map_err(|e| Failure::reject("no-text", e.to_string()))
}
