//! What is counted of one function. A call finds these fields through its revision: no map, no text, no allocation.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use baton_broker::{MalformedReason, Verdict};
use baton_engine::Timings;
use baton_model::Outcome;
use prometheus_client::metrics::histogram::Histogram;

/// Bounds in seconds for what a call does by itself. An instance is made in some 5 µs and a small function is through
/// in as much again, a settlement takes a few 100 µs, and few calls are wanted to last for more than a minute: three
/// steps a decade tell those apart, and a histogram stays at 23 series. The bounds that OpenTelemetry advises start at
/// 5 ms, where nearly every call here would be in the first; ours have nearly all of them too.
const FINE: [f64; 22] = [
    5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0,
];

/// Bounds in seconds for what is told in whole milliseconds, as the ids of entries are, and may take minutes.
const COARSE: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// A histogram for durations from 5 µs to a minute.
pub(super) fn fine() -> Histogram {
    Histogram::new(FINE)
}

/// A histogram for durations from a millisecond to five minutes.
pub(super) fn coarse() -> Histogram {
    Histogram::new(COARSE)
}

/// How a call's stay at this host ended: a closed set of words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Ok,
    Rejected,
    Retry,
    Trap,
    Exit,
    Timeout,
    Expired,
    Memory,
    ResultTooLarge,
    HostFault,
    HostsLost,
    /// It had a result already under its caller's own id.
    SentTwice,
    /// Somebody took it back.
    Cancelled,
    /// It went back unfinished, for another host or a later time.
    HandedBack,
    /// It was the wake of an execution, which waits again.
    Waits,
    /// It was the wake of an execution, which cannot go on before somebody mends it.
    Stuck,
    Malformed,
    Oversize,
    BadReply,
}

impl Ended {
    pub(crate) const ALL: [Self; 19] = [
        Self::Ok,
        Self::Rejected,
        Self::Retry,
        Self::Trap,
        Self::Exit,
        Self::Timeout,
        Self::Expired,
        Self::Memory,
        Self::ResultTooLarge,
        Self::HostFault,
        Self::HostsLost,
        Self::SentTwice,
        Self::Cancelled,
        Self::HandedBack,
        Self::Waits,
        Self::Stuck,
        Self::Malformed,
        Self::Oversize,
        Self::BadReply,
    ];

    /// The end of an attempt, or of a call that was not given one.
    pub(crate) fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Replied(_) => Self::Ok,
            Outcome::Rejected(_) => Self::Rejected,
            Outcome::RetryAsked { .. } => Self::Retry,
            Outcome::Trapped { .. } => Self::Trap,
            Outcome::Exited { .. } => Self::Exit,
            Outcome::TimedOut { .. } => Self::Timeout,
            Outcome::DeadlinePassed => Self::Expired,
            Outcome::OutOfMemory { .. } => Self::Memory,
            Outcome::PayloadTooLarge { .. } => Self::Oversize,
            Outcome::ResultTooLarge { .. } => Self::ResultTooLarge,
            Outcome::HostFault { .. } => Self::HostFault,
            Outcome::HostsLost { .. } => Self::HostsLost,
        }
    }

    /// The end of an entry that is no call.
    pub(crate) fn of_malformed(reason: MalformedReason) -> Self {
        match reason {
            MalformedReason::Malformed => Self::Malformed,
            MalformedReason::Oversize => Self::Oversize,
            MalformedReason::BadReply => Self::BadReply,
        }
    }

    /// For the log.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::SentTwice => "sent twice",
            Self::HandedBack => "handed back",
            other => other.label(),
        }
    }

    /// For labels.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Rejected => "rejected",
            Self::Retry => "retry",
            Self::Trap => "trap",
            Self::Exit => "exit",
            Self::Timeout => "timeout",
            Self::Expired => "expired",
            Self::Memory => "memory",
            Self::ResultTooLarge => "result-too-large",
            Self::HostFault => "host-fault",
            Self::HostsLost => "hosts-lost",
            Self::SentTwice => "sent-twice",
            Self::Cancelled => "cancelled",
            Self::HandedBack => "handed-back",
            Self::Waits => "waits",
            Self::Stuck => "stuck",
            Self::Malformed => "malformed",
            Self::Oversize => "oversize",
            Self::BadReply => "bad-reply",
        }
    }

    /// Whether the function or the host failed in it. A refusal and a deadline are the caller's; a time-out is counted
    /// by itself.
    pub(super) fn is_error(self) -> bool {
        match self {
            Self::Retry
            | Self::Trap
            | Self::Exit
            | Self::Memory
            | Self::ResultTooLarge
            | Self::HostFault
            | Self::HostsLost
            | Self::Stuck => true,
            Self::Ok
            | Self::Rejected
            | Self::Timeout
            | Self::Expired
            | Self::SentTwice
            | Self::Cancelled
            | Self::HandedBack
            | Self::Waits
            | Self::Malformed
            | Self::Oversize
            | Self::BadReply => false,
        }
    }
}

