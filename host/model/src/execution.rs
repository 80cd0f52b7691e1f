//! Durable executions: the facts of an event log, what a log has to be, and what replaying one answers.
//!
//! An execution is nothing but its log. A function that is run again from the start asks for the same steps in the same
//! order, because it knows nothing but what it is answered; what the log knows already is answered from it, and where it ends
//! the function waits. Positions decide, never clocks.

mod event;
mod history;
mod log;
mod record;
mod replay;
#[cfg(test)]
mod tests;

pub use event::{Event, EventFor, Pause, Received, Started, StepCall, StepRef, call_id, calls_of};
pub use history::{History, HistoryError, Recorded};
pub use log::{Log, LogError, LogReader, Logged};
pub use record::{Record, RecordError, chain};
pub use replay::{Answer, Ask, Divergence, Replay};

/// With this code an execution ends whose function asks to be tried again: over the same log it would ask for the same.
pub const FAILED: &str = "failed";
/// The most facts of one log. One that grows beyond is better begun anew (`restart`), for every wake reads all of it.
pub const LOG_EVENTS_MAX: usize = 50_000;
/// The most bytes that its events have, after which no further step is begun: every wake reads all of them.
pub const LOG_BYTES_MAX: usize = 32 << 20;
