//! Where a guest's lines go: into the host's log, each with the call that it belongs to. The last of them are kept for as
//! long as the attempt is under way: a dead letter shows them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use baton_engine::{LogLevel, LogSink, LogStream};
use baton_model::Call;

/// How many lines are kept, how much of all together, and of one.
const KEPT: usize = 50;
const KEPT_BYTES: usize = 8 << 10;
const LINE_BYTES: usize = 1 << 10;

/// The lines of one attempt.
pub(crate) struct GuestLog {
    call: Arc<Call>,
    /// A lock, because whoever writes has no more than a reference. Only one attempt's task ever takes it.
    last: Mutex<Last>,
}

/// The last lines.
#[derive(Default)]
struct Last {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Last {
    fn keep(&mut self, from: &str, text: &str) {
        let mut cut = text.len().min(LINE_BYTES);
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        let line = format!("{from}: {}", &text[..cut]);
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.lines.len() > KEPT || self.bytes > KEPT_BYTES {
            let Some(first) = self.lines.pop_front() else { break };
            self.bytes -= first.len();
        }
    }
}

impl GuestLog {
    pub(crate) fn new(call: Arc<Call>) -> Self {
        Self { call, last: Mutex::default() }
    }

    /// The last lines, each with where it came from; empty if there were none.
    pub(crate) fn last_lines(&self) -> String {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    fn keep(&self, from: &str, text: &str) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).keep(from, text);
    }
}

/// One event of the target `baton::guest` at the level of the line. A macro, because a level is part of a call site.
macro_rules! emit {
    ($level:ident, $call:expr, $stream:expr, $text:expr) => {
        tracing::$level!(
            target: "baton::guest",
            tenant = %$call.function.tenant(), function = %$call.function.function(), call = %$call.id,
            attempt = $call.attempt, stream = $stream, "{}", $text
        )
    };
}

impl LogSink for GuestLog {
    fn line(&self, stream: LogStream<'_>, text: &str) {
        let call = &self.call;
        let from = match stream {
            LogStream::Stdout => "stdout",
            LogStream::Stderr => "stderr",
            LogStream::Log { level, .. } => match level {
                LogLevel::Trace => "trace",
                LogLevel::Debug => "debug",
                LogLevel::Info => "info",
                LogLevel::Warn => "warn",
                LogLevel::Error => "error",
                LogLevel::Critical => "critical",
            },
        };
        self.keep(from, text);
        match stream {
            LogStream::Stdout => emit!(info, call, "stdout", text),
            LogStream::Stderr => emit!(info, call, "stderr", text),
            LogStream::Log { level, context } => match level {
                LogLevel::Trace => emit!(trace, call, context, text),
                LogLevel::Debug => emit!(debug, call, context, text),
                LogLevel::Info => emit!(info, call, context, text),
                LogLevel::Warn => emit!(warn, call, context, text),
                LogLevel::Error | LogLevel::Critical => emit!(error, call, context, text),
            },
        }
    }

    fn truncated(&self, dropped_bytes: u64) {
        self.keep("host", &format!("{dropped_bytes} bytes of output above the limit were dropped"));
        emit!(warn, self.call, "host", format_args!("{dropped_bytes} bytes of output above the limit were dropped"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_no_more() {
        let mut last = Last::default();
        for n in 0..200 {
            last.keep("stdout", &format!("line {n}"));
        }
        assert_eq!((last.lines.len(), last.lines[0].as_str()), (KEPT, "stdout: line 150"));
        for _ in 0..50 {
            last.keep("info", &"é".repeat(LINE_BYTES));
        }
        let bytes: usize = last.lines.iter().map(String::len).sum();
        assert!(bytes == last.bytes && bytes <= KEPT_BYTES && last.lines.len() >= 7, "{bytes}");
    }
}
