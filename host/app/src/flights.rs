//! What is in flight: every call that this host holds, from the moment it was read until Redis has its end.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use baton_broker::Delivery;
use baton_model::{Call, EntryId, FunctionId, Lease};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// Which call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct FlightKey {
    pub(crate) function: FunctionId,
    pub(crate) entry: EntryId,
}

impl FlightKey {
    pub(crate) fn of(delivery: &Delivery) -> Self {
        Self { function: delivery.call.function.clone(), entry: delivery.lease.entry }
    }
}

enum Stage {
    /// An attempt runs. The handle stops it, once it has a task of its own.
    Running(Option<AbortHandle>),
    /// The attempt has ended and its settlement is on the way.
    Settling,
}

struct Flight {
    call: Arc<Call>,
    lease: Lease,
    since: Instant,
    /// When the lease was last known to be whole.
    renewed: Instant,
    stage: Stage,
}

/// Whether a call that was read is to be worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Boarding {
    /// It is in flight from now on.
    Boarded,
    /// This host works on that entry already, under another claim.
    Twice,
}

/// A lock and no message: it is held for one map operation, by every task that starts, ends, renews or counts calls.
#[derive(Default)]
pub(crate) struct Flights {
    table: Mutex<HashMap<FlightKey, Flight>>,
    landed: Notify,
}

impl Flights {
    fn lock(&self) -> MutexGuard<'_, HashMap<FlightKey, Flight>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a call in.
    pub(crate) fn board(&self, delivery: &Delivery) -> Boarding {
        let now = Instant::now();
        let flight = Flight {
            call: delivery.call.clone(),
            lease: delivery.lease,
            since: now,
            renewed: now,
            stage: Stage::Running(None),
        };
        match self.lock().entry(FlightKey::of(delivery)) {
            std::collections::hash_map::Entry::Occupied(_) => Boarding::Twice,
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(flight);
                Boarding::Boarded
            }
        }
    }

    /// Remembers how to stop an attempt that got a task of its own. It may have ended already.
    pub(crate) fn can_be_stopped_by(&self, key: &FlightKey, stop: AbortHandle) {
        if let Some(Flight { stage: Stage::Running(handle), .. }) = self.lock().get_mut(key) {
            *handle = Some(stop);
        }
    }

    /// The attempt has ended. True if its end is to be settled by whoever asks; false if somebody gave the call away.
    pub(crate) fn begin_settling(&self, key: &FlightKey) -> bool {
        match self.lock().get_mut(key) {
            Some(flight) => {
                let first = matches!(flight.stage, Stage::Running(_));
                flight.stage = Stage::Settling;
                first
            }
            None => false,
        }
    }

    /// Redis has the call's end, or it is another's.
    pub(crate) fn land(&self, key: &FlightKey) {
        let mut table = self.lock();
        table.remove(key);
        if table.is_empty() {
            self.landed.notify_waiters();
        }
    }

    /// Stops an attempt whose call this host does not hold any more, and forgets it: its end will not be settled. An
    /// attempt that has ended already is left to the settler, whom Redis answers. True if one was stopped.
    pub(crate) fn abandon(&self, key: &FlightKey) -> bool {
        let mut table = self.lock();
        let Some(Flight { stage: Stage::Running(stop), .. }) = table.get(key) else { return false };
        stop.iter().for_each(AbortHandle::abort);
        table.remove(key);
        if table.is_empty() {
            self.landed.notify_waiters();
        }
        true
    }

    /// Stops every running attempt and returns its call, to be handed back.
    pub(crate) fn stop_all(&self) -> Vec<Delivery> {
        let mut stopped = Vec::new();
        for flight in self.lock().values_mut() {
            if let Stage::Running(stop) = &flight.stage {
                stop.iter().for_each(AbortHandle::abort);
                flight.stage = Stage::Settling;
                stopped.push(Delivery { call: flight.call.clone(), lease: flight.lease });
            }
        }
        stopped
    }

    pub(crate) fn contains(&self, function: &FunctionId, entry: EntryId) -> bool {
        self.lock().contains_key(&FlightKey { function: function.clone(), entry })
    }

    /// Every lease that was last renewed at least `age` ago, by function.
    pub(crate) fn leases_older_than(&self, age: Duration) -> HashMap<FunctionId, Vec<Lease>> {
        let mut due: HashMap<FunctionId, Vec<Lease>> = HashMap::new();
        for (key, flight) in self.lock().iter().filter(|(_, flight)| flight.renewed.elapsed() >= age) {
            due.entry(key.function.clone()).or_default().push(flight.lease);
        }
        due
    }

    /// A lease was whole at `at`.
    pub(crate) fn renewed(&self, key: &FlightKey, at: Instant) {
        if let Some(flight) = self.lock().get_mut(key) {
            flight.renewed = at;
        }
    }

    /// How many calls are in flight, and for how long the oldest is.
    pub(crate) fn load(&self) -> (usize, Duration) {
        let table = self.lock();
        (table.len(), table.values().map(|flight| flight.since.elapsed()).max().unwrap_or_default())
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
