//! The keeper: shows that this host is there, keeps its record in Redis true, and hears what others say to it.

use std::sync::Arc;
use std::time::Duration;

use baton_broker::{BrokerError, Presence, Standing, Word};
use baton_model::{EntryId, FunctionId, HostRecord, HostState, Room};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::{Backoff, Trouble};
use crate::catalog::Published;
use crate::flights::Flights;
use crate::ledger::Ledger;
use crate::promoter::Due;

/// The least time between two writes for changes of the catalog.
const COALESCE: Duration = Duration::from_millis(50);
/// Signs of life for each lease. A host counts as silent after a lease and a third, so one may be missed.
const BEATS: f64 = 2.5;
/// The least time between two connections.
const STOOD_MIN: Duration = Duration::from_millis(300);

/// Stands at Redis, gives signs of life, and writes the record when it changes.
pub(crate) struct Keeper {
    pub(crate) presence: Arc<Presence>,
    pub(crate) catalog: Arc<Published>,
    pub(crate) flights: Arc<Flights>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) record: HostRecord,
    pub(crate) state: watch::Receiver<HostState>,
    pub(crate) lease: Duration,
    /// Up to which change of the catalog the record in Redis is true.
    pub(crate) written: watch::Sender<u64>,
    /// Changes when this host was seen to be missing among those that are online.
    pub(crate) missing: watch::Receiver<u64>,
    /// What is said to this host, but for what the keeper answers itself.
    pub(crate) words: mpsc::Sender<Word>,
    /// Who wakes delayed calls; none at a host without functions.
    pub(crate) promoter: Option<mpsc::UnboundedSender<Due>>,
    /// Calls that somebody takes back; heard by nobody where no functions run.
    pub(crate) cancels: mpsc::UnboundedSender<(FunctionId, EntryId)>,
    pub(crate) trouble: Arc<Trouble>,
}

/// What is to be written next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The record, and this host's place among the others.
    Register,
    /// The record, which has news in it.
    Update,
    /// The record as it is.
    Beat,
}

impl Keeper {
    /// Keeps this host's place until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new("keeping this host's record", &self.trouble);
        let mut changes = self.catalog.changes();
        loop {
            let began = Instant::now();
            let Err(error) = tokio::select! {
                ended = self.stand(&mut changes, &mut backoff) => ended,
                () = stop.cancelled() => return,
            };
            let wait = async {
                backoff.failed(&error).await;
                // One that comes about and breaks again and again is not to be had at any price.
                tokio::time::sleep_until(began + STOOD_MIN).await;
            };
            tokio::select! {
                () = wait => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Keeps it on one connection, as long as that lasts.
    async fn stand(
        &mut self,
        changes: &mut watch::Receiver<u64>,
        backoff: &mut Backoff,
    ) -> Result<std::convert::Infallible, BrokerError> {
        let mut standing = self.presence.stand(&self.record.id).await?;
        // Others may have taken this host out meanwhile, and it may have missed who came and went.
        let mut next = Next::Register;
        loop {
            let began = Instant::now();
            match self.write(&mut standing, next, changes).await {
                Ok(true) => backoff.succeeded(),
                Ok(false) => {
                    next = Next::Register;
                    continue;
                }
                // Redis takes no writes: it is full, or read-only. This host is there all the same, and says so if it may.
                Err(error @ BrokerError::Unable(_)) => {
                    backoff.failed(&error).await;
                    _ = standing.beat().await;
                    continue;
                }
                Err(error) => return Err(error),
            }
            next = self.wait(&mut standing, began, changes).await?;
        }
    }

    /// False if there was no record of this host to keep.
    async fn write(
        &mut self,
        standing: &mut Standing,
        next: Next,
        changes: &mut watch::Receiver<u64>,
    ) -> Result<bool, BrokerError> {
        let change = *changes.borrow_and_update();
        self.record.functions = self.catalog.snapshot().loaded();
        self.record.state = *self.state.borrow_and_update();
        self.record.in_flight = self.flights.load().0 as u64;
        match next {
            Next::Register => {
                self.missing.mark_unchanged();
                standing.register(&self.record).await?;
                self.look_at_delayed();
            }
            Next::Update | Next::Beat => {
                if !standing.update(&self.record, next == Next::Update).await? {
                    return Ok(false);
                }
            }
        }
        self.written.send_replace(change);
        Ok(true)
    }

    /// While this host did not listen it may have missed that a call was accepted which is to wait.
    fn look_at_delayed(&self) {
        for function in self.catalog.snapshot().functions() {
            self.due(function.clone(), Duration::ZERO);
        }
    }

    /// What is not loaded is looked at when it is.
    fn due(&self, function: FunctionId, wait: Duration) {
        if let Some(promoter) = self.promoter.as_ref().filter(|_| self.catalog.snapshot().get(&function).is_some()) {
            // At a drain the promoter ends before this task does.
            _ = promoter.send(Due { function, wait });
        }
    }

    /// What room there is for calls of `function`.
    fn room(&self, function: &FunctionId) -> Room {
        let held = self.ledger.held(function, std::time::Instant::now());
        Room {
            host: self.record.id.clone(),
            state: *self.state.borrow(),
            has_function: self.catalog.snapshot().get(function).is_some(),
            seats: self.record.seats,
            in_flight: u32::try_from(self.flights.load().0).unwrap_or(u32::MAX),
            held: held.map(|(held, _)| held.quota().into()),
            held_ms: held.map_or(0, |(_, wait)| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// Waits for what has to be written next.
    async fn wait(
        &mut self,
        standing: &mut Standing,
        began: Instant,
        changes: &mut watch::Receiver<u64>,
    ) -> Result<Next, BrokerError> {
        let beat_at = began + self.lease.div_f64(BEATS);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(beat_at) => return Ok(Next::Beat),
                // At a start, functions come one by one; the record is written for all that come together.
                // A sender that is gone has nothing more to say; at a drain, the watcher's is.
                Ok(()) = changes.changed() => {
                    tokio::time::sleep_until(began + COALESCE).await;
                    return Ok(Next::Update);
                }
                Ok(()) = self.state.changed() => return Ok(Next::Update),
                Ok(()) = self.missing.changed() => return Ok(Next::Register),
                word = standing.next_word() => match word? {
                    Word::Calls(question) => standing.answer(&question, &self.flights.calls(&self.record.id)).await?,
                    Word::Due(function, ms) => self.due(function, Duration::from_millis(ms)),
                    Word::Room(question, function) => {
                        let room = self.room(&function);
                        standing.answer_room(&question, &room).await?;
                    }
                    Word::Cancel(function, entry) => {
                        // What is no entry is nobody's call.
                        _ = EntryId::parse(&entry).map(|entry| self.cancels.send((function, entry)));
                    }
                    // Hints: the watcher finds out by itself, only later.
                    word => _ = self.words.try_send(word),
                },
            }
        }
    }
}
