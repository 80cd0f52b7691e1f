//! What a run of an execution came to, on its way into the log: facts, calls and timers in one step.

use std::time::Duration;

use baton_model::execution::{Event, StepCall, StepRef};
use baton_model::{CallId, FunctionId, HostId, Lease, ReplyTo};
use redis::{Cmd, Value};

use super::{record_args, script};
use crate::BrokerError;
use crate::caller::MARK_LASTS_MS;
use crate::keys::Keys;
use crate::link::Link;
use crate::script::Lua;
use crate::seal::{DEPTH, STEP, Seal};
use crate::settle::Verdict;

/// What a run came to.
#[derive(Debug)]
pub struct Advance {
    /// The execution.
    pub id: CallId,
    /// Which run was run.
    pub run: u32,
    /// How many entries its log had.
    pub seen: u64,
    /// How many steps these had.
    pub steps: u32,
    /// What is written behind them.
    pub facts: Vec<Event>,
    /// The steps whose timers are of no use any more.
    pub idle_timers: Vec<u32>,
    /// To which component it was to be moved when it was run; empty if to none.
    pub wish: String,
    /// A component that it cannot be moved to, and why; empty if none was tried, or it is moved.
    pub refused: String,
    /// How many calls wait for this execution, each for the next.
    pub depth: u32,
    /// How it goes on.
    pub course: Course,
}

/// How an execution goes on.
#[derive(Debug)]
pub enum Course {
    /// It waits for what its log does not answer.
    Waits,
    /// More steps follow at once.
    GoesOn,
    /// It begins anew: behind its new `started` stand the events that it has not waited for yet.
    Restarts,
    /// It cannot go on before somebody mends it.
    Stuck {
        /// What stands in the way, for people.
        why: String,
    },
    /// It has its end, whose fact is the last.
    Ends {
        /// The result document, encoded.
        document: Vec<u8>,
        /// Whom to tell.
        reply: Option<ReplyTo>,
    },
}

/// Writes what runs came to.
pub(crate) struct Advances {
    advance: Lua,
    result_ttl: Duration,
    log_ttl: Duration,
}

impl Advances {
    pub(crate) fn new(result_ttl: Duration, log_ttl: Duration) -> Self {
        let advance = script(" flags=allow-oom", include_str!("../scripts/execution_advance.lua"));
        Self { advance, result_ttl, log_ttl }
    }

    /// Writes all of it or nothing.
    pub(crate) async fn write(
        &self,
        (link, keys, seal): (&Link, &Keys, &Seal),
        host: &HostId,
        function: &FunctionId,
        lease: Lease,
        advance: &Advance,
    ) -> Result<Verdict, BrokerError> {
        let Advance { id, run, seen, steps, facts, idle_timers, wish, refused, depth, course } = advance;
        let calls: Vec<(FunctionId, &StepCall)> = facts.iter().filter_map(|fact| called(function, fact)).collect();
        let mut call = self.advance.call(8 + 3 * calls.len());
        let level = lease.entry.level();
        call.arg(keys.calls_at(function, level)).arg(keys.claims_at(function, level)).arg(keys.timers(function));
        call.arg(keys.execution(function, id)).arg(keys.log(function, id)).arg(keys.executions(function));
        call.arg(keys.result(function, id)).arg(keys.mark(function, id));
        for (called, made) in &calls {
            call.arg(keys.calls(called)).arg(keys.result(called, &made.id)).arg(keys.mark(called, &made.id));
        }
        call.arg(keys.group()).arg(host.as_str()).arg(lease.entry.in_stream()).arg(lease.claims);
        call.arg(id.as_str()).arg(run).arg(seen).arg(steps);
        let (word, text, reply): (&str, &[u8], _) = match course {
            Course::Waits => ("waits", b"", None),
            Course::GoesOn => ("goes-on", b"", None),
            Course::Restarts => ("restarts", b"", None),
            Course::Stuck { why } => ("stuck", why.as_bytes(), None),
            Course::Ends { document, reply } => {
                let is_completed = matches!(facts.last(), Some(Event::Completed(_)));
                (if is_completed { "completed" } else { "failed" }, document, reply.as_ref())
            }
        };
        call.arg(word).arg(text).arg(millis(self.result_ttl)).arg(millis(self.log_ttl)).arg(MARK_LASTS_MS);
        call.arg(reply.map(|reply| keys.reply_channel(reply)).unwrap_or_default());
        call.arg(keys.hosts_channel()).arg(function.to_string());
        call.arg(idle_timers.iter().map(u32::to_string).collect::<Vec<_>>().join(","));
        call.arg(wish).arg(refused).arg(facts.len());
        for fact in facts {
            let parent = |step| StepRef { function: function.clone(), execution: id.clone(), run: *run, step };
            fact_args(&mut call, fact, |step| entry_of(seal, function, fact, (*depth, parent(step))))?;
        }
        match self.advance.run(link, &call).await? {
            Value::Int(1) => Ok(Verdict::Done),
            Value::Int(2) => Ok(Verdict::Duplicate),
            Value::Int(0) => Ok(Verdict::Fenced),
            Value::Int(-2) => {
                let gone = format!(
                    "the component of execution {id} of {function} is not kept; it is tried again when its lease is over"
                );
                Err(BrokerError::Refused(gone))
            }
            Value::Int(-1) => {
                let damaged = format!(
                    "the log of execution {id} of {function} is not what its state says; look with `baton exec show`"
                );
                Err(BrokerError::Refused(damaged))
            }
            other => Err(BrokerError::shape("execution_advance.lua", &other)),
        }
    }
}

