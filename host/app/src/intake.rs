//! The intake: which streams are asked for how much, and what makes it look up from its read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use baton_broker::{BrokerError, Incoming, Queue, ReadEnd, Reader, ReaderWaker};
use baton_model::FunctionId;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::catalog::Published;
use crate::flights::Flights;
use crate::seats::{Seat, Seats};

/// How long a read waits for a call. It is woken sooner for everything else, so this only bounds the silence.
const BLOCK: Duration = Duration::from_secs(30);
/// The most calls that one read brings: more makes the neighbours wait and gains nothing (docs/performance.md).
const BATCH_MAX: u32 = 128;
/// How many reads in a row may look at busy functions only, before all are looked at again.
const HOT_READS_MAX: u32 = 4;

/// What makes the intake look up from its read.
#[derive(Clone)]
pub(crate) struct Alarm {
    pub(crate) waker: ReaderWaker,
    lost: Arc<AtomicBool>,
}

impl Alarm {
    pub(crate) fn new(waker: ReaderWaker) -> Self {
        Self { waker, lost: Arc::default() }
    }

    /// Entries may be pending for this host that nobody works on: the intake has to look for them.
    pub(crate) async fn look_for_lost(&self) {
        self.lost.store(true, Ordering::SeqCst);
        self.waker.wake().await;
    }
}

/// How one step of the intake ended.
pub(crate) enum Step {
    /// With these entries, and so many seats for them.
    Read(Vec<Incoming>, Seat),
    /// There was nothing to read from.
    Nothing,
    /// It was told to stop.
    Stop,
}

/// Brings calls in.
pub(crate) struct Intake {
    reader: Reader,
    queue: Arc<Queue>,
    catalog: Arc<Published>,
    alarm: Alarm,
    changes: watch::Receiver<u64>,
    all: ReadEnd,
    hot: ReadEnd,
    hot_reads: u32,
    /// The groups of all functions have to be made sure of, not only those of new ones.
    is_in_doubt: bool,
    /// When to try again to read functions that Redis did not let be read.
    look_again: Option<Instant>,
}

impl Intake {
    pub(crate) fn new(reader: Reader, queue: Arc<Queue>, catalog: Arc<Published>, alarm: Alarm) -> Self {
        let mut changes = catalog.set_changes();
        changes.mark_changed();
        Self {
            reader,
            queue,
            catalog,
            alarm,
            changes,
            all: ReadEnd::default(),
            hot: ReadEnd::default(),
            hot_reads: 0,
            is_in_doubt: true,
            look_again: None,
        }
    }

    /// Says that something was wrong: groups may be missing.
    pub(crate) fn doubt(&mut self) {
        self.is_in_doubt = true;
    }

    /// Takes seats, then reads for them: what was lost, if anything may have been, and what is new otherwise.
    pub(crate) async fn step(
        &mut self,
        seats: &Seats,
        flights: &Flights,
        stop: &CancellationToken,
    ) -> Result<Step, BrokerError> {
        self.renew().await?;
        if self.all.functions().is_empty() {
            tokio::select! {
                _ = self.changes.changed() => self.changes.mark_changed(),
                () = tokio::time::sleep(BLOCK) => {}
                () = stop.cancelled() => return Ok(Step::Stop),
            }
            return Ok(Step::Nothing);
        }
        let taken = tokio::select! {
            taken = seats.take_up_to(BATCH_MAX) => taken,
            () = stop.cancelled() => return Ok(Step::Stop),
        };
        if self.alarm.lost.swap(false, Ordering::SeqCst) {
            self.reader.suspect_loss();
        }
        let incoming = if self.reader.may_have_lost() {
            let in_flight = |function: &FunctionId, entry| flights.contains(function, entry);
            let found = self.reader.recover(&self.queue, &self.all, in_flight).await?;
            if !found.is_empty() {
                tracing::info!(calls = found.len(), "took up calls that were this host's and that nobody worked on");
            }
            found
        } else {
            self.read(taken.count()).await?
        };
        Ok(Step::Read(incoming, taken))
    }

    /// Takes changes of the catalog in. A function whose stream cannot be read is left out, so that the others can.
    async fn renew(&mut self) -> Result<(), BrokerError> {
        let is_due = self.look_again.is_some_and(|at| at <= Instant::now());
        if !self.is_in_doubt && !is_due && !self.changes.has_changed().unwrap_or(false) {
            return Ok(());
        }
        self.changes.mark_unchanged();
        let mut functions: Vec<FunctionId> = self.catalog.snapshot().functions().cloned().collect();
        let is_known =
            |function: &&FunctionId| !self.is_in_doubt && self.all.functions().binary_search(function).is_ok();
        let unsure: Vec<FunctionId> = functions.iter().filter(|function| !is_known(function)).cloned().collect();
        let ensured = self.queue.ensure_groups(&unsure).await;
        let refused = ensured.inspect_err(|_| self.is_in_doubt = true)?;
        for (function, reason) in &refused {
            let key = self.queue.keys().calls(function);
            tracing::error!(%function, reason, "its calls cannot be read; delete the key {key} or rename the function");
        }
        functions.retain(|function| refused.iter().all(|(bad, _)| bad != function));
        self.is_in_doubt = false;
        self.look_again = (!refused.is_empty()).then(|| Instant::now() + BLOCK);
        self.all = ReadEnd::new(self.queue.keys(), functions);
        self.hot = ReadEnd::default();
        Ok(())
    }

    /// Reads for so many seats. Redis counts by stream, so the seats are shared out: among the busy functions, read
    /// without waiting, while they fill their share; among all otherwise.
    async fn read(&mut self, seats: usize) -> Result<Vec<Incoming>, BrokerError> {
        let is_hot = !self.hot.functions().is_empty() && self.hot_reads < HOT_READS_MAX;
        let (from, block) = if is_hot { (&self.hot, None) } else { (&self.all, Some(BLOCK)) };
        let share = (seats / from.functions().len()).max(1);
        self.hot_reads = if is_hot { self.hot_reads + 1 } else { 0 };
        let incoming = self.reader.read(from, share, block).await?;
        self.note_busy(&incoming, share, is_hot);
        Ok(incoming)
    }

    /// A function that filled its share probably has more.
    fn note_busy(&mut self, incoming: &[Incoming], share: usize, was_hot: bool) {
        // Redis answers stream by stream, so the calls of one function stand together.
        let busy = incoming.chunk_by(|a, b| function_of(a) == function_of(b)).filter(|calls| calls.len() >= share);
        let busy: Vec<&FunctionId> = busy.map(|calls| function_of(&calls[0])).collect();
        if self.all.functions().len() == 1 || (busy.is_empty() && !was_hot) {
            return;
        }
        if !busy.iter().copied().eq(self.hot.functions()) {
            let busy = busy.into_iter().cloned().collect();
            self.hot = ReadEnd::new(self.queue.keys(), busy);
        }
    }
}

fn function_of(incoming: &Incoming) -> &FunctionId {
    match incoming {
        Incoming::Call(delivery) => &delivery.call.function,
        Incoming::Malformed(function, ..) => function,
    }
}
