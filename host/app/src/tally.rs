//! How many calls ended how, since the host started.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use baton_broker::Verdict;

/// Counts ends of calls.
#[derive(Default)]
pub(crate) struct Tally {
    /// The word that nearly every call ends with, so that it costs no lock.
    ok: AtomicU64,
    fenced: AtomicU64,
    /// A lock and no message: it is held to add one, and only for calls that did not simply succeed.
    others: Mutex<BTreeMap<&'static str, u64>>,
}

impl Tally {
    pub(crate) fn count(&self, outcome: &'static str, verdict: Verdict) {
        match (verdict, outcome) {
            (Verdict::Fenced, _) => _ = self.fenced.fetch_add(1, Relaxed),
            (Verdict::Done | Verdict::Duplicate, "ok") => _ = self.ok.fetch_add(1, Relaxed),
            (Verdict::Done | Verdict::Duplicate | Verdict::Refused, outcome) => {
                *self.others.lock().unwrap_or_else(PoisonError::into_inner).entry(outcome).or_default() += 1;
            }
        }
    }

    /// How many ends were counted.
    pub(crate) fn total(&self) -> u64 {
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        self.ok.load(Relaxed) + self.fenced.load(Relaxed) + others.values().sum::<u64>()
    }

    /// All of it in one line, for the log.
    pub(crate) fn summary(&self) -> String {
        let mut parts = vec![format!("ok {}", self.ok.load(Relaxed))];
        let fenced = self.fenced.load(Relaxed);
        if fenced > 0 {
            parts.push(format!("fenced {fenced}"));
        }
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        parts.extend(others.iter().map(|(word, count)| format!("{word} {count}")));
        parts.join(", ")
    }
}
