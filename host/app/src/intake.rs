//! The intake: which streams are asked for how much, and what makes it look up from its read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use baton_broker::{BrokerError, Ensured, Incoming, Levels, Portion, Queue, ReadEnd, Reader, ReaderWaker};
use baton_model::mutants::{Rule, is_left_out};
use baton_model::{FunctionId, Quotas, Tenants};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::catalog::Published;
use crate::flights::Flights;
use crate::ledger::Ledger;
use crate::levels::{Order, Streams};
use crate::reading::{self, Hint, Plan};
use crate::seats::{Seat, Seats};

/// How long a read waits for a call. It is woken sooner for everything else, so this only bounds the silence.
const BLOCK: Duration = Duration::from_secs(30);
/// The most calls that one read brings: more makes the neighbours wait and gains nothing (docs/performance.md).
const BATCH_MAX: u32 = 128;
/// The same, where several share the seats: a call of one of them stands behind what others had read with it.
const BATCH_SHARED_MAX: u32 = 32;
/// How soon it is looked again while a call waits for an end that nobody may tell of: an attempt that began before there
/// was anything to decide is not in the books.
const UNTOLD: Duration = Duration::from_millis(100);
/// For how long reads may look at busy functions only, for each function that there is: a look at one that has no call costs
/// Redis and this host about two microseconds together, and all those looks a tenth of the time.
const HOT_FOR_EACH: Duration = Duration::from_micros(9);
/// The fewest calls that a look at all brings from busy functions: where fewer come, none is read without the others.
const HOT_MIN: usize = 8;

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
    /// With calls that were read before and may begin now.
    Seated(Vec<(Incoming, Seat)>),
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
    ledger: Arc<Ledger>,
    streams: Arc<Streams>,
    /// How many calls one read brings at the most, if an operator said so.
    batch: u32,
    tenants: watch::Receiver<Tenants>,
    changes: watch::Receiver<u64>,
    all: ReadEnd,
    /// Where each of them stands in the ledger.
    places: Vec<usize>,
    /// What is known of each of them, where there is anything to decide.
    hints: Vec<Hint>,
    /// In which order calls of one function are read.
    order: Order,
    /// The busy ones, which are read without the others up to a time.
    hot: ReadEnd,
    hot_until: Instant,
    /// Those that had calls since all were looked at.
    lively: BTreeSet<FunctionId>,
    /// Who comes first where not all fit.
    turn: usize,
    /// The groups of all functions have to be made sure of, not only those of new ones.
    is_in_doubt: bool,
    /// When to try again to read functions that Redis did not let be read.
    look_again: Option<Instant>,
}

impl Intake {
    pub(crate) fn new(
        reader: Reader,
        queue: Arc<Queue>,
        catalog: Arc<Published>,
        alarm: Alarm,
        ledger: Arc<Ledger>,
        streams: Arc<Streams>,
        tenants: watch::Receiver<Tenants>,
    ) -> Self {
        let mut changes = catalog.set_changes();
        changes.mark_changed();
        Self {
            reader,
            queue,
            catalog,
            alarm,
            ledger,
            streams,
            batch: BATCH_MAX,
            tenants,
            changes,
            all: ReadEnd::default(),
            places: Vec::new(),
            hints: Vec::new(),
            order: Order::default(),
            hot: ReadEnd::default(),
            hot_until: Instant::now(),
            lively: BTreeSet::new(),
            turn: 0,
            is_in_doubt: true,
            look_again: None,
        }
    }

    /// As many calls as this, one read brings at the most.
    pub(crate) fn bringing(self, batch: u32) -> Self {
        Self { batch, ..self }
    }

    /// Says that something was wrong: groups may be missing.
    pub(crate) fn doubt(&mut self) {
        self.is_in_doubt = true;
    }

    /// Takes seats, then reads for them: what was lost, if anything may have been, and what is new otherwise. `waiting`
    /// was read before, and comes first.
    pub(crate) async fn step(
        &mut self,
        seats: &Seats,
        flights: &Flights,
        waiting: &mut VecDeque<Incoming>,
        stop: &CancellationToken,
    ) -> Result<Step, BrokerError> {
        self.is_in_doubt |= self.reader.take_fault();
        self.renew().await?;
        if self.all.functions().is_empty() && waiting.is_empty() {
            tokio::select! {
                _ = self.changes.changed() => self.changes.mark_changed(),
                () = tokio::time::sleep(BLOCK) => {}
                () = stop.cancelled() => return Ok(Step::Stop),
            }
            return Ok(Step::Nothing);
        }
        let most = if self.ledger.is_shared() { BATCH_SHARED_MAX } else { BATCH_MAX };
        let mut taken = tokio::select! {
            taken = seats.take_up_to(most.min(self.batch)) => taken,
            () = stop.cancelled() => return Ok(Step::Stop),
        };
        if self.alarm.lost.swap(false, Ordering::SeqCst) {
            self.reader.suspect_loss();
        }
        if self.ledger.is_shared() {
            // Before anything is looked at, so that no end falls between the look and the wait.
            self.ledger.bell.arm();
            let free = taken.free_with(seats);
            let admitted = self.ledger.admit(waiting, &mut taken, free, now());
            if !admitted.is_empty() {
                self.ledger.bell.disarm();
                return Ok(Step::Seated(admitted));
            }
        }
        let incoming = if self.reader.may_have_lost() && !is_left_out(Rule::OwnPendingRecovery) {
            let in_flight = |function: &FunctionId, entry| flights.contains(function, entry);
            let found = self.reader.recover(&self.queue, &self.all, in_flight).await?;
            if !found.is_empty() {
                tracing::info!(calls = found.len(), "took up calls that were this host's and that nobody worked on");
            }
            found
        } else if self.ledger.is_shared() {
            return self.read_shared(seats, taken, waiting, stop).await;
        } else {
            self.read(taken.count()).await?
        };
        Ok(Step::Read(incoming, taken))
    }

