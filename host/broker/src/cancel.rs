//! Taking calls back: one that waits is taken out, and one that runs is stopped, on whichever host.
//!
//! A call that waits gets its result in the script that takes it out. One that a host has is that host's to end, because
//! it may be about to give its answer on the short way (docs/decisions/0007): it is told, and ends it under its lease. From
//! a host that does not react the call is taken, once nothing late can come from there any more.

use std::sync::Arc;
use std::time::Duration;

use baton_model::execution::StepRef;
use baton_model::{
    CallId, CancelSeen, CancelStep, Cancelling, EntryId, FunctionId, Priority, ResultDocument, Status, Tenants,
};
use bytes::Bytes;
use redis::{Value, cmd};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::execution;
use crate::keys::Keys;
use crate::link::{BrokerConfig, Link};
use crate::meter::Role;
use crate::script::Lua;
use crate::seal::{self, Seal};
use crate::search::{self, Absent, Budget, Place, STEP};
use crate::{BrokerError, Cut, Executions, Presence, Withdrawn};

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
    /// There is no such call, or its result has expired, or it was not found.
    Unknown(Absent),
}

/// Takes calls back.
pub struct Cancel {
    link: Link,
    keys: Keys,
    presence: Presence,
    result_ttl: Duration,
    tenants: watch::Receiver<Tenants>,
    own_replies_only: bool,
    seal: Arc<Seal>,
    executions: Executions,
    stream: Lua,
    delayed: Lua,
}

/// A script with what all cancelling scripts share before it.
macro_rules! cancelling {
    ($($file:literal),+) => {
        execution::before(concat!(
            "#!lua flags=allow-oom\n",
            include_str!("scripts/next_turn.lua"),
            include_str!("scripts/fields.lua"),
            include_str!("scripts/cancel.lua"),
            $(include_str!($file)),+
        ))
    };
}

/// What a cancelling script answers.
enum Answer {
    Ended(Box<ResultDocument>),
    Held {
        host: String,
        entry: EntryId,
    },
    Next {
        from: String,
        bytes: usize,
    },
    /// It is a step of an execution, as it says under the seal of the hosts; nothing was changed.
    Step {
        said: String,
    },
    Nowhere(Absent),
}

