//! The sweeper: takes over what dead hosts left, and knows when to look.
//!
//! It polls nothing while there is nothing to find. A function is looked at when the host starts, when another host
//! is known, and when something that was seen there becomes due; beside that one function at a time, slowly, in turn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use baton_broker::{BrokerError, Presence, Queue};
use baton_model::{FunctionId, HostId};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::catalog::Published;
use crate::consumer::Alarm;
use crate::promoter::Due;
use crate::runner::{Runner, ToSettler};
use crate::seats::{Seat, Seats};

/// The most entries that one look claims.
const CLAIM_MAX: usize = 64;

/// How many leases pass between two looks of the slow round.
const ROUND_EVERY: u32 = 4;

/// What the sweeper is made from.
pub(crate) struct Sweeper {
    pub(crate) host: HostId,
    pub(crate) queue: Arc<Queue>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) catalog: Arc<Published>,
    pub(crate) seats: Seats,
    pub(crate) runner: Arc<Runner>,
    pub(crate) settler: ToSettler,
    pub(crate) alarm: Alarm,
    pub(crate) promoter: mpsc::UnboundedSender<Due>,
    pub(crate) lease: Duration,
}

/// When to look where.
struct Agenda {
    /// Functions with a time at which something there becomes due.
    due: BTreeMap<FunctionId, Instant>,
    /// The functions that were looked at once since they were loaded.
    seen: BTreeSet<FunctionId>,
    /// The next full look at who is there.
    roll_call: Instant,
    /// How many there were.
    roll_calls: u32,
    /// Where the slow round stands.
    round: Option<FunctionId>,
    /// The hosts that were known at the last roll call.
    known: Vec<HostId>,
}

impl Sweeper {
    /// Sweeps until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut changes = self.catalog.changes();
        let mut agenda = Agenda {
            due: BTreeMap::new(),
            seen: BTreeSet::new(),
            roll_call: Instant::now(),
            roll_calls: 0,
            round: None,
            known: Vec::new(),
        };
        let mut backoff = Backoff::new("looking after other hosts' calls");
        loop {
            agenda.take_in(&self.catalog);
            let next = agenda.due.values().min().copied().unwrap_or(agenda.roll_call).min(agenda.roll_call);
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                _ = changes.changed() => continue,
                () = stop.cancelled() => return,
            }
            match self.look(&mut agenda).await {
                Ok(()) => backoff.succeeded(),
                Err(error) => tokio::select! {
                    () = backoff.failed(&error) => {}
                    () = stop.cancelled() => return,
                },
            }
        }
    }

    async fn look(&self, agenda: &mut Agenda) -> Result<(), BrokerError> {
        let now = Instant::now();
        if agenda.roll_call <= now {
            agenda.known = self.presence.known().await?;
            let others = agenda.known.iter().any(|host| *host != self.host);
            let functions: Vec<FunctionId> = self.catalog.snapshot().functions().cloned().collect();
            if others {
                agenda.due.extend(functions.into_iter().map(|function| (function, now)));
                self.forget_dead(&agenda.known).await?;
            } else if agenda.roll_calls.is_multiple_of(ROUND_EVERY)
                && let Some(function) = agenda.next_in_round(functions)
            {
                // A lone host has nobody whose calls could be left. One function in turn is looked at all the same.
                agenda.due.insert(function, now);
            }
            agenda.roll_call = now + self.lease;
            agenda.roll_calls = agenda.roll_calls.wrapping_add(1);
        }
        let due: Vec<FunctionId> =
            agenda.due.iter().filter(|(_, at)| **at <= now).map(|(function, _)| function.clone()).collect();
        for function in due {
            let next = self.sweep(&function, &agenda.known).await?;
            match next {
                Some(wait) => agenda.due.insert(function, Instant::now() + wait),
                None => agenda.due.remove(&function),
            };
        }
        Ok(())
    }

    /// Hosts whose record has expired are gone. Their calls are found by their leases.
    async fn forget_dead(&self, known: &[HostId]) -> Result<(), BrokerError> {
        let others: Vec<HostId> = known.iter().filter(|host| **host != self.host).cloned().collect();
        for (host, record) in others.iter().zip(self.presence.records(&others).await?) {
            if record.is_none() {
                tracing::info!(%host, "a host is gone without leaving; its calls are taken over as their leases lapse");
                self.presence.remove(host).await?;
            }
        }
        Ok(())
    }

    /// Looks at one function; returns when to look again, if something there will become due.
    async fn sweep(&self, function: &FunctionId, live: &[HostId]) -> Result<Option<Duration>, BrokerError> {
        let mut seats = self.room();
        let swept = self.queue.sweep(&self.host, function, live, seats.len()).await?;
        if let Some(wait) = swept.backlog.next_due {
            // The promoter outlives this task by design; a failed send means that the host is ending.
            _ = self.promoter.send(Due { function: function.clone(), wait });
        }
        if !swept.claimed.is_empty() {
            tracing::info!(%function, calls = swept.claimed.len(), "took over calls whose host is gone");
        }
        let is_full = !swept.claimed.is_empty() && seats.len() == swept.claimed.len();
        let batch = swept.claimed.into_iter().zip(seats.drain(..)).collect();
        self.runner.start(batch, &self.settler).await;
        let next = swept.backlog.next_lapse;
        if is_full {
            return Ok(Some(Duration::ZERO));
        }
        if next == Some(Duration::ZERO) {
            // Every seat is taken: by long calls, or by the reader, which gives them back when it is woken.
            self.alarm.waker.wake().await;
            return Ok(Some(Duration::from_millis(20)));
        }
        // A little later than the lapse, so that one look is enough.
        Ok(next.map(|wait| wait + Duration::from_millis(5)))
    }

    fn room(&self) -> Vec<Seat> {
        std::iter::from_fn(|| self.seats.try_one()).take(CLAIM_MAX).collect()
    }
}

impl Agenda {
    /// What was loaded since the last time is looked at now; what was taken out, never again.
    fn take_in(&mut self, catalog: &Published) {
        let catalog = catalog.snapshot();
        self.due.retain(|function, _| catalog.get(function).is_some());
        self.seen.retain(|function| catalog.get(function).is_some());
        for function in catalog.functions() {
            if self.seen.insert(function.clone()) {
                self.due.insert(function.clone(), Instant::now());
            }
        }
    }

    fn next_in_round(&mut self, functions: Vec<FunctionId>) -> Option<FunctionId> {
        let after = self.round.take();
        let next = functions.iter().find(|function| after.as_ref().is_none_or(|after| *function > after));
        self.round = next.or(functions.first()).cloned();
        self.round.clone()
    }
}
