//! The corridor of one call: pin the revision, execute, decide, hand over to the settler.

mod adopting;
mod advancing;
mod leaving;
mod written;

use std::sync::Arc;
use std::time::{Duration, Instant};

use baton_broker::{Delivery, Incoming, Next, Queue, Settled, Settlement};
use baton_engine::{Invocation, Services};
use baton_model::mutants::{Rule, is_left_out};
use baton_model::{Call, Disposition, EntryId, HostId, Lease, Outcome, ResultDocument, Status, decide};
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) use self::leaving::Ticket;
use self::leaving::{Count, Settling, send, wants_turn};
use crate::catalog::{Published, Revision};
use crate::clock::now_ms;
use crate::executions::Shelf;
use crate::flights::{FlightKey, Flights};
use crate::guest_log::GuestLog;
use crate::metrics::{Ended, Fate, Metrics};
use crate::nested::{Begin, Begun, Nested, Nesting, Turn};
use crate::seats::Seat;
use crate::traces::{self, Came, Run, Traces, split_of};

/// The most calls that one thread starts one after the other, while others could help.
const SHARE: usize = 16;

/// So many calls that are started together are no crowd.
const CROWD: usize = 4;

/// How much work of one batch the thread that reads keeps for itself where several share the seats.
const KEPT: Duration = Duration::from_micros(200);

/// Runs calls.
pub(crate) struct Runner {
    pub(crate) host: HostId,
    pub(crate) queue: Arc<Queue>,
    pub(crate) catalog: Arc<Published>,
    pub(crate) flights: Arc<Flights>,
    pub(crate) metrics: Arc<Metrics>,
    /// Where attempts go that are not through at once: not where calls are read and settled, and behind whatever else
    /// the host does.
    pub(crate) guests: Handle,
    /// Who helps to start a large batch.
    pub(crate) helpers: Handle,
    /// Cancelled when an attempt panics: that is a fault of the host.
    pub(crate) fault: CancellationToken,
    /// What calls need that make calls.
    pub(crate) nesting: Arc<Nesting>,
    /// What executions need.
    pub(crate) shelf: Arc<Shelf>,
    /// How long a call waits that this host has read but cannot run.
    pub(crate) hand_back_after: Duration,
}

/// The way to the settler.
pub(crate) type ToSettler = mpsc::Sender<Settled<Ticket>>;

impl Runner {
    /// Starts calls that are in flight, each on its seat. Returns when each has ended, or has a task of its own
    /// because it waits for something.
    pub(crate) async fn start(self: &Arc<Self>, mut batch: Vec<(Incoming, Seat)>, settler: &ToSettler) {
        if batch.iter().any(|(incoming, _)| wants_turn(incoming).is_some()) {
            batch = self.in_order(batch, settler).await;
        }
        if batch.last().is_some_and(|(_, seat)| seat.is_shared()) {
            self.share(&mut batch, settler);
        }
        // A large batch is worth another thread's time; a small one is through before that has woken up.
        while batch.len() > SHARE {
            let share = batch.split_off(batch.len() - SHARE.min(batch.len() / 2));
            let (this, settler) = (self.clone(), settler.clone());
            self.helpers.spawn(async move { this.start_here(share, &settler, true).await });
        }
        self.start_here(batch, settler, true).await;
    }

    /// Where several share the seats, the thread that reads keeps only what it is soon through with, and of a crowd
    /// nothing: who comes next does not wait for one, and of several crowds none is preferred. The rest is for the
    /// guests' threads, which give way.
    fn share(self: &Arc<Self>, batch: &mut Vec<(Incoming, Seat)>, settler: &ToSettler) {
        let catalog = self.catalog.snapshot();
        let is_crowd = batch.len() > CROWD;
        let mut expected = Duration::ZERO;
        let kept = batch.iter().position(|(incoming, seat)| {
            expected += catalog.get(incoming.function()).map_or(Duration::ZERO, |revision| revision.expected());
            expected > KEPT || (is_crowd && !seat.is_of_few())
        });
        let mut rest = batch.split_off(kept.unwrap_or(SHARE).min(SHARE).min(batch.len()));
        while !rest.is_empty() {
            let share = rest.split_off(rest.len() - SHARE.min(rest.len()));
            let (this, settler) = (self.clone(), settler.clone());
            self.guests.spawn(async move { this.start_here(share, &settler, false).await });
        }
    }

    /// `holds_up` says whether a call that takes long here holds up others that are read.
    async fn start_here(self: &Arc<Self>, batch: Vec<(Incoming, Seat)>, settler: &ToSettler, holds_up: bool) {
        for (incoming, seat) in batch {
            match incoming {
                Incoming::Call(delivery) => self.start_one(delivery, seat, settler, holds_up).await,
                Incoming::Malformed(function, lease, malformed) => {
                    self.bury_malformed(function, lease, malformed, seat, settler).await;
                }
            }
        }
    }

