//! What is in flight: every call that this host holds, from the moment it was read until Redis has its end.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use baton_broker::{Delivery, Incoming};
use baton_model::{Call, EntryId, FunctionId, HostId, Lease, RunningCall, RunningState};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::clock::now_ms;

/// The most calls that are told of to whoever asks.
const TOLD_MAX: usize = 1000;

/// Which attempt: an entry that came back to this host under a later claim is another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FlightKey {
    pub(crate) function: FunctionId,
    pub(crate) lease: Lease,
}

impl FlightKey {
    pub(crate) fn of(delivery: &Delivery) -> Self {
        Self { function: delivery.call.function.clone(), lease: delivery.lease }
    }

    pub(crate) fn of_incoming(incoming: &Incoming) -> Self {
        match incoming {
            Incoming::Call(delivery) => Self::of(delivery),
            Incoming::Malformed(function, lease, _) => Self { function: function.clone(), lease: *lease },
        }
    }

    fn place(&self) -> Place {
        (self.function.clone(), self.lease.entry)
    }
}

/// Where an attempt stands in the table: there is one for each entry at the most.
type Place = (FunctionId, EntryId);

enum Stage {
    /// An attempt runs. The handle stops it, once it has a task of its own.
    Running(Option<AbortHandle>),
    /// The attempt has ended and its settlement is on the way.
    Settling,
    /// The attempt was stopped and its call is being handed back, or ended.
    Stopped,
}

struct Flight {
    /// None for an entry that is no call: it has no attempt, and only waits to be buried.
    call: Option<Arc<Call>>,
    lease: Lease,
    since: Instant,
    /// When its attempt began.
    begun: Option<Instant>,
    /// When the lease was last known to be whole.
    renewed: Instant,
    stage: Stage,
}

/// Whether a call that was read is to be worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Boarding {
    /// It is in flight from now on.
    Boarded,
    /// This host works on it already, under this very lease.
    Twice,
}

/// The attempt of this very lease.
fn find<'a>(table: &'a mut HashMap<Place, Flight>, key: &FlightKey) -> Option<&'a mut Flight> {
    table.get_mut(&key.place()).filter(|flight| flight.lease == key.lease)
}

/// A lock and no message: it is held for one map operation, by every task that starts, ends, renews or counts calls.
#[derive(Default)]
pub(crate) struct Flights {
    table: Mutex<HashMap<Place, Flight>>,
    landed: Notify,
}

impl Flights {
    fn lock(&self) -> MutexGuard<'_, HashMap<Place, Flight>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what was read in: it is this host's from now on, and its lease is kept. An older attempt at the same entry is stopped: the entry was another host's meanwhile, so that
    /// attempt's lease is worth nothing.
    pub(crate) fn board(&self, incoming: &Incoming) -> Boarding {
        let now = Instant::now();
        let call = match incoming {
            Incoming::Call(delivery) => Some(delivery.call.clone()),
            Incoming::Malformed(..) => None,
        };
        let key = FlightKey::of_incoming(incoming);
        let flight =
            Flight { call, lease: key.lease, since: now, begun: None, renewed: now, stage: Stage::Running(None) };
        match self.lock().entry(key.place()) {
            Entry::Occupied(mut place) if place.get().lease.claims < key.lease.claims => {
                if let Stage::Running(Some(stop)) = place.insert(flight).stage {
                    stop.abort();
                }
                Boarding::Boarded
            }
            Entry::Occupied(_) => Boarding::Twice,
            Entry::Vacant(place) => {
                place.insert(flight);
                Boarding::Boarded
            }
        }
    }

    /// Remembers how to stop an attempt that got a task of its own. It may have ended already.
    pub(crate) fn can_be_stopped_by(&self, key: &FlightKey, stop: AbortHandle) {
        match find(&mut self.lock(), key) {
            Some(Flight { stage: Stage::Running(handle), .. }) => *handle = Some(stop),
            Some(Flight { stage: Stage::Settling, .. }) => {}
            Some(Flight { stage: Stage::Stopped, .. }) => stop.abort(),
            // It has ended, or another claim has taken its place before it could be stopped.
            None => stop.abort(),
        }
    }