/// The call that is sought.
#[derive(Clone, Copy)]
struct Sought<'a> {
    function: &'a FunctionId,
    id: &'a CallId,
    /// A host whose settling connections are cut; empty if there is none.
    taken_from: &'a str,
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
            seal: config.seal.clone(),
            executions: Executions::new(config)?,
            stream: cancelling!("scripts/cancel_stream.lua"),
            delayed: cancelling!("scripts/waiting.lua", "scripts/cancel_delayed.lua"),
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
        let mut absent = Absent { is_sure: true };
        // What moves while it is searched for has a mark from then on.
        let mut is_first = true;
        loop {
            let answer = self.look(Sought { function, id, taken_from: &taken_from }, is_first).await?;
            let (seen, result) = match answer {
                Answer::Ended(result) => (CancelSeen::Ended, Some(*result)),
                Answer::Held { host, entry } => (CancelSeen::Held { host, entry }, None),
                Answer::Nowhere(none) => {
                    absent.is_sure &= none.is_sure;
                    is_first = false;
                    (CancelSeen::Nowhere, None)
                }
                Answer::Next { .. } | Answer::Step { .. } => (CancelSeen::Nowhere, None),
            };
            taken_from.clear();
            match cancelling.next(seen, began.elapsed()) {
                CancelStep::Done => return Ok(result.map_or(Cancelled::Unknown(absent), of)),
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
                CancelStep::Unknown => return Ok(Cancelled::Unknown(absent)),
                CancelStep::GiveUp => {
                    return Err(BrokerError::Unable(format!("call {id} moves from host to host; take it back again")));
                }
            }
        }
    }

    /// One look wherever a call can be: as the entry that it is named after, where its mark says, and, if it is to be searched
    /// for, among the first of the streams and of the delayed.
    async fn look(&self, sought: Sought<'_>, searches: bool) -> Result<Answer, BrokerError> {
        let Sought { function, id, .. } = sought;
        let delayed = (&self.delayed, Priority::Normal);
        let named = EntryId::parse(id.as_str()).map(Place::Entry);
        let marked = search::place(&self.link, &self.keys, function, id).await?;
        for place in named.into_iter().chain(marked) {
            let answer = match place {
                Place::Entry(entry) => {
                    let (level, entry) = (entry.level(), entry.in_stream());
                    self.step((&self.stream, level), sought, (&entry, &entry), 1).await?
                }
                Place::Delayed(start) => self.walk(delayed, sought, start).await?,
                Place::Execution => match self.executions.cancel(function, id).await? {
                    Withdrawn::Done(result) => Answer::Ended(result),
                    // It has its result by now, if it has one.
                    Withdrawn::Ended | Withdrawn::Unknown => Answer::Nowhere(Absent { is_sure: true }),
                },
            };
            if matches!(answer, Answer::Ended(_) | Answer::Held { .. }) {
                return Ok(answer);
            }
        }
        let mut is_sure = true;
        if !searches {
            return Ok(Answer::Nowhere(Absent { is_sure }));
        }
        let streams = Priority::ALL.map(|level| ((&self.stream, level), "-"));
        for (script, start) in streams.into_iter().chain([(delayed, "0")]) {
            match self.walk(script, sought, start.to_owned()).await? {
                Answer::Nowhere(absent) => is_sure &= absent.is_sure,
                found @ (Answer::Ended(_) | Answer::Held { .. } | Answer::Next { .. } | Answer::Step { .. }) => {
                    return Ok(found);
                }
            }
        }
        Ok(Answer::Nowhere(Absent { is_sure }))
    }

    /// One way through a stream or the delayed set, as far as a search may go.
    async fn walk(
        &self,
        script: (&Lua, Priority),
        sought: Sought<'_>,
        mut start: String,
    ) -> Result<Answer, BrokerError> {
        let mut budget = Budget::new();
        while budget.has_room() {
            match self.step(script, sought, (&start, "+"), STEP).await? {
                Answer::Next { from, bytes } => {
                    start = from;
                    budget.spend(bytes);
                }
                end @ (Answer::Ended(_) | Answer::Held { .. } | Answer::Nowhere(_) | Answer::Step { .. }) => {
                    return Ok(end);
                }
            }
        }
        Ok(Answer::Nowhere(Absent { is_sure: false }))
    }

    /// Looks at a part. If the call is there and is a step of an execution, that learns of its end in the same script.
    async fn step(
        &self,
        script: (&Lua, Priority),
        sought: Sought<'_>,
        part: (&str, &str),
        count: usize,
    ) -> Result<Answer, BrokerError> {
        let said = match self.ask(script, sought, part, count, None).await? {
            Answer::Step { said } => said,
            other @ (Answer::Ended(_) | Answer::Held { .. } | Answer::Next { .. } | Answer::Nowhere(_)) => {
                return Ok(other);
            }
        };
        if !self.seal.is_known() {
            self.seal.learn(&self.link, &self.keys).await?;
        }
        // Whoever forged it has told nobody.
        let parent = self.seal.open_text(sought.function, seal::STEP, &said).and_then(StepRef::parse);
        self.ask(script, sought, part, count, Some(parent.as_ref())).await
    }

    /// `parent` is whose step the call is, if it says one: none inside if no host wrote that.
    async fn ask(
        &self,
        (script, level): (&Lua, Priority),
        Sought { function, id, taken_from }: Sought<'_>,
        (from, to): (&str, &str),
        count: usize,
        parent: Option<Option<&StepRef>>,
    ) -> Result<Answer, BrokerError> {
        let own_replies_only = self.own_replies_only || self.tenants.borrow().of(function.tenant()).own_replies_only;
        let replies = if own_replies_only { format!("{}.", function.tenant()) } else { String::new() };
        let told = parent.flatten();
        let mut call = script.call(if told.is_some() { 10 } else { 7 });
        call.arg(self.keys.calls_at(function, level)).arg(self.keys.claims_at(function, level));
        call.arg(self.keys.delayed(function)).arg(self.keys.result(function, id));
        call.arg(self.keys.mark(function, id));
        call.arg(self.keys.turns(function)).arg(self.keys.line(function));
        if let Some(StepRef { function, execution, .. }) = told {
            call.arg(self.keys.calls(function));
            call.arg(self.keys.execution(function, execution)).arg(self.keys.log(function, execution));
        }
        call.arg(self.keys.group()).arg(id.as_str()).arg(millis(self.result_ttl).max(1));
        call.arg(ResultDocument::cancelled(id.clone(), now_ms()).encode());
        call.arg(self.keys.reply_channels()).arg(replies).arg(self.keys.host_channels()).arg(function.to_string());
        call.arg(taken_from).arg(from).arg(to).arg(count);
        match (parent, told) {
            (None, _) => call.arg(""),
            (Some(_), None) => call.arg("-"),
            (Some(_), Some(step)) => call.arg(step.execution.as_str()).arg(step.run).arg(step.step),
        };
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
        b"next" => {
            let (from, bytes) = (text(), text());
            Ok(Answer::Next { from, bytes: bytes.parse().unwrap_or(0) })
        }
        b"step" => Ok(Answer::Step { said: text() }),
        b"none" => Ok(Answer::Nowhere(Absent { is_sure: true })),
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