    async fn start_one(self: &Arc<Self>, delivery: Delivery, seat: Seat, settler: &ToSettler, holds_up: bool) {
        let key = FlightKey::of(&delivery);
        if !self.flights.begin(&key) {
            // It was given away while it waited.
            return;
        }
        if delivery.call.delay.is_some() || delivery.is_out_of_place() {
            // It waits in Redis, and on no seat; that it was read is no call begun.
            seat.repay();
            return self.hand_back(delivery, Some(seat), None, settler).await;
        }
        let revision = self.catalog.snapshot().get(&delivery.call.function).cloned();
        let Some(revision) = revision else {
            // The function was taken out between the read and now. The call waits, as those in the stream do.
            return self.hand_back(delivery, Some(seat), Some(self.hand_back_after), settler).await;
        };
        if delivery.call.is_wake {
            let task = self.guests.spawn(self.clone().advance(delivery, seat, revision, settler.clone()));
            return self.flights.can_be_stopped_by(&key, task.abort_handle());
        }
        let calls = revision.grants.calls.as_ref().filter(|_| !revision.component.is_durable());
        let begun = match calls {
            None => None,
            // It would wait for calls that find no room for what they wait for.
            Some(_) => match self.nesting.begin(&delivery.call, &revision) {
                Begin::Now(begun) => Some(begun),
                Begin::InTurn(turn) => return self.start_in_turn(delivery, seat, revision, turn, settler),
                Begin::Later => {
                    return self.hand_back(delivery, Some(seat), Some(self.hand_back_after), settler).await;
                }
            },
        };
        // On the guests' threads a call that is more than tiny waits for its turn, so that processors are shared by weight.
        let inline = revision.is_quick() && (holds_up || revision.is_tiny());
        let attempt = self.clone().attempt(delivery, seat, revision.clone(), settler.clone(), !inline, begun);
        let mut attempt: BoxFuture<'static, ()> = attempt.boxed();
        // Most calls end the first time they are asked. Only one that waits, or usually takes its time, is worth a task.
        if inline {
            let asked = Instant::now();
            let is_through = futures_util::poll!(&mut attempt).is_ready();
            if holds_up {
                revision.ran_where_calls_are_read(asked.elapsed(), is_through);
            }
            if is_through {
                return;
            }
        }
        let task = self.guests.spawn(attempt);
        self.flights.can_be_stopped_by(&key, task.abort_handle());
    }

    /// Starts a call when its turn comes. Meanwhile others have its seat; if it takes too long, the call waits in Redis.
    fn start_in_turn(
        self: &Arc<Self>,
        delivery: Delivery,
        seat: Seat,
        revision: Arc<Revision>,
        turn: Turn,
        settler: &ToSettler,
    ) {
        drop(seat);
        let key = FlightKey::of(&delivery);
        let (this, settler) = (self.clone(), settler.clone());
        let task = self.guests.spawn(async move {
            match turn.come(this.hand_back_after).await {
                Some((begun, seat)) => this.attempt(delivery, seat, revision, settler, true, Some(begun)).await,
                None => this.hand_back(delivery, None, Some(this.hand_back_after), &settler).await,
            }
        });
        self.flights.can_be_stopped_by(&key, task.abort_handle());
    }

