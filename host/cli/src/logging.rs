//! The log: readable on a terminal, one JSON object a line otherwise. It goes to standard error.

use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::exit::UsageError;
use crate::settings::{log_filter, no_color};

/// How many lines may wait to be written.
const LINES_MAX: usize = 16_384;

/// For whom the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Operators and what they collect logs with.
    Serve,
    /// A developer who watches: each call is shown.
    Dev,
}

/// Starts the log of this process. It is written by a thread of its own: whoever reads it slowly, or not at all, must
/// not hold up calls, so lines are dropped when too many wait. What waits is written when the guard is dropped.
///
/// # Errors
/// A [`UsageError`] if `RUST_LOG` is no filter.
pub(crate) fn start(style: Style) -> anyhow::Result<WorkerGuard> {
    let default = match style {
        Style::Serve => "info",
        Style::Dev => "info,baton::call=debug,baton::guest=trace,baton_app=info",
    };
    let filter = log_filter().unwrap_or_else(|| default.to_owned());
    let filter = EnvFilter::try_new(&filter).map_err(|error| {
        UsageError(format!("RUST_LOG={filter} is no filter: {error}; write one such as info or baton_app=debug"))
    })?;
    let is_terminal = std::io::stderr().is_terminal();
    let colours = is_terminal && !no_color();
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES_MAX).finish(std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(colours);
    match style {
        Style::Dev => log.event_format(DevFormat).init(),
        Style::Serve if is_terminal => log.with_target(false).init(),
        Style::Serve => log.json().flatten_event(true).init(),
    }
    Ok(guard)
}

/// One line for each thing that happens, made to be read by a developer.
struct DevFormat;

impl<S, N> FormatEvent<S, N> for DevFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let ansi = out.has_ansi_escapes();
        let paint = |code: &'static str| if ansi { code } else { "" };
        let (dim, reset) = (paint("\x1b[2m"), paint("\x1b[0m"));
        let level = *event.metadata().level();
        let colour = paint(match level {
            Level::ERROR => "\x1b[31m",
            Level::WARN => "\x1b[33m",
            _ => "\x1b[32m",
        });
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        // Hours to milliseconds are enough for somebody who watches.
        write!(out, "{dim}{}{reset} ", time.get(11..23).unwrap_or(&time))?;
        match event.metadata().target() {
            "baton::call" => {
                let ok = fields.get("outcome") == "ok";
                let colour = paint(if ok { "\x1b[32m" } else { "\x1b[31m" });
                let took: f64 = fields.get("took_us").parse().unwrap_or(0.0);
                write!(out, "{colour}{:>7}{reset} {:<16} ", fields.get("outcome"), fields.get("function"))?;
                write!(
                    out,
                    "{:>9.2} ms {dim}call {} revision {}",
                    took / 1000.0,
                    fields.get("call"),
                    fields.get("digest")
                )?;
                if fields.get("attempt") != "1" {
                    write!(out, " attempt {}", fields.get("attempt"))?;
                }
                write!(out, "{reset}")?;
                if !fields.get("failure").is_empty() {
                    write!(out, "\n             {}", fields.get("failure").replace('\n', "\n             "))?;
                }
                writeln!(out)
            }
            "baton::guest" => {
                let name = fields.get("function");
                let stream = fields.get("stream");
                let word = if level <= Level::WARN { level.as_str() } else { "" };
                writeln!(out, "{:>7} {name:<16} {colour}{word}{reset} {} {dim}{stream}{reset}", "log", fields.message)
            }
            _ => {
                write!(out, "{colour}{:>7}{reset} {}", level.as_str().to_lowercase(), fields.message)?;
                for (name, value) in &fields.others {
                    write!(out, " {dim}{name}={reset}{value}")?;
                }
                writeln!(out)
            }
        }
    }
}

/// An event's fields as text.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Fields {
    fn get(&self, name: &str) -> &str {
        self.others.iter().find(|(have, _)| *have == name).map_or("", |(_, value)| value)
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a string does not fail.
            _ = write!(self.message, "{value:?}");
        } else {
            self.others.push((field.name(), format!("{value:?}")));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.others.push((field.name(), value.to_owned()));
        }
    }
}
