//! The canceller: ends the calls of this host that somebody takes back, and stops their attempts.

use std::sync::Arc;

use baton_broker::Settled;
use baton_model::{EntryId, FunctionId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::runner::{Runner, Ticket};

/// Hears which calls are taken back.
pub(crate) struct Canceller {
    pub(crate) runner: Arc<Runner>,
    /// Weak, because the settler ends when nobody can send to it any more, and this part lasts longer.
    pub(crate) settler: mpsc::WeakSender<Settled<Ticket>>,
    /// Unbounded: the connection that it is heard on keeps only so many words.
    pub(crate) inbox: mpsc::UnboundedReceiver<(FunctionId, EntryId)>,
}

impl Canceller {
    /// Ends calls until `stop`. What this host does not have, or has ended already, is left to whoever asked.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let (function, entry) = tokio::select! {
                heard = self.inbox.recv() => match heard {
                    Some(heard) => heard,
                    None => return stop.cancelled().await,
                },
                () = stop.cancelled() => return,
            };
            if let Some(settler) = self.settler.upgrade() {
                self.runner.cancel(&function, entry, &settler).await;
            }
        }
    }
}
