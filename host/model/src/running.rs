//! What a host says of a call that it has in its hands.

use serde::{Deserialize, Serialize};

use crate::{CallId, FunctionId, HostId};

/// How far a host is with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunningState {
    /// The host has it, and has not begun the attempt: it waits for a seat or a thread.
    Starting,
    /// The attempt runs, or its end is on the way to Redis.
    Running,
}

/// A call that a host has in its hands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningCall {
    /// The function.
    pub function: FunctionId,
    /// The call.
    pub id: CallId,
    /// Which attempt it is; the first is 1.
    pub attempt: u32,
    /// Which host has it.
    pub host: HostId,
    /// How far it is.
    pub state: RunningState,
    /// Since when it is in that state, in Unix milliseconds.
    pub since_ms: u64,
    /// When Redis accepted the call, in Unix milliseconds.
    pub accepted_ms: u64,
}
