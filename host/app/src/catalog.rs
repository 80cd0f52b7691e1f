//! The catalog: an immutable map from function to revision, published by one pointer swap.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use baton_engine::{Component, Services};
use baton_model::{FunctionId, Grants, Limits, LoadedFunction, Quotas, RetryPolicy, Schedule};
use tokio::sync::watch;

use crate::metrics::FunctionMetrics;
use crate::policy::Terms;
use crate::quickness::Quickness;

/// One component with its manifest, as loaded.
pub(crate) struct Revision {
    /// The function.
    pub(crate) function: FunctionId,
    /// Its code.
    pub(crate) component: Component,
    /// The bytes of it, if it is durable: executions stay on it when it is not in the folder any more.
    pub(crate) bytes: Option<Arc<[u8]>>,
    /// Whether its executions go on with it, where that is possible, when it takes the place of another.
    pub(crate) moves: bool,
    /// What its attempts may use.
    pub(crate) limits: Limits,
    /// When its failed calls are tried again.
    pub(crate) retry: RetryPolicy,
    /// What it may reach.
    pub(crate) grants: Arc<Grants>,
    /// What each call is given of it; none if it was granted nothing that takes any.
    pub(crate) services: Option<Arc<Services>>,
    /// How much of this host it may take; its tenant's quotas bind as well.
    pub(crate) quotas: Quotas,
    /// When it is called by itself.
    pub(crate) schedules: Arc<[Schedule]>,
    /// Where its calls are counted: the same for every revision of one function.
    pub(crate) metrics: Arc<FunctionMetrics>,
    quickness: Quickness,
    made: Instant,
}

impl Revision {
    /// A revision that was never called.
    pub(crate) fn new(
        function: FunctionId,
        component: Component,
        bytes: Option<Arc<[u8]>>,
        terms: Terms,
        services: Option<Arc<Services>>,
        metrics: Arc<FunctionMetrics>,
    ) -> Self {
        let Terms { limits, retry, grants, quotas, executions_move, schedules } = terms;
        Self {
            function,
            component,
            bytes,
            moves: executions_move,
            limits,
            retry,
            grants,
            services,
            quotas,
            schedules,
            metrics,
            quickness: Quickness::unknown(),
            made: Instant::now(),
        }
    }

    /// On which terms it runs.
    pub(crate) fn terms(&self) -> Terms {
        Terms {
            limits: self.limits,
            retry: self.retry,
            grants: self.grants.clone(),
            quotas: self.quotas,
            executions_move: self.moves,
            schedules: self.schedules.clone(),
        }
    }

    /// Takes one call's time into account.
    pub(crate) fn took(&self, time: Duration) {
        self.quickness.took(time);
    }

    /// A call that was taken for a quick one took this long on the thread that reads, and is through or not.
    pub(crate) fn ran_where_calls_are_read(&self, time: Duration, is_through: bool) {
        self.quickness.ran_where_calls_are_read(time, is_through, || self.made.elapsed());
    }

    /// Whether its calls usually take next to no time.
    pub(crate) fn is_tiny(&self) -> bool {
        self.quickness.is_tiny()
    }

    /// How much of the time of the thread that starts it a call is expected to take.
    pub(crate) fn expected(&self) -> Duration {
        self.quickness.expected(|| self.made.elapsed())
    }

    /// Whether its calls usually end at once.
    pub(crate) fn is_quick(&self) -> bool {
        self.quickness.is_quick(|| self.made.elapsed())
    }
}

impl Drop for Revision {
    fn drop(&mut self) {
        tracing::debug!(function = %self.function, digest = %self.component.digest().short(), "revision drained and dropped");
    }
}

/// What this host has loaded at one moment.
#[derive(Default, Clone)]
pub(crate) struct Catalog {
    revisions: BTreeMap<FunctionId, Arc<Revision>>,
}

impl Catalog {
    /// The revision on which a call of `function` that starts now runs.
    pub(crate) fn get(&self, function: &FunctionId) -> Option<&Arc<Revision>> {
        self.revisions.get(function)
    }

    /// Every function, sorted.
    pub(crate) fn functions(&self) -> impl Iterator<Item = &FunctionId> {
        self.revisions.keys()
    }

    /// When `function` is called by itself; none if it is not loaded.
    pub(crate) fn schedules_of(&self, function: &FunctionId) -> Option<&Arc<[Schedule]>> {
        self.revisions.get(function).map(|revision| &revision.schedules)
    }

    /// What peers and operators are told.
    pub(crate) fn loaded(&self) -> Vec<LoadedFunction> {
        let loaded = |(function, revision): (&FunctionId, &Arc<Revision>)| LoadedFunction {
            function: function.clone(),
            digest: revision.component.digest(),
            schedules: revision.schedules.iter().map(Schedule::about).collect(),
        };
        self.revisions.iter().map(loaded).collect()
    }
}

/// The published catalog. Readers take snapshots; one writer swaps.
pub(crate) struct Published {
    current: ArcSwap<Catalog>,
    changes: watch::Sender<u64>,
    set_changes: watch::Sender<u64>,
}

impl Published {
    pub(crate) fn new() -> Self {
        Self { current: ArcSwap::default(), changes: watch::Sender::new(0), set_changes: watch::Sender::new(0) }
    }

    pub(crate) fn snapshot(&self) -> arc_swap::Guard<Arc<Catalog>> {
        self.current.load()
    }

    /// How often anything has changed, and a way to wait for the next change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The number of the last change.
    pub(crate) fn change(&self) -> u64 {
        *self.changes.borrow()
    }

    /// The same for the set of functions and their quotas alone, which is what readers go by: any other new revision of
    /// a function that was there is no change of it.
    pub(crate) fn set_changes(&self) -> watch::Receiver<u64> {
        self.set_changes.subscribe()
    }

    /// Puts a revision in place of its predecessor. Only the reloader calls this.
    pub(crate) fn put(&self, revision: Arc<Revision>) {
        let mut next = Catalog::clone(&self.current.load());
        let quotas = revision.quotas;
        let old = next.revisions.insert(revision.function.clone(), revision);
        self.publish(next, old.is_none_or(|old| old.quotas != quotas));
    }

    /// Takes a function out. Calls in flight finish. Only the reloader calls this.
    pub(crate) fn remove(&self, function: &FunctionId) {
        let mut next = Catalog::clone(&self.current.load());
        next.revisions.remove(function);
        self.publish(next, true);
    }

    fn publish(&self, next: Catalog, is_other_set: bool) {
        self.current.store(Arc::new(next));
        self.changes.send_modify(|n| *n += 1);
        if is_other_set {
            self.set_changes.send_modify(|n| *n += 1);
        }
    }
}
