//! The announcer: tells on the coordination channels what has become true. Every fact can be read elsewhere too.

use std::sync::Arc;
use std::time::Duration;

use baton_broker::{Notice, Queue};
use baton_model::{Digest, FunctionId, HostId, HostRecord, LoadedFunction};
use tokio::sync::{mpsc, watch};

use crate::catalog::Published;

/// How long a notice waits for this host's record.
const WRITTEN_MAX: Duration = Duration::from_secs(1);

/// Something that has become true of a function at this host.
pub(crate) struct News {
    pub(crate) notice: Notice,
    pub(crate) function: FunctionId,
    pub(crate) digest: Option<Digest>,
    /// The change of the catalog that made it true.
    pub(crate) change: u64,
    /// The host that it is about, with its machine, if that is another than this one.
    pub(crate) about: Option<(HostId, String)>,
}

impl News {
    /// The same news of every function in the catalog.
    pub(crate) fn of_all(catalog: &Published, notice: Notice) -> Vec<Self> {
        let change = catalog.change();
        let news = |loaded: LoadedFunction| Self {
            notice,
            function: loaded.function,
            digest: Some(loaded.digest),
            change,
            about: None,
        };
        catalog.snapshot().loaded().into_iter().map(news).collect()
    }

    /// News of a function at another host, which cannot tell it.
    pub(crate) fn of_another(notice: Notice, loaded: LoadedFunction, host: &HostRecord) -> Self {
        let about = Some((host.id.clone(), host.machine.clone()));
        Self { notice, function: loaded.function, digest: Some(loaded.digest), change: 0, about }
    }
}

/// Tells news.
pub(crate) struct Announcer {
    pub(crate) queue: Arc<Queue>,
    pub(crate) host: HostId,
    pub(crate) machine: String,
    pub(crate) drain_ms: u64,
    /// Up to which change of the catalog this host's record is true.
    pub(crate) written: watch::Receiver<u64>,
    pub(crate) inbox: mpsc::Receiver<News>,
}

impl Announcer {
    /// Tells until nobody is left who could send.
    pub(crate) async fn run(mut self) {
        while let Some(news) = self.inbox.recv().await {
            self.tell(&news).await;
        }
    }

    async fn tell(&mut self, news: &News) {
        let (host, machine) =
            news.about.as_ref().map_or((&self.host, &self.machine), |(host, machine)| (host, machine));
        let message = serde_json::json!({
            "host": host,
            "machine": machine,
            "digest": news.digest,
            "drain_ms": (news.notice == Notice::Shutdown).then_some(self.drain_ms),
        });
        if news.notice == Notice::Ready {
            // Ready is told when calls are taken: the group is there, whether the consumer was quicker or not.
            // And it can be read elsewhere by then; if Redis is in trouble, the notice does not wait for that for ever.
            let is_written = self.written.wait_for(|written| *written >= news.change);
            _ = tokio::time::timeout(WRITTEN_MAX, is_written).await;
            _ = self.queue.ensure_groups(std::slice::from_ref(&news.function)).await;
        }
        if let Err(error) = self.queue.tell(news.notice, &news.function, &message.to_string()).await {
            tracing::debug!(function = %news.function, %error, "a notice was not told; it is a hint only");
        }
    }
}
