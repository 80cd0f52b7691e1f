//! The consumer: takes seats, reads for as many calls as it has seats, starts them. One task, one blocking read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use baton_broker::{BrokerError, Incoming, Queue, ReadEnd, Reader, ReaderWaker};
use baton_model::FunctionId;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::catalog::Published;
use crate::flights::Flights;
use crate::runner::{Runner, ToSettler};
use crate::seats::{Seat, Seats};

/// How long a read waits for a call. It is woken sooner for everything else, so this only bounds the silence.
const BLOCK: Duration = Duration::from_secs(30);
/// The most calls that one read brings: more makes the neighbours wait and gains nothing (docs/performance.md).
const BATCH_MAX: u32 = 128;
/// How many reads in a row may look at busy functions only, before all are looked at again.
const HOT_READS_MAX: u32 = 4;

/// What the consumer is made from.
pub(crate) struct Consumer {
    pub(crate) reader: Reader,
    pub(crate) queue: Arc<Queue>,
    pub(crate) catalog: Arc<Published>,
    pub(crate) flights: Arc<Flights>,
    pub(crate) seats: Seats,
    pub(crate) runner: Arc<Runner>,
    pub(crate) settler: ToSettler,
    pub(crate) alarm: Alarm,
}

/// What makes the consumer look up from its read.
#[derive(Clone)]
pub(crate) struct Alarm {
    pub(crate) waker: ReaderWaker,
    lost: Arc<AtomicBool>,
}

impl Alarm {
    pub(crate) fn new(waker: ReaderWaker) -> Self {
        Self { waker, lost: Arc::default() }
    }

    /// Entries are pending for this host that nobody works on: the consumer has to look for them.
    pub(crate) async fn look_for_lost(&self) {
        self.lost.store(true, Ordering::SeqCst);
        self.waker.wake().await;
    }
}

/// Which streams the next read asks.
struct Plan {
    changes: watch::Receiver<u64>,
    all: ReadEnd,
    hot: ReadEnd,
    hot_reads: u32,
    /// When to try again to read functions that Redis did not let be read.
    look_again: Option<Instant>,
}

impl Consumer {
    /// Reads and starts calls until `stop`. Nothing that was read is left behind: each call is started or settled.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut plan = Plan {
            changes: self.catalog.set_changes(),
            all: ReadEnd::default(),
            hot: ReadEnd::default(),
            hot_reads: 0,
            look_again: None,
        };
        plan.changes.mark_changed();
        let mut backoff = Backoff::new("reading calls");
        let mut batch = Vec::new();
        loop {
            // What was read is started while the next read is already on its way.
            let step = tokio::join!(
                Self::step(
                    &mut self.reader,
                    &self.queue,
                    &self.catalog,
                    &self.flights,
                    &self.seats,
                    &self.alarm,
                    &mut plan,
                    &stop
                ),
                self.runner.start(std::mem::take(&mut batch), &self.settler)
            );
            match step.0 {
                Ok(Step::Read(incoming, seats)) => {
                    backoff.succeeded();
                    batch = self.seated(incoming, seats).await;
                }
                Ok(Step::Stop) => return,
                Err(error) => {
                    plan.changes.mark_changed();
                    tokio::select! {
                        () = backoff.failed(&error) => {}
                        () = stop.cancelled() => return,
                    }
                }
            }
        }
    }

    /// Gives each call its seat. There are more calls than seats only when more functions than seats had a call at
    /// once, because Redis counts by stream; the rest waits here for seats, its leases renewed.
    async fn seated(&self, incoming: Vec<Incoming>, mut seats: Seat) -> Vec<(Incoming, Seat)> {
        let mut batch = Vec::with_capacity(incoming.len());
        for call in incoming {
            let seat = match seats.split_one() {
                Some(seat) => seat,
                None => self.seats.take_up_to(1).await,
            };
            batch.push((call, seat));
        }
        batch
    }

    #[expect(clippy::too_many_arguments, reason = "parts of `self`, apart because the runner is borrowed beside it")]
    async fn step(
        reader: &mut Reader,
        queue: &Queue,
        catalog: &Published,
        flights: &Flights,
        seats: &Seats,
        alarm: &Alarm,
        plan: &mut Plan,
        stop: &CancellationToken,
    ) -> Result<Step, BrokerError> {
        if stop.is_cancelled() {
            return Ok(Step::Stop);
        }
        if plan.changes.has_changed().unwrap_or(false) || plan.look_again.is_some_and(|at| at <= Instant::now()) {
            plan.changes.mark_unchanged();
            plan.renew(queue, catalog).await.inspect_err(|_| plan.changes.mark_changed())?;
        }
        if plan.all.functions().is_empty() {
            tokio::select! {
                _ = plan.changes.changed() => plan.changes.mark_changed(),
                () = tokio::time::sleep(BLOCK) => {}
                () = stop.cancelled() => {}
            }
            return Ok(Step::Read(Vec::new(), seats.take_up_to(1).await));
        }
        let taken = tokio::select! {
            taken = seats.take_up_to(BATCH_MAX) => taken,
            () = stop.cancelled() => return Ok(Step::Stop),
        };
        if alarm.lost.swap(false, Ordering::SeqCst) {
            reader.suspect_loss();
        }
        if reader.may_have_lost() {
            let found = reader.recover(queue, &plan.all, |function, entry| flights.contains(function, entry)).await?;
            if !found.is_empty() {
                tracing::info!(calls = found.len(), "took up calls that a broken connection had lost");
            }
            return Ok(Step::Read(found, taken));
        }
        let incoming = plan.read(reader, queue, taken.count()).await?;
        Ok(Step::Read(incoming, taken))
    }
}

