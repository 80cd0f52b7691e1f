//! One call, as every room sees it, and the right to settle it.

use std::time::Duration;

use bytes::Bytes;

use crate::execution::{EventFor, StepRef};
use crate::{CallId, EntryId, FunctionId, OrderKey, PastAttempt, Priority, ReplyTo, RetryWish};

/// When a call is due that waits for its turn behind others with its key: never by time. The year 3000, in Unix milliseconds.
pub const WAITS_FOR_TURN_MS: u64 = 32_503_680_000_000;

/// A durable request: what is to be done, for whom, and by when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The function that is called.
    pub function: FunctionId,
    /// The caller's own id, or the id of the call's first stream entry.
    pub id: CallId,
    /// Whether the caller chose the id, so that the same call may have been sent before.
    pub id_is_own: bool,
    /// The input, byte for byte.
    pub payload: Bytes,
    /// Media type of the input.
    pub media_type: String,
    /// Where the caller listens for the notice; none if it reads the result key.
    pub reply: Option<ReplyTo>,
    /// When the answer stops being of use, in Unix milliseconds.
    pub deadline_ms: Option<u64>,
    /// W3C Trace Context.
    pub traceparent: Option<String>,
    /// W3C trace state.
    pub tracestate: Option<String>,
    /// The caller's `x-…` headers and the `ce-…` attributes of an event, in their order.
    pub headers: Vec<(String, String)>,
    /// Calls of its function with the same key run one after another; none runs beside any other.
    pub key: Option<OrderKey>,
    /// How urgent it is beside the other calls of its function.
    pub priority: Priority,
    /// How long it waits before it is begun, from when it was accepted; none if it may begin at once.
    pub delay: Option<Duration>,
    /// Which try of the call an execution of this entry is; the first is 1.
    pub attempt: u32,
    /// How many attempts it had before people sent it again from the dead letters. They do not count against those that
    /// its policy gives it.
    pub spent: u32,
    /// What is known of the attempts that it had; empty for most.
    pub history: Vec<PastAttempt>,
    /// The step of an execution that it is; none for most.
    pub step: Option<Box<StepRef>>,
    /// The event that it is for an execution of its function; none for most.
    pub event: Option<Box<EventFor>>,
    /// Whether it is no call but the wake of an execution, whose id it has.
    pub is_wake: bool,
    /// What its caller asks for if it fails.
    pub retry: RetryWish,
    /// When Redis accepted the call's first entry, in Unix milliseconds.
    pub accepted_ms: u64,
}

impl Call {
    /// A call that says nothing but what has to be said: JSON, no deadline, nobody who is told, its first attempt.
    #[must_use]
    pub fn plain(function: FunctionId, id: CallId, payload: impl Into<Bytes>) -> Self {
        Self {
            function,
            id,
            id_is_own: false,
            payload: payload.into(),
            media_type: "application/json".to_owned(),
            reply: None,
            deadline_ms: None,
            traceparent: None,
            tracestate: None,
            headers: Vec::new(),
            key: None,
            priority: Priority::Normal,
            delay: None,
            attempt: 1,
            spent: 0,
            history: Vec::new(),
            step: None,
            event: None,
            is_wake: false,
            retry: RetryWish::default(),
            accepted_ms: 0,
        }
    }
}

/// The right to settle one attempt: this entry, at this host, claimed this many times.
///
/// Redis refuses ("fenced") whoever no longer owns the entry, or owns it through another claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The entry.
    pub entry: EntryId,
    /// How often the entry had been claimed from another host when this lease was given; 0 for a first delivery.
    pub claims: u32,
}
