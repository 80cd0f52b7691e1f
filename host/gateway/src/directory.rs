//! Which functions there are, as a snapshot that calls look at without asking Redis.
//!
//! Nothing rests on its being fresh: a call to a function whose hosts are gone waits in its stream like any other.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use baton_broker::{BrokerError, Inspect, Presence};
use baton_model::{FunctionId, HostRecord, HostState};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

/// How old a snapshot may be before it is made anew.
const FRESH: Duration = Duration::from_millis(250);

/// What is known of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A host takes calls for it.
    Available,
    /// It has been there, and no host takes calls for it now.
    Away,
    /// Nobody has heard of it.
    Unknown,
}

/// All hosts as they were at one time.
#[derive(Debug, Default)]
pub struct Snapshot {
    at: Option<Instant>,
    /// The hosts that are there, as far as anybody has seen.
    pub(crate) hosts: Vec<HostRecord>,
    /// How many online hosts have each function that any host has.
    functions: HashMap<FunctionId, u32>,
    /// Whether a host is loading its functions: what it will have is not known yet.
    is_starting: bool,
}

/// Looks at the hosts, at most every 250 ms, however many ask.
pub struct Directory {
    presence: Arc<Presence>,
    inspect: Arc<Inspect>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    /// Held by the one that looks; the others wait for what it finds. A lock and no message: it guards only a look.
    looking: Arc<Mutex<()>>,
}

impl Directory {
    /// Has looked at nothing yet.
    #[must_use]
    pub fn new(presence: Arc<Presence>, inspect: Arc<Inspect>) -> Self {
        Self { presence, inspect, snapshot: watch::Sender::default(), looking: Arc::default() }
    }

    /// What is known of `function`. For one that some host has, this costs no command.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn standing(self: &Arc<Self>, function: &FunctionId) -> Result<Standing, BrokerError> {
        let last = self.snapshot.borrow().clone();
        if let Some(online) = last.functions.get(function) {
            if !last.is_fresh()
                && let Ok(guard) = self.looking.clone().try_lock_owned()
            {
                let directory = self.clone();
                tokio::spawn(async move {
                    // A failed look leaves the snapshot as it was; the next call looks again.
                    _ = directory.look().await;
                    drop(guard);
                });
            }
            return Ok(of(*online));
        }
        if let Some(online) = self.hosts().await?.functions.get(function) {
            return Ok(of(*online));
        }
        Ok(if self.inspect.has_stream(function).await? { Standing::Away } else { Standing::Unknown })
    }

    /// Whether a host is loading its functions now, give or take 250 ms.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn is_starting(&self) -> Result<bool, BrokerError> {
        Ok(self.hosts().await?.is_starting)
    }

    /// The hosts as they are now, give or take 250 ms.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn hosts(&self) -> Result<Arc<Snapshot>, BrokerError> {
        let _guard = self.looking.lock().await;
        let last = self.snapshot.borrow().clone();
        if last.is_fresh() { Ok(last) } else { self.look().await }
    }

    async fn look(&self) -> Result<Arc<Snapshot>, BrokerError> {
        let roll = self.presence.roll().await?.into_iter();
        let hosts: Vec<HostRecord> =
            roll.filter_map(|seen| seen.record.filter(|record| seen.silent_for <= record.silent_after())).collect();
        let mut functions = HashMap::new();
        let is_starting = hosts.iter().any(|record| record.state == HostState::Starting);
        for record in &hosts {
            let online = u32::from(record.state == HostState::Online);
            for loaded in &record.functions {
                *functions.entry(loaded.function.clone()).or_insert(0) += online;
            }
        }
        let snapshot = Arc::new(Snapshot { at: Some(Instant::now()), hosts, functions, is_starting });
        self.snapshot.send_replace(snapshot.clone());
        Ok(snapshot)
    }
}

impl Snapshot {
    fn is_fresh(&self) -> bool {
        self.at.is_some_and(|at| at.elapsed() < FRESH)
    }

    /// The functions that any host has.
    pub fn functions(&self) -> impl Iterator<Item = &FunctionId> {
        self.functions.keys()
    }
}

fn of(online: u32) -> Standing {
    if online > 0 { Standing::Available } else { Standing::Away }
}
