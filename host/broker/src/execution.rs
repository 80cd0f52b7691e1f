//! Executions as they stand in Redis: a log for each, what is known of it beside, and the scripts that change both.
//!
//! Whoever runs one holds the lease of its wake, an entry of the function's stream like that of any call: it is renewed,
//! claimed from dead hosts and fenced as theirs are, and `execution_advance.lua` looks at it before it appends anything.

mod advance;
mod components;
mod loading;
mod telling;
mod view;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use baton_model::execution::{Event, LOG_BYTES_MAX, LOG_EVENTS_MAX, Received, Record, Started, StepRef};
use baton_model::{Call, CallId, Digest, FunctionId, HostId, Lease, Reply, ReplyTo, ResultDocument};
use bytes::Bytes;
use redis::{Cmd, Value, pipe};

pub(crate) use advance::Advances;
use advance::millis;
pub use advance::{Advance, Course};
use telling::script;
pub(crate) use telling::{and_tell, before};
pub use view::{ExecutionDetails, ExecutionView, Loaded, OpenStep};

use crate::BrokerError;
use crate::keys::Keys;
use crate::link::{BrokerConfig, Link};
use crate::meter::Role;
use crate::script::Lua;
use crate::turns;

/// The wish for whichever component a host has of the function.
pub const NEWEST: &str = "newest";

/// The states in which executions are.
pub const STATES: [&str; 5] = ["running", "stuck", "completed", "failed", "cancelled"];

/// What an execution begins with.
#[derive(Debug, Clone)]
pub struct Beginning {
    /// The input.
    pub input: Reply,
    /// `x-…` headers of whoever began it.
    pub headers: Vec<(String, String)>,
    /// Whose step it is, if it is one.
    pub parent: Option<StepRef>,
}

/// What came of asking for an execution to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// It has begun.
    New,
    /// It was begun before under this id, and has not ended.
    Before,
    /// One of this id has ended.
    Ended,
}

/// What came of making an execution of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adopted {
    /// There is one of this id now, or was before, and the call has become it.
    Done,
    /// One of this id has ended; nothing was changed.
    Ended,
    /// The call is not this host's any more; nothing was changed.
    Fenced,
}

/// What came of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It stands in the log.
    At {
        /// Where: 1 is the first.
        position: u64,
        /// Whether it came now, and not under this id before.
        is_new: bool,
    },
    /// There is no such execution.
    Unknown,
    /// It has ended.
    Ended,
    /// Its log is as long as it may be.
    Full,
    /// Its log is not what it should be.
    Damaged,
}

impl Taken {
    /// Why it was not taken: one word for programs, and for people how a sentence about the execution goes on. None if it was.
    #[must_use]
    pub fn refusal(self) -> Option<(&'static str, &'static str)> {
        Some(match self {
            Self::At { .. } => return None,
            Self::Unknown => ("unknown-execution", "is not known: the id is wrong, or what is known of it has expired"),
            Self::Ended => ("ended", "has ended; nothing reads its events any more"),
            Self::Full => ("log-full", "has a log as long as it may be; its function is to restart now and then"),
            Self::Damaged => {
                ("log-damaged", "has a log that is not what it should be; `baton exec show` says what is wrong")
            }
        })
    }
}

/// What came of asking for an execution to be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Whoever runs it next tries it.
    Done,
    /// It has ended.
    Ended,
    /// There is none of this id.
    Unknown,
}

/// What came of taking an execution back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Withdrawn {
    /// It is taken back. This is its result.
    Done(Box<ResultDocument>),
    /// It had ended before.
    Ended,
    /// There is none of this id.
    Unknown,
}

/// Asks Redis about executions, and for new ones.
pub struct Executions {
    link: Link,
    keys: Keys,
    result_ttl: Duration,
    log_ttl: Duration,
    payload_bytes_max: usize,
    start: Lua,
    adopt: Lua,
    event: Lua,
    moves: Lua,
    cancel: Lua,
    list: Lua,
}

impl Executions {
    /// Connects on first use.
    ///
    /// # Errors
    /// [`BrokerError::BadUrl`].
    pub fn new(config: &BrokerConfig) -> Result<Self, BrokerError> {
        Ok(Self {
            link: Link::new(config.client()?).counted(config, Role::Caller),
            keys: config.keys(),
            start: script(
                "",
                concat!(
                    include_str!("scripts/fields.lua"),
                    include_str!("scripts/waiting.lua"),
                    include_str!("scripts/mark.lua"),
                    include_str!("scripts/execution_start.lua")
                ),
            ),
            adopt: script(
                " flags=allow-oom",
                concat!(include_str!("scripts/next_turn.lua"), include_str!("scripts/execution_adopt.lua")),
            ),
            event: script("", include_str!("scripts/execution_event.lua")),
            moves: script("", include_str!("scripts/execution_move.lua")),
            cancel: script(" flags=allow-oom", include_str!("scripts/execution_cancel.lua")),
            list: Lua::new(include_str!("scripts/execution_list.lua")),
            result_ttl: config.result_ttl,
            log_ttl: config.log_ttl,
            payload_bytes_max: config.payload_bytes_max,
        })
    }

