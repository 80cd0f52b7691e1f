//! The decision after an attempt: outcome x attempt x policy -> disposition.

use std::time::Duration;

use crate::{CallError, Outcome, Reply, Status};

/// When and how often a failed call is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The most attempts that a call gets, the first included; at least 1.
    pub attempts_max: u32,
    /// The longest wait before the second attempt; it doubles with each further one.
    pub backoff_base: Duration,
    /// The longest wait before any attempt.
    pub backoff_max: Duration,
    /// How many hosts a call may lose, one after the other, before it is held to be what ends them.
    pub hosts_lost_max: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: 3,
            backoff_base: Duration::from_secs(1),
            backoff_max: Duration::from_secs(300),
            hosts_lost_max: 5,
        }
    }
}

impl RetryPolicy {
    /// The wait after failed attempt number `attempt`: exponential with full jitter, as in "Exponential Backoff And
    /// Jitter" of the AWS Architecture Blog. `chance` is a random number in `0.0..1.0`.
    #[must_use]
    pub fn backoff(&self, attempt: u32, chance: f64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        let ceiling = self.backoff_base.saturating_mul(1 << doublings).min(self.backoff_max);
        ceiling.mul_f64(chance.clamp(0.0, 1.0))
    }
}

/// What is done about an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disposition {
    /// The call ends with an answer.
    Answer(Reply),
    /// The call ends without one: `error` or `expired`, for the caller alone.
    Fail(Status, CallError),
    /// The call waits this long, then gets another attempt.
    Retry {
        /// How long it waits.
        after: Duration,
        /// Why.
        error: CallError,
    },
    /// The call is given up and kept among the dead letters, for people; its result is `dead`.
    Bury {
        /// The reason, one word.
        reason: &'static str,
        /// What the last attempt said.
        error: CallError,
    },
}

