//! When an attempt has to be over: the earlier of its time limit and its call's deadline.

use std::time::{Duration, Instant, SystemTime};

use baton_model::Limits;

/// When an attempt ends, and through which of its two bounds.
#[derive(Clone, Copy)]
pub(crate) struct End {
    /// When the attempt began.
    pub(crate) began: Instant,
    pub(crate) at: Instant,
    pub(crate) after: Duration,
    pub(crate) is_deadline: bool,
}

impl End {
    /// The earlier of the time limit and the call's deadline. None if the deadline has passed.
    pub(crate) fn of(limits: &Limits, deadline_ms: Option<u64>) -> Option<Self> {
        let now = Instant::now();
        let mut after = limits.time_max;
        let mut is_deadline = false;
        if let Some(deadline_ms) = deadline_ms {
            let left = (SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(deadline_ms)))
                .map_or(Duration::MAX, |deadline| deadline.duration_since(SystemTime::now()).unwrap_or_default());
            if left.is_zero() {
                return None;
            }
            if left < after {
                (after, is_deadline) = (left, true);
            }
        }
        // A limit beyond the clock's end is no limit; a century does as well.
        let at = now.checked_add(after).unwrap_or_else(|| now + Duration::from_secs(100 * 365 * 24 * 3600));
        Some(Self { began: now, at, after, is_deadline })
    }
}