    /// Begins an execution. It runs as soon as a host has a seat.
    ///
    /// # Errors
    /// Any [`BrokerError`]; asking again under the same id does no harm.
    pub async fn start(
        &self,
        function: &FunctionId,
        id: &CallId,
        beginning: Beginning,
        reply: Option<&ReplyTo>,
    ) -> Result<Begun, BrokerError> {
        self.fits(&beginning.input)?;
        let mut call = self.start.call(6);
        call.arg(self.keys.calls(function)).arg(self.keys.result(function, id)).arg(self.keys.mark(function, id));
        self.own_keys(&mut call, function, id);
        call.arg(self.keys.executions(function));
        call.arg(id.as_str());
        begin_args(&mut call, beginning, reply);
        match self.again(&self.start, &call).await? {
            Value::Int(1) => Ok(Begun::New),
            Value::Int(0) => Ok(Begun::Before),
            Value::Int(-1) => Ok(Begun::Ended),
            other => Err(BrokerError::shape("execution_start.lua", &other)),
        }
    }

    /// Makes an execution of a call of a durable function that `host` has read.
    ///
    /// # Errors
    /// Any [`BrokerError`]; asking again does no harm.
    pub async fn adopt(
        &self,
        host: &HostId,
        begun: &Call,
        lease: Lease,
        beginning: Beginning,
    ) -> Result<Adopted, BrokerError> {
        let Call { function, id, key, reply, .. } = begun;
        let level = lease.entry.level();
        let mut call = self.adopt.call(9);
        call.arg(self.keys.calls_at(function, level)).arg(self.keys.claims_at(function, level));
        self.own_keys(&mut call, function, id);
        call.arg(self.keys.executions(function)).arg(self.keys.mark(function, id));
        turns::keys(&mut call, &self.keys, function);
        call.arg(self.keys.group()).arg(host.as_str()).arg(lease.entry.in_stream()).arg(lease.claims).arg(id.as_str());
        call.arg(key.as_ref().map(|key| key.as_str()).unwrap_or_default());
        begin_args(&mut call, beginning, reply.as_ref());
        match self.adopt.run(&self.link, &call).await? {
            Value::Int(1 | 2) => Ok(Adopted::Done),
            Value::Int(3) => Ok(Adopted::Ended),
            Value::Int(0) => Ok(Adopted::Fenced),
            other => Err(BrokerError::shape("execution_adopt.lua", &other)),
        }
    }

    /// Hands an event to an execution.
    ///
    /// # Errors
    /// Any [`BrokerError`]; sending it again under the same id does no harm.
    pub async fn event(&self, function: &FunctionId, id: &CallId, event: Received) -> Result<Taken, BrokerError> {
        self.fits(&event.payload)?;
        let mut call = self.event.call(3);
        call.arg(self.keys.calls(function));
        self.own_keys(&mut call, function, id);
        call.arg(id.as_str()).arg(event.id.as_str()).arg(LOG_EVENTS_MAX).arg(LOG_BYTES_MAX);
        record_args(&mut call, &Event::EventReceived(event).to_record());
        match self.again(&self.event, &call).await? {
            Value::Int(0) => Ok(Taken::Unknown),
            Value::Int(-1) => Ok(Taken::Ended),
            Value::Int(-2) => Ok(Taken::Full),
            Value::Int(-3) => Ok(Taken::Damaged),
            Value::Array(said) => match &said[..] {
                [Value::Int(position), Value::Int(is_new)] => {
                    Ok(Taken::At { position: position.unsigned_abs(), is_new: *is_new == 1 })
                }
                _ => Err(BrokerError::shape("execution_event.lua", &said)),
            },
            other => Err(BrokerError::shape("execution_event.lua", &other)),
        }
    }

