//! What happened in one attempt.

use std::time::Duration;

use bytes::Bytes;

/// A successful answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Media type of the body.
    pub media_type: String,
    /// The answer, byte for byte.
    pub body: Bytes,
}

/// A function's word that a call will never succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// A short word for programs, such as `bad-input`.
    pub code: String,
    /// For people.
    pub message: String,
}

/// How one attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The function answered.
    Replied(Reply),
    /// The function refused the call for good.
    Rejected(Rejection),
    /// The function asks for another attempt, not before `after`.
    RetryAsked {
        /// For people.
        message: String,
        /// The shortest wait that the function asked for.
        after: Option<Duration>,
    },
    /// The instance trapped; the message holds the trap and the wasm frames.
    Trapped {
        /// The trap and where it happened.
        message: String,
    },
    /// The instance ended itself with an exit code.
    Exited {
        /// The code it gave.
        code: i32,
    },
    /// The attempt took longer than its time limit.
    TimedOut {
        /// The limit.
        limit: Duration,
    },
    /// The call's deadline passed, before or during the attempt.
    DeadlinePassed,
    /// The instance asked for more memory than its limit.
    OutOfMemory {
        /// The limit.
        bytes_max: usize,
    },
    /// The call was not run: its payload is larger than the function takes.
    PayloadTooLarge {
        /// The payload's size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The answer is larger than the limit.
    ResultTooLarge {
        /// The answer's size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The call was not run again: host after host was lost while it ran there.
    HostsLost {
        /// How many.
        hosts: u32,
    },
    /// The host could not run the call at all; it is no fault of the function.
    HostFault {
        /// What failed.
        message: String,
    },
}
