//! What can be known of calls that have not ended, by looking: where one stands, and which are in a host's hands.
//!
//! Nothing is written for this: the call stream, its pending list and the delayed set hold it all. A call with an id of
//! its own is searched for, in bounded steps; one that is known by its entry is found at once.

use std::collections::HashMap;

use baton_model::{CallId, EntryId, FunctionId, HostId, ResultDocument, RunningCall, RunningState};
use bytes::Bytes;
use redis::{Value, cmd};

use crate::BrokerError;
use crate::ask::ask;
use crate::keys::{GROUP, Keys};
use crate::link::{BrokerConfig, Link};
use crate::script::Lua;

/// The most entries, and the most delayed calls, among which a call is searched for by its own id.
const SEARCH_MAX: usize = 10_000;
/// The most that one script run looks at: with small payloads it holds Redis for less than a millisecond.
const STEP: usize = 250;

/// Where a call stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallState {
    /// It waits in its stream for a host.
    Queued {
        /// Which attempt comes next; the first is 1.
        attempt: u32,
    },
    /// It waits for its time.
    Delayed {
        /// Which attempt comes next.
        attempt: u32,
        /// When it is due, in Unix milliseconds.
        due_ms: u64,
    },
    /// A host has it.
    Running {
        /// Which.
        host: HostId,
        /// Which attempt it is.
        attempt: u32,
        /// How far the host is with it.
        stage: RunningState,
        /// Since when, in Unix milliseconds.
        since_ms: u64,
    },
    /// It has its result.
    Ended(Box<ResultDocument>),
}

/// What a script says of one entry: everything that it could find out in one step.
struct Found {
    entry: EntryId,
    id: Option<CallId>,
    attempt: u32,
    accepted_ms: Option<u64>,
    /// Who has it, and since when, in Unix ms.
    holder: Option<(HostId, u64)>,
}

/// Looks at calls; changes nothing.
pub struct Inspect {
    link: Link,
    keys: Keys,
    entry: Lua,
    search: Lua,
    delayed: Lua,
    pending: Lua,
}

/// A script with the helpers that describe entries before it.
macro_rules! inspecting {
    ($file:literal) => {
        Lua::new(concat!(include_str!("scripts/inspect.lua"), include_str!($file)))
    };
}

impl Inspect {
    /// Looks with these settings.
    ///
    /// # Errors
    /// [`BrokerError::BadUrl`].
    pub fn new(config: &BrokerConfig) -> Result<Self, BrokerError> {
        Ok(Self {
            link: Link::new(config.client()?),
            keys: config.keys(),
            entry: inspecting!("scripts/inspect_entry.lua"),
            search: inspecting!("scripts/inspect_search.lua"),
            delayed: inspecting!("scripts/inspect_delayed.lua"),
            pending: inspecting!("scripts/inspect_pending.lua"),
        })
    }