    /// Those of these functions that have an execution of this id.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn owners(&self, id: &CallId, functions: &[FunctionId]) -> Result<Vec<FunctionId>, BrokerError> {
        let mut all = pipe();
        for function in functions {
            all.cmd("EXISTS").arg(self.keys.execution(function, id));
        }
        if functions.is_empty() {
            return Ok(Vec::new());
        }
        let answers = self.link.run_all(&all).await?;
        let owned = functions.iter().zip(answers).filter(|(_, answer)| *answer == Value::Int(1));
        Ok(owned.map(|(function, _)| function.clone()).collect())
    }

    /// Asks for an execution to be moved to a component; to the one that its host has of the function if none is named.
    /// Whoever runs it next tries that over its whole log.
    ///
    /// # Errors
    /// Any [`BrokerError`]; asking again does no harm.
    pub async fn move_to(
        &self,
        function: &FunctionId,
        id: &CallId,
        digest: Option<Digest>,
    ) -> Result<Asked, BrokerError> {
        let mut call = self.moves.call(2);
        call.arg(self.keys.calls(function)).arg(self.keys.execution(function, id));
        call.arg(id.as_str()).arg(digest.map_or_else(|| NEWEST.to_owned(), |digest| digest.to_string()));
        match self.again(&self.moves, &call).await? {
            Value::Int(1) => Ok(Asked::Done),
            Value::Int(0) => Ok(Asked::Unknown),
            Value::Int(-1) => Ok(Asked::Ended),
            other => Err(BrokerError::shape("execution_move.lua", &other)),
        }
    }

    /// Takes an execution back. Calls that it has made are not.
    ///
    /// # Errors
    /// Any [`BrokerError`]; asking again does no harm.
    pub async fn cancel(&self, function: &FunctionId, id: &CallId) -> Result<Withdrawn, BrokerError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let document = ResultDocument::cancelled(id.clone(), u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        let mut call = self.cancel.call(6);
        self.own_keys(&mut call, function, id);
        call.arg(self.keys.executions(function)).arg(self.keys.result(function, id)).arg(self.keys.mark(function, id));
        call.arg(self.keys.timers(function));
        call.arg(id.as_str()).arg(document.encode()).arg(millis(self.result_ttl)).arg(millis(self.log_ttl));
        call.arg(self.keys.reply_channels());
        match self.again(&self.cancel, &call).await? {
            Value::BulkString(document) => {
                let read = ResultDocument::decode(&mut Bytes::from(document))
                    .map_err(|error| BrokerError::Refused(format!("the result of {id} cannot be read: {error}")))?;
                Ok(Withdrawn::Done(Box::new(read)))
            }
            Value::Int(0) => Ok(Withdrawn::Unknown),
            Value::Int(-1) => Ok(Withdrawn::Ended),
            other => Err(BrokerError::shape("execution_cancel.lua", &other)),
        }
    }

    /// Executions of a function, the latest first; only those in a state, if one is given. At most `limit` are looked at, behind
    /// that which an earlier answer ended with. Gives with what this one ends, unless these were the last.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn list(
        &self,
        function: &FunctionId,
        state: Option<&str>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<ExecutionView>, Option<String>), BrokerError> {
        let mut call = self.list.call(1);
        call.arg(self.keys.executions(function)).arg(self.keys.executions_of(function));
        call.arg(after.unwrap_or_default()).arg(limit);
        call.arg(state.unwrap_or_default());
        let answer = self.again(&self.list, &call).await?;
        type Row = (String, String, String, String, String, String, String, String, String);
        let (next, rows): (String, Vec<Row>) =
            redis::from_redis_value(answer.clone()).map_err(|_| BrokerError::shape("execution_list.lua", &answer))?;
        let view = |(id, state, run, steps, events, began, ended, stuck, failed): Row| {
            Some(ExecutionView {
                id: CallId::parse(&id)?,
                state,
                run: run.parse().unwrap_or(0),
                steps: steps.parse().unwrap_or(0),
                events: events.parse().unwrap_or(0),
                began_ms: began.parse().unwrap_or(0),
                ended_ms: ended.parse().ok(),
                stuck: Some(stuck).filter(|stuck| !stuck.is_empty()),
                failed: Some(failed).filter(|failed| !failed.is_empty()),
                details: None,
            })
        };
        Ok((rows.into_iter().filter_map(view).collect(), Some(next).filter(|next| !next.is_empty())))
    }

    async fn look(&self, all: &redis::Pipeline) -> Result<Value, BrokerError> {
        let mut open = self.link.connection().await?;
        self.link.run_as_one(&mut open, all).await
    }

    /// None of these scripts does anything a second time.
    async fn again(&self, script: &Lua, call: &Cmd) -> Result<Value, BrokerError> {
        match script.run(&self.link, call).await {
            Err(error) if self.link.is_worth_another(&error).await => script.run(&self.link, call).await,
            other => other,
        }
    }

    fn fits(&self, payload: &Reply) -> Result<(), BrokerError> {
        let (bytes, most) = (payload.body.len(), self.payload_bytes_max);
        if bytes <= most {
            return Ok(());
        }
        Err(BrokerError::Refused(format!(
            "the payload has {bytes} bytes, the limit is {most}; send a reference instead"
        )))
    }

    fn own_keys(&self, call: &mut Cmd, function: &FunctionId, id: &CallId) {
        call.arg(self.keys.execution(function, id)).arg(self.keys.log(function, id));
    }
}

fn begin_args(call: &mut Cmd, beginning: Beginning, reply: Option<&ReplyTo>) {
    let Beginning { input, headers, parent } = beginning;
    let parent = parent.map(|parent| parent.to_string());
    let reply = reply.map(|reply| ("reply", reply.as_str()));
    let known: Vec<_> = reply.into_iter().chain(parent.as_deref().map(|parent| ("parent", parent))).collect();
    call.arg(2 * known.len());
    for (name, value) in known {
        call.arg(name).arg(value);
    }
    let started = Started { run: 1, seed: rand::random(), input, headers };
    record_args(call, &Event::Started(started).to_record());
}

fn record_args(call: &mut Cmd, record: &Record) {
    for (name, value) in record {
        call.arg(name).arg(&value[..]);
    }
}
