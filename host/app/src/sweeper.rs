//! The sweeper: takes over what dead hosts left, and knows when to look.
//!
//! It polls nothing while there is nothing to find. A function is looked at when the host starts, when another host
//! is known, and when something that was seen there becomes due; beside that one function at a time, slowly, in turn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use baton_broker::{BrokerError, Cut, Presence, Queue, SweepPlan, Swept};
use baton_model::{FunctionId, HostId, OfflineReason};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::{Backoff, Trouble};
use crate::catalog::Published;
use crate::flights::{Boarding, Flights};
use crate::intake::Alarm;
use crate::ledger::Ledger;
use crate::levels::Streams;
use crate::peers::Roster;
use crate::promoter::Due;
use crate::runner::{Runner, ToSettler};
use crate::seats::{Seat, Seats};
use crate::watcher::Gone;

/// The most gone hosts that are remembered for one function.
const LEFT_MAX: usize = 64;
/// The most entries that one look claims.
const CLAIM_MAX: usize = 64;

/// How many leases pass between two looks of the slow round.
const ROUND_EVERY: u32 = 4;
/// How many functions are looked at in each lease while there are other hosts.
const ROUND_WITH_OTHERS: usize = 16;
/// How long the other survivors have to take their share of what a gone host left; then whoever can takes it.
const SHARED_FOR: Duration = Duration::from_millis(400);
/// For how long it is sure that a gone host has not come back. Then Redis is asked before anything is taken from it.
const SURE_FOR: Duration = Duration::from_secs(1);
/// How long a look waits for entries that another host should take.
const OTHERS_PAUSE: Duration = Duration::from_millis(100);

/// What the sweeper is made from.
pub(crate) struct Sweeper {
    pub(crate) host: HostId,
    pub(crate) queue: Arc<Queue>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) catalog: Arc<Published>,
    pub(crate) flights: Arc<Flights>,
    pub(crate) seats: Seats,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) runner: Arc<Runner>,
    pub(crate) settler: ToSettler,
    pub(crate) alarm: Alarm,
    pub(crate) streams: Arc<Streams>,
    pub(crate) promoter: mpsc::UnboundedSender<Due>,
    pub(crate) lease: Duration,
    /// Who is there; nothing is looked at before that is known.
    pub(crate) roster: watch::Receiver<Option<Roster>>,
    /// Hosts whose calls are to be taken over.
    pub(crate) gone: mpsc::UnboundedReceiver<Gone>,
    pub(crate) trouble: Arc<Trouble>,
}

/// When to look where.
struct Agenda {
    /// Functions with a time at which something there becomes due.
    due: BTreeMap<FunctionId, Instant>,
    /// Hosts that are gone, and since when, by function that they may have left calls of.
    left: BTreeMap<FunctionId, BTreeMap<HostId, Instant>>,
    /// The functions that were looked at once since they were loaded.
    seen: BTreeSet<FunctionId>,
    /// The next step of the slow round.
    round_at: Instant,
    /// How many there were.
    rounds: u32,
    /// Where the slow round stands.
    round: Option<FunctionId>,
}

