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
use crate::flights::{Boarding, Flights};
use crate::intake::Alarm;
use crate::promoter::Due;
use crate::runner::{Runner, ToSettler};
use crate::seats::{Seat, Seats};

/// The most entries that one look claims.
const CLAIM_MAX: usize = 64;

/// How many leases pass between two looks of the slow round.
const ROUND_EVERY: u32 = 4;
/// How many functions are looked at in each lease while there are other hosts.
const ROUND_WITH_OTHERS: usize = 16;

/// What the sweeper is made from.
pub(crate) struct Sweeper {
    pub(crate) host: HostId,
    pub(crate) queue: Arc<Queue>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) catalog: Arc<Published>,
    pub(crate) flights: Arc<Flights>,
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
            self.call_the_roll(agenda, now).await?;
        }
        let due: Vec<FunctionId> =
            agenda.due.iter().filter(|(_, at)| **at <= now).map(|(function, _)| function.clone()).collect();
        for function in due {
            let next = match self.sweep(&function, &agenda.known).await {
                Ok(next) => next,
                Err(error @ (BrokerError::Refused(_) | BrokerError::NoGroup(_))) => {
                    // The fault lies with this function's keys. The others are looked at all the same.
                    tracing::warn!(%function, %error, "what other hosts left of its calls cannot be seen");
                    Some(self.lease)
                }
                Err(error) => {
                    // Entries may have been claimed by an answer that was lost.
                    self.alarm.look_for_lost().await;
                    return Err(error);
                }
            };
            match next {
                Some(wait) => agenda.due.insert(function, Instant::now() + wait),
                None => agenda.due.remove(&function),
            };
        }
        Ok(())
    }

    /// Who is there? When somebody has gone, all functions are looked at; otherwise a few in turn, slowly.
    async fn call_the_roll(&self, agenda: &mut Agenda, now: Instant) -> Result<(), BrokerError> {
        agenda.known = self.presence.known().await?;
        let others = agenda.known.iter().any(|host| *host != self.host);
        let functions: Vec<FunctionId> = self.catalog.snapshot().functions().cloned().collect();
        let is_one_gone = others && self.forget_dead(&agenda.known).await?;
        if is_one_gone {
            agenda.due.extend(functions.into_iter().map(|function| (function, now)));
        } else if others || agenda.roll_calls.is_multiple_of(ROUND_EVERY) {
            // A lone host has nobody whose calls could be left. One function in turn is looked at all the same.
            for _ in 0..if others { ROUND_WITH_OTHERS } else { 1 } {
                let next = agenda.next_in_round(&functions);
                agenda.due.extend(next.map(|function| (function, now)));
            }
        }
        agenda.roll_call = now + self.lease;
        agenda.roll_calls = agenda.roll_calls.wrapping_add(1);
        Ok(())
    }

    /// Hosts whose record has expired are gone. Their calls are found by their leases. True if there was one.
    async fn forget_dead(&self, known: &[HostId]) -> Result<bool, BrokerError> {
        let others: Vec<HostId> = known.iter().filter(|host| **host != self.host).cloned().collect();
        let mut is_one_gone = false;
        for (host, record) in others.iter().zip(self.presence.records(&others).await?) {
            if record.is_none() {
                tracing::info!(%host, "a host is gone without leaving; its calls are taken over as their leases lapse");
                self.presence.cut_off(&[host.as_str().to_owned()]).await?;
                self.presence.remove(host).await?;
                is_one_gone = true;
            }
        }
        Ok(is_one_gone)
    }

    /// Looks at one function; returns when to look again, if something there will become due.
    async fn sweep(&self, function: &FunctionId, live: &[HostId]) -> Result<Option<Duration>, BrokerError> {
        let mut seats: Vec<Seat> = std::iter::from_fn(|| self.seats.try_one()).take(CLAIM_MAX).collect();
        let mut swept = self.queue.sweep(&self.host, function, live, &[], seats.len()).await?;
        if !swept.whole.is_empty() {
            // Somebody's leases have lapsed. What that host may still have on its way must not arrive any more.
            let silent = std::mem::take(&mut swept.whole);
            if seats.is_empty() {
                seats.push(self.seat_in_turn().await);
            }
            // Nothing may come between the cut and the claim in which that host could go on and fall silent again.
            self.presence.cut_off(&silent).await?;
            swept = self.queue.sweep(&self.host, function, live, &silent, seats.len()).await?;
        }
        let is_more_silent = !swept.whole.is_empty();
        if let Some(wait) = swept.backlog.next_due {
            // The promoter outlives this task by design; a failed send means that the host is ending.
            _ = self.promoter.send(Due { function: function.clone(), wait });
        }
        if !swept.claimed.is_empty() {
            tracing::info!(%function, calls = swept.claimed.len(), "took over calls whose host is gone");
            self.runner.metrics.function(function).reclaimed(swept.claimed.len());
        }
        let boarded = swept.claimed.into_iter().filter(|call| self.flights.board(call) == Boarding::Boarded);
        let batch = boarded.zip(seats.drain(..)).collect();
        self.runner.start(batch, &self.settler).await;
        if is_more_silent {
            // Another host's leases lapsed in between.
            return Ok(Some(Duration::ZERO));
        }
        // A little later than the lapse, so that one look is enough; at once if something was left over.
        Ok(swept.backlog.next_lapse.map(|wait| if wait.is_zero() { wait } else { wait + Duration::from_millis(5) }))
    }

    /// Waits in turn for a seat. The reader may hold all that are free, and gives them back when it is woken; whoever
    /// waits here is served before it takes new ones.
    async fn seat_in_turn(&self) -> Seat {
        let seat = self.seats.take_up_to(1);
        tokio::pin!(seat);
        tokio::select! {
            biased;
            seat = &mut seat => return seat,
            () = self.alarm.waker.wake() => {}
        }
        seat.await
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

    fn next_in_round(&mut self, functions: &[FunctionId]) -> Option<FunctionId> {
        let after = self.round.take();
        let next = functions.iter().find(|function| after.as_ref().is_none_or(|after| *function > after));
        self.round = next.or(functions.first()).cloned();
        self.round.clone()
    }
}
