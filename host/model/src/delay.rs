//! Calls that wait for their time: for how long, and how fast those that are due come back into their streams.

use std::time::Duration;

/// The longest that a call may be told to wait: a year, whichever year, so that `1y` is one.
pub const DELAY_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// The least time between two looks at the delayed calls of one function: the clock of Redis and a host's own tick apart.
const LOOK_MIN: Duration = Duration::from_millis(1);
/// The longest pause between two batches that are both due.
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// How much later those look that are not the first to.
const BACKUP_LATE: Duration = Duration::from_millis(20);
/// How many times as long as a batch took, the next one waits.
const PAUSES: u32 = 2;

/// How long a call waits before it is begun, from when it was accepted. None if it may begin at once: nobody asked it to
/// wait, or it has waited already, as every call has that a host put back (`was_put_back`). It waits no longer than its
/// deadline, at which it ends.
#[must_use]
pub fn delay_of(asked: Option<Duration>, was_put_back: bool, deadline: Option<Duration>) -> Option<Duration> {
    let delay = asked.filter(|delay| !was_put_back && !delay.is_zero())?;
    Some(deadline.map_or(delay, |deadline| delay.min(deadline))).filter(|delay| !delay.is_zero())
}

/// Which of the hosts that have a function this one is, as far as its delayed calls go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It wakes them when they are due.
    First,
    /// It wakes what the first has left, a moment later: that one may be gone, or stand still, and nobody knows it yet.
    Backup,
}

impl Turn {
    /// How much later than `wait` this host looks.
    #[must_use]
    pub fn after(self, wait: Duration) -> Duration {
        match self {
            Self::First => wait,
            Self::Backup => wait + BACKUP_LATE,
        }
    }
}

/// When delayed calls are looked at again after a batch of them was put into the stream, which took `took`, and of which
/// the next is due after `next_due`. None if none waits any more.
///
/// Of calls that are all due at once Redis gets one bounded batch after the other, with twice the time in between for
/// everybody else. A look that found nothing due is made again when something is.
#[must_use]
pub fn look_again(next_due: Option<Duration>, took: Duration, turn: Turn) -> Option<Duration> {
    let next_due = next_due?;
    let wait = match next_due.is_zero() {
        true => took.saturating_mul(PAUSES).clamp(LOOK_MIN, PAUSE_MAX),
        false => next_due.max(LOOK_MIN),
    };
    Some(turn.after(wait))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_call_waits_once_and_not_beyond_its_deadline() {
        for (asked, was_put_back, deadline, waits) in [
            (None, false, None, None),
            (None, true, Some(ms(9)), None),
            (Some(ms(0)), false, None, None),
            (Some(ms(500)), false, None, Some(ms(500))),
            (Some(ms(500)), true, None, None),
            (Some(ms(500)), false, Some(ms(700)), Some(ms(500))),
            (Some(ms(500)), false, Some(ms(300)), Some(ms(300))),
            (Some(ms(500)), false, Some(ms(0)), None),
        ] {
            assert_eq!(delay_of(asked, was_put_back, deadline), waits, "{asked:?} {was_put_back} {deadline:?}");
        }
    }

    #[test]
    fn what_is_due_at_once_comes_in_batches_with_time_between_them() {
        for (next_due, took, expected) in [
            (None, ms(1), None),
            (Some(ms(40)), ms(9), Some(ms(40))),
            (Some(Duration::from_micros(10)), ms(9), Some(ms(1))),
            (Some(ms(0)), Duration::from_micros(100), Some(ms(1))),
            (Some(ms(0)), ms(3), Some(ms(6))),
            (Some(ms(0)), ms(900), Some(ms(50))),
        ] {
            assert_eq!(look_again(next_due, took, Turn::First), expected, "{next_due:?} {took:?}");
            let later = expected.map(|wait| wait + ms(20));
            assert_eq!(look_again(next_due, took, Turn::Backup), later, "{next_due:?} {took:?}");
        }
    }
}