    /// Reads as far as shares and quotas let calls begin.
    async fn read_shared(
        &mut self,
        seats: &Seats,
        taken: Seat,
        waiting: &VecDeque<Incoming>,
        stop: &CancellationToken,
    ) -> Result<Step, BrokerError> {
        self.hints.iter_mut().for_each(|hint| hint.has_waiting = false);
        for call in waiting {
            if let Ok(place) = self.all.functions().binary_search(call.function()) {
                self.hints[place].has_waiting = true;
            }
        }
        let free = taken.free_with(seats);
        let look = self.ledger.look(&self.places, free, now());
        let is_untold = look.in_use.saturating_add(free) < seats.total();
        let most = u32::try_from(taken.count()).unwrap_or(u32::MAX);
        let look_at_all = Instant::now() >= self.hot_until;
        let plan = reading::plan(look, &self.hints, most, look_at_all, self.turn, BLOCK);
        let Plan { portions, mut block, waits_for_an_end, held } = plan;
        self.turn = self.turn.wrapping_add(1);
        if block.is_some() || look_at_all {
            self.looked_at_all();
        }
        self.ledger.note_held(self.places.iter().copied().zip(held), now());
        if waits_for_an_end && is_untold {
            block = block.map(|block| block.min(UNTOLD));
        }
        if !waits_for_an_end || block.is_none() {
            self.ledger.bell.disarm();
        }
        if portions.is_empty() {
            // Whoever else needs a seat must not wait for this.
            drop(taken);
            tokio::select! {
                () = self.ledger.bell.rung() => {}
                () = tokio::time::sleep(block.unwrap_or_default().min(UNTOLD)) => {}
                () = stop.cancelled() => return Ok(Step::Stop),
            }
            return Ok(Step::Nothing);
        }
        let portions = self.order.by_level(&self.all, portions);
        let read = self.reader.read_portions(&self.all, &portions, block).await;
        self.ledger.bell.disarm();
        let incoming = read?;
        self.order.note(&self.all, &portions, &incoming);
        self.note_shares(&portions, &incoming);
        Ok(Step::Read(incoming, taken))
    }

    /// A function that filled its share probably has more.
    fn note_shares(&mut self, portions: &[Portion], incoming: &[Incoming]) {
        let mut brought = vec![0; self.hints.len()];
        for calls in incoming.chunk_by(|a, b| a.function() == b.function()) {
            if let Ok(place) = self.all.functions().binary_search(calls[0].function()) {
                brought[place] = calls.len();
            }
        }
        for portion in portions {
            portion.functions.iter().for_each(|place| self.hints[*place].is_busy = brought[*place] >= portion.count);
        }
    }

    /// Takes changes of the catalog in. A function whose stream cannot be read is left out, so that the others can.
    async fn renew(&mut self) -> Result<(), BrokerError> {
        let is_due = self.look_again.is_some_and(|at| at <= Instant::now());
        let is_said_anew = self.tenants.has_changed().unwrap_or(false);
        let is_other_set = self.changes.has_changed().unwrap_or(false);
        if !self.is_in_doubt && !is_due && !is_said_anew && !is_other_set && !self.streams.has_news() {
            return Ok(());
        }
        self.changes.mark_unchanged();
        let catalog = self.catalog.snapshot().clone();
        let mut functions: Vec<FunctionId> = catalog.functions().cloned().collect();
        let news = self.streams.take_news();
        let is_known = |function: &&FunctionId| {
            !self.is_in_doubt && self.all.functions().binary_search(function).is_ok() && !news.contains(function)
        };
        let unsure: Vec<FunctionId> = functions.iter().filter(|function| !is_known(function)).cloned().collect();
        let ensured = self.queue.ensure_groups(&unsure).await;
        let Ensured { refused, levels } = ensured.inspect_err(|_| self.is_in_doubt = true)?;
        for (function, reason) in &refused {
            let key = self.queue.keys().calls(function);
            tracing::error!(%function, reason, "its calls cannot be read; delete the key {key} or rename the function");
        }
        functions.retain(|function| refused.iter().all(|(bad, _)| bad != function));
        let known = self.levels_of(&functions, &unsure, &levels);
        self.is_in_doubt = false;
        self.look_again = (!refused.is_empty()).then(|| Instant::now() + BLOCK);
        let quotas = |function: &FunctionId| catalog.get(function).map(|revision| revision.quotas).unwrap_or_default();
        let loaded: Vec<(FunctionId, Quotas)> = functions.iter().map(|f| (f.clone(), quotas(f))).collect();
        self.places = self.ledger.open(&loaded, &self.tenants.borrow_and_update(), now());
        self.hints = vec![Hint::default(); functions.len()];
        self.order.renew(&known);
        self.all = ReadEnd::of_levels(self.queue.keys(), known.clone().into_iter().collect());
        self.streams.publish(known);
        self.hot = ReadEnd::default();
        self.lively.clear();
        Ok(())
    }