    async fn attempt(
        self: Arc<Self>,
        delivery: Delivery,
        seat: Seat,
        revision: Arc<Revision>,
        settler: ToSettler,
        waits: bool,
        begun: Option<Begun>,
    ) {
        let Delivery { call, lease, read } = delivery;
        let mut seat = Some(seat);
        let (started_ms, started) = (now_ms(), Instant::now());
        if let Some(read) = read {
            // Up to the read: what is left of the time to here, the call has waited at this host.
            let since = Duration::from_millis(started_ms.saturating_sub(lease.entry.ms()));
            revision.metrics.waited(since.saturating_sub(started.duration_since(read.answered)));
        }
        let came = Came { read: read.map(|read| read.answered), begun: started };
        // Of two calls under one id the first result stands, and which it is only the script knows. One that was put back has a
        // mark, which only the script takes away.
        let is_first_entry = EntryId::parse(call.id.as_str()) == Some(lease.entry);
        let read = read.filter(|_| !call.id_is_own && is_first_entry);
        let key = FlightKey { function: call.function.clone(), lease };
        let guard = PanicGuard { runner: &self, key: &key };
        let mut run = Run {
            attempts: call.attempt,
            started_ms: Some(started_ms),
            digest: Some(revision.component.digest()),
            timings: None,
        };
        let mut ran = None;
        let log = Arc::new(GuestLog::new(call.clone()));
        let mut backtrace = None;
        let outcome = match self.refusal(&call, lease, &revision, &mut run).await {
            Some(Refusal::Outcome(outcome)) => outcome,
            Some(Refusal::Settled(document)) => {
                if self.flights.begin_settling(&key) {
                    let settlement = Settlement::finish(&call, document);
                    let settled =
                        Settling { function: call.function.clone(), lease, read, next: Next::of(&call), settlement };
                    let count = Count { ended: Ended::SentTwice, fate: Fate::Plain, metrics: revision.metrics.clone() };
                    send(&settler, settled, count, seat).await;
                }
                return;
            }
            None if call.event.is_some() => match self.take_event(&call).await {
                Some(outcome) => {
                    // Nothing of the function was begun.
                    seat.as_ref().inspect(|seat| seat.repay());
                    outcome
                }
                None => {
                    drop(guard);
                    let delivery = Delivery { call, lease, read };
                    return self.hand_back(delivery, seat, Some(self.hand_back_after), &settler).await;
                }
            },
            None if revision.component.is_durable() => {
                drop(guard);
                return self.adopt(Delivery { call, lease, read }, seat, &revision, &settler).await;
            }
            None => {
                let meter = seat.as_ref().and_then(Seat::cpu_meter);
                let weight = seat.as_ref().map_or(1, Seat::weight);
                let nested = begun.and_then(|begun| Some(begun.on(seat.take()?)));
                let invocation = Invocation {
                    call: call.clone(),
                    limits: revision.limits,
                    log: log.clone(),
                    waits,
                    weight,
                    services: services_of(&revision, nested.as_ref()),
                    durable: None,
                };
                let attempt = revision.component.execute_timed(invocation);
                let executed = match meter {
                    Some(meter) => meter.run(attempt).await,
                    None => attempt.await,
                };
                revision.metrics.ran(executed.timings);
                ran = executed.timings.run;
                run.timings = Some((came, executed.timings));
                backtrace = executed.backtrace;
                if let Some(nested) = nested {
                    seat = nested.take_seat();
                }
                executed.outcome
            }
        };
        let took = started.elapsed();
        // How long it waited for its turn says nothing about the function.
        if call.event.is_none() {
            revision.took(ran.filter(|_| waits).unwrap_or(took));
        }
        drop(guard);

        if !self.flights.begin_settling(&key) {
            // The lease was lost, or the call was handed back, while the attempt ran. Another attempt has the word.
            return;
        }
        let ended = Ended::of(&outcome);
        tracing::debug!(
            target: "baton::call",
            function = %call.function, call = %call.id, attempt = call.attempt, outcome = ended.word(),
            took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX), digest = %revision.component.digest().short(),
            failure = failure_text(&outcome), "call ended"
        );
        let (settlement, fate) =
            self.settlement(&call, lease, outcome, &revision, run, Traces { log: &log, backtrace });
        let settled = Settling { function: call.function.clone(), lease, read, next: Next::of(&call), settlement };
        let count = Count { ended, fate, metrics: revision.metrics.clone() };
        send(&settler, settled, count, seat).await;
    }

    /// Why a call is not run at all, if it is not.
    async fn refusal(&self, call: &Call, lease: Lease, revision: &Revision, run: &mut Run) -> Option<Refusal> {
        if let Some(document) = self.earlier_result(call).await {
            return Some(Refusal::Settled(document));
        }
        if call.deadline_ms.is_some_and(|deadline| deadline <= now_ms()) {
            *run = Run { attempts: call.attempt - 1, started_ms: None, digest: None, timings: None };
            return Some(Refusal::Outcome(Outcome::DeadlinePassed));
        }
        let (bytes, bytes_max) = (call.payload.len(), revision.limits.payload_bytes_max);
        if bytes > bytes_max {
            *run = Run { attempts: call.attempt - 1, started_ms: None, digest: None, timings: None };
            return Some(Refusal::Outcome(Outcome::PayloadTooLarge { bytes, bytes_max }));
        }
        // Nothing of the function is run for an event.
        if lease.claims > revision.retry.hosts_lost_max && call.event.is_none() {
            *run = Run { attempts: call.attempt - 1, started_ms: None, digest: None, timings: None };
            return Some(Refusal::Outcome(Outcome::HostsLost { hosts: lease.claims }));
        }
        None
    }

    /// The same id is the same call: what was sent before under the caller's own id is not run again. Calls without an
    /// id of their own cost no look.
    async fn earlier_result(&self, call: &Call) -> Option<Vec<u8>> {
        // An event is known by its id in its execution alone, whose log says whether it came.
        if !call.id_is_own || call.event.is_some() || is_left_out(Rule::Dedupe) {
            return None;
        }
        // When Redis cannot say, the call runs; the first result stands in any case.
        self.queue.result(&call.function, &call.id).await.ok().flatten()
    }

    fn settlement(
        &self,
        call: &Call,
        lease: Lease,
        outcome: Outcome,
        revision: &Revision,
        run: Run,
        traces: Traces<'_>,
    ) -> (Settlement, Fate) {
        let document = |status, error, media_type: String, payload: Bytes| {
            let mut document = ResultDocument::new(status, call.id.clone(), media_type, payload);
            document.error = error;
            document.attempts = run.attempts;
            document.digest = run.digest;
            document.host = Some(self.host.clone());
            document.accepted_ms = call.accepted_ms;
            document.started_ms = run.started_ms;
            document.finished_ms = now_ms();
            document.timings = run.timings.and_then(|(came, timings)| split_of(&document, lease, came, timings));
            document.encode()
        };
        let plain = || "application/json".to_owned();
        let left = call.deadline_ms.map(|deadline| Duration::from_millis(deadline.saturating_sub(now_ms())));
        let finish = |document| Settlement::finish(call, document);
        // Attempts from before people sent it again are over and done with.
        let attempt = call.attempt.saturating_sub(call.spent).max(1);
        let retry = revision.retry.wished(&call.retry);
        match decide(outcome, attempt, &retry, left, rand::random()) {
            Disposition::Answer(reply) => {
                (finish(document(Status::Ok, None, reply.media_type, reply.body)), Fate::Plain)
            }
            Disposition::Fail(status, error) => {
                (finish(document(status, Some(error), plain(), Bytes::new())), Fate::Plain)
            }
            Disposition::Retry { after, error } => {
                tracing::info!(
                    function = %call.function, call = %call.id, attempt = call.attempt,
                    after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX), error = first_line(&error.message), "call will be tried again"
                );
                let again = Settlement::Requeue {
                    id: call.id.clone(),
                    attempt: call.attempt.saturating_add(1),
                    accepted_ms: call.accepted_ms,
                    after: Some(after),
                    history: Some(traces::history(&self.host, call, &run, &error, Some(after))),
                };
                (again, Fate::Retry)
            }
            Disposition::Bury { reason, error } => {
                tracing::warn!(
                    function = %call.function, call = %call.id, attempt = call.attempt, reason, error = first_line(&error.message),
                    "call given up; it lies among the dead letters"
                );
                let notes = traces.notes(&self.host, call, &run, &error, &revision.limits);
                let message = error.message.clone();
                let bury = Settlement::Bury {
                    id: call.id.clone(),
                    execution: call.event.as_ref().map(|event| event.execution.clone()),
                    document: document(Status::Dead, Some(error), plain(), Bytes::new()),
                    reply: call.reply.clone(),
                    reason: reason.to_owned(),
                    error: message,
                    attempts: run.attempts,
                    digest: run.digest,
                    accepted_ms: call.accepted_ms,
                    notes,
                };
                (bury, Fate::Dead(reason))
            }
        }
    }
}

