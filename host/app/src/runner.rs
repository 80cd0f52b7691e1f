//! The corridor of one call: pin the revision, execute, decide, hand over to the settler.

use std::sync::Arc;
use std::time::{Duration, Instant};

use baton_broker::{Delivery, Incoming, Malformed, Queue, ReadTime, Settled, Settlement, Turn as Order, Verdict};
use baton_engine::{Invocation, Services, Timings};
use baton_model::mutants::{Rule, is_left_out};
use baton_model::{
    Call, CallError, Disposition, EntryId, FunctionId, HostId, Lease, OrderKey, Outcome, ResultDocument, Status,
    TIMED_FROM, decide,
};
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::catalog::{Published, Revision};
use crate::clock::now_ms;
use crate::flights::{FlightKey, Flights};
use crate::guest_log::GuestLog;
use crate::metrics::{Ended, Fate, FunctionMetrics, Metrics};
use crate::nested::{Begin, Begun, Nested, Nesting, Turn};
use crate::seats::Seat;
use crate::traces::{self, Run, Traces};

/// The most calls that one thread starts one after the other, while others could help.
const SHARE: usize = 16;

/// So many calls that are started together are no crowd.
const CROWD: usize = 4;

/// How much work of one batch the thread that reads keeps for itself where several share the seats.
const KEPT: Duration = Duration::from_micros(200);

