//! One run of a durable function: its log is read, the function is run over it, and what comes of that is written behind it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use baton_broker::{Advance, Beginning, BrokerError, Course, Delivery, Loaded, NEWEST, Next, Settlement};
use baton_engine::{Component, DurableRun, Executed, Invocation, Ran, Stop};
use baton_model::execution::{Event, LOG_BYTES_MAX, LOG_EVENTS_MAX, Log, Replay, Started, calls_of};
use baton_model::{Call, CallError, Digest, Disposition, FunctionId, Outcome, Reply, ResultDocument, Status, decide};
use bytes::Bytes;

use super::leaving::{Count, Settling, send};
use super::{PanicGuard, Runner, ToSettler, first_line};
use crate::catalog::Revision;
use crate::clock::now_ms;
use crate::flights::FlightKey;
use crate::guest_log::GuestLog;
use crate::metrics::{Ended, Fate};
use crate::seats::Seat;
use crate::traces::{self, Run};

/// The most events that one run hands over to the next: one script writes them.
const UNREAD_MAX: usize = 1_000;
/// The header that says how many calls wait for a call.
const DEPTH: &str = "x-baton-depth";

/// What a component is that knows no steps.
const NOT_DURABLE: &str = "is not durable: it does not import baton:durable/steps; call it instead";

/// What is to be written, and how the attempt is counted.
struct Written {
    settlement: Settlement,
    ended: Ended,
    fate: Fate,
}

/// What every run of one execution is made from.
struct RunOver<'a> {
    call: &'a Arc<Call>,
    seat: &'a Seat,
    revision: &'a Revision,
    /// What is known of it beside its log.
    known: &'a Loaded,
}

/// To which component it is to be moved before it is run, and how that was said; none if it stays where it is. The text says
/// what is wrong with the wish.
fn target(known: &Loaded, pinned: Option<Digest>, revision: &Revision) -> Option<(String, Result<Digest, String>)> {
    let newest = revision.component.digest();
    let target = match known.wish.as_str() {
        "" => {
            let was_refused = known.refused.as_ref().is_some_and(|said| said.starts_with(&newest.to_string()));
            // One that was never run goes to the newest in any case.
            (revision.moves && pinned.is_some() && !was_refused).then_some(Ok(newest))
        }
        NEWEST => Some(Ok(newest)),
        wish => Some(Digest::parse(wish).ok_or_else(|| "is no digest of a component".to_owned())),
    }?;
    let said = target.as_ref().map_or_else(|_| known.wish.clone(), Digest::to_string);
    (target != Ok(pinned.unwrap_or(newest))).then_some((said, target))
}

