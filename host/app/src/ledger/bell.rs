//! The bell: tells the reader that a call has ended for which others were held back.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use baton_broker::ReaderWaker;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What ends within this time is told of once.
const COALESCE: Duration = Duration::from_millis(1);

/// The bell. It is silent while nobody waits for it, which is nearly always.
#[derive(Default)]
pub(crate) struct Bell {
    is_armed: AtomicBool,
    far: Notify,
    near: Notify,
}

impl Bell {
    /// From now on it rings. Whoever arms it looks afterwards at what it rings for, so that nothing falls between.
    pub(crate) fn arm(&self) {
        self.is_armed.store(true, SeqCst);
    }

    pub(crate) fn disarm(&self) {
        self.is_armed.store(false, SeqCst);
    }

    /// Something has ended.
    pub(super) fn ring(&self) {
        if self.is_armed.load(SeqCst) {
            self.far.notify_one();
            self.near.notify_one();
        }
    }

    /// Waits for it here, where nobody waits at Redis. It may have rung before.
    pub(crate) async fn rung(&self) {
        self.near.notified().await;
    }

    /// Wakes the reader at Redis when it rings, until `stop`.
    pub(crate) async fn wake(&self, waker: ReaderWaker, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = self.far.notified() => {}
                () = stop.cancelled() => return,
            }
            if self.is_armed.load(SeqCst) {
                waker.wake().await;
                tokio::time::sleep(COALESCE).await;
            }
        }
    }
}
