//! The corridor: the thread on which calls are read and settled. A call that is through at once then wakes no other.

use anyhow::Context as _;
use tokio::runtime::{Builder, Handle, Runtime};

/// The thread on which calls are read and settled.
pub(crate) struct Corridor(Option<Runtime>);

impl Corridor {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let one = Builder::new_multi_thread().worker_threads(1).thread_name("corridor").enable_all().build();
        Ok(Self(Some(one.context("cannot start the thread that reads and settles")?)))
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.0.as_ref().expect("it is there until it is dropped").handle()
    }
}

impl Drop for Corridor {
    /// Without waiting: by now it has nothing to do, and this may run where nobody may wait.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
