//! Health notices: how this host is, on each function's health channel. On change, and from time to time for those who
//! listen; while nobody does, next to nothing is said.

use std::sync::Arc;
use std::time::Duration;

use baton_broker::{BrokerError, Notice, Queue};
use baton_model::{FunctionId, HostId, HostState, LoadedFunction};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::catalog::Published;
use crate::flights::Flights;

/// How long the last word may take.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Tells how this host is.
pub(crate) struct Health {
    pub(crate) queue: Arc<Queue>,
    pub(crate) catalog: Arc<Published>,
    pub(crate) flights: Arc<Flights>,
    pub(crate) host: HostId,
    pub(crate) machine: String,
    pub(crate) seats: u32,
    pub(crate) state: watch::Receiver<HostState>,
    pub(crate) lease: Duration,
}

impl Health {
    /// Tells until `stop`, and then that this host is offline.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.catalog.changes();
        let mut told: Vec<LoadedFunction> = Vec::new();
        let mut is_heard = false;
        loop {
            // Somebody who listens hears more often than it is asked whether anybody does.
            let pause = if is_heard { self.lease / 3 } else { self.lease * 2 };
            let next = Instant::now() + pause;
            let is_due = tokio::select! {
                () = tokio::time::sleep_until(next) => true,
                _ = changes.changed() => false,
                _ = self.state.changed() => {
                    told.clear();
                    false
                }
                () = stop.cancelled() => break,
            };
            let loaded = self.catalog.snapshot().loaded();
            let state = *self.state.borrow_and_update();
            if state == HostState::Starting {
                // Until it is online it is not known to be healthy.
                continue;
            }
            // Hints, all of them: what Redis does not take is not told.
            if is_due {
                is_heard = self.tell_listeners(&loaded, state).await.unwrap_or(false);
            } else {
                let is_new = |function: &&LoadedFunction| !told.contains(function);
                for function in loaded.iter().filter(is_new) {
                    match self.tell(function, state).await {
                        Ok(listeners) => is_heard |= listeners > 0,
                        Err(error) => tracing::debug!(%error, "how this host is was not told; it is a hint only"),
                    }
                }
            }
            told = loaded;
        }
        let last_word = async {
            for function in self.catalog.snapshot().loaded() {
                _ = self.tell(&function, HostState::Offline).await;
            }
        };
        _ = tokio::time::timeout(LAST_WORD, last_word).await;
    }

    /// Tells whoever listens. True if anybody does.
    async fn tell_listeners(&self, loaded: &[LoadedFunction], state: HostState) -> Result<bool, BrokerError> {
        let Some((first, rest)) = loaded.split_first() else { return Ok(false) };
        let functions: Vec<FunctionId> = loaded.iter().map(|loaded| loaded.function.clone()).collect();
        let heard = self.queue.listened_to(&functions).await?;
        // Redis does not tell who listens by a pattern, but it counts them with a message.
        let by_pattern = self.tell(first, state).await? > 0 && !heard.contains(&first.function);
        for loaded in rest.iter().filter(|loaded| by_pattern || heard.contains(&loaded.function)) {
            self.tell(loaded, state).await?;
        }
        Ok(by_pattern || !heard.is_empty())
    }

    async fn tell(&self, loaded: &LoadedFunction, state: HostState) -> Result<u64, BrokerError> {
        let status = match state {
            HostState::Starting | HostState::Online => "healthy",
            HostState::Draining => "draining",
            HostState::Offline => "offline",
        };
        let message = serde_json::json!({
            "host": self.host,
            "machine": self.machine,
            "digest": loaded.digest,
            "status": status,
            "in_flight": self.flights.load().0,
            "seats": self.seats,
        });
        self.queue.tell(Notice::Health, &loaded.function, &message.to_string()).await
    }
}
