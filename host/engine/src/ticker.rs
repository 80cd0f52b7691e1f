//! The clock that interrupts running guests: one thread that counts the engine's epoch while guests run, and sleeps while
//! none does. It decides nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::{JoinHandle, park, park_timeout};
use std::time::Duration;

/// How often a running guest is looked at.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// After so many ticks without a guest the clock stops until there is one: waking it costs the attempt that does it some
/// microseconds.
const IDLE_TICKS: u32 = 100;

/// Ticks until it is dropped; the drop waits for the thread's end.
pub(crate) struct Ticker {
    watch: Arc<Watch>,
    thread: Option<JoinHandle<()>>,
}

/// What the clock and the attempts see of each other.
#[derive(Default)]
struct Watch {
    /// How many attempts run.
    running: AtomicUsize,
    /// Whether the clock sleeps until it is woken.
    asleep: AtomicBool,
    stop: AtomicBool,
}

/// While there is one the clock ticks.
pub(crate) struct Running<'a>(&'a Watch);

impl Ticker {
    /// Starts the thread.
    pub(crate) fn start(engine: wasmtime::Engine) -> std::io::Result<Self> {
        Self::start_with(move || engine.increment_epoch())
    }

    fn start_with(tick: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        let watch = Arc::new(Watch::default());
        let clock = Arc::clone(&watch);
        let thread = std::thread::Builder::new().name("baton-epoch".into()).spawn(move || clock.run(tick))?;
        Ok(Self { watch, thread: Some(thread) })
    }

    /// An attempt runs until what is given here is dropped.
    pub(crate) fn running(&self) -> Running<'_> {
        self.watch.running.fetch_add(1, SeqCst);
        // Either this sees the clock asleep, or the clock sees that there is an attempt before it goes to sleep.
        if self.watch.asleep.load(SeqCst) {
            self.wake();
        }
        Running(&self.watch)
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

impl Watch {
    fn run(&self, tick: impl Fn()) {
        let mut idle_ticks = 0;
        while !self.stop.load(SeqCst) {
            if idle_ticks >= IDLE_TICKS {
                self.asleep.store(true, SeqCst);
                while self.running.load(SeqCst) == 0 && !self.stop.load(SeqCst) {
                    park();
                }
                self.asleep.store(false, SeqCst);
                idle_ticks = 0;
            }
            park_timeout(TICK);
            tick();
            idle_ticks = if self.running.load(SeqCst) == 0 { idle_ticks + 1 } else { 0 };
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.watch.stop.store(true, SeqCst);
        self.wake();
        if let Some(thread) = self.thread.take() {
            // It can only have panicked if increasing a number can.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{RecvTimeoutError, channel};

    use super::*;

    #[test]
    fn the_clock_sleeps_while_nothing_runs_and_wakes_for_an_attempt() {
        let (tick, ticks) = channel();
        let ticker = Ticker::start_with(move || tick.send(()).unwrap()).unwrap();
        let silent = |ticks: &std::sync::mpsc::Receiver<()>| {
            while ticks.recv_timeout(TICK * 50) != Err(RecvTimeoutError::Timeout) {}
            ticker.watch.asleep.load(SeqCst)
        };
        assert!(silent(&ticks), "after a while there are no ticks any more");
        let running = ticker.running();
        for _ in 0..=IDLE_TICKS {
            ticks.recv_timeout(Duration::from_secs(10)).expect("the clock ticks as long as an attempt runs");
        }
        drop(running);
        assert!(silent(&ticks), "and it stops again");
    }
}
