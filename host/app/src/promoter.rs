//! The promoter: moves calls whose wait is over back into their streams. It sleeps until the first is due.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use baton_broker::{BrokerError, Queue};
use baton_model::FunctionId;
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
/// retry that this host made, and is emptied at once.
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
            match self.queue.promote(&function).await {
                Ok((_, Some(wait))) => {
                    backoff.succeeded();
                    // Redis's clock and this one tick apart: never spin on a call that is due in 0.4 ms.
                    agenda.insert(function, Instant::now() + wait.max(Duration::from_millis(1)));
                }
                Ok((_, None)) => {
                    backoff.succeeded();
                    agenda.remove(&function);
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
