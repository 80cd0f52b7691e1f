//! Waiting for a fact that nobody announces: a bounded look with back-off. What is announced is waited for by its event.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

/// The longest pause between two looks.
const PAUSE_MAX: Duration = Duration::from_millis(40);

/// Looks until `look` finds something, with pauses from one millisecond up to forty.
///
/// # Errors
/// What `look` fails with, or, when `limit` has passed, that `what` did not come.
pub async fn until<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if start.elapsed() >= limit {
            bail!("waited {limit:?} in vain: {what}");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(PAUSE_MAX);
    }
}

/// The time in Unix milliseconds.
///
/// # Panics
/// If the clock stands before 1970.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock stands after 1970");
    u64::try_from(since.as_millis()).expect("the year has at most nine digits")
}