impl Sweeper {
    /// Sweeps until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            known = self.roster.wait_for(Option::is_some) => if known.is_err() { return },
            () = stop.cancelled() => return,
        }
        let mut changes = self.catalog.changes();
        let mut agenda = Agenda::new();
        let mut backoff = Backoff::new("looking after other hosts' calls", &self.trouble);
        loop {
            agenda.take_in(&self.catalog, self.lease);
            let next = agenda.due.values().min().copied().unwrap_or(agenda.round_at).min(agenda.round_at);
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                _ = changes.changed() => continue,
                Some(gone) = self.gone.recv() => {
                    agenda.take_over(gone, &self.catalog);
                    continue;
                }
                () = stop.cancelled() => return,
            }
            match self.look(&mut agenda, &stop).await {
                Ok(()) => backoff.succeeded(),
                Err(error) => tokio::select! {
                    () = backoff.failed(&error) => {}
                    () = stop.cancelled() => return,
                },
            }
        }
    }

    async fn look(&self, agenda: &mut Agenda, stop: &CancellationToken) -> Result<(), BrokerError> {
        let now = Instant::now();
        let Some(roster) = self.roster.borrow().clone() else { return Ok(()) };
        if agenda.round_at <= now {
            agenda.go_round(&self.catalog, roster.has_others(), now);
            agenda.round_at = now + self.lease;
        }
        let due: Vec<FunctionId> =
            agenda.due.iter().filter(|(_, at)| **at <= now).map(|(function, _)| function.clone()).collect();
        for function in due {
            if stop.is_cancelled() {
                return Ok(());
            }
            let next = match self.sweep(&function, agenda, stop).await {
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

    /// Looks at one function; returns when to look again, if something there will become due.
    async fn sweep(
        &self,
        function: &FunctionId,
        agenda: &mut Agenda,
        stop: &CancellationToken,
    ) -> Result<Option<Duration>, BrokerError> {
        let room = self.ledger.room_of(function, Instant::now().into_std());
        if room == 0 {
            // Its tenant or itself has all that it may have. What was left behind waits like what is new, and holds up no
            // other function.
            return Ok(Some(OTHERS_PAUSE));
        }
        let most = CLAIM_MAX.min(room as usize);
        let mut seats: Vec<Seat> = std::iter::from_fn(|| self.seats.try_one()).take(most).collect();
        if seats.is_empty() && agenda.left.contains_key(function) {
            let Some(seat) = self.seat_in_turn(stop).await else { return Ok(None) };
            seats.push(seat);
        }
        // As it is now: to get a seat may have taken long.
        let Some(roster) = self.roster.borrow().clone() else { return Ok(Some(self.lease)) };
        let (ids, is_shared) = self.gone_of(function, &roster, agenda).await?;
        // Each survivor takes its share at once; what is left a little later is anybody's.
        let share = if is_shared { roster.share(function) } else { (1, 0) };
        let live = roster.others();
        let levels = self.streams.of(function);
        let plan = |cut, room| SweepPlan { live: &live, gone: &ids, cut, share, room, levels };
        let mut swept = self.queue.sweep(&self.host, function, plan(&[], seats.len())).await?;
        self.board(function, &mut swept, &mut seats).await;
        if !swept.whole.is_empty() {
            // Somebody's leases have lapsed. What that host may still have on its way must not arrive any more.
            let silent = std::mem::take(&mut swept.whole);
            if seats.is_empty() {
                let Some(seat) = self.seat_in_turn(stop).await else { return Ok(None) };
                seats.push(seat);
            }
            // Nothing may come between the cut and the claim in which that host could go on and fall silent again.
            self.presence.cut_off(&silent, Cut::Settling).await?;
            swept = self.queue.sweep(&self.host, function, plan(&silent, seats.len())).await?;
            self.board(function, &mut swept, &mut seats).await;
        }
        if self.streams.learn(function, swept.levels) {
            self.alarm.waker.wake().await;
        }
        if let Some(wait) = swept.backlog.next_due {
            // The promoter outlives this task by design; a failed send means that the host is ending.
            _ = self.promoter.send(Due { function: function.clone(), wait });
        }
        if swept.mine_left > 0 || !swept.whole.is_empty() {
            // There was no room for all, or another host's leases lapsed in between.
            return Ok(Some(Duration::ZERO));
        }
        if swept.others_left > 0 {
            return Ok(Some(OTHERS_PAUSE));
        }
        agenda.left.remove(function);
        // A little later than the lapse, so that one look is enough; at once if something was left over.
        Ok(swept.backlog.next_lapse.map(|wait| if wait.is_zero() { wait } else { wait + Duration::from_millis(5) }))
    }

    /// The hosts that are gone and may have left calls of `function`, and whether it is so lately that other survivors
    /// are to have their share. Those that came back are not among them.
    async fn gone_of(
        &self,
        function: &FunctionId,
        roster: &Roster,
        agenda: &mut Agenda,
    ) -> Result<(Vec<HostId>, bool), BrokerError> {
        let Some(left) = agenda.left.get_mut(function) else { return Ok((Vec::new(), true)) };
        left.retain(|host, _| !roster.has(host));
        let is_shared = left.values().all(|since| since.elapsed() < SHARED_FOR);
        let ids: Vec<HostId> = left.keys().cloned().collect();
        if left.values().all(|since| since.elapsed() < SURE_FOR) {
            return Ok((ids, is_shared));
        }
        Ok((self.presence.without_connection(&ids).await?, is_shared))
    }

    /// Starts what was claimed, each call on a seat of its own.
    async fn board(&self, function: &FunctionId, swept: &mut Swept, seats: &mut Vec<Seat>) {
        if swept.claimed.is_empty() {
            return;
        }
        tracing::info!(%function, calls = swept.claimed.len(), "took over calls");
        self.runner.metrics.function(function).reclaimed(swept.claimed.len());
        let claimed = std::mem::take(&mut swept.claimed);
        let count = claimed.len().min(seats.len());
        let boarded = claimed.into_iter().filter(|call| self.flights.board(call) == Boarding::Boarded);
        let now = Instant::now().into_std();
        let entered = seats.drain(..count).map(|seat| self.ledger.enter(function, seat, now));
        let batch = boarded.zip(entered).collect();
        self.runner.start(batch, &self.settler).await;
    }

    /// Waits in turn for a seat; none if this host is ending. The reader may hold all that are free, and gives them back
    /// when it is woken; whoever waits here is served before it takes new ones.
    async fn seat_in_turn(&self, stop: &CancellationToken) -> Option<Seat> {
        let seat = self.seats.take_up_to(1);
        tokio::pin!(seat);
        tokio::select! {
            biased;
            seat = &mut seat => return Some(seat),
            () = stop.cancelled() => return None,
            () = self.alarm.waker.wake() => {}
        }
        tokio::select! {
            seat = seat => Some(seat),
            () = stop.cancelled() => None,
        }
    }
}

impl Agenda {
    fn new() -> Self {
        Self {
            due: BTreeMap::new(),
            left: BTreeMap::new(),
            seen: BTreeSet::new(),
            round_at: Instant::now(),
            rounds: 0,
            round: None,
        }
    }

    /// What was loaded since the last time is looked at now; what was taken out, never again. What gone hosts left of a
    /// function that is not here is remembered for two leases: by then it is found without.
    fn take_in(&mut self, catalog: &Published, lease: Duration) {
        let catalog = catalog.snapshot();
        self.left.retain(|function, hosts| {
            catalog.get(function).is_some() || hosts.values().any(|since| since.elapsed() < lease * 2)
        });
        self.due.retain(|function, _| catalog.get(function).is_some());
        self.seen.retain(|function| catalog.get(function).is_some());
        for function in catalog.functions() {
            if self.seen.insert(function.clone()) {
                self.due.insert(function.clone(), Instant::now());
            }
        }
    }

    /// A host is gone: what it may have left is looked at now.
    fn take_over(&mut self, gone: Gone, catalog: &Published) {
        let now = Instant::now();
        let catalog = catalog.snapshot();
        // What it had is looked at, and after a crash what this host has, too: a record may be a moment old. What is not
        // loaded yet is looked at when it is.
        let is_all = gone.reason == OfflineReason::Crashed || gone.functions.is_none();
        let own = is_all.then(|| catalog.functions().cloned()).into_iter().flatten();
        let functions: BTreeSet<FunctionId> = gone.functions.into_iter().flatten().chain(own).collect();
        for function in functions {
            if catalog.get(&function).is_some() {
                self.due.insert(function.clone(), now);
            }
            match gone.reason {
                // A silent one may come back. Its calls are taken when their leases have lapsed.
                OfflineReason::Silent | OfflineReason::Shutdown => {}
                OfflineReason::Crashed => {
                    let left = self.left.entry(function).or_default();
                    left.insert(gone.host.clone(), now);
                    while left.len() > LEFT_MAX {
                        let oldest = left.iter().min_by_key(|(_, since)| **since).map(|(host, _)| host.clone());
                        oldest.iter().for_each(|host| _ = left.remove(host));
                    }
                }
            }
        }
    }

    /// The next functions of the slow round: what every other way has missed is found by it.
    fn go_round(&mut self, catalog: &Published, has_others: bool, now: Instant) {
        let functions: Vec<FunctionId> = catalog.snapshot().functions().cloned().collect();
        // A lone host has nobody whose calls could be left. One function in turn is looked at all the same.
        let count = match has_others {
            true => ROUND_WITH_OTHERS,
            false => usize::from(self.rounds.is_multiple_of(ROUND_EVERY)),
        };
        for _ in 0..count.min(functions.len()) {
            let next = self.next_in_round(&functions);
            self.due.extend(next.map(|function| (function, now)));
        }
        self.rounds = self.rounds.wrapping_add(1);
    }

    fn next_in_round(&mut self, functions: &[FunctionId]) -> Option<FunctionId> {
        let after = self.round.take();
        let next = functions.iter().find(|function| after.as_ref().is_none_or(|after| *function > after));
        self.round = next.or(functions.first()).cloned();
        self.round.clone()
    }
}