    /// Whether `function` has a call stream: a host has had it, or somebody has called it. One cheap command.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn has_stream(&self, function: &FunctionId) -> Result<bool, BrokerError> {
        Ok(self.link.run(cmd("EXISTS").arg(self.keys.calls(function))).await? == Value::Int(1))
    }

    /// Where the call stands. None if there is no such call, if its result has expired, or if more than 10,000 calls
    /// stand before it.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn state(&self, function: &FunctionId, id: &CallId) -> Result<Option<CallState>, BrokerError> {
        // A call can move while it is looked for, against the direction of the search. It is then found the second time.
        for _ in 0..2 {
            if let Some(result) = self.result(function, id).await? {
                return Ok(Some(CallState::Ended(Box::new(result))));
            }
            if let Some(found) = self.entry(function, id).await? {
                return self.stage(function, id, found).await.map(Some);
            }
            let (looked_at, found) = self.among_delayed(function, id).await?;
            if found.is_some() {
                return Ok(found);
            }
            if looked_at == 0 {
                break;
            }
        }
        let result = self.result(function, id).await?;
        Ok(result.map(|result| CallState::Ended(Box::new(result))))
    }

    /// What the host itself says of a call that it has.
    async fn stage(&self, function: &FunctionId, id: &CallId, found: CallState) -> Result<CallState, BrokerError> {
        let CallState::Running { host, .. } = &found else { return Ok(found) };
        let answers = ask(&self.link, &self.keys, std::slice::from_ref(host)).await?;
        let told = answers.calls.into_iter().find(|call| call.function == *function && call.id == *id);
        Ok(match told {
            Some(call) => {
                let RunningCall { attempt, host, state: stage, since_ms, .. } = call;
                CallState::Running { host, attempt, stage, since_ms }
            }
            None => found,
        })
    }

    /// The calls that hosts have in their hands, at most `count_max` of them: what these hosts say, and of hosts that do
    /// not answer what the pending lists of these functions say. Those know no more of a call than when it was read or
    /// its lease renewed.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn running(
        &self,
        hosts: &[HostId],
        functions: &[FunctionId],
        count_max: usize,
    ) -> Result<Vec<RunningCall>, BrokerError> {
        let answers = ask(&self.link, &self.keys, hosts).await?;
        let mut running = answers.calls;
        running.retain(|call| functions.contains(&call.function));
        for function in functions {
            let room = count_max.saturating_sub(running.len()).min(STEP * 4);
            if room == 0 {
                break;
            }
            let mut call = self.pending.call(2);
            call.arg(self.keys.calls(function)).arg(self.keys.claims(function)).arg(GROUP).arg(room);
            let rows = match self.pending.run(&self.link, &call).await? {
                Value::Array(rows) => rows,
                other => return Err(BrokerError::shape("the pending list", &other)),
            };
            for row in rows {
                let call = Found::read(row)?.running(function);
                running.extend(call.filter(|call| !answers.hosts.contains(&call.host)));
            }
        }
        running.truncate(count_max);
        Ok(running)
    }

    /// How many calls of these functions each host has in its hands; a host that is not named has none.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn in_flight(&self, functions: &[FunctionId]) -> Result<HashMap<HostId, u64>, BrokerError> {
        let mut counts = HashMap::new();
        if functions.is_empty() {
            return Ok(counts);
        }
        let mut look = redis::pipe();
        for function in functions {
            look.cmd("XPENDING").arg(self.keys.calls(function)).arg(GROUP);
        }
        let answers = match self.link.run_all(&look).await {
            // The connection may have been closed while it was idle.
            Err(BrokerError::Unreachable(_)) => self.link.run_all(&look).await?,
            other => other?,
        };
        for answer in answers {
            // A stream without a group answers with an error: no host has anything of it.
            let Ok(summary) = redis::from_redis_value::<Summary>(answer) else { continue };
            for (host, count) in summary.3.unwrap_or_default() {
                if let Some(host) = HostId::parse(&host) {
                    *counts.entry(host).or_insert(0) += count.parse().unwrap_or(0);
                }
            }
        }
        Ok(counts)
    }

    async fn result(&self, function: &FunctionId, id: &CallId) -> Result<Option<ResultDocument>, BrokerError> {
        match self.link.run(cmd("GET").arg(self.keys.result(function, id))).await? {
            Value::Nil => Ok(None),
            Value::BulkString(bytes) => ResultDocument::decode(&mut Bytes::from(bytes))
                .map(Some)
                .map_err(|e| BrokerError::Refused(format!("the result of {id} cannot be read: {e}"))),
            other => Err(BrokerError::shape("GET", &other)),
        }
    }

    /// The call as an entry of the stream: the one that it is named after, or the one that bears its id.
    async fn entry(&self, function: &FunctionId, id: &CallId) -> Result<Option<CallState>, BrokerError> {
        if let Some(entry) = EntryId::parse(id.as_str()) {
            let mut call = self.entry.call(2);
            call.arg(self.keys.calls(function)).arg(self.keys.claims(function)).arg(GROUP).arg(entry.to_string());
            if let Value::Array(mut found) = self.entry.run(&self.link, &call).await?
                && let Some(row) = found.pop()
            {
                let found = Found::read(row)?;
                // An entry with an id of its own is another call, whatever its entry is called.
                if found.id.is_none() || found.id.as_ref() == Some(id) {
                    return Ok(Some(found.state()));
                }
            }
        }
        let mut from = "-".to_owned();
        for _ in 0..SEARCH_MAX / STEP {
            let mut call = self.search.call(2);
            call.arg(self.keys.calls(function)).arg(self.keys.claims(function));
            call.arg(GROUP).arg(id.as_str()).arg(&from).arg(STEP);
            let answer = self.search.run(&self.link, &call).await?;
            let Value::Array(parts) = answer else { return Err(BrokerError::shape("a search", &answer)) };
            let mut parts = parts.into_iter();
            let next: String = parts.next().and_then(|next| redis::from_redis_value(next).ok()).unwrap_or_default();
            if let Some(row) = parts.next() {
                return Found::read(row).map(|found| Some(found.state()));
            }
            if next.is_empty() {
                break;
            }
            from = next;
        }
        Ok(None)
    }

    /// How many delayed calls were looked at, and the call if it is among them.
    async fn among_delayed(
        &self,
        function: &FunctionId,
        id: &CallId,
    ) -> Result<(usize, Option<CallState>), BrokerError> {
        let mut looked_at = 0;
        while looked_at < SEARCH_MAX {
            let mut call = self.delayed.call(1);
            call.arg(self.keys.delayed(function)).arg(id.as_str()).arg(looked_at).arg(STEP);
            let answer = self.delayed.run(&self.link, &call).await?;
            let Value::Array(parts) = &answer else { return Err(BrokerError::shape("a search", &answer)) };
            let Some(Value::Int(count)) = parts.first() else { return Err(BrokerError::shape("a search", &answer)) };
            looked_at += usize::try_from(*count).unwrap_or(0);
            if let [_, attempt, due] = &parts[..] {
                let due_ms: f64 = redis::from_redis_value_ref(due).unwrap_or(0.0);
                let state = CallState::Delayed { attempt: number(attempt).unwrap_or(1), due_ms: due_ms as u64 };
                return Ok((looked_at, Some(state)));
            }
            if usize::try_from(*count).unwrap_or(0) < STEP {
                break;
            }
        }
        Ok((looked_at, None))
    }
}

