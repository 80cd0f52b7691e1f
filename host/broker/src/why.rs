//! Where a call is and why: what can be read of it, and what hosts say of their room for it.

use baton_model::{
    CallId, FunctionId, HostId, Priority, Room, RunningState, Split, Status, WAITS_FOR_TURN_MS, WaitsFor, queued_for,
    split,
};
use serde::Serialize;

use crate::{Absent, BrokerError, CallState, Inspect};

/// Where a call is and why, for people and programs.
#[derive(Debug, Serialize)]
pub struct Why {
    /// The function.
    pub function: FunctionId,
    /// The call.
    pub id: CallId,
    /// `queued`, `delayed`, `starting`, `running`, `execution`, `completed`, `failed` or `cancelled`.
    pub state: &'static str,
    /// What it waits for, if it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<WaitsFor>,
    /// Since when it is in that state, in Unix milliseconds, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// When Redis accepted it, in Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted_ms: Option<u64>,
    /// When its wait is over, in Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_ms: Option<u64>,
    /// When it is not to be started, or stopped, in Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// How urgent it is beside the other calls of its function, as long as it has not ended; nothing is said of normal ones.
    #[serde(skip_serializing_if = "Priority::is_normal")]
    pub priority: Priority,
    /// Which attempt runs or comes next, or how many there were.
    pub attempt: u32,
    /// The host that has it, or ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// Where its time went, if it has ended and took long enough to tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Split>,
    /// What hosts said of their room for it, if it is queued. For operators: it tells of others' calls too.
    #[serde(skip)]
    pub rooms: Vec<Room>,
}

impl Inspect {
    /// Where the call is and why, as these hosts say. [`Absent`] as [`Inspect::state`] has it.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn why(
        &self,
        hosts: &[HostId],
        function: &FunctionId,
        id: &CallId,
    ) -> Result<Result<Why, Absent>, BrokerError> {
        let (state, facts) = match self.state_and_facts(function, id).await? {
            Ok(found) => found,
            Err(absent) => return Ok(Err(absent)),
        };
        let mut why = Why {
            function: function.clone(),
            id: id.clone(),
            state: "queued",
            waits_for: None,
            since_ms: None,
            accepted_ms: facts.accepted_ms,
            due_ms: None,
            deadline_ms: facts.deadline_ms,
            priority: facts.priority,
            attempt: 1,
            host: None,
            status: None,
            time: None,
            rooms: Vec::new(),
        };
        match state {
            CallState::Queued { attempt } => {
                why.rooms = self.rooms(hosts, function).await?;
                (why.attempt, why.since_ms) = (attempt, facts.queued_ms);
                why.waits_for = Some(queued_for(&why.rooms));
            }
            CallState::Delayed { attempt, due_ms: WAITS_FOR_TURN_MS } => {
                (why.attempt, why.waits_for) = (attempt, Some(WaitsFor::Key));
            }
            CallState::Delayed { attempt, due_ms } => {
                (why.state, why.attempt, why.due_ms) = ("delayed", attempt, Some(due_ms));
                why.waits_for = Some(if attempt > 1 { WaitsFor::Retry } else { WaitsFor::Delay });
            }
            CallState::Running { host, attempt, stage, since_ms } => {
                (why.attempt, why.host, why.since_ms) = (attempt, Some(host), Some(since_ms));
                (why.state, why.waits_for) = match stage {
                    // It was read, and others of the same read come first.
                    RunningState::Starting => ("starting", Some(WaitsFor::Seat)),
                    RunningState::Running => ("running", None),
                };
            }
            CallState::Execution => (why.state, why.waits_for) = ("execution", Some(WaitsFor::Steps)),
            CallState::Ended(result) => {
                why.state = state_of(result.status);
                let settled = self.settled_after(function, &result).await?;
                (why.time, why.status, why.attempt) = (split(&result, settled), Some(result.status), result.attempts);
                (why.accepted_ms, why.since_ms) = (Some(result.accepted_ms), Some(result.finished_ms));
                why.host = result.host;
            }
        }
        Ok(Ok(why))
    }
}

/// The state of a call that has ended so, in one word.
#[must_use]
pub fn state_of(status: Status) -> &'static str {
    match status {
        Status::Ok => "completed",
        Status::Cancelled => "cancelled",
        Status::Error | Status::Dead | Status::Expired => "failed",
    }
}
