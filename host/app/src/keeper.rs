//! The keeper: keeps this host's record in Redis true, so that others know that it is there.

use std::sync::Arc;
use std::time::Duration;

use baton_broker::Presence;
use baton_model::{HostRecord, HostState};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::catalog::Published;

/// The least time between two writes for changes of the catalog.
const COALESCE: Duration = Duration::from_millis(50);

/// Writes the record when it changes, and once a lease in any case.
pub(crate) struct Keeper {
    pub(crate) presence: Arc<Presence>,
    pub(crate) catalog: Arc<Published>,
    pub(crate) record: HostRecord,
    pub(crate) state: watch::Receiver<HostState>,
    pub(crate) lease: Duration,
    /// Up to which change of the catalog the record in Redis is true.
    pub(crate) written: watch::Sender<u64>,
}

impl Keeper {
    /// Keeps the record until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.catalog.changes();
        let mut backoff = Backoff::new("keeping this host's record");
        loop {
            let change = *changes.borrow_and_update();
            let began = Instant::now();
            self.record.functions = self.catalog.snapshot().loaded();
            self.record.state = *self.state.borrow_and_update();
            // Written whole each time, so that what a flush took is mended with the next.
            if let Err(error) = self.presence.register(&self.record).await {
                tokio::select! {
                    () = backoff.failed(&error) => continue,
                    () = stop.cancelled() => return,
                }
            }
            backoff.succeeded();
            self.written.send_replace(change);
            tokio::select! {
                () = tokio::time::sleep(self.lease) => {}
                // At a start, functions come one by one; the record is written for all that come together.
                _ = changes.changed() => tokio::time::sleep_until(began + COALESCE).await,
                _ = self.state.changed() => {}
                () = stop.cancelled() => return,
            }
        }
    }
}
