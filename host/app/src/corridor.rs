//! The threads that calls run on. The corridor: the thread on which calls are read and settled; a call that is through at
//! once then wakes no other. And the guests': for attempts that take longer.

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

/// How much attempts that take long give way to the host's own threads: to a third of their share, where both have work.
/// Nobody gives anything away while the processors have time.
const NICE: i32 = 5;

/// Threads beyond one for each processor. The engine lets so many guests compute at a time as there are processors;
/// these see to timers, and to what waits.
const SPARE_THREADS: usize = 2;

/// The threads on which attempts run that are not through at once.
pub(crate) struct Guests(Option<Runtime>);

impl Guests {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from) + SPARE_THREADS;
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("guest")
            // A poll may take a whole tick of the engine's clock, so timers and wakes are looked at more often than after
            // the usual 61 polls.
            .event_interval(3)
            // Of this thread alone, on Linux. Where it is not allowed things are as they were.
            .on_thread_start(|| _ = rustix::process::nice(NICE))
            .enable_all()
            .build();
        Ok(Self(Some(runtime.context("cannot start the threads that functions run on")?)))
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.0.as_ref().expect("it is there until it is dropped").handle()
    }
}

impl Drop for Guests {
    /// Without waiting, for the same reason; what still runs ends with its next tick.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
