//! The announcer: tells on the coordination channels what has become true. Every fact can be read elsewhere too.

use std::sync::Arc;

use baton_broker::{Notice, Queue};
use baton_model::{Digest, FunctionId, HostId, LoadedFunction};
use tokio::sync::mpsc;

use crate::catalog::Published;

/// Something that has become true of a function at this host.
pub(crate) struct News {
    pub(crate) notice: Notice,
    pub(crate) function: FunctionId,
    pub(crate) digest: Option<Digest>,
}

impl News {
    /// The same news of every function in the catalog.
    pub(crate) fn of_all(catalog: &Published, notice: Notice) -> Vec<Self> {
        let news = |loaded: LoadedFunction| Self { notice, function: loaded.function, digest: Some(loaded.digest) };
        catalog.snapshot().loaded().into_iter().map(news).collect()
    }
}

/// Tells news.
pub(crate) struct Announcer {
    pub(crate) queue: Arc<Queue>,
    pub(crate) host: HostId,
    pub(crate) machine: String,
    pub(crate) drain_ms: u64,
    pub(crate) inbox: mpsc::Receiver<News>,
}

impl Announcer {
    /// Tells until nobody is left who could send.
    pub(crate) async fn run(mut self) {
        while let Some(news) = self.inbox.recv().await {
            self.tell(&news).await;
        }
    }

    async fn tell(&self, news: &News) {
        let message = serde_json::json!({
            "host": self.host,
            "machine": self.machine,
            "digest": news.digest,
            "drain_ms": (news.notice == Notice::Shutdown).then_some(self.drain_ms),
        });
        if news.notice == Notice::Ready {
            // Ready is told when calls are taken: the group is there, whether the consumer was quicker or not.
            _ = self.queue.ensure_groups(std::slice::from_ref(&news.function)).await;
        }
        if let Err(error) = self.queue.tell(news.notice, &news.function, &message.to_string()).await {
            tracing::debug!(function = %news.function, %error, "a notice was not told; it is a hint only");
        }
    }
}
