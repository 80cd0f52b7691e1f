//! Taking calls back: one that waits is taken out, and one that runs is stopped, on whichever host.
//!
//! A call that waits gets its result in the script that takes it out. One that a host has is that host's to end, because
//! it may be about to give its answer on the short way (docs/decisions/0007): it is told, and ends it under its lease. From
//! a host that does not react the call is taken, once nothing late can come from there any more.

use std::time::Duration;

use baton_model::{
    CallId, CancelSeen, CancelStep, Cancelling, EntryId, FunctionId, Priority, ResultDocument, Status, Tenants,
};
use bytes::Bytes;
use redis::{Value, cmd};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::keys::{GROUP, Keys};
use crate::link::{BrokerConfig, Link};
use crate::meter::Role;
use crate::script::Lua;
use crate::{BrokerError, Cut, Presence};

/// The most entries of each level, and the most delayed calls, among which a call is searched for by its own id.
const SEARCH_MAX: usize = 10_000;
/// The most that one script run looks at, payloads and all: of the largest, Redis is held for a tenth of a second.
const STEP: usize = 16;
/// Between two looks at the result of a call that a host was told to stop.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(25);

/// What came of taking a call back.
#[derive(Debug)]
pub enum Cancelled {
    /// It is taken back. This is its result.
    Done(ResultDocument),
    /// It had ended before. This is its result.
    Ended(ResultDocument),
    /// There is no such call, or its result has expired, or more than 10,000 calls stand before it.
    Unknown,
}

/// Takes calls back.
pub struct Cancel {
    link: Link,
    keys: Keys,
    presence: Presence,
    result_ttl: Duration,
    tenants: watch::Receiver<Tenants>,
    own_replies_only: bool,
    stream: Lua,
    delayed: Lua,
}

/// A script with what all cancelling scripts share before it.
macro_rules! cancelling {
    ($file:literal) => {
        Lua::new(concat!(
            "#!lua flags=allow-oom\n",
            include_str!("scripts/next_turn.lua"),
            include_str!("scripts/cancel.lua"),
            include_str!($file)
        ))
    };
}

/// What a cancelling script answers.
enum Answer {
    Ended(Box<ResultDocument>),
    Held { host: String, entry: EntryId },
    Next(String),
    Nowhere,
}

impl Cancel {
    /// With these settings.
    ///
    /// # Errors
    /// [`BrokerError::BadUrl`].
    pub fn new(config: &BrokerConfig) -> Result<Self, BrokerError> {
        Ok(Self {
            link: Link::new(config.client()?).counted(config, Role::Caller),
            keys: config.keys(),
            presence: Presence::new(config)?,
            result_ttl: config.result_ttl,
            tenants: config.tenants.clone(),
            own_replies_only: false,
            stream: cancelling!("scripts/cancel_stream.lua"),
            delayed: cancelling!("scripts/cancel_delayed.lua"),
        })
    }

    /// For whoever does not know what is said about tenants: notices go to a tenant's own reply channels alone. Who listens
    /// elsewhere finds the result under its key.
    #[must_use]
    pub fn own_replies_only(self) -> Self {
        Self { own_replies_only: true, ..self }
    }

    /// Takes a call back. It is over when this returns: nothing of it waits any more, and its host has stopped it or was
    /// cut off. Dropping the future leaves it to chance whether the call is taken back.
    ///
    /// # Errors
    /// Any [`BrokerError`]; whether the call was taken back is then unknown, and it may be tried again.
    pub async fn cancel(&self, function: &FunctionId, id: &CallId) -> Result<Cancelled, BrokerError> {
        let began = Instant::now();
        let mut cancelling = Cancelling::default();
        let mut taken_from = String::new();
        loop {
            let answer = self.look(function, id, &taken_from).await?;
            let (seen, result) = match answer {
                Answer::Ended(result) => (CancelSeen::Ended, Some(*result)),
                Answer::Held { host, entry } => (CancelSeen::Held { host, entry }, None),
                Answer::Next(_) | Answer::Nowhere => (CancelSeen::Nowhere, None),
            };
            taken_from.clear();
            match cancelling.next(seen, began.elapsed()) {
                CancelStep::Done => return Ok(result.map_or(Cancelled::Unknown, of)),
                CancelStep::Wait(patience) => {
                    if let Some(result) = self.result_within(function, id, patience).await? {
                        return Ok(of(result));
                    }
                }
                CancelStep::TakeFrom(host) => {
                    // What it may have on its way must not arrive after the result that is written now.
                    self.presence.cut_off(std::slice::from_ref(&host), Cut::Settling).await?;
                    taken_from = host;
                }
                CancelStep::LookAgain => {}
                CancelStep::Unknown => return Ok(Cancelled::Unknown),
                CancelStep::GiveUp => {
                    return Err(BrokerError::Unable(format!("call {id} moves from host to host; take it back again")));
                }
            }
        }
    }

