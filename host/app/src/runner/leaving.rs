//! The way of a call to the settler, and the calls that take it without having run to their end here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use baton_broker::{Delivery, Incoming, Malformed, Next, ReadTime, Settled, Settlement, Turn, Verdict};
use baton_model::{CallError, EntryId, FunctionId, Lease, ResultDocument, Status};
use bytes::Bytes;

use super::{Runner, ToSettler};
use crate::clock::now_ms;
use crate::flights::FlightKey;
use crate::metrics::{Ended, Fate, FunctionMetrics};
use crate::seats::Seat;
use crate::traces;

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

impl Runner {
    /// Asks for the turns of calls with keys, in the order in which they were read. Those that have to wait do so in Redis.
    pub(super) async fn in_order(&self, batch: Vec<(Incoming, Seat)>, settler: &ToSettler) -> Vec<(Incoming, Seat)> {
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
                (Some(Turn::Now), incoming) => begin.push((incoming, seat)),
                (Some(Turn::Later | Turn::Lost), incoming) => self.flights.land(&FlightKey::of_incoming(&incoming)),
                // Whose turn it is nobody knows while Redis does not say.
                (None, Incoming::Call(delivery)) => {
                    self.hand_back(delivery, Some(seat), Some(self.hand_back_after), settler).await;
                }
                (None, Incoming::Malformed(..)) => {}
            }
        }
        begin
    }

    pub(super) async fn bury_malformed(
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
        let next = malformed.step.clone().map_or(Next::Nothing, Next::Step);
        let settlement = Settlement::of_malformed(malformed, document.encode());
        self.flights.begin_settling(&FlightKey { function: function.clone(), lease });
        send(settler, Settling { function, lease, read: None, next, settlement }, count, Some(seat)).await;
    }

    /// Gives back what was read and never started: at once, as if it had not been read.
    pub(crate) async fn give_back(&self, incoming: Incoming, settler: &ToSettler) {
        match incoming {
            Incoming::Call(delivery) => self.hand_back(delivery, None, None, settler).await,
            // It stays pending, and is buried by whoever takes it over.
            Incoming::Malformed(function, lease, _) => self.flights.land(&FlightKey { function, lease }),
        }
    }

    pub(super) async fn hand_back(
        &self,
        delivery: Delivery,
        seat: Option<Seat>,
        after: Option<Duration>,
        settler: &ToSettler,
    ) {
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
        let settlement = Settlement::finish(&call, document.encode());
        let settled = Settling { function: function.clone(), lease, read: None, next: Next::of(&call), settlement };
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
        let settled = Settling { function: call.function.clone(), lease, read: None, next: Next::Nothing, settlement };
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
            Verdict::Refused => {
                // It may be that a component is not kept that was.
                self.shelf.doubt(&key.function);
                None
            }
        }
    }
}

/// A call that may begin only when it is its turn. One that has to wait for its time first is none yet, nor is one that goes to
/// the stream of its level first.
pub(super) fn wants_turn(incoming: &Incoming) -> Option<&Delivery> {
    match incoming {
        Incoming::Call(delivery) => {
            Some(delivery).filter(|d| d.call.key.is_some() && d.call.delay.is_none() && !d.is_out_of_place())
        }
        Incoming::Malformed(..) => None,
    }
}

/// What goes to the settler, but for the ticket.
pub(super) struct Settling {
    pub(super) function: FunctionId,
    pub(super) lease: Lease,
    pub(super) read: Option<ReadTime>,
    pub(super) next: Next,
    pub(super) settlement: Settlement,
}

/// How a settlement is counted once Redis has answered it.
pub(super) struct Count {
    pub(super) ended: Ended,
    pub(super) fate: Fate,
    pub(super) metrics: Arc<FunctionMetrics>,
}

pub(super) async fn send(settler: &ToSettler, settling: Settling, count: Count, seat: Option<Seat>) {
    let Settling { function, lease, read, next, settlement } = settling;
    let retry_after = match &settlement {
        Settlement::Requeue { after, .. } => *after,
        // Only Redis knows how much of its wait is over.
        Settlement::Delay { .. } => Some(Duration::ZERO),
        Settlement::Finish { .. } | Settlement::Bury { .. } | Settlement::Advance(_) => None,
    };
    let key = FlightKey { function: function.clone(), lease };
    let Count { ended, fate, metrics } = count;
    let ticket = Ticket { key, ended, fate, metrics, handed: Instant::now(), retry_after, _seat: seat };
    if settler.send(Settled { function, lease, read, next, settlement, ticket }).await.is_err() {
        // Only at the very end of a drain: the entry stays pending, and its lease lapses.
        tracing::warn!("a result came after the settler had ended; its call will run again elsewhere");
    }
}