/// What Redis was asked to make of a call, as far as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It ends, or goes back as it came.
    Plain,
    /// It gets another attempt.
    Retry,
    /// It is given up, for this reason: one of a closed set.
    Dead(&'static str),
}

/// How a lease was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseLoss {
    /// The entry is another host's, or gone.
    Taken,
    /// It could not be renewed in time.
    Lapsed,
}

/// Counts by a word of a closed set. A lock and no message: it is held to add one, and only for what is rare.
#[derive(Debug, Default)]
pub(super) struct Words(Mutex<BTreeMap<&'static str, u64>>);

impl Words {
    /// Nothing counted, but these words known.
    pub(super) fn known(words: &[&'static str]) -> Self {
        Self(Mutex::new(words.iter().map(|word| (*word, 0)).collect()))
    }

    pub(super) fn count(&self, word: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(word).or_default() += 1;
    }

    pub(super) fn all(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The durations of one function's calls.
#[derive(Debug)]
pub(super) struct Durations {
    pub(super) queue: Histogram,
    pub(super) init: Histogram,
    pub(super) invoke: Histogram,
    pub(super) settle: Histogram,
}

impl Durations {
    fn new() -> Self {
        Self { queue: coarse(), init: fine(), invoke: fine(), settle: fine() }
    }
}

/// What is counted of one function, from the first time that it is loaded to the end of the host.
#[derive(Debug, Default)]
pub(crate) struct FunctionMetrics {
    ended: [AtomicU64; Ended::ALL.len()],
    pub(super) fenced: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) reclaimed: AtomicU64,
    pub(super) leases_taken: AtomicU64,
    pub(super) leases_lapsed: AtomicU64,
    pub(super) dead: Words,
    /// Made with the first call: a function that is never called has no histograms to send and to keep.
    durations: OnceLock<Durations>,
}

impl FunctionMetrics {
    /// A call was read for the first time, so long after Redis had accepted it.
    pub(crate) fn waited(&self, time: Duration) {
        self.durations.get_or_init(Durations::new).queue.observe(time.as_secs_f64());
    }

    /// An attempt ended.
    pub(crate) fn ran(&self, timings: Timings) {
        let durations = self.durations.get_or_init(Durations::new);
        if let Some(time) = timings.instantiate {
            durations.init.observe(time.as_secs_f64());
        }
        if let Some(time) = timings.run {
            durations.invoke.observe(time.as_secs_f64());
        }
    }

    /// Redis answered a settlement, so long after it had been handed in. Each settlement is counted in one place.
    pub(crate) fn settled(&self, ended: Ended, fate: Fate, verdict: Verdict, took: Duration) {
        self.durations.get_or_init(Durations::new).settle.observe(took.as_secs_f64());
        match verdict {
            // Somebody else counts the call's end, or this host does when it has taken the call up again.
            Verdict::Fenced => return add(&self.fenced, 1),
            Verdict::Refused => return add(&self.refused, 1),
            Verdict::Done | Verdict::Duplicate => add(&self.ended[ended as usize], 1),
        }
        match fate {
            Fate::Retry if verdict == Verdict::Done => add(&self.retries, 1),
            Fate::Dead(reason) if verdict == Verdict::Done => self.dead.count(reason),
            Fate::Plain | Fate::Retry | Fate::Dead(_) => {}
        }
    }

    /// So many calls were taken over from other hosts.
    pub(crate) fn reclaimed(&self, calls: usize) {
        add(&self.reclaimed, calls as u64);
    }

    /// An attempt was stopped because its lease was lost.
    pub(crate) fn lost_lease(&self, loss: LeaseLoss) {
        match loss {
            LeaseLoss::Taken => add(&self.leases_taken, 1),
            LeaseLoss::Lapsed => add(&self.leases_lapsed, 1),
        }
    }

    pub(super) fn ended(&self, ended: Ended) -> u64 {
        self.ended[ended as usize].load(Relaxed)
    }

    pub(super) fn durations(&self) -> Option<&Durations> {
        self.durations.get()
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Relaxed);
}
