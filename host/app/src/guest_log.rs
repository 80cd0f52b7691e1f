//! Where a guest's lines go: into the host's log, each with the call that it belongs to.

use std::sync::Arc;

use baton_engine::{LogLevel, LogSink, LogStream};
use baton_model::Call;

/// The lines of one attempt.
pub(crate) struct GuestLog {
    call: Arc<Call>,
}

impl GuestLog {
    pub(crate) fn new(call: Arc<Call>) -> Self {
        Self { call }
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
        emit!(warn, self.call, "host", format_args!("{dropped_bytes} bytes of output above the limit were dropped"));
    }
}
