//! The promoter: moves calls whose wait is over into their streams, a batch of one function after one of another. It sleeps
//! until the first is due.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use baton_broker::{BrokerError, Queue};
use baton_model::{FunctionId, look_again};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::{Backoff, Trouble};

/// How long a function is left alone whose delayed calls Redis does not let be moved.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// A call of `function` is due after `wait`.
pub(crate) struct Due {
    pub(crate) function: FunctionId,
    pub(crate) wait: Duration,
}

/// Promotes calls. The channel is unbounded because a settlement must never wait for it; it holds one entry for each
/// retry that this host made or that it was told of, and is emptied at once.
pub(crate) struct Promoter {
    pub(crate) queue: Arc<Queue>,
    pub(crate) inbox: mpsc::UnboundedReceiver<Due>,
    pub(crate) trouble: Arc<Trouble>,
}

impl Promoter {
    /// Promotes until `stop`. What waits then is found by another host's sweep, or by this one's next start.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut agenda: BTreeMap<FunctionId, Instant> = BTreeMap::new();
        let mut backoff = Backoff::new("waking delayed calls", &self.trouble);
        loop {
            let next = agenda.iter().min_by_key(|(_, at)| **at).map(|(function, at)| (function.clone(), *at));
            let due = async {
                match &next {
                    Some((_, at)) => tokio::time::sleep_until(*at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                told = self.inbox.recv() => {
                    let Some(Due { function, wait }) = told else { return };
                    let at = Instant::now() + wait;
                    agenda.entry(function).and_modify(|have| *have = at.min(*have)).or_insert(at);
                    continue;
                }
                () = stop.cancelled() => return,
            }
            let Some((function, _)) = next else { continue };
            let asked = Instant::now();
            match self.queue.promote(&function).await {
                Ok((_, next_due)) => {
                    backoff.succeeded();
                    let answered = Instant::now();
                    match look_again(next_due, answered - asked) {
                        Some(wait) => _ = agenda.insert(function, answered + wait),
                        None => _ = agenda.remove(&function),
                    }
                }
                Err(error @ (BrokerError::Refused(_) | BrokerError::NoGroup(_))) => {
                    // The fault lies with this function's keys. The others go on.
                    tracing::warn!(%function, %error, "its delayed calls cannot be woken; trying again in a while");
                    agenda.insert(function, Instant::now() + REFUSED_PAUSE);
                }
                Err(error) => tokio::select! {
                    () = backoff.failed(&error) => {}
                    () = stop.cancelled() => return,
                },
            }
        }
    }
}