enum Step {
    Read(Vec<Incoming>, Seat),
    Stop,
}

impl Plan {
    /// Takes the catalog's functions in. One whose stream cannot be read is left out, so that the others can.
    async fn renew(&mut self, queue: &Queue, catalog: &Published) -> Result<(), BrokerError> {
        let mut functions: Vec<FunctionId> = catalog.snapshot().functions().cloned().collect();
        let refused = queue.ensure_groups(&functions).await?;
        for (function, reason) in &refused {
            let key = queue.keys().calls(function);
            tracing::error!(%function, reason, "its calls cannot be read; delete the key {key} or rename the function");
        }
        functions.retain(|function| refused.iter().all(|(bad, _)| bad != function));
        self.look_again = (!refused.is_empty()).then(|| Instant::now() + BLOCK);
        self.all = ReadEnd::new(queue.keys(), functions);
        self.hot = ReadEnd::default();
        Ok(())
    }

    /// Reads for so many seats. Redis counts by stream, so the seats are shared out: among the busy functions, read
    /// without waiting, while they fill their share; among all otherwise.
    async fn read(&mut self, reader: &mut Reader, queue: &Queue, seats: usize) -> Result<Vec<Incoming>, BrokerError> {
        let is_hot = !self.hot.functions().is_empty() && self.hot_reads < HOT_READS_MAX;
        let (from, block) = if is_hot { (&self.hot, None) } else { (&self.all, Some(BLOCK)) };
        let share = (seats / from.functions().len()).max(1);
        self.hot_reads = if is_hot { self.hot_reads + 1 } else { 0 };
        let incoming = reader.read(from, share, block).await?;
        self.note_busy(queue, &incoming, share, is_hot);
        Ok(incoming)
    }

    /// A function that filled its share probably has more.
    fn note_busy(&mut self, queue: &Queue, incoming: &[Incoming], share: usize, was_hot: bool) {
        let mut busy: Vec<&FunctionId> = Vec::new();
        // Redis answers stream by stream, so the calls of one function stand together.
        for calls in incoming.chunk_by(|a, b| function_of(a) == function_of(b)) {
            if calls.len() >= share {
                busy.push(function_of(&calls[0]));
            }
        }
        if self.all.functions().len() == 1 || (busy.is_empty() && !was_hot) {
            return;
        }
        if !busy.iter().copied().eq(self.hot.functions()) {
            let busy = busy.into_iter().cloned().collect();
            self.hot = ReadEnd::new(queue.keys(), busy);
        }
    }
}

fn function_of(incoming: &Incoming) -> &FunctionId {
    match incoming {
        Incoming::Call(delivery) => &delivery.call.function,
        Incoming::Malformed(function, ..) => function,
    }
}