    /// The attempt has ended. True if its end is to be settled by whoever asks; false if somebody gave the call away.
    pub(crate) fn begin_settling(&self, key: &FlightKey) -> bool {
        match find(&mut self.lock(), key) {
            Some(flight) => {
                let first = matches!(flight.stage, Stage::Running(_));
                if first {
                    flight.stage = Stage::Settling;
                }
                first
            }
            None => false,
        }
    }

    /// The attempt begins now. False if it may not any more: the call was given away while it waited.
    pub(crate) fn begin(&self, key: &FlightKey) -> bool {
        match find(&mut self.lock(), key) {
            Some(flight) if matches!(flight.stage, Stage::Running(_)) => {
                flight.begun = Some(Instant::now());
                true
            }
            Some(_) | None => false,
        }
    }

    /// Redis has the call's end, or it is another's.
    pub(crate) fn land(&self, key: &FlightKey) {
        let mut table = self.lock();
        if find(&mut table, key).is_some() {
            table.remove(&key.place());
        }
        if table.is_empty() {
            self.landed.notify_waiters();
        }
    }

    /// Stops an attempt whose call this host does not hold any more, and forgets it: its end will not be settled. An
    /// attempt that has ended already is left to the settler, whom Redis answers. True if one was stopped.
    pub(crate) fn abandon(&self, key: &FlightKey) -> bool {
        let mut table = self.lock();
        let Some(Flight { stage: Stage::Running(stop), .. }) = find(&mut table, key) else { return false };
        stop.iter().for_each(AbortHandle::abort);
        table.remove(&key.place());
        if table.is_empty() {
            self.landed.notify_waiters();
        }
        true
    }

    /// Stops every running attempt and returns its call, to be handed back.
    pub(crate) fn stop_all(&self) -> Vec<Delivery> {
        let mut stopped = Vec::new();
        for flight in self.lock().values_mut() {
            if let (Stage::Running(stop), Some(call)) = (&flight.stage, &flight.call) {
                stop.iter().for_each(AbortHandle::abort);
                stopped.push(Delivery { call: call.clone(), lease: flight.lease, read: None });
                flight.stage = Stage::Stopped;
            }
        }
        stopped
    }

    /// Stops one call, whatever its claims, and returns it to be ended, with when its attempt began. None if this host does not have it, or if
    /// its end is on the way already.
    pub(crate) fn stop_one(&self, function: &FunctionId, entry: EntryId) -> Option<(Delivery, Option<Instant>)> {
        let mut table = self.lock();
        let flight = table.get_mut(&(function.clone(), entry))?;
        let (Stage::Running(stop), Some(call)) = (&flight.stage, &flight.call) else { return None };
        stop.iter().for_each(AbortHandle::abort);
        let delivery = Delivery { call: call.clone(), lease: flight.lease, read: None };
        flight.stage = Stage::Stopped;
        Some((delivery, flight.begun))
    }

    pub(crate) fn contains(&self, function: &FunctionId, entry: EntryId) -> bool {
        self.lock().contains_key(&(function.clone(), entry))
    }

    /// Every lease that was last renewed at least `age` ago, by function.
    pub(crate) fn leases_older_than(&self, age: Duration) -> HashMap<FunctionId, Vec<Lease>> {
        let mut due: HashMap<FunctionId, Vec<Lease>> = HashMap::new();
        for ((function, _), flight) in self.lock().iter().filter(|(_, flight)| flight.renewed.elapsed() >= age) {
            due.entry(function.clone()).or_default().push(flight.lease);
        }
        due
    }

    /// A lease was whole at `at`.
    pub(crate) fn renewed(&self, key: &FlightKey, at: Instant) {
        if let Some(flight) = find(&mut self.lock(), key) {
            flight.renewed = at;
        }
    }

