//! What a run of a durable function came to, as it is written behind the log.

use std::collections::BTreeMap;

use baton_broker::{Advance, Course, Loaded, Settlement};
use baton_engine::{Component, Executed, Ran, Stop};
use baton_model::execution::{Event, FAILED, LOG_BYTES_MAX, LOG_EVENTS_MAX, Started};
use baton_model::{Call, CallError, Disposition, FunctionId, Outcome, Reply, ResultDocument, Status, decide};
use bytes::Bytes;

use super::{Runner, first_line};
use crate::catalog::Revision;
use crate::clock::now_ms;
use crate::metrics::{Ended, Fate};
use crate::traces::{self, Run};

/// The most events that one run hands over to the next: one script writes them.
const UNREAD_MAX: usize = 1_000;
/// The header that says how many calls wait for a call.
const DEPTH: &str = "x-baton-depth";

/// What is to be written, and how the attempt is counted.
pub(super) struct Written {
    pub(super) settlement: Settlement,
    pub(super) ended: Ended,
    pub(super) fate: Fate,
}

/// The functions that are to be called, how often, and how many bytes those calls have.
pub(super) fn calls_made(call: &Call, settlement: &Settlement) -> BTreeMap<FunctionId, (u64, usize)> {
    let Settlement::Advance(advance) = settlement else { return BTreeMap::new() };
    let made = |fact: &Event| {
        let Event::CallScheduled { call: made, .. } = fact else { return None };
        let function = FunctionId::new(call.function.tenant().clone(), made.function.clone());
        Some((function, made.payload.body.len()))
    };
    let mut all: BTreeMap<_, (u64, usize)> = BTreeMap::new();
    for (function, bytes) in advance.facts.iter().filter_map(made) {
        let calls = all.entry(function).or_default();
        *calls = (calls.0 + 1, calls.1 + bytes);
    }
    all
}

pub(super) fn depth_of(headers: &[(String, String)]) -> u32 {
    headers.iter().find(|(name, _)| name == DEPTH).and_then(|(_, depth)| depth.parse().ok()).unwrap_or(0)
}

impl Runner {
    /// What is written, by what the run came to.
    pub(super) fn came_of(
        &self,
        call: &Call,
        revision: &Revision,
        component: &Component,
        from: From<'_>,
        executed: Executed,
    ) -> Written {
        if let Some(divergence) = executed.divergence() {
            return stuck(call, from.known, divergence, from.refused);
        }
        let Executed { outcome, ran, .. } = executed;
        let ended = Ended::of(&outcome);
        match (ran, outcome) {
            (Some(Ran { stop: Some(Stop::Waits), fresh }), _) => {
                Written { settlement: from.advance(call, fresh, Course::Waits), ended: Ended::Waits, fate: Fate::Plain }
            }
            (Some(Ran { stop: Some(Stop::GoesOn), fresh }), _) => Written {
                settlement: from.advance(call, fresh, Course::GoesOn),
                ended: Ended::Waits,
                fate: Fate::Plain,
            },
            (Some(Ran { stop: Some(Stop::Restarts { input, unread }), mut fresh }), _) => {
                let started =
                    Started { run: from.known.run + 1, seed: rand::random(), input, headers: from.headers.clone() };
                if unread.len() > UNREAD_MAX {
                    let why = format!(
                        "it begins anew with {} events that it has not waited for, the most is {UNREAD_MAX}; let it wait for them first",
                        unread.len()
                    );
                    return stuck(call, from.known, why, from.refused);
                }
                fresh.push(Event::Started(started));
                fresh.extend(unread);
                Written {
                    settlement: from.advance(call, fresh, Course::Restarts),
                    ended: Ended::Waits,
                    fate: Fate::Plain,
                }
            }
            (Some(Ran { stop: None, fresh }), Outcome::Replied(reply)) => {
                self.ends(call, component, from, fresh, ended, Ok(reply))
            }
            (Some(Ran { stop: None, fresh }), Outcome::Rejected(refusal)) => {
                let error = CallError { code: refusal.code, message: refusal.message };
                self.ends(call, component, from, fresh, ended, Err(error))
            }
            // Run again over the same log, it would ask for the same again.
            (Some(Ran { stop: None, fresh }), Outcome::RetryAsked { message, .. }) => {
                self.ends(call, component, from, fresh, ended, Err(CallError { code: FAILED.to_owned(), message }))
            }
            (_, outcome) => self.fails(call, revision, from, outcome),
        }
    }

    pub(super) fn ends(
        &self,
        call: &Call,
        component: &Component,
        from: From<'_>,
        mut fresh: Vec<Event>,
        ended: Ended,
        answer: Result<Reply, CallError>,
    ) -> Written {
        let (status, media_type, body) = match &answer {
            Ok(reply) => (Status::Ok, reply.media_type.clone(), reply.body.clone()),
            Err(_) => (Status::Error, "application/json".to_owned(), Bytes::new()),
        };
        let mut document = ResultDocument::new(status, call.id.clone(), media_type, body);
        document.error = answer.as_ref().err().cloned();
        document.attempts = call.attempt;
        document.digest = Some(component.digest());
        document.host = Some(self.host.clone());
        document.accepted_ms = from.known.began_ms;
        document.started_ms = Some(from.started_ms);
        document.finished_ms = now_ms();
        fresh.push(answer.map_or_else(Event::Failed, Event::Completed));
        let course = Course::Ends { document: document.encode(), reply: from.known.reply.clone() };
        Written { settlement: from.advance(call, fresh, course), ended, fate: Fate::Plain }
    }