    /// Which streams each of these functions has: as is found now of those that were looked at, and as was known of the
    /// others.
    fn levels_of(
        &self,
        functions: &[FunctionId],
        looked_at: &[FunctionId],
        found: &[(FunctionId, Levels)],
    ) -> BTreeMap<FunctionId, Levels> {
        let mut known: BTreeMap<FunctionId, Levels> =
            functions.iter().map(|function| (function.clone(), Levels::default())).collect();
        for (place, function) in self.all.functions().iter().enumerate() {
            known.entry(function.clone()).and_modify(|levels| *levels = self.all.levels(place));
        }
        let now = looked_at.iter().map(|function| (function, Levels::default()));
        for (function, now) in now.chain(found.iter().map(|(function, levels)| (function, *levels))) {
            known.entry(function.clone()).and_modify(|levels| *levels = now);
        }
        known
    }

    /// Reads for so many seats. Redis counts by stream, so the seats are shared out: for a while among the busy functions,
    /// then among all.
    async fn read(&mut self, seats: usize) -> Result<Vec<Incoming>, BrokerError> {
        let left = self.hot_until.saturating_duration_since(Instant::now());
        if !self.order.is_plain() {
            return self.read_by_level(seats, !left.is_zero()).await;
        }
        let is_hot = !self.hot.functions().is_empty() && !left.is_zero();
        // Redis counts in milliseconds.
        let block = if is_hot { Some(left).filter(|left| *left >= Duration::from_millis(1)) } else { Some(BLOCK) };
        let from = if is_hot { &self.hot } else { &self.all };
        let share = from.share_of(seats);
        let incoming = self.reader.read(from, share, block).await?;
        self.order.note_plain(share, &incoming);
        if !is_hot {
            self.looked_at_all();
        }
        self.note_busy(&incoming, share, is_hot);
        Ok(incoming)
    }

    /// The same without waiting, while functions with several levels have more calls than a read brings. For a while they are
    /// read with the busy functions alone.
    async fn read_by_level(&mut self, seats: usize, is_hot: bool) -> Result<Vec<Incoming>, BrokerError> {
        let is_read = |place: &usize| {
            let function = &self.all.functions()[*place];
            !is_hot || self.order.is_crowded(function) || self.hot.functions().binary_search(function).is_ok()
        };
        let places: Vec<usize> = (0..self.all.functions().len()).filter(is_read).collect();
        let share = (seats / places.len().max(1)).max(1);
        let portions = self.order.by_level(&self.all, vec![Portion::new(places, share)]);
        let incoming = self.reader.read_portions(&self.all, &portions, None).await?;
        self.order.note(&self.all, &portions, &incoming);
        if !is_hot {
            self.looked_at_all();
        }
        self.note_busy(&incoming, share, is_hot);
        Ok(incoming)
    }

    fn looked_at_all(&mut self) {
        let functions = u32::try_from(self.all.functions().len()).unwrap_or(u32::MAX);
        self.hot_until = Instant::now() + HOT_FOR_EACH * functions;
    }

    /// A function that filled its share probably has more, and so has one that is busy already and had any call.
    fn note_busy(&mut self, incoming: &[Incoming], share: usize, was_hot: bool) {
        if self.all.functions().len() == 1 {
            return;
        }
        // Redis answers stream by stream, so the calls of one function stand together.
        let brought = incoming.chunk_by(|a, b| a.function() == b.function());
        if was_hot {
            for calls in brought {
                if !self.lively.contains(calls[0].function()) {
                    self.lively.insert(calls[0].function().clone());
                }
            }
            if incoming.is_empty() {
                // Whoever comes next is waited for everywhere.
                self.hot_until = Instant::now();
            }
            return;
        }
        let mut busy = std::mem::take(&mut self.lively);
        if incoming.len() >= HOT_MIN {
            busy.extend(brought.filter(|calls| calls.len() >= share).map(|calls| calls[0].function().clone()));
        }
        if !busy.iter().eq(self.hot.functions()) {
            self.hot = ReadEnd::of_levels(self.queue.keys(), self.order.with_levels(busy));
        }
    }
}

fn now() -> std::time::Instant {
    std::time::Instant::now()
}
