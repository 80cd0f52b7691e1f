//! What can be known of calls that have not ended, by looking: where one stands, and which are in a host's hands.
//!
//! Nothing is written for this: the call stream, its pending list, the delayed set and the marks of ids hold it all. How a
//! call is found is in `search.rs`.

use std::collections::HashMap;
use std::time::Duration;

use baton_model::{CallId, EntryId, FunctionId, HostId, Priority, ResultDocument, Room, RunningCall, RunningState};
use bytes::Bytes;
use redis::{Value, cmd};

use crate::BrokerError;
use crate::ask::{ask, ask_for};
use crate::keys::Keys;
use crate::link::{BrokerConfig, Link};
use crate::script::Lua;
use crate::search::{self, Absent, Budget, Place, STEP};
use crate::standing::Word;

/// The most rows that one look at what hosts hold brings, without payloads.
const ROWS: usize = 1_000;

/// An end that was on its way for longer was made by another clock.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

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
    /// It is an execution that has not ended.
    Execution,
    /// It has its result.
    Ended(Box<ResultDocument>),
}

/// What is known of a call that has not ended, beside where it stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallFacts {
    /// When it was first accepted, in Unix milliseconds.
    pub accepted_ms: Option<u64>,
    /// Since when it stands in its stream, in Unix milliseconds.
    pub queued_ms: Option<u64>,
    /// Its deadline, in Unix milliseconds.
    pub deadline_ms: Option<u64>,
    /// How urgent it is: that of its stream, for that is how it is read.
    pub priority: Priority,
}

/// What a script says of one entry: everything that it could find out in one step.
struct Found {
    entry: EntryId,
    id: Option<CallId>,
    attempt: u32,
    accepted_ms: Option<u64>,
    /// Who has it, and since when, in Unix ms.
    holder: Option<(HostId, u64)>,
    deadline_ms: Option<u64>,
}

/// Looks at calls; changes nothing.
pub struct Inspect {
    link: Link,
    keys: Keys,
    result_ttl: Duration,
    entry: Lua,
    search: Lua,
    delayed: Lua,
    pending: Lua,
}