    /// One look wherever a call can be: as the entry that it is named after, in the streams, among the delayed.
    async fn look(&self, function: &FunctionId, id: &CallId, taken_from: &str) -> Result<Answer, BrokerError> {
        let mut last = Answer::Nowhere;
        let named = match EntryId::parse(id.as_str()) {
            Some(entry) => Some(entry),
            // Its mark says as which entry it was accepted, if a door of ours accepted it.
            None => match self.link.run(cmd("GET").arg(self.keys.mark(function, id))).await? {
                Value::BulkString(mark) => std::str::from_utf8(&mark).ok().and_then(EntryId::parse),
                _ => None,
            },
        };
        if let Some(entry) = named {
            let (level, entry) = (entry.level(), entry.in_stream());
            last = self.step((&self.stream, level), function, id, taken_from, (&entry, &entry), 1).await?;
        }
        let streams = Priority::ALL.map(|level| ((&self.stream, level), "-"));
        for (script, start) in streams.into_iter().chain([((&self.delayed, Priority::Normal), "0")]) {
            let mut from = start.to_owned();
            for _ in 0..SEARCH_MAX / STEP {
                if matches!(last, Answer::Ended(_) | Answer::Held { .. }) {
                    return Ok(last);
                }
                last = self.step(script, function, id, taken_from, (&from, "+"), STEP).await?;
                match &last {
                    Answer::Next(next) => from.clone_from(next),
                    Answer::Nowhere => break,
                    Answer::Ended(_) | Answer::Held { .. } => {}
                }
            }
        }
        Ok(last)
    }

    async fn step(
        &self,
        (script, level): (&Lua, Priority),
        function: &FunctionId,
        id: &CallId,
        taken_from: &str,
        (from, to): (&str, &str),
        count: usize,
    ) -> Result<Answer, BrokerError> {
        let own_replies_only = self.own_replies_only || self.tenants.borrow().of(function.tenant()).own_replies_only;
        let replies = if own_replies_only { format!("{}.", function.tenant()) } else { String::new() };
        let mut call = script.call(7);
        call.arg(self.keys.calls_at(function, level)).arg(self.keys.claims_at(function, level));
        call.arg(self.keys.delayed(function)).arg(self.keys.result(function, id));
        call.arg(self.keys.mark(function, id));
        call.arg(self.keys.turns(function)).arg(self.keys.line(function));
        call.arg(GROUP).arg(id.as_str()).arg(millis(self.result_ttl).max(1));
        call.arg(ResultDocument::cancelled(id.clone(), now_ms()).encode());
        call.arg(self.keys.reply_channels()).arg(replies).arg(self.keys.host_channels()).arg(function.to_string());
        call.arg(taken_from).arg(from).arg(to).arg(count);
        let answer = match script.run(&self.link, &call).await {
            // The connection may have been closed while it was idle. Nothing is done twice: the first result stands.
            Err(BrokerError::Unreachable(_)) => script.run(&self.link, &call).await?,
            other => other?,
        };
        read(id, answer)
    }

    /// The result of a call, waited for so long.
    async fn result_within(
        &self,
        function: &FunctionId,
        id: &CallId,
        patience: Duration,
    ) -> Result<Option<ResultDocument>, BrokerError> {
        let end = Instant::now() + patience;
        let mut pause = PAUSE_MIN;
        loop {
            tokio::time::sleep_until(end.min(Instant::now() + pause)).await;
            match self.link.run(cmd("GET").arg(self.keys.result(function, id))).await? {
                Value::BulkString(document) => return decode(id, document).map(Some),
                _ if Instant::now() >= end => return Ok(None),
                _ => pause = (pause * 2).min(PAUSE_MAX),
            }
        }
    }
}

fn of(result: ResultDocument) -> Cancelled {
    if result.status == Status::Cancelled { Cancelled::Done(result) } else { Cancelled::Ended(result) }
}

fn read(id: &CallId, answer: Value) -> Result<Answer, BrokerError> {
    let Value::Array(parts) = answer else { return Err(BrokerError::shape("cancel.lua", &answer)) };
    let mut texts = parts.into_iter().filter_map(|part| match part {
        Value::BulkString(text) => Some(text),
        Value::Int(number) => Some(number.to_string().into_bytes()),
        _ => None,
    });
    let word = texts.next().unwrap_or_default();
    let mut text = || String::from_utf8(texts.next().unwrap_or_default()).unwrap_or_default();
    match &word[..] {
        b"ended" | b"out" => decode(id, texts.next().unwrap_or_default()).map(|result| Answer::Ended(Box::new(result))),
        b"held" => {
            let (host, entry) = (text(), text());
            let entry = EntryId::parse(&entry).ok_or_else(|| BrokerError::shape("cancel.lua", &entry))?;
            Ok(Answer::Held { host, entry })
        }
        b"next" => Ok(Answer::Next(text())),
        b"none" => Ok(Answer::Nowhere),
        _ => Err(BrokerError::shape("cancel.lua", &word)),
    }
}

fn decode(id: &CallId, document: Vec<u8>) -> Result<ResultDocument, BrokerError> {
    let read = ResultDocument::decode(&mut Bytes::from(document));
    read.map_err(|error| BrokerError::Refused(format!("the result of {id} cannot be read: {error}")))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn now_ms() -> u64 {
    millis(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default())
}