/// What comes back with a verdict: the seat becomes free, the flight ends.
pub(crate) struct Ticket {
    key: FlightKey,
    ended: Ended,
    fate: Fate,
    metrics: Arc<FunctionMetrics>,
    /// When it was handed to the settler.
    handed: Instant,
    /// For a call that gets another attempt: how long it waits.
    retry_after: Option<Duration>,
    _seat: Option<Seat>,
}

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

    /// Asks for the turns of calls with keys, in the order in which they were read. Those that have to wait do so in Redis.
    async fn in_order(&self, batch: Vec<(Incoming, Seat)>, settler: &ToSettler) -> Vec<(Incoming, Seat)> {
        let asked: Vec<&Delivery> = batch.iter().filter_map(|(incoming, _)| wants_turn(incoming)).collect();
        let turns = self.queue.turns(&self.host, asked.into_iter()).await;
        let turns = turns.inspect_err(|error| tracing::debug!(%error, "calls with keys are put back"));
        let mut turns = turns.unwrap_or_default().into_iter();
        let mut begin = Vec::with_capacity(batch.len());
        for (incoming, seat) in batch {
            if wants_turn(&incoming).is_none() {
                begin.push((incoming, seat));
                continue;
            }
            match (turns.next(), incoming) {
                (Some(Order::Now), incoming) => begin.push((incoming, seat)),
                (Some(Order::Later | Order::Lost), incoming) => self.flights.land(&FlightKey::of_incoming(&incoming)),
                // Whose turn it is nobody knows while Redis does not say.
                (None, Incoming::Call(delivery)) => {
                    self.hand_back(delivery, Some(seat), Some(self.hand_back_after), settler).await;
                }
                (None, Incoming::Malformed(..)) => {}
            }
        }
        begin
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
        if delivery.call.delay.is_some() {
            // It waits in Redis, and on no seat.
            return self.hand_back(delivery, Some(seat), None, settler).await;
        }
        let revision = self.catalog.snapshot().get(&delivery.call.function).cloned();
        let Some(revision) = revision else {
            // The function was taken out between the read and now. The call waits, as those in the stream do.
            return self.hand_back(delivery, Some(seat), Some(self.hand_back_after), settler).await;
        };
        let begun = match &revision.grants.calls {
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
        // Of two calls under one id the first result stands, and which it is only the script knows.
        let read = read.filter(|_| !call.id_is_own);
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
                    let settlement = Settlement::Finish { id: call.id.clone(), document, reply: call.reply.clone() };
                    let settled =
                        Settling { function: call.function.clone(), lease, read, key: call.key.clone(), settlement };
                    let count = Count { ended: Ended::SentTwice, fate: Fate::Plain, metrics: revision.metrics.clone() };
                    send(&settler, settled, count, seat).await;
                }
                return;
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
        revision.took(ran.filter(|_| waits).unwrap_or(took));
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
        let settled = Settling { function: call.function.clone(), lease, read, key: call.key.clone(), settlement };
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
        if lease.claims > revision.retry.hosts_lost_max {
            *run = Run { attempts: call.attempt - 1, started_ms: None, digest: None, timings: None };
            return Some(Refusal::Outcome(Outcome::HostsLost { hosts: lease.claims }));
        }
        None
    }

    /// The same id is the same call: what was sent before under the caller's own id is not run again. Calls without an
    /// id of their own cost no look.
    async fn earlier_result(&self, call: &Call) -> Option<Vec<u8>> {
        if !call.id_is_own || is_left_out(Rule::Dedupe) {
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
        let finish = |document| Settlement::Finish { id: call.id.clone(), document, reply: call.reply.clone() };
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

    async fn bury_malformed(
        &self,
        function: FunctionId,
        lease: Lease,
        malformed: Malformed,
        seat: Seat,
        settler: &ToSettler,
    ) {
        let (reason, detail) = (malformed.reason.as_str(), &malformed.detail);
        tracing::warn!(%function, entry = %lease.entry, reason, detail, "an entry is no call; it lies among the dead letters");
        let error = CallError { code: reason.to_owned(), message: detail.clone() };
        let mut document =
            ResultDocument::new(Status::Dead, malformed.id.clone(), "application/json".to_owned(), Bytes::new());
        document.error = Some(error);
        document.host = Some(self.host.clone());
        document.accepted_ms = lease.entry.ms();
        document.finished_ms = now_ms();
        let count = Count {
            ended: Ended::of_malformed(malformed.reason),
            fate: Fate::Dead(reason),
            metrics: self.metrics.function(&function),
        };
        let settlement = Settlement::of_malformed(malformed, document.encode());
        self.flights.begin_settling(&FlightKey { function: function.clone(), lease });
        send(settler, Settling { function, lease, read: None, key: None, settlement }, count, Some(seat)).await;
    }

    /// Gives back what was read and never started: at once, as if it had not been read.
    pub(crate) async fn give_back(&self, incoming: Incoming, settler: &ToSettler) {
        match incoming {
            Incoming::Call(delivery) => self.hand_back(delivery, None, None, settler).await,
            // It stays pending, and is buried by whoever takes it over.
            Incoming::Malformed(function, lease, _) => self.flights.land(&FlightKey { function, lease }),
        }
    }

    async fn hand_back(&self, delivery: Delivery, seat: Option<Seat>, after: Option<Duration>, settler: &ToSettler) {
        if self.flights.begin_settling(&FlightKey::of(&delivery)) {
            let attempt = delivery.call.attempt;
            self.requeue(delivery, seat, attempt, after, None, settler).await;
        }
    }

    /// Gives back a call whose attempt was stopped. A successor can start it at once.
    pub(crate) async fn hand_over(&self, delivery: Delivery, settler: &ToSettler) {
        let next = delivery.call.attempt.saturating_add(1);
        let all = Some(traces::handed_over(&self.host, &delivery.call));
        self.requeue(delivery, None, next, None, all, settler).await;
    }

    /// Ends a call of this host that somebody takes back; its attempt is stopped. An answer that is on its way stands.
    pub(crate) async fn cancel(&self, function: &FunctionId, entry: EntryId, settler: &ToSettler) {
        let Some((Delivery { call, lease, .. }, begun)) = self.flights.stop_one(function, entry) else { return };
        tracing::info!(%function, call = %call.id, attempt = call.attempt, "call taken back");
        let mut document = ResultDocument::cancelled(call.id.clone(), now_ms());
        document.attempts = if begun.is_some() { call.attempt } else { call.attempt - 1 };
        document.host = Some(self.host.clone());
        document.accepted_ms = call.accepted_ms;
        document.started_ms = begun
            .map(|at| document.finished_ms.saturating_sub(u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)));
        let settlement =
            Settlement::Finish { id: call.id.clone(), document: document.encode(), reply: call.reply.clone() };
        let settled = Settling { function: function.clone(), lease, read: None, key: call.key.clone(), settlement };
        let metrics = self.metrics.function(function);
        send(settler, settled, Count { ended: Ended::Cancelled, fate: Fate::Plain, metrics }, None).await;
    }

    async fn requeue(
        &self,
        delivery: Delivery,
        seat: Option<Seat>,
        attempt: u32,
        after: Option<Duration>,
        history: Option<String>,
        settler: &ToSettler,
    ) {
        let Delivery { call, lease, .. } = delivery;
        let (id, accepted_ms) = (call.id.clone(), call.accepted_ms);
        let settlement = match call.delay {
            // Whichever host had the entry before did not begin the call.
            Some(delay) => Settlement::Delay { id, attempt: attempt - lease.claims, accepted_ms, delay },
            None => Settlement::Requeue { id, attempt, accepted_ms, after, history },
        };
        // The turn is the call's, and stays with it.
        let settled = Settling { function: call.function.clone(), lease, read: None, key: None, settlement };
        let metrics = self.metrics.function(&call.function);
        send(settler, settled, Count { ended: Ended::HandedBack, fate: Fate::Plain, metrics }, seat).await;
    }

    /// What the settler says about a ticket. Returns the function if a call of it waits for its time now, with how
    /// long.
    pub(crate) fn settled(&self, ticket: Ticket, verdict: Verdict) -> Option<(FunctionId, Duration)> {
        let Ticket { key, ended, fate, metrics, handed, retry_after, _seat } = ticket;
        self.flights.land(&key);
        metrics.settled(ended, fate, verdict, handed.elapsed());
        match verdict {
            Verdict::Done | Verdict::Duplicate => retry_after.map(|wait| (key.function, wait)),
            Verdict::Fenced => {
                tracing::warn!(function = %key.function, entry = %key.lease.entry, "late result refused: the call is not this host's any more");
                // Or the answer to the first try was lost, and the call waits already.
                retry_after.map(|_| (key.function, Duration::ZERO))
            }
            Verdict::Refused => None,
        }
    }
}

