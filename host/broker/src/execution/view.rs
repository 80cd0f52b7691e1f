//! An execution as it is read from Redis, and as it is shown.

use std::sync::Arc;

use baton_model::execution::{Event, Log, Record};
use baton_model::{CallId, Digest, ReplyTo};
use bytes::Bytes;
use redis::Value;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

/// An execution as it stood in one moment.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// `running`, `stuck`, `completed`, `failed` or `cancelled`.
    pub state: String,
    /// Which run it is.
    pub run: u32,
    /// How many entries its log should have.
    pub length: u64,
    /// How many bytes its log has.
    pub bytes: usize,
    /// The link with which its log should end.
    pub link: String,
    /// How many steps the function has asked for in this run.
    pub steps: u32,
    /// Whom to tell of its end.
    pub reply: Option<ReplyTo>,
    /// Why it is stuck, if it is.
    pub stuck: Option<String>,
    /// Why it failed, if it did.
    pub failed: Option<String>,
    /// To which component it is to be moved; empty if to none.
    pub wish: String,
    /// A component that it could not be moved to, and why.
    pub refused: Option<String>,
    /// When it began, in Unix milliseconds.
    pub began_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// Its log: positions and entries.
    pub log: Vec<(u64, Record)>,
    /// The time by Redis's clock, in Unix milliseconds.
    pub now_ms: u64,
    /// Where a long log takes room, until it is dropped.
    pub(super) held: Option<Arc<OwnedSemaphorePermit>>,
}

/// An execution as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExecutionView {
    /// Its id.
    pub id: CallId,
    /// `running`, `stuck`, `completed`, `failed` or `cancelled`.
    pub state: String,
    /// Which run it is.
    pub run: u32,
    /// How many steps it has asked for.
    pub steps: u32,
    /// How many facts its log has.
    pub events: u64,
    /// When it began, in Unix milliseconds.
    pub began_ms: u64,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// Why it is stuck.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stuck: Option<String>,
    /// Why it failed: a word and a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// What only its log tells; lists leave it out.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub details: Option<ExecutionDetails>,
}

/// What is known of an execution whose log was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExecutionDetails {
    /// The component that it runs on; none if it was not run yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The steps that wait for their answers.
    pub waits_for: Vec<OpenStep>,
    /// What is wrong with its log, if it is not what it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
    /// To which component it is to be moved; nobody has tried that yet.
    #[serde(rename = "move", skip_serializing_if = "Option::is_none")]
    pub wish: Option<String>,
    /// A component that it could not be moved to, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

impl ExecutionView {
    /// Its place in a list, behind which the next page begins.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}-{}", self.began_ms, self.id)
    }
}

/// A step that waits for its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenStep {
    /// Which.
    pub step: u32,
    /// What it is, for people.
    pub what: String,
    /// When its time is over, in Unix milliseconds; none if it waits for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_ms: Option<u64>,
}

impl Loaded {
    /// As it is shown.
    #[must_use]
    pub fn view(self, id: &CallId) -> ExecutionView {
        let Self { state, run, length, link, steps, stuck, failed, wish, refused, began_ms, ended_ms, log, .. } = self;
        let wish = Some(wish).filter(|wish| !wish.is_empty());
        let details = match Log::read_to(log, (length, &link)) {
            Ok(log) => ExecutionDetails {
                digest: log.digest(),
                waits_for: log.open_steps().filter_map(OpenStep::of).collect(),
                damage: None,
                wish,
                refused,
            },
            Err(error) => {
                ExecutionDetails { digest: None, waits_for: Vec::new(), damage: Some(error.to_string()), wish, refused }
            }
        };
        let (id, details) = (id.clone(), Some(details));
        ExecutionView { id, state, run, steps, events: length, began_ms, ended_ms, stuck, failed, details }
    }
}

impl OpenStep {
    fn of(event: &Event) -> Option<Self> {
        let due_ms = match event {
            Event::TimerSet { due_ms, .. } => Some(*due_ms),
            Event::EventAwaited { due_ms, .. } => *due_ms,
            Event::Started(_)
            | Event::CallScheduled { .. }
            | Event::CallCompleted { .. }
            | Event::TimerFired { .. }
            | Event::EventReceived(_)
            | Event::Emitted { .. }
            | Event::MovedToDigest { .. }
            | Event::Completed(_)
            | Event::Failed(_)
            | Event::Cancelled => None,
        };
        Some(Self { step: event.asked_in()?, what: event.to_string(), due_ms })
    }
}

/// One entry of a log: its position and its fields. One that no script of ours made has a position that nothing follows.
pub(super) fn entry(entry: Value) -> Option<(u64, Record)> {
    let Value::Array(parts) = entry else { return None };
    let Ok([Value::BulkString(id), Value::Array(fields)]) = <[Value; 2]>::try_from(parts) else { return None };
    let position = std::str::from_utf8(&id).ok()?.strip_suffix("-0").and_then(|position| position.parse().ok());
    let mut record = Record::with_capacity(fields.len() / 2);
    let mut fields = fields.into_iter();
    while let (Some(Value::BulkString(name)), Some(Value::BulkString(value))) = (fields.next(), fields.next()) {
        let name =
            String::from_utf8(name).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        record.push((name, Bytes::from(value)));
    }
    Some((position.unwrap_or(u64::MAX), record))
}
