//! Trouble with Redis: how long each task waits between its attempts, and one voice that says it, once, for all of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use baton_broker::BrokerError;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// What does not work at Redis, for all tasks together.
#[derive(Default)]
pub(crate) struct Trouble {
    /// A lock and no message: it is held to note that a task's trouble began or ended.
    now: Mutex<Now>,
}

#[derive(Default)]
struct Now {
    failing: BTreeSet<&'static str>,
    since: Option<Instant>,
}

impl Trouble {
    /// Whether something has failed more than once and has not worked since.
    pub(crate) fn is_there(&self) -> bool {
        !self.now.lock().unwrap_or_else(PoisonError::into_inner).failing.is_empty()
    }

    fn began(&self, what: &'static str, error: &BrokerError) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if now.failing.is_empty() {
            now.since = Some(Instant::now());
            tracing::warn!(%error, doing = what, "Redis fails: waiting, trying again until it works");
        }
        now.failing.insert(what);
    }

    fn ended(&self, what: &'static str) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if now.failing.remove(what)
            && now.failing.is_empty()
            && let Some(since) = now.since.take()
        {
            let after_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::info!(after_ms, "Redis works again");
        }
    }
}

/// The trouble of one task with Redis: it waits longer each time, with jitter.
pub(crate) struct Backoff {
    what: &'static str,
    trouble: Arc<Trouble>,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(what: &'static str, trouble: &Arc<Trouble>) -> Self {
        Self { what, trouble: trouble.clone(), failures: 0 }
    }

    /// It works, or works again.
    pub(crate) fn succeeded(&mut self) {
        if self.failures > 1 {
            tracing::debug!(failures = self.failures, "{} works again", self.what);
            self.trouble.ended(self.what);
        }
        self.failures = 0;
    }

    /// It failed: waits. A single failure is daily life; the second in a row is trouble, and is said.
    pub(crate) async fn failed(&mut self, error: &BrokerError) {
        self.failures += 1;
        tracing::debug!(%error, failures = self.failures, "{} fails", self.what);
        if self.failures == 2 {
            self.trouble.began(self.what, error);
        }
        let ceiling = FIRST.saturating_mul(1 << self.failures.min(8)).min(LONGEST);
        // Between a half and the whole, so that hosts do not come back in one wave.
        tokio::time::sleep(ceiling.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
    }
}

impl Drop for Backoff {
    /// A task that has ended has no trouble any more; that says nothing of Redis.
    fn drop(&mut self) {
        self.trouble.now.lock().unwrap_or_else(PoisonError::into_inner).failing.remove(self.what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn trouble_is_there_from_the_second_failure_of_one_task_to_the_success_of_all() {
        let trouble = Arc::new(Trouble::default());
        let (mut one, mut other) = (Backoff::new("one", &trouble), Backoff::new("other", &trouble));
        let error = BrokerError::Unreachable(String::new());
        one.failed(&error).await;
        assert!(!trouble.is_there(), "a single failure is daily life");
        one.failed(&error).await;
        other.failed(&error).await;
        other.failed(&error).await;
        one.succeeded();
        assert!(trouble.is_there(), "the other still fails");
        drop(other);
        assert!(!trouble.is_there());
    }
}
