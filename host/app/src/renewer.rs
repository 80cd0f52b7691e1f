//! The renewer: keeps the leases of calls that take long, and stops attempts whose lease is gone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use baton_broker::{LeaseKeeper, Renewal};
use baton_model::{FunctionId, Lease};
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::flights::{FlightKey, Flights};
use crate::intake::Alarm;
use crate::metrics::{LeaseLoss, Metrics};

/// Leases that go to Redis in one script run.
const BATCH_MAX: usize = 256;

/// Renews leases at every quarter of their length.
pub(crate) struct Renewer {
    pub(crate) keeper: LeaseKeeper,
    pub(crate) flights: Arc<Flights>,
    pub(crate) lease: Duration,
    pub(crate) alarm: Alarm,
    pub(crate) metrics: Arc<Metrics>,
}

impl Renewer {
    /// Renews until `stop`, which comes after the drain: leases are kept while attempts finish. Beside that, and never
    /// held up by it, attempts are stopped whose lease could not be renewed in time.
    pub(crate) async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = self.renew_due() => {}
            () = self.stop_lapsed() => {}
            () = stop.cancelled() => {}
        }
    }

    async fn renew_due(&self) {
        let quarter = (self.lease / 4).max(Duration::from_millis(1));
        let mut ticks = tokio::time::interval(quarter);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // Younger ones are renewed at the next tick, when their lease still has more than half its length.
            let due = self.flights.leases_older_than(quarter / 2);
            let batches =
                due.iter().flat_map(|(function, leases)| leases.chunks(BATCH_MAX).map(move |batch| (function, batch)));
            // All at once, each with its own time: a function that Redis does not answer for holds up no other.
            join_all(batches.map(|(function, batch)| tokio::time::timeout(quarter, self.renew(function, batch)))).await;
        }
    }

    async fn renew(&self, function: &FunctionId, leases: &[Lease]) {
        let asked = Instant::now();
        let answers = match self.keeper.renew(function, leases).await {
            Ok(answers) => answers,
            Err(error) => {
                tracing::debug!(%function, %error, "leases could not be renewed; trying again");
                return;
            }
        };
        let mut is_lost = false;
        for (lease, renewal) in leases.iter().zip(answers) {
            let key = FlightKey { function: function.clone(), lease: *lease };
            match renewal {
                // From when it was asked for: Redis may have renewed it at any time since.
                Renewal::Kept => self.flights.renewed(&key, asked),
                // The call may simply have ended meanwhile; then there is nothing to abandon.
                Renewal::Lost => {
                    if self.flights.abandon(&key) {
                        tracing::warn!(%function, entry = %lease.entry, "lease lost; the attempt is stopped");
                        self.metrics.function(function).lost_lease(LeaseLoss::Taken);
                        is_lost = true;
                    }
                }
            }
        }
        if is_lost {
            // It may have been lost to a later claim of this very host.
            self.alarm.look_for_lost().await;
        }
    }

    /// An attempt whose lease this host could not renew in time is stopped before another host may start the call.
    async fn stop_lapsed(&self) {
        let mut ticks = tokio::time::interval((self.lease / 40).max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut is_stopped = false;
            for (function, leases) in self.flights.leases_older_than(self.lease.mul_f64(0.9)) {
                for lease in leases {
                    let key = FlightKey { function: function.clone(), lease };
                    if self.flights.abandon(&key) {
                        tracing::warn!(%function, entry = %lease.entry, "lease ran out while Redis was away; the attempt is stopped");
                        self.metrics.function(&function).lost_lease(LeaseLoss::Lapsed);
                        is_stopped = true;
                    }
                }
            }
            if is_stopped {
                let alarm = self.alarm.clone();
                // Redis is away, so this may take a while; stopping others must not wait for it.
                tokio::spawn(async move { alarm.look_for_lost().await });
            }
        }
    }
}