/// `XPENDING` without a range: how many, the first, the last, and how many for each consumer.
type Summary = (u64, Option<String>, Option<String>, Option<Vec<(String, String)>>);

impl Found {
    fn read(row: Value) -> Result<Self, BrokerError> {
        let parts = match row {
            Value::Array(parts) => <[Value; 7]>::try_from(parts),
            other => return Err(BrokerError::shape("an entry's description", &other)),
        };
        let parts = parts.map_err(|parts| BrokerError::shape("an entry's description", &parts))?;
        let entry = text(&parts[0]).and_then(EntryId::parse);
        let entry = entry.ok_or_else(|| BrokerError::shape("an entry's description", &parts[0]))?;
        let attempt: u32 = number(&parts[2]).unwrap_or(1);
        let claims: u32 = number(&parts[4]).unwrap_or(0);
        let holder = text(&parts[5]).and_then(HostId::parse);
        Ok(Self {
            entry,
            id: text(&parts[1]).and_then(CallId::parse),
            attempt: attempt.saturating_add(claims),
            accepted_ms: number(&parts[3]),
            holder: holder.map(|host| (host, number(&parts[6]).unwrap_or(0))),
        })
    }

    fn state(self) -> CallState {
        match self.holder {
            Some((host, since_ms)) => {
                CallState::Running { host, attempt: self.attempt, stage: RunningState::Running, since_ms }
            }
            None => CallState::Queued { attempt: self.attempt },
        }
    }

    /// The call as a running one, as far as the pending list knows; none if no host has it.
    fn running(self, function: &FunctionId) -> Option<RunningCall> {
        let (host, since_ms) = self.holder?;
        Some(RunningCall {
            function: function.clone(),
            id: self.id.unwrap_or_else(|| crate::entry::entry_as_call_id(self.entry)),
            attempt: self.attempt,
            host,
            state: RunningState::Running,
            since_ms,
            accepted_ms: self.accepted_ms.unwrap_or_else(|| self.entry.ms()),
        })
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

fn number<T: std::str::FromStr + TryFrom<i64>>(value: &Value) -> Option<T> {
    match value {
        Value::Int(number) => T::try_from(*number).ok(),
        other => text(other)?.parse().ok(),
    }
}
