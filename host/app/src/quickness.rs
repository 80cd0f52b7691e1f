//! Whether a function's calls are through at once, so that they may run on the thread that reads: learnt from how long they
//! take. A function that abuses it is not trusted for a while, and ever longer. No clock is read here.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Calls that usually take longer than this are not run on the thread that reads.
const QUICK: Duration = Duration::from_micros(300);

/// Calls that usually take less are tiny.
const TINY_US: u32 = 25;

/// What the calls of a function are held to take that was never called: a few have to be quick first.
const UNKNOWN_US: u32 = 600;

/// The most that one call counts for: it may have waited for a processor or for its turn, and then says nothing about its
/// function. Of one that has become slow some calls more are taken for quick ones.
const COUNTS_US_MAX: u32 = 1_000;

/// A call that was taken for a quick one and was not through after this long has held up the thread that reads: that long
/// it computed.
const HELD_UP: Duration = Duration::from_millis(1);

/// So has one that was through, but took this long: longer than the thread may have been waiting for a processor.
const HELD_UP_THROUGH: Duration = Duration::from_millis(15);

/// What it takes to hand a call on to another thread.
const HANDING_ON: Duration = Duration::from_micros(3);

/// For how long no call of its function is run there then, the first time; it doubles with each further time, up to about
/// an hour. One instruction can fill all of a guest's memory, which nothing interrupts: a function that means ill must not do
/// that call by call, or every few seconds.
const PENANCE: Duration = Duration::from_secs(60);
const DOUBLINGS_MAX: u32 = 6;

/// What is known of one revision. Several threads may overwrite each other here; an average does not mind.
pub(crate) struct Quickness {
    /// How long its calls usually take: a moving average over about eight calls.
    usual_us: AtomicU32,
    /// Until when its calls are not taken for quick ones: an age of the revision in ms.
    trusted_again_ms: AtomicU64,
    /// How often one held up the thread that reads.
    penances: AtomicU32,
}

impl Quickness {
    /// Of a revision that was never called.
    pub(crate) fn unknown() -> Self {
        let usual_us = AtomicU32::new(UNKNOWN_US);
        Self { usual_us, trusted_again_ms: AtomicU64::new(0), penances: AtomicU32::new(0) }
    }

    /// Takes one call's time into account.
    pub(crate) fn took(&self, time: Duration) {
        let us = u32::try_from(time.as_micros()).unwrap_or(u32::MAX).min(COUNTS_US_MAX);
        let old = self.usual_us.load(Ordering::Relaxed);
        self.usual_us.store(old - old / 8 + us / 8, Ordering::Relaxed);
    }

    /// Whether they take so little that a turn of its own would cost each about as much.
    pub(crate) fn is_tiny(&self) -> bool {
        self.usual_us.load(Ordering::Relaxed) < TINY_US
    }

    /// How much of the time of the thread that starts it a call is expected to take: all of its own if it runs there.
    pub(crate) fn expected(&self, age: impl FnOnce() -> Duration) -> Duration {
        if self.is_quick(age) {
            Duration::from_micros(self.usual_us.load(Ordering::Relaxed).into())
        } else {
            HANDING_ON
        }
    }

    /// A call that was taken for a quick one took this long, and is through or not; the revision has this age.
    pub(crate) fn ran_where_calls_are_read(&self, time: Duration, is_through: bool, age: impl FnOnce() -> Duration) {
        if time >= if is_through { HELD_UP_THROUGH } else { HELD_UP } {
            let doublings = self.penances.fetch_add(1, Ordering::Relaxed).min(DOUBLINGS_MAX);
            self.trusted_again_ms.store(ms(age() + PENANCE * (1 << doublings)), Ordering::Relaxed);
        }
    }

    /// Whether its calls usually end at once, and it is trusted at this age.
    pub(crate) fn is_quick(&self, age: impl FnOnce() -> Duration) -> bool {
        if u128::from(self.usual_us.load(Ordering::Relaxed)) >= QUICK.as_micros() {
            return false;
        }
        // Most were never distrusted, and need no look at the clock.
        let again_ms = self.trusted_again_ms.load(Ordering::Relaxed);
        again_ms == 0 || again_ms <= ms(age())
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: Duration = Duration::from_micros(20);

    fn quick() -> Quickness {
        let quickness = Quickness::unknown();
        (0..10).for_each(|_| quickness.took(AT_ONCE));
        quickness
    }

    #[test]
    fn a_function_is_quick_once_some_of_its_calls_were() {
        let quickness = Quickness::unknown();
        assert!(!quickness.is_quick(|| Duration::ZERO), "nobody knows yet");
        assert!(quick().is_quick(|| Duration::ZERO));
        let slow = quick();
        slow.took(Duration::from_millis(20));
        assert!(slow.is_quick(|| Duration::ZERO), "it may have waited for a processor");
        (0..3).for_each(|_| slow.took(Duration::from_millis(20)));
        assert!(!slow.is_quick(|| Duration::ZERO));
        (0..12).for_each(|_| slow.took(AT_ONCE));
        assert!(slow.is_quick(|| Duration::ZERO), "what was slow does not weigh for long");
    }

    #[test]
    fn a_function_that_held_up_the_reader_is_not_trusted_for_a_while_and_then_for_longer() {
        let quickness = quick();
        let mut age = Duration::from_secs(5);
        for pause in [60, 120, 240, 480, 960, 1_920, 3_840, 3_840] {
            assert!(quickness.is_quick(|| age));
            quickness.ran_where_calls_are_read(Duration::from_millis(5), false, || age);
            age += Duration::from_secs(pause);
            assert!(!quickness.is_quick(|| age - Duration::from_millis(1)), "{pause} s");
        }
        assert!(quickness.is_quick(|| age));
    }

    #[test]
    fn a_thread_that_waited_for_a_processor_is_no_reason() {
        let quickness = quick();
        quickness.ran_where_calls_are_read(Duration::from_millis(10), true, || Duration::ZERO);
        quickness.ran_where_calls_are_read(AT_ONCE, false, || Duration::ZERO);
        assert!(quickness.is_quick(|| Duration::ZERO));
        quickness.ran_where_calls_are_read(Duration::from_millis(15), true, || Duration::ZERO);
        assert!(!quickness.is_quick(|| Duration::ZERO));
    }
}