/// A script with the helpers that describe entries before it.
macro_rules! inspecting {
    ($($file:literal),+) => {
        Lua::new(concat!(
            "#!lua flags=no-writes\n",
            include_str!("scripts/fields.lua"),
            include_str!("scripts/inspect.lua"),
            $(include_str!($file)),+
        ))
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
            result_ttl: config.result_ttl,
            entry: inspecting!("scripts/inspect_entry.lua"),
            search: inspecting!("scripts/inspect_search.lua"),
            delayed: inspecting!("scripts/waiting.lua", "scripts/inspect_delayed.lua"),
            pending: inspecting!("scripts/inspect_pending.lua"),
        })
    }

    /// Whether `function` has a call stream: a host has had it, or somebody has called it. One cheap command.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn has_stream(&self, function: &FunctionId) -> Result<bool, BrokerError> {
        let streams = Priority::ALL.map(|level| self.keys.calls_at(function, level));
        Ok(self.link.run(cmd("EXISTS").arg(&streams)).await? != Value::Int(0))
    }

    /// Where the call stands. [`Absent`] if there is no such call, if its result has expired, or if it was not found.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn state(&self, function: &FunctionId, id: &CallId) -> Result<Result<CallState, Absent>, BrokerError> {
        Ok(self.state_and_facts(function, id).await?.map(|(state, _)| state))
    }

    /// Where the call stands, and what else is known of it.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn state_and_facts(
        &self,
        function: &FunctionId,
        id: &CallId,
    ) -> Result<Result<(CallState, CallFacts), Absent>, BrokerError> {
        let mut absent = Absent { is_sure: true };
        // A call can move while it is looked for, and its mark with it. It is then found the second time.
        for is_first in [true, false] {
            if let Some(found) = self.where_it_should_be(function, id).await? {
                return Ok(Ok(found));
            }
            if is_first {
                match self.among_the_first(function, id).await? {
                    Ok(found) => return Ok(Ok(found)),
                    Err(none) => absent = none,
                }
            }
        }
        Ok(Err(absent))
    }

    /// The call as its result, as the entry that it is named after, or where its mark says.
    async fn where_it_should_be(
        &self,
        function: &FunctionId,
        id: &CallId,
    ) -> Result<Option<(CallState, CallFacts)>, BrokerError> {
        if let Some(result) = self.result(function, id).await? {
            return Ok(Some((CallState::Ended(Box::new(result)), CallFacts::default())));
        }
        if let Some(entry) = EntryId::parse(id.as_str())
            && let Some(found) = self.entry(function, id, entry).await?
        {
            return self.told(function, id, found).await.map(Some);
        }
        match search::place(&self.link, &self.keys, function, id).await? {
            Some(Place::Entry(entry)) => match self.entry(function, id, entry).await? {
                Some(found) => self.told(function, id, found).await.map(Some),
                None => Ok(None),
            },
            Some(Place::Delayed(start)) => Ok(self.among_delayed(function, id, start).await?.ok()),
            Some(Place::Execution) => Ok(Some((CallState::Execution, CallFacts::default()))),
            None => Ok(None),
        }
    }

    /// The call among the first of the streams or of the delayed set.
    async fn among_the_first(
        &self,
        function: &FunctionId,
        id: &CallId,
    ) -> Result<Result<(CallState, CallFacts), Absent>, BrokerError> {
        let in_stream = match self.search_streams(function, id).await? {
            Ok(found) => return self.told(function, id, found).await.map(Ok),
            Err(absent) => absent,
        };
        let found = self.among_delayed(function, id, "0".to_owned()).await?;
        Ok(found.map_err(|absent| Absent { is_sure: absent.is_sure && in_stream.is_sure }))
    }

    async fn told(
        &self,
        function: &FunctionId,
        id: &CallId,
        found: Found,
    ) -> Result<(CallState, CallFacts), BrokerError> {
        let facts = found.facts();
        Ok((self.stage(function, id, found.state()).await?, facts))
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
        for (function, level) in functions.iter().flat_map(|f| Priority::ALL.map(|level| (f, level))) {
            let room = count_max.saturating_sub(running.len()).min(ROWS);
            if room == 0 {
                break;
            }
            let mut call = self.pending.call(2);
            call.arg(self.keys.calls_at(function, level)).arg(self.keys.claims_at(function, level));
            call.arg(self.keys.group()).arg(room);
            let rows = match self.pending.run(&self.link, &call).await? {
                Value::Array(rows) => rows,
                other => return Err(BrokerError::shape("the pending list", &other)),
            };
            for row in rows {
                let call = Found::read(level, row)?.running(function);
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
        for (function, level) in functions.iter().flat_map(|f| Priority::ALL.map(|level| (f, level))) {
            look.cmd("XPENDING").arg(self.keys.calls_at(function, level)).arg(self.keys.group());
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

    /// The call as this entry.
    async fn entry(&self, function: &FunctionId, id: &CallId, entry: EntryId) -> Result<Option<Found>, BrokerError> {
        let mut call = self.entry.call(2);
        let level = entry.level();
        call.arg(self.keys.calls_at(function, level)).arg(self.keys.claims_at(function, level));
        call.arg(self.keys.group()).arg(entry.in_stream());
        let Value::Array(mut found) = self.entry.run(&self.link, &call).await? else { return Ok(None) };
        let found = found.pop().map(|row| Found::read(level, row)).transpose()?;
        // An entry with an id of its own is another call, whatever its entry is called.
        let is_it = |found: &Found| match &found.id {
            Some(own) => own == id,
            None => id.as_str() == entry.to_string(),
        };
        Ok(found.filter(is_it))
    }

    /// The call among the first entries of the streams, by the id that they bear.
    async fn search_streams(&self, function: &FunctionId, id: &CallId) -> Result<Result<Found, Absent>, BrokerError> {
        let mut is_sure = true;
        for level in Priority::ALL {
            match self.search_at(function, level, id).await? {
                Ok(found) => return Ok(Ok(found)),
                Err(absent) => is_sure &= absent.is_sure,
            }
        }
        Ok(Err(Absent { is_sure }))
    }

    /// The entry that bears this id among the first in the stream of this level.
    async fn search_at(
        &self,
        function: &FunctionId,
        level: Priority,
        id: &CallId,
    ) -> Result<Result<Found, Absent>, BrokerError> {
        let mut budget = Budget::new();
        let mut from = "-".to_owned();
        while budget.has_room() {
            let mut call = self.search.call(2);
            call.arg(self.keys.calls_at(function, level)).arg(self.keys.claims_at(function, level));
            call.arg(self.keys.group()).arg(id.as_str()).arg(&from).arg(STEP);
            let answer = self.search.run(&self.link, &call).await?;
            let Value::Array(parts) = answer else { return Err(BrokerError::shape("a search", &answer)) };
            let mut parts = parts.into_iter();
            let next: String = parts.next().and_then(|next| redis::from_redis_value(next).ok()).unwrap_or_default();
            budget.spend(parts.next().as_ref().and_then(number).unwrap_or(0));
            if let Some(row) = parts.next() {
                return Found::read(level, row).map(Ok);
            }
            if next.is_empty() {
                return Ok(Err(Absent { is_sure: true }));
            }
            from = next;
        }
        Ok(Err(Absent { is_sure: false }))
    }

    /// For how long Redis has a result by its own clock, if results are kept for as long as this host's settings say.
    async fn kept_since_ms(&self, function: &FunctionId, id: &CallId) -> Result<Option<u64>, BrokerError> {
        let mut look = redis::pipe();
        look.cmd("PTTL").arg(self.keys.result(function, id));
        look.cmd("TIME");
        let answers = self.link.run_all(&look).await?;
        let (Some(Value::Int(left)), Some(Value::Array(time))) = (answers.first(), answers.get(1)) else {
            return Ok(None);
        };
        let parts: Option<Vec<u64>> = time.iter().map(number).collect();
        let Some([seconds, micros]) = parts.as_deref() else { return Ok(None) };
        let kept = i64::try_from(self.result_ttl.as_millis()).unwrap_or(i64::MAX).saturating_sub(*left);
        let now_ms = seconds * 1000 + micros / 1000;
        Ok(u64::try_from(kept).ok().filter(|_| *left > 0).map(|kept| now_ms.saturating_sub(kept)))
    }

    /// For how long the end of a call was on its way to Redis. None if that is not known: the clocks differ, or results
    /// are not kept for as long as is said here.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn settled_after(
        &self,
        function: &FunctionId,
        result: &ResultDocument,
    ) -> Result<Option<Duration>, BrokerError> {
        let since = self.kept_since_ms(function, &result.id).await?;
        let took = since.and_then(|since| since.checked_sub(result.finished_ms)).map(Duration::from_millis);
        Ok(took.filter(|took| *took <= SETTLED_WITHIN))
    }

    /// What these hosts say of their room for calls of `function`; of those that do not answer nothing.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn rooms(&self, hosts: &[HostId], function: &FunctionId) -> Result<Vec<Room>, BrokerError> {
        let word = |question: String| Word::Room(question, function.clone());
        ask_for(&self.link, &self.keys, hosts, word).await
    }

    /// The call among the delayed calls from here on, as [`Place::Delayed`] has it.
    async fn among_delayed(
        &self,
        function: &FunctionId,
        id: &CallId,
        mut start: String,
    ) -> Result<Result<(CallState, CallFacts), Absent>, BrokerError> {
        let mut budget = Budget::new();
        while budget.has_room() {
            let mut call = self.delayed.call(2);
            call.arg(self.keys.delayed(function)).arg(self.keys.line(function));
            call.arg(id.as_str()).arg(&start).arg(STEP);
            let answer = self.delayed.run(&self.link, &call).await?;
            let Value::Array(parts) = &answer else { return Err(BrokerError::shape("a search", &answer)) };
            let [count, bytes, found @ ..] = &parts[..] else { return Err(BrokerError::shape("a search", &answer)) };
            let count: usize = number(count).unwrap_or(0);
            if let [attempt, due, accepted, deadline, level] = found {
                let due_ms: f64 = redis::from_redis_value_ref(due).unwrap_or(0.0);
                let state = CallState::Delayed { attempt: number(attempt).unwrap_or(1), due_ms: due_ms as u64 };
                let facts = CallFacts {
                    accepted_ms: number(accepted),
                    queued_ms: None,
                    deadline_ms: number(deadline),
                    priority: text(level).and_then(|level| level.parse().ok()).unwrap_or_default(),
                };
                return Ok(Ok((state, facts)));
            }
            // Of one place in the line there are no more than levels.
            let Some(rank) = start.parse::<usize>().ok().filter(|_| count >= STEP) else {
                return Ok(Err(Absent { is_sure: true }));
            };
            start = (rank + count).to_string();
            budget.spend(number(bytes).unwrap_or(0));
        }
        Ok(Err(Absent { is_sure: false }))
    }
}

/// `XPENDING` without a range: how many, the first, the last, and how many for each consumer.
type Summary = (u64, Option<String>, Option<String>, Option<Vec<(String, String)>>);

impl Found {
    fn read(level: Priority, row: Value) -> Result<Self, BrokerError> {
        let parts = match row {
            Value::Array(parts) => <[Value; 8]>::try_from(parts),
            other => return Err(BrokerError::shape("an entry's description", &other)),
        };
        let parts = parts.map_err(|parts| BrokerError::shape("an entry's description", &parts))?;
        let entry = text(&parts[0]).and_then(EntryId::parse);
        let entry = entry.ok_or_else(|| BrokerError::shape("an entry's description", &parts[0]))?.of_level(level);
        let attempt: u32 = number(&parts[2]).unwrap_or(1);
        let claims: u32 = number(&parts[4]).unwrap_or(0);
        let holder = text(&parts[5]).and_then(HostId::parse);
        Ok(Self {
            entry,
            id: text(&parts[1]).and_then(CallId::parse),
            attempt: attempt.saturating_add(claims),
            accepted_ms: number(&parts[3]),
            holder: holder.map(|host| (host, number(&parts[6]).unwrap_or(0))),
            deadline_ms: number(&parts[7]),
        })
    }

    fn facts(&self) -> CallFacts {
        let accepted_ms = Some(self.accepted_ms.unwrap_or_else(|| self.entry.ms()));
        let (queued_ms, priority) = (Some(self.entry.ms()), self.entry.level());
        CallFacts { accepted_ms, queued_ms, deadline_ms: self.deadline_ms, priority }
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
