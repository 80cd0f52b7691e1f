//! Seats: the permits for attempts. Whoever brings a call into this host has taken a seat for it first.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ledger::{CpuMeter, Entry};

/// The permit for one attempt, or for several that are about to be split. The permit is free before it is out of the
/// books: whoever is told that something has ended finds a seat.
pub(crate) struct Seat(OwnedSemaphorePermit, Option<Entry>);

impl Seat {
    /// How many attempts this permits.
    pub(crate) fn count(&self) -> usize {
        self.0.num_permits()
    }

    /// How many seats are free, if these count as free.
    pub(crate) fn free_with(&self, seats: &Seats) -> u32 {
        u32::try_from(self.count()).unwrap_or(u32::MAX).saturating_add(seats.free())
    }

    /// Takes one seat out of this. None if there is none left.
    pub(crate) fn split_one(&mut self) -> Option<Seat> {
        self.0.split(1).map(|permit| Seat(permit, None))
    }

    /// The same, in the books.
    pub(crate) fn entered(self, entry: Entry) -> Seat {
        Seat(self.0, Some(entry))
    }

    /// Whether it is in the books: several tenants share the seats, or somebody has a quota.
    pub(crate) fn is_shared(&self) -> bool {
        self.1.is_some()
    }

    /// The weight of whose attempt it is on it; 1 where there is nobody to share with.
    pub(crate) fn weight(&self) -> u32 {
        self.1.as_ref().map_or(1, Entry::weight)
    }

    /// Whether whose attempt it is on it had few that began with it, beside the others'.
    pub(crate) fn is_of_few(&self) -> bool {
        self.1.as_ref().is_none_or(Entry::is_of_few)
    }

    /// Nothing was begun on it: it does not count against a rate.
    pub(crate) fn repay(&self) {
        if let Some(entry) = &self.1 {
            entry.repay();
        }
    }

    /// What measures the CPU time of the attempt on it, if anybody limits that.
    pub(crate) fn cpu_meter(&self) -> Option<CpuMeter> {
        self.1.as_ref().and_then(Entry::cpu_meter)
    }
}

/// All seats of this host.
#[derive(Clone)]
pub(crate) struct Seats {
    free: Arc<Semaphore>,
    total: u32,
}

impl Seats {
    pub(crate) fn new(total: u32) -> Self {
        Self { free: Arc::new(Semaphore::new(total as usize)), total }
    }

    pub(crate) fn total(&self) -> u32 {
        self.total
    }

    /// How many are in nobody's hand.
    pub(crate) fn free(&self) -> u32 {
        u32::try_from(self.free.available_permits()).unwrap_or(u32::MAX)
    }

    /// Waits for a free seat, in turn, then takes as many more as are free, `most` in all.
    pub(crate) async fn take_up_to(&self, most: u32) -> Seat {
        let mut seats = self.one().await;
        for _ in 0..4 {
            let more = self.free().min(most.saturating_sub(1));
            // Somebody may be quicker; then it is looked at again.
            match self.free.clone().try_acquire_many_owned(more) {
                Ok(rest) => {
                    seats.merge(rest);
                    break;
                }
                Err(_) => tokio::task::yield_now().await,
            }
        }
        Seat(seats, None)
    }

    /// Takes a seat only if one is free.
    pub(crate) fn try_one(&self) -> Option<Seat> {
        self.free.clone().try_acquire_owned().ok().map(|permit| Seat(permit, None))
    }

    /// Takes a seat if one is free, or the permit for none: whoever goes on without one is written down all the same.
    pub(crate) fn at_most_one(&self) -> Option<Seat> {
        let none = || self.free.clone().try_acquire_many_owned(0).ok().map(|permit| Seat(permit, None));
        self.try_one().or_else(none)
    }

    async fn one(&self) -> OwnedSemaphorePermit {
        self.free.clone().acquire_owned().await.expect("the seats are never closed")
    }
}