/// A call that may begin only when it is its turn. One that has to wait for its time first is none yet.
fn wants_turn(incoming: &Incoming) -> Option<&Delivery> {
    match incoming {
        Incoming::Call(delivery) => Some(delivery).filter(|d| d.call.key.is_some() && d.call.delay.is_none()),
        Incoming::Malformed(..) => None,
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

/// How a call came to its attempt.
#[derive(Clone, Copy)]
pub(crate) struct Came {
    /// When it was read, if this was its first delivery.
    read: Option<Instant>,
    begun: Instant,
}

/// Where the time of a call went, if it took so long that it is worth telling.
fn split_of(document: &ResultDocument, lease: Lease, came: Came, timings: Timings) -> Option<baton_model::Timings> {
    let ms = |from: u64, to: u64| Duration::from_millis(to.saturating_sub(from));
    if ms(document.accepted_ms, document.finished_ms) < TIMED_FROM {
        return None;
    }
    let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    // The clock of Redis says when it came into its stream, this host's when it had it.
    // What was taken over from a lost host had its time in the stream before that host's attempt.
    let waited = match lease.claims {
        0 => ms(lease.entry.ms(), document.started_ms.unwrap_or_default()),
        _ => Duration::ZERO,
    };
    let at_host = came.read.map_or(Duration::ZERO, |read| came.begun.saturating_duration_since(read));
    let run = timings.run.unwrap_or_default().saturating_sub(timings.waited);
    Some(baton_model::Timings {
        queue_us: us(waited.saturating_sub(at_host)),
        admission_us: us(at_host + timings.let_in + timings.turned),
        instantiate_us: us(timings.instantiate.unwrap_or_default()),
        run_us: us(run.saturating_sub(timings.turned)),
        host_us: us(timings.waited),
    })
}

/// What goes to the settler, but for the ticket.
struct Settling {
    function: FunctionId,
    lease: Lease,
    read: Option<ReadTime>,
    key: Option<OrderKey>,
    settlement: Settlement,
}

/// How a settlement is counted once Redis has answered it.
struct Count {
    ended: Ended,
    fate: Fate,
    metrics: Arc<FunctionMetrics>,
}

async fn send(settler: &ToSettler, settling: Settling, count: Count, seat: Option<Seat>) {
    let Settling { function, lease, read, key: order, settlement } = settling;
    let retry_after = match &settlement {
        Settlement::Requeue { after, .. } => *after,
        // Only Redis knows how much of its wait is over.
        Settlement::Delay { .. } => Some(Duration::ZERO),
        Settlement::Finish { .. } | Settlement::Bury { .. } => None,
    };
    let key = FlightKey { function: function.clone(), lease };
    let Count { ended, fate, metrics } = count;
    let ticket = Ticket { key, ended, fate, metrics, handed: Instant::now(), retry_after, _seat: seat };
    if settler.send(Settled { function, lease, read, key: order, settlement, ticket }).await.is_err() {
        // Only at the very end of a drain: the entry stays pending, and its lease lapses.
        tracing::warn!("a result came after the settler had ended; its call will run again elsewhere");
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