/// Decides what is done about `outcome`, the end of attempt number `attempt`. `left` is the time to the call's deadline,
/// if it has one: no retry waits beyond it. `chance` is a random number in `0.0..1.0`.
///
/// A refusal is the caller's to mend and goes back to it. A trap, an exit, a time-out or an exceeded limit would come
/// again with the same input and the same code, so it is not tried again but kept for people, who can redrive the
/// call once the function is mended.
#[must_use]
pub fn decide(
    outcome: Outcome,
    attempt: u32,
    policy: &RetryPolicy,
    left: Option<Duration>,
    chance: f64,
) -> Disposition {
    let bury =
        |reason, message: String| Disposition::Bury { reason, error: CallError { code: reason.into(), message } };
    let retry_or_bury = |code: &'static str, message: String, at_least: Duration| {
        let error = CallError { code: code.into(), message };
        if attempt >= policy.attempts_max {
            Disposition::Bury { reason: "attempts-exhausted", error }
        } else {
            let after = policy.backoff(attempt, chance).max(at_least);
            Disposition::Retry { after: left.map_or(after, |left| after.min(left)), error }
        }
    };
    match outcome {
        Outcome::Replied(reply) => Disposition::Answer(reply),
        Outcome::Rejected(refusal) => {
            Disposition::Fail(Status::Error, CallError { code: refusal.code, message: refusal.message })
        }
        Outcome::RetryAsked { message, after } => retry_or_bury("retry", message, after.unwrap_or_default()),
        Outcome::Trapped { message } => bury("trap", message),
        Outcome::Exited { code } => bury("exit", format!("the function ended itself with exit code {code}")),
        Outcome::TimedOut { limit } => {
            bury("timeout", format!("the function took longer than its limit of {} ms", limit.as_millis()))
        }
        Outcome::DeadlinePassed => Disposition::Fail(
            Status::Expired,
            CallError { code: "deadline".into(), message: "the call's deadline passed before it was answered".into() },
        ),
        Outcome::OutOfMemory { bytes_max } => {
            bury("memory", format!("the function needed more memory than its limit of {bytes_max} bytes"))
        }
        Outcome::ResultTooLarge { bytes, bytes_max } => {
            bury("result-too-large", format!("the answer has {bytes} bytes, the limit is {bytes_max}"))
        }
        Outcome::PayloadTooLarge { bytes, bytes_max } => bury(
            "oversize",
            format!("the payload has {bytes} bytes, the limit of this function is {bytes_max}; send a reference"),
        ),
        Outcome::HostsLost { hosts } => {
            bury("poison", format!("{hosts} hosts ended or froze while they ran this call; it may be what ends them"))
        }
        Outcome::HostFault { message } => retry_or_bury("host-fault", message, Duration::ZERO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rejection;

    fn asked(after: Option<u64>) -> Outcome {
        Outcome::RetryAsked { message: "busy".into(), after: after.map(Duration::from_millis) }
    }

    /// The disposition in one word, for the table below.
    fn word(outcome: Outcome, attempt: u32) -> String {
        match decide(outcome, attempt, &RetryPolicy::default(), None, 0.5) {
            Disposition::Answer(_) => "answer".into(),
            Disposition::Fail(status, error) => format!("{status}: {}", error.code),
            Disposition::Retry { after, error } => format!("retry {} ms: {}", after.as_millis(), error.code),
            Disposition::Bury { reason, error } => format!("bury {reason}: {}", error.code),
        }
    }

    #[test]
    fn every_outcome_has_one_disposition() {
        let refusal = Rejection { code: "bad-input".into(), message: String::new() };
        let reply = Reply { media_type: String::new(), body: bytes::Bytes::new() };
        let table = [
            (Outcome::Replied(reply), 1, "answer"),
            (Outcome::Rejected(refusal), 1, "error: bad-input"),
            (asked(None), 1, "retry 500 ms: retry"),
            (asked(None), 2, "retry 1000 ms: retry"),
            (asked(Some(7_000)), 2, "retry 7000 ms: retry"),
            (asked(None), 3, "bury attempts-exhausted: retry"),
            (Outcome::Trapped { message: String::new() }, 1, "bury trap: trap"),
            (Outcome::Exited { code: 1 }, 1, "bury exit: exit"),
            (Outcome::TimedOut { limit: Duration::from_secs(1) }, 1, "bury timeout: timeout"),
            (Outcome::DeadlinePassed, 1, "expired: deadline"),
            (Outcome::OutOfMemory { bytes_max: 1 }, 1, "bury memory: memory"),
            (Outcome::ResultTooLarge { bytes: 2, bytes_max: 1 }, 1, "bury result-too-large: result-too-large"),
            (Outcome::PayloadTooLarge { bytes: 2, bytes_max: 1 }, 1, "bury oversize: oversize"),
            (Outcome::HostsLost { hosts: 6 }, 7, "bury poison: poison"),
            (Outcome::HostFault { message: String::new() }, 1, "retry 500 ms: host-fault"),
            (Outcome::HostFault { message: String::new() }, 3, "bury attempts-exhausted: host-fault"),
        ];
        for (outcome, attempt, expected) in table {
            assert_eq!(word(outcome.clone(), attempt), expected, "{outcome:?} at attempt {attempt}");
        }
    }

    #[test]
    fn no_retry_waits_beyond_the_deadline() {
        let left = Some(Duration::from_millis(80));
        let disposition = decide(asked(Some(7_000)), 1, &RetryPolicy::default(), left, 0.5);
        assert!(matches!(disposition, Disposition::Retry { after, .. } if Some(after) == left), "{disposition:?}");
    }

    #[test]
    fn a_backoff_doubles_up_to_its_cap() {
        let policy = RetryPolicy {
            attempts_max: 99,
            backoff_base: Duration::from_secs(1),
            backoff_max: Duration::from_secs(10),
            ..RetryPolicy::default()
        };
        let waits: Vec<u64> = (1..=6).map(|attempt| policy.backoff(attempt, 1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
        assert_eq!(policy.backoff(u32::MAX, 0.0), Duration::ZERO);
    }
}
