//! A durable function: two calls, a wait for the event `go`, so many rounds of work, and a third call. Which build it is
//! says in which order it makes the first two, and is its answer. The payload is how many thousand rounds it works.
//!
//! Built for wasm32-wasip2 alone; for the machine itself it is an empty crate.
#![cfg(all(target_os = "wasi", target_env = "p2"))]

use core::hint::black_box;

use baton_sdk::durable::Execution;
use baton_sdk::prelude::*;

/// Tests write another number into the file, which gives it other steps and another digest.
#[used]
static BUILD: [u8; 12] = *b"saga-build-0";

#[baton_sdk::durable]
fn saga_guest(execution: &Execution, thousands: u64) -> Result<Reply> {
    // Read anew, so that no compiler knows what stands there.
    let build = String::from_utf8_lossy(black_box(&BUILD)).into_owned();
    let calls = if build.ends_with('0') { ["one", "two"] } else { ["two", "one"] };
    for call in calls {
        execution.call::<Bytes>("echo", &call)?;
    }
    _ = execution.wait_event("go");
    let mut sum = 0_u64;
    for round in 0..thousands * 1_000 {
        sum = black_box(sum.wrapping_mul(31).wrapping_add(round));
    }
    execution.call::<Bytes>("echo", &"three")?;
    Ok(Reply::new("text/plain", build))
}