/// What a call is given beside its payload: what its revision has, and what makes its calls, if it may make any.
fn services_of(revision: &Revision, nested: Option<&Arc<Nested>>) -> Option<Arc<Services>> {
    let services = revision.services.as_ref()?;
    Some(match nested {
        None => services.clone(),
        Some(nested) => Arc::new(Services { calls: Some(nested.clone()), ..(**services).clone() }),
    })
}

/// Why a call is not run.
enum Refusal {
    /// It ends with this.
    Outcome(Outcome),
    /// It has this result already.
    Settled(Vec<u8>),
}

/// Makes a panic in an attempt what it is: a fault of the host, after which it drains. The call is left to its lease.
struct PanicGuard<'a> {
    runner: &'a Runner,
    key: &'a FlightKey,
}

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(function = %self.key.function, entry = %self.key.lease.entry, "the host failed in an attempt");
            self.runner.flights.land(self.key);
            self.runner.fault.cancel();
        }
    }
}

/// The log is read line by line; the dead letter has the whole text.
fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Why there is no answer; empty if there is one.
fn failure_text(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Rejected(refusal) => &refusal.message,
        Outcome::RetryAsked { message, .. } | Outcome::Trapped { message } | Outcome::HostFault { message } => message,
        Outcome::Replied(_)
        | Outcome::Exited { .. }
        | Outcome::TimedOut { .. }
        | Outcome::DeadlinePassed
        | Outcome::OutOfMemory { .. }
        | Outcome::HostsLost { .. }
        | Outcome::PayloadTooLarge { .. }
        | Outcome::ResultTooLarge { .. } => "",
    }
}
