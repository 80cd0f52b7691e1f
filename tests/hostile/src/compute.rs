//! Taking the processor, and not ending as asked.

use std::hint::black_box;
use std::time::Instant;

use crate::{Told, number};

pub(crate) fn endless(_: &str) -> Told {
    loop {
        std::hint::spin_loop();
    }
}

/// Until the stack is full.
#[expect(unconditional_recursion, reason = "this is the misdeed")]
pub(crate) fn recursion(argument: &str) -> Told {
    fn deeper(n: u64) -> u64 {
        black_box(deeper(black_box(n + 1))) + 1
    }
    Ok(format!("{argument}{}", deeper(0)))
}

/// Copies of 64 MiB, which are one instruction each, one after the other.
pub(crate) fn copies(_: &str) -> Told {
    let mut bytes = vec![1u8; (64 << 20) + 16];
    loop {
        bytes.copy_within(..64 << 20, 16);
        black_box(&mut bytes);
    }
}

/// Is in the host nearly all the time, and never waits there.
pub(crate) fn clock_for_ever(_: &str) -> Told {
    loop {
        black_box(Instant::now());
    }
}

/// Ends at once for 0, so as to be taken for a quick one, and never for any other number.
pub(crate) fn quick_then_loop(argument: &str) -> Told {
    if number(argument)? == 0 { Ok("quick".into()) } else { endless("") }
}

pub(crate) fn panic(_: &str) -> Told {
    panic!("with a \u{1b}[31mred\nmessage");
}

pub(crate) fn unreachable(_: &str) -> Told {
    core::arch::wasm32::unreachable()
}

pub(crate) fn exit(argument: &str) -> Told {
    std::process::exit(i32::try_from(number(argument)?).unwrap_or(1))
}