    /// How many calls are in flight, and for how long the oldest is.
    pub(crate) fn load(&self) -> (usize, Duration) {
        let table = self.lock();
        (table.len(), table.values().map(|flight| flight.since.elapsed()).max().unwrap_or_default())
    }

    /// What is in flight, as `host` says it to whoever asks; the oldest first, and only so many.
    pub(crate) fn calls(&self, host: &HostId) -> Vec<RunningCall> {
        let now_ms = now_ms();
        let ago = |at: Instant| now_ms.saturating_sub(u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX));
        let told = |flight: &Flight| {
            let call = flight.call.as_ref()?;
            let (state, since) = match flight.begun {
                Some(begun) => (RunningState::Running, begun),
                None => (RunningState::Starting, flight.since),
            };
            Some(RunningCall {
                function: call.function.clone(),
                id: call.id.clone(),
                attempt: call.attempt,
                host: host.clone(),
                state,
                since_ms: ago(since),
                accepted_ms: call.accepted_ms,
            })
        };
        let mut calls: Vec<RunningCall> = self.lock().values().filter_map(told).collect();
        calls.sort_by_key(|call| call.since_ms);
        calls.truncate(TOLD_MAX);
        calls
    }

    /// Waits until nothing is in flight.
    pub(crate) async fn none_left(&self) {
        loop {
            let landed = self.landed.notified();
            tokio::pin!(landed);
            landed.as_mut().enable();
            if self.lock().is_empty() {
                return;
            }
            landed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(claims: u32) -> Incoming {
        let function: FunctionId = "hello".parse().unwrap();
        let entry = EntryId::parse("1-0").unwrap();
        let call = Call::plain(function, baton_model::CallId::parse("1-0").unwrap(), "");
        Incoming::Call(Delivery { call: Arc::new(call), lease: Lease { entry, claims }, read: None })
    }

    #[test]
    fn an_entry_that_came_back_takes_the_place_of_its_stale_attempt() {
        let flights = Flights::default();
        let (old, new) = (delivery(0), delivery(2));
        assert_eq!(flights.board(&old), Boarding::Boarded);
        assert_eq!(flights.board(&old), Boarding::Twice);
        assert_eq!(flights.board(&new), Boarding::Boarded);
        // Whatever the stale attempt does now concerns the new one no more.
        assert!(!flights.begin_settling(&FlightKey::of_incoming(&old)));
        flights.land(&FlightKey::of_incoming(&old));
        assert_eq!(flights.load().0, 1);
        assert!(flights.begin_settling(&FlightKey::of_incoming(&new)));
    }

    #[test]
    fn one_call_is_stopped_once_and_has_no_other_end() {
        let flights = Flights::default();
        let (call, key) = (delivery(1), FlightKey::of_incoming(&delivery(1)));
        flights.board(&call);
        let other = EntryId::parse("2-0").unwrap();
        assert!(flights.stop_one(&key.function, other).is_none(), "this host does not have it");
        let (stopped, begun) = flights.stop_one(&key.function, key.lease.entry).unwrap();
        assert_eq!((stopped.lease, begun), (key.lease, None));
        assert!(flights.stop_one(&key.function, key.lease.entry).is_none(), "it is being ended");
        assert!(!flights.begin(&key), "an attempt does not begin any more");
        assert!(!flights.begin_settling(&key), "nor is its answer given");
        flights.land(&key);
        assert_eq!(flights.load().0, 0);
    }

    #[test]
    fn an_attempt_that_has_ended_is_not_abandoned() {
        let flights = Flights::default();
        let key = FlightKey::of_incoming(&delivery(0));
        flights.board(&delivery(0));
        assert!(flights.begin_settling(&key));
        assert!(!flights.abandon(&key), "its settlement is on the way");
        flights.land(&key);
        assert_eq!(flights.load().0, 0);
    }
}
