//! Waiting between attempts to reach Redis: longer each time, with jitter, and said once.

use std::time::Duration;

use baton_broker::BrokerError;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// The trouble of one task with Redis.
pub(crate) struct Backoff {
    what: &'static str,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, failures: 0 }
    }

    /// It works, or works again.
    pub(crate) fn succeeded(&mut self) {
        if self.failures > 1 {
            tracing::info!(failures = self.failures, "{} works again", self.what);
        }
        self.failures = 0;
    }

    /// It failed: says so once (a single failure is daily life and said quietly), then waits.
    pub(crate) async fn failed(&mut self, error: &BrokerError) {
        self.failures += 1;
        match self.failures {
            2 => tracing::warn!(%error, "{} fails; trying again until it works", self.what),
            _ => tracing::debug!(%error, failures = self.failures, "{} fails", self.what),
        }
        let ceiling = FIRST.saturating_mul(1 << self.failures.min(8)).min(LONGEST);
        // Between a half and the whole, so that hosts do not come back in one wave.
        tokio::time::sleep(ceiling.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
    }
}