/// The functions that are to be called, how often, and how many bytes those calls have.
fn calls_made(call: &Call, settlement: &Settlement) -> BTreeMap<FunctionId, (u64, usize)> {
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

fn depth_of(headers: &[(String, String)]) -> u32 {
    headers.iter().find(|(name, _)| name == DEPTH).and_then(|(_, depth)| depth.parse().ok()).unwrap_or(0)
}

fn put_back(call: &Call, error: &BrokerError) {
    tracing::debug!(function = %call.function, execution = %call.id, %error, "an execution is put back");
}

impl Runner {
    /// Runs an execution for which a wake came.
    pub(super) async fn advance(
        self: Arc<Self>,
        delivery: Delivery,
        seat: Seat,
        revision: Arc<Revision>,
        settler: ToSettler,
    ) {
        let key = FlightKey::of(&delivery);
        let guard = PanicGuard { runner: &self, key: &key };
        let written = self.run_execution(&delivery, &seat, &revision).await;
        drop(guard);
        let Some(Written { settlement, ended, fate }) = written else {
            // Redis does not say how it stands; another time, or another host.
            return self.hand_back(delivery, Some(seat), Some(self.hand_back_after), &settler).await;
        };
        if let Err(full) = self.nesting.room_for(&calls_made(&delivery.call, &settlement)).await {
            // Nothing of it is written, so it is run again when there may be room.
            tracing::debug!(function = %delivery.call.function, execution = %delivery.call.id, full, "an execution is put back");
            return self.hand_back(delivery, Some(seat), Some(self.hand_back_after), &settler).await;
        }
        if !self.flights.begin_settling(&key) {
            return;
        }
        let Delivery { call, lease, .. } = delivery;
        let settled = Settling { function: call.function.clone(), lease, read: None, next: Next::Nothing, settlement };
        send(&settler, settled, Count { ended, fate, metrics: revision.metrics.clone() }, Some(seat)).await;
    }

    /// Makes an execution of a call of a durable function that came like any other.
    pub(super) async fn adopt(&self, delivery: Delivery, seat: Option<Seat>, settler: &ToSettler) {
        let Delivery { call, lease, .. } = &delivery;
        let input = Reply { media_type: call.media_type.clone(), body: call.payload.clone() };
        let beginning = Beginning { input, headers: call.headers.clone(), parent: call.step.as_deref().cloned() };
        let adopted = self.shelf.redis.adopt(&self.host, call, *lease, beginning);
        match adopted.await {
            Ok(_) => self.flights.land(&FlightKey::of(&delivery)),
            Err(error) => {
                tracing::debug!(function = %call.function, call = %call.id, %error, "an execution could not be begun, and is put back");
                self.hand_back(delivery, seat, Some(self.hand_back_after), settler).await;
            }
        }
    }

    /// None if Redis does not answer.
    async fn run_execution(&self, delivery: &Delivery, seat: &Seat, revision: &Revision) -> Option<Written> {
        let Delivery { call, lease, .. } = delivery;
        let loaded = self.shelf.redis.load(&call.function, &call.id).await.inspect_err(|e| put_back(call, e)).ok()?;
        let Some(mut known) = loaded.filter(|known| known.ended_ms.is_none()) else {
            // It has ended, or is forgotten: nothing is written, and the wake goes.
            return Some(over(call));
        };
        let log = match Log::read_to(std::mem::take(&mut known.log), (known.length, &known.link)) {
            Ok(log) => log,
            Err(error) => return Some(stuck(call, &known, error.to_string(), String::new())),
        };
        if lease.claims > revision.retry.hosts_lost_max {
            let why = format!("{} hosts were lost while they ran it", lease.claims);
            return Some(stuck(call, &known, why, String::new()));
        }
        let run = RunOver { call, seat, revision, known: &known };
        let mut refused = String::new();
        if let Some((said, target)) = target(&known, log.digest(), revision) {
            match self.try_on(&run, target, log.clone()).await? {
                Ok(written) => return Some(written),
                Err(why) => refused = format!("{said} {why}"),
            }
            tracing::warn!(function = %call.function, execution = %call.id, refused, "an execution is not moved");
            if let Some(why) = known.stuck.clone() {
                return Some(stuck(call, &known, why, refused));
            }
        }
        let pinned = log.digest();
        let component = match self.component(&run, pinned.unwrap_or(revision.component.digest())).await? {
            Ok(component) => component,
            Err(why) => return Some(stuck(call, &known, why, refused)),
        };
        if !component.is_durable() {
            let error =
                CallError { code: "not-durable".to_owned(), message: format!("{} {NOT_DURABLE}", call.function) };
            let Started { headers, .. } = log.started().clone();
            let from = From { known: &known, first: Vec::new(), open: None, headers, started_ms: now_ms(), refused };
            return Some(self.ends(call, &component, from, Vec::new(), Ended::Rejected, Err(error)));
        }
        let first = if pinned.is_none() { self.moves_to(&run, &component).await? } else { Vec::new() };
        let (from, executed) = self.run_over(&run, &component, log, first, refused).await;
        Some(self.came_of(call, revision, &component, from, executed))
    }

    /// Runs an execution on another component over its whole log. What comes of that is what it goes on with, if the log has the
    /// steps that the component asks for; the text says why not. None if Redis does not answer.
    async fn try_on(
        &self,
        run: &RunOver<'_>,
        target: Result<Digest, String>,
        log: Log,
    ) -> Option<Result<Written, String>> {
        let RunOver { call, revision, .. } = run;
        let digest = match target {
            Ok(digest) => digest,
            Err(why) => return Some(Err(why)),
        };
        let component = match self.component(run, digest).await? {
            Ok(component) => component,
            Err(why) => return Some(Err(why)),
        };
        if !component.is_durable() {
            return Some(Err(NOT_DURABLE.to_owned()));
        }
        let first = self.moves_to(run, &component).await?;
        let (from, executed) = self.run_over(run, &component, log, first, String::new()).await;
        match &executed.ran {
            Some(Ran { stop: Some(Stop::Diverged(divergence)), .. }) => return Some(Err(divergence.to_string())),
            Some(Ran { stop: Some(Stop::Waits | Stop::GoesOn | Stop::Restarts { .. }), .. }) => {}
            Some(Ran { stop: None, .. }) | None => {
                let decided = decide(executed.outcome.clone(), call.attempt, &revision.retry, None, 0.0);
                if let Disposition::Bury { error, .. } = decided {
                    return Some(Err(format!("{}: {}", error.code, first_line(&error.message))));
                }
            }
        }
        Some(Ok(self.came_of(call, revision, &component, from, executed)))
    }

    /// A component of the function. The text says why it cannot be had. None if Redis does not answer.
    async fn component(&self, run: &RunOver<'_>, digest: Digest) -> Option<Result<Component, String>> {
        let RunOver { call, revision, .. } = run;
        if digest == revision.component.digest() {
            return Some(Ok(revision.component.clone()));
        }
        let old = self.shelf.old(&call.function, digest, &revision.grants).await;
        old.inspect_err(|error| put_back(call, error)).ok()
    }

    /// The fact that it runs on this component from here on, which is kept first. None if Redis does not answer.
    async fn moves_to(&self, run: &RunOver<'_>, component: &Component) -> Option<Vec<Event>> {
        let digest = component.digest();
        if digest == run.revision.component.digest() {
            self.shelf.keep(run.revision).await.inspect_err(|error| put_back(run.call, error)).ok()?;
        }
        Some(vec![Event::MovedToDigest { digest }])
    }

    async fn run_over<'a>(
        &self,
        run: &RunOver<'a>,
        component: &Component,
        log: Log,
        first: Vec<Event>,
        refused: String,
    ) -> (From<'a>, Executed) {
        let RunOver { call, seat, revision, known } = run;
        let started_ms = now_ms();
        let open = log
            .open_steps()
            .find(|event| matches!(event, Event::EventAwaited { due_ms: Some(_), .. }))
            .and_then(Event::asked_in);
        let Started { headers, input, .. } = log.started().clone();
        let asked = Arc::new(Call {
            headers: headers.clone(),
            media_type: input.media_type,
            payload: input.body,
            // Nothing that would not be the same the next time.
            attempt: 1,
            deadline_ms: None,
            traceparent: None,
            tracestate: None,
            ..Call::clone(call)
        });
        let durable = DurableRun {
            replay: Replay::new(log),
            calls_begin: calls_of(&call.function, &call.id),
            depth: depth_of(&headers),
            clock_ms: known.now_ms,
            calls: revision.grants.calls.clone(),
            payload_bytes_max: revision.limits.payload_bytes_max,
            watch: None,
        };
        let executed = self.execute_over_log(component, asked, revision, seat, durable).await;
        (From { known, first, open, headers, started_ms, refused }, executed)
    }

    async fn execute_over_log(
        &self,
        component: &Component,
        call: Arc<Call>,
        revision: &Revision,
        seat: &Seat,
        run: DurableRun,
    ) -> Executed {
        let log = Arc::new(GuestLog::new(call.clone()));
        let invocation = Invocation {
            call,
            limits: revision.limits,
            log,
            waits: true,
            weight: seat.weight(),
            services: None,
            durable: Some(run),
        };
        let began = Instant::now();
        let attempt = component.execute_timed(invocation);
        let executed = match seat.cpu_meter() {
            Some(meter) => meter.run(attempt).await,
            None => attempt.await,
        };
        revision.metrics.ran(executed.timings);
        revision.took(executed.timings.run.unwrap_or_else(|| began.elapsed()));
        executed
    }

    /// What is written, by what the run came to.
    fn came_of(
        &self,
        call: &Call,
        revision: &Revision,
        component: &Component,
        from: From<'_>,
        executed: Executed,
    ) -> Written {
        let Executed { outcome, ran, .. } = executed;
        let ended = Ended::of(&outcome);
        match (ran, outcome) {
            (Some(Ran { stop: Some(Stop::Diverged(divergence)), .. }), _) => {
                stuck(call, from.known, divergence.to_string(), from.refused)
            }
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
                self.ends(call, component, from, fresh, ended, Err(CallError { code: "failed".to_owned(), message }))
            }
            (_, outcome) => self.fails(call, revision, from, outcome),
        }
    }

    fn ends(
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
struct From<'a> {
    known: &'a Loaded,
    first: Vec<Event>,
    /// The step that waited for an event, with a patience.
    open: Option<u32>,
    /// Those of whoever began it.
    headers: Vec<(String, String)>,
    started_ms: u64,
    /// A component that it could not be moved to, and why; empty if none was tried.
    refused: String,
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
fn over(call: &Call) -> Written {
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

fn stuck(call: &Call, known: &Loaded, why: String, refused: String) -> Written {
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
    Written { settlement: Settlement::Advance(Box::new(advance)), ended: Ended::HostFault, fate: Fate::Plain }
}
