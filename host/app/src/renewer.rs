//! The renewer: keeps the leases of calls that take long, and stops attempts whose lease is gone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use baton_broker::{BrokerError, LeaseKeeper, Renewal};
use baton_model::{FunctionId, Lease};
use tokio_util::sync::CancellationToken;

use crate::consumer::Alarm;
use crate::flights::{FlightKey, Flights};

/// Leases that go to Redis in one script run.
const BATCH_MAX: usize = 256;

/// Renews leases at every quarter of their length.
pub(crate) struct Renewer {
    pub(crate) keeper: LeaseKeeper,
    pub(crate) flights: Arc<Flights>,
    pub(crate) lease: Duration,
    pub(crate) alarm: Alarm,
}

impl Renewer {
    /// Renews until `stop`, which comes after the drain: leases are kept while attempts finish.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let quarter = (self.lease / 4).max(Duration::from_millis(1));
        let mut ticks = tokio::time::interval(quarter);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            // Younger ones are renewed at the next tick, when their lease still has more than half its length.
            for (function, leases) in self.flights.leases_older_than(quarter / 2) {
                for batch in leases.chunks(BATCH_MAX) {
                    self.renew(&function, batch).await;
                }
            }
            self.stop_lapsed().await;
        }
    }

    async fn renew(&self, function: &FunctionId, leases: &[Lease]) {
        let asked = Instant::now();
        let answers = match self.keeper.renew(function, leases).await {
            Ok(answers) => answers,
            Err(error) => return self.failed(function, &error),
        };
        for (lease, renewal) in leases.iter().zip(answers) {
            let key = FlightKey { function: function.clone(), lease: *lease };
            match renewal {
                // From when it was asked for: Redis may have renewed it at any time since.
                Renewal::Kept => self.flights.renewed(&key, asked),
                // The call may simply have ended meanwhile; then there is nothing to abandon.
                Renewal::Lost => {
                    if self.flights.abandon(&key) {
                        tracing::warn!(%function, entry = %lease.entry, "lease lost; the attempt is stopped");
                    }
                }
            }
        }
    }

    fn failed(&self, function: &FunctionId, error: &BrokerError) {
        tracing::debug!(%function, %error, "leases could not be renewed; trying again");
    }

    /// An attempt whose lease this host could not renew in time is stopped before another host may start the call.
    async fn stop_lapsed(&self) {
        let mut stopped = false;
        for (function, leases) in self.flights.leases_older_than(self.lease.mul_f64(0.9)) {
            for lease in leases {
                let key = FlightKey { function: function.clone(), lease };
                if self.flights.abandon(&key) {
                    tracing::warn!(%function, entry = %lease.entry, "lease ran out while Redis was away; the attempt is stopped");
                    stopped = true;
                }
            }
        }
        if stopped {
            self.alarm.look_for_lost().await;
        }
    }
}