/// The function that a fact calls, and the call.
fn called<'a>(function: &FunctionId, fact: &'a Event) -> Option<(FunctionId, &'a StepCall)> {
    match fact {
        Event::CallScheduled { call, .. } => {
            Some((FunctionId::new(function.tenant().clone(), call.function.clone()), call))
        }
        _ => None,
    }
}

/// A fact, and what it takes beside.
fn fact_args(
    call: &mut Cmd,
    fact: &Event,
    entry: impl FnOnce(u32) -> Result<Vec<(String, Vec<u8>)>, BrokerError>,
) -> Result<(), BrokerError> {
    let takes = match fact {
        Event::CallScheduled { .. } => "call".to_owned(),
        Event::Started(_) => "begin".to_owned(),
        Event::MovedToDigest { .. } => "pin".to_owned(),
        Event::TimerSet { due_ms, .. } | Event::EventAwaited { due_ms: Some(due_ms), .. } => due_ms.to_string(),
        Event::CallCompleted { .. }
        | Event::TimerFired { .. }
        | Event::EventAwaited { due_ms: None, .. }
        | Event::EventReceived(_)
        | Event::Emitted { .. }
        | Event::Completed(_)
        | Event::Failed(_)
        | Event::Cancelled => String::new(),
    };
    let step = fact.asked_in();
    let record = fact.to_record();
    call.arg(takes).arg(step.map(|step| step.to_string()).unwrap_or_default()).arg(2 * record.len());
    record_args(call, &record);
    if let (Event::CallScheduled { .. }, Some(step)) = (fact, step) {
        let entry = entry(step)?;
        call.arg(2 * entry.len());
        for (name, value) in entry {
            call.arg(name).arg(value);
        }
    }
    Ok(())
}

/// The entry of a call that a step makes.
fn entry_of(
    seal: &Seal,
    function: &FunctionId,
    fact: &Event,
    (depth, parent): (u32, StepRef),
) -> Result<Vec<(String, Vec<u8>)>, BrokerError> {
    let Some((called, call)) = called(function, fact) else { return Ok(Vec::new()) };
    let unknown = || BrokerError::Unable("the seal of the hosts is not known yet".to_owned());
    let sealed = seal.close_text(&called, STEP, &parent.to_string()).ok_or_else(unknown)?;
    let depth = seal.close(&called, depth.saturating_add(1)).ok_or_else(unknown)?;
    Ok(vec![
        ("payload".to_owned(), call.payload.body.to_vec()),
        ("id".to_owned(), call.id.as_str().into()),
        ("type".to_owned(), call.payload.media_type.clone().into()),
        (STEP.to_owned(), sealed.into()),
        (DEPTH.to_owned(), depth.into()),
    ])
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}
