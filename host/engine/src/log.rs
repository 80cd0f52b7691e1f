//! What a guest says, on its way out: counted, cut, split into lines and made harmless. Where lines go is the sink's.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

/// Where a guest's lines go.
pub trait LogSink: Send + Sync {
    /// Takes one line, without its end and with control characters escaped. It must not block.
    fn line(&self, stream: LogStream<'_>, text: &str);
    /// Says at the end of the attempt that so many bytes above the limit were dropped. Not called if none were.
    fn truncated(&self, dropped_bytes: u64);
}

/// Where in the guest a line comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream<'a> {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// `wasi:logging`.
    Log {
        /// How urgent it is.
        level: LogLevel,
        /// Where it comes from, in the guest's own words; control characters are escaped.
        context: &'a str,
    },
}

/// How urgent a line of `wasi:logging` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Steps of a computation.
    Trace,
    /// For debugging.
    Debug,
    /// Of general interest.
    Info,
    /// A hazard.
    Warn,
    /// A problem.
    Error,
    /// A failure that nothing survives.
    Critical,
}

/// The two streams that come as bytes and not as lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pipe {
    Stdout,
    Stderr,
}

/// One attempt's log. Unfinished lines and the count of dropped bytes leave when the last holder drops it, so that a
/// guest that was stopped half-way is heard as well.
pub(crate) struct CallLog {
    sink: Arc<dyn LogSink>,
    // A lock, because the guest's streams are objects of the WASI crate that own what they write to. Only one
    // attempt's task ever takes it.
    lines: Mutex<Lines>,
}

struct Lines {
    /// What the guest says now it has said before.
    is_silent: bool,
    bytes_left: usize,
    dropped_bytes: u64,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl CallLog {
    pub(crate) fn new(sink: Arc<dyn LogSink>, bytes_max: usize) -> Self {
        let lines =
            Lines { is_silent: false, bytes_left: bytes_max, dropped_bytes: 0, stdout: Vec::new(), stderr: Vec::new() };
        Self { sink, lines: Mutex::new(lines) }
    }

    /// Whether what comes from now on is left out, because it was said before.
    pub(crate) fn silence(&self, is_silent: bool) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).is_silent = is_silent;
    }

    /// Takes bytes of standard output or standard error.
    pub(crate) fn write(&self, pipe: Pipe, bytes: &[u8]) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = lines.admit(bytes);
        let (buffer, stream) = match pipe {
            Pipe::Stdout => (&mut lines.stdout, LogStream::Stdout),
            Pipe::Stderr => (&mut lines.stderr, LogStream::Stderr),
        };
        let mut rest = kept;
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            buffer.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            self.emit(stream, buffer);
            buffer.clear();
        }
        buffer.extend_from_slice(rest);
    }

    /// Takes a message of `wasi:logging`; each of its lines becomes a line.
    pub(crate) fn log(&self, level: LogLevel, context: &str, message: &str) {
        let (context, message) = {
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            (lines.admit(context.as_bytes()), lines.admit(message.as_bytes()))
        };
        if message.is_empty() {
            return;
        }
        let context = harmless(&String::from_utf8_lossy(context));
        let message = message.strip_suffix(b"\n").unwrap_or(message);
        for line in message.split(|b| *b == b'\n') {
            self.emit(LogStream::Log { level, context: &context }, line);
        }
    }

    fn emit(&self, stream: LogStream<'_>, line: &[u8]) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.sink.line(stream, &harmless(&String::from_utf8_lossy(line)));
    }
}

impl Lines {
    /// The part of `bytes` that the limit still allows; the rest is counted.
    fn admit<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if self.is_silent {
            return &[];
        }
        let (kept, dropped) = bytes.split_at(bytes.len().min(self.bytes_left));
        self.bytes_left -= kept.len();
        self.dropped_bytes += dropped.len() as u64;
        kept
    }
}

impl Drop for CallLog {
    fn drop(&mut self) {
        let lines = std::mem::replace(
            self.lines.get_mut().unwrap_or_else(PoisonError::into_inner),
            Lines { is_silent: true, bytes_left: 0, dropped_bytes: 0, stdout: Vec::new(), stderr: Vec::new() },
        );
        for (stream, line) in [(LogStream::Stdout, lines.stdout), (LogStream::Stderr, lines.stderr)] {
            if !line.is_empty() {
                self.emit(stream, &line);
            }
        }
        if lines.dropped_bytes > 0 {
            self.sink.truncated(lines.dropped_bytes);
        }
    }
}

/// A guest's text with everything escaped that could act on a terminal or forge a line: control characters (tabs
/// excepted), line and paragraph separators, and the marks that reorder text.
pub(crate) fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let acts = c.is_control() && c != '\t';
        let reorders =
            matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if acts || reorders {
            // Writing to a String cannot fail.
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}