    /// An attempt that came to nothing is made again as that of a call is; if that is of no use, the execution is stuck.
    fn fails(&self, call: &Call, revision: &Revision, from: From<'_>, outcome: Outcome) -> Written {
        let ended = Ended::of(&outcome);
        match decide(outcome, call.attempt, &revision.retry, None, rand::random()) {
            Disposition::Retry { after, error } => {
                let run = Run {
                    attempts: call.attempt,
                    started_ms: Some(from.started_ms),
                    digest: Some(revision.component.digest()),
                    timings: None,
                };
                let settlement = Settlement::Requeue {
                    id: call.id.clone(),
                    attempt: call.attempt.saturating_add(1),
                    accepted_ms: call.accepted_ms,
                    after: Some(after),
                    history: Some(traces::history(&self.host, call, &run, &error, Some(after))),
                };
                Written { settlement, ended, fate: Fate::Retry }
            }
            Disposition::Bury { error, .. } | Disposition::Fail(_, error) => {
                let why = format!("{}: {}", error.code, first_line(&error.message));
                Written { ended, ..stuck(call, from.known, why, from.refused) }
            }
            Disposition::Answer(_) => stuck(call, from.known, "it answered without an end".to_owned(), from.refused),
        }
    }
}

/// From where a run went on.
pub(super) struct From<'a> {
    pub(super) known: &'a Loaded,
    pub(super) first: Vec<Event>,
    /// The step that waited for an event, with a patience.
    pub(super) open: Option<u32>,
    /// Those of whoever began it.
    pub(super) headers: Vec<(String, String)>,
    pub(super) started_ms: u64,
    /// A component that it could not be moved to, and why; empty if none was tried.
    pub(super) refused: String,
}

impl From<'_> {
    fn advance(self, call: &Call, fresh: Vec<Event>, course: Course) -> Settlement {
        let Self { known, first, open, refused, headers, .. } = self;
        let depth = depth_of(&headers);
        // The step that it waits for now keeps its timer; those of the others are of no use.
        let last = fresh.iter().rev().find_map(Event::asked_in);
        let waits_at = matches!(course, Course::Waits).then_some(last.or(open)).flatten();
        let patient = |event: &Event| match event {
            Event::EventAwaited { step, due_ms: Some(_), .. } => Some(*step),
            _ => None,
        };
        let idle = open.into_iter().chain(fresh.iter().filter_map(patient)).filter(|step| Some(*step) != waits_at);
        let idle_timers = idle.collect();
        let facts: Vec<Event> = first.into_iter().chain(fresh).collect();
        let is_too_long = known.length as usize + facts.len() > LOG_EVENTS_MAX || known.bytes > LOG_BYTES_MAX;
        if is_too_long && matches!(course, Course::Waits | Course::GoesOn) {
            let why = format!(
                "its log would have more than {LOG_EVENTS_MAX} events, or has more than {LOG_BYTES_MAX} bytes; let the function \
                 restart now and then, and hand references over rather than large payloads"
            );
            return stuck(call, known, why, refused).settlement;
        }
        Settlement::Advance(Box::new(Advance {
            id: call.id.clone(),
            run: known.run,
            seen: known.length,
            steps: known.steps,
            facts,
            idle_timers,
            wish: known.wish.clone(),
            refused,
            depth,
            course,
        }))
    }
}

/// The wake goes, and nothing is written.
pub(super) fn over(call: &Call) -> Written {
    let advance = Advance {
        id: call.id.clone(),
        run: 0,
        seen: 0,
        steps: 0,
        facts: Vec::new(),
        idle_timers: Vec::new(),
        wish: String::new(),
        refused: String::new(),
        depth: 0,
        course: Course::Waits,
    };
    Written { settlement: Settlement::Advance(Box::new(advance)), ended: Ended::SentTwice, fate: Fate::Plain }
}

pub(super) fn stuck(call: &Call, known: &Loaded, why: String, refused: String) -> Written {
    tracing::warn!(function = %call.function, execution = %call.id, why = first_line(&why), "an execution is stuck");
    let advance = Advance {
        id: call.id.clone(),
        run: known.run,
        seen: known.length,
        steps: known.steps,
        facts: Vec::new(),
        idle_timers: Vec::new(),
        wish: known.wish.clone(),
        refused,
        depth: 0,
        course: Course::Stuck { why },
    };
    Written { settlement: Settlement::Advance(Box::new(advance)), ended: Ended::Stuck, fate: Fate::Plain }
}
