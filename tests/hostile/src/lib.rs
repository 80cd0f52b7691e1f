//! The guest that means ill. Its payload is `MODE` or `MODE ARGUMENT`; what must become of each mode stands in the suite
//! `hostile`, which also asserts that every mode of the table below has a case there.
//!
//! Built for wasm32-wasip2 alone; for the machine itself it is an empty crate.
#![cfg(all(target_os = "wasi", target_env = "p2"))]

mod compute;
mod memory;
mod outside;
mod raw;
mod talk;

use baton_sdk::prelude::*;

/// What a misdeed comes to, if the host lets it come to an end.
type Told = Result<String>;

/// A misdeed; it is given what follows its name in the payload.
type Misdeed = fn(&str) -> Told;

/// Every misdeed by its name.
const MODES: &[(&str, Misdeed)] = &[
    ("loop", compute::endless),
    ("recursion", compute::recursion),
    ("copies", compute::copies),
    ("clock-for-ever", compute::clock_for_ever),
    ("quick-then-loop", compute::quick_then_loop),
    ("panic", compute::panic),
    ("unreachable", compute::unreachable),
    ("exit", compute::exit),
    ("memory-at-once", memory::at_once),
    ("memory-by-steps", memory::by_steps),
    ("hold", memory::hold),
    ("result", memory::result),
    ("sleep", outside::sleep),
    ("sleep-zero-for-ever", outside::sleep_zero_for_ever),
    ("pollables", outside::pollables),
    ("poll-many", outside::poll_many),
    ("random-at-once", outside::random_at_once),
    ("random-for-ever", outside::random_for_ever),
    ("ambient", outside::ambient),
    ("files", outside::files),
    ("sockets", outside::sockets),
    ("stdout", talk::stdout),
    ("forge-lines", talk::forge_lines),
    ("log-at-once", talk::log_at_once),
    ("log-for-ever", talk::log_for_ever),
];

#[baton_sdk::function]
fn hostile(order: Text) -> Result<Reply> {
    let (mode, argument) = order.split_once(' ').unwrap_or((&order, ""));
    let Some((_, misdeed)) = MODES.iter().find(|(name, _)| *name == mode) else {
        return Err(Failure::reject("no-such-mode", mode));
    };
    Ok(Reply::new("text/plain", misdeed(argument)?))
}

/// A number from the order.
fn number(argument: &str) -> Result<usize> {
    argument.parse().map_err(|_| Failure::reject("no-number", argument))
}
