//! Talking too much, and in other people's names.

use std::io::{self, Write};

use crate::raw::wasi::logging::logging::{Level, log};
use crate::{Told, number};

/// So many bytes to standard output.
pub(crate) fn stdout(argument: &str) -> Told {
    let bytes = number(argument)?;
    let portion = vec![b'y'; 64 << 10];
    let mut out = io::stdout().lock();
    for _ in 0..bytes / portion.len() {
        out.write_all(&portion)?;
    }
    out.flush()?;
    Ok(format!("wrote {bytes}"))
}

/// Lines that want to be the host's own, and marks that act on a terminal, on every way there is.
pub(crate) fn forge_lines(_: &str) -> Told {
    const FORGED: &str = "harmless\n2026-01-01T00:00:00Z  INFO forged: by-the-guest\r\u{1b}[2J\u{1b}[31mred\u{202e}";
    println!("{FORGED}");
    eprintln!("{FORGED}");
    log(Level::Info, "con\ntext\u{1b}[0m", FORGED);
    // What would be a field of its own in a log of JSON lines.
    log(Level::Info, "x\",\"forged\":\"1", "x\",\"forged\":\"1");
    Ok("said".into())
}

/// A message of 32 MiB.
pub(crate) fn log_at_once(_: &str) -> Told {
    log(Level::Info, "large", &"z".repeat(32 << 20));
    Ok("said".into())
}

/// Small messages without an end.
pub(crate) fn log_for_ever(_: &str) -> Told {
    loop {
        log(Level::Info, "small", "again");
    }
}
