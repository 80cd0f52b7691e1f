//! The decision after an attempt: outcome x attempt x policy -> disposition.

use std::time::Duration;

use crate::{CallError, DELAY_MAX, Failure, Outcome, Reply, RetryPolicy, Status};

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
/// A refusal is the caller's to mend and goes back to it. Whatever else fails is tried again where the policy names it. By
/// default that is what may pass; a trap, an exit, a time-out or an exceeded limit would come again with the same input and
/// the same code, and is kept for people, who can redrive the call once the function is mended.
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
    let failed = |failure: Failure, message: String, at_least: Duration| {
        if !policy.on.has(failure) {
            return bury(failure.as_str(), message);
        }
        let error = CallError { code: failure.as_str().into(), message };
        if attempt >= policy.attempts_max {
            Disposition::Bury { reason: "attempts-exhausted", error }
        } else {
            let after = policy.backoff(attempt, chance).max(at_least);
            Disposition::Retry { after: left.map_or(after, |left| after.min(left)), error }
        }
    };
    let fails = |failure, message| failed(failure, message, Duration::ZERO);
    match outcome {
        Outcome::Replied(reply) => Disposition::Answer(reply),
        Outcome::Rejected(refusal) => {
            Disposition::Fail(Status::Error, CallError { code: refusal.code, message: refusal.message })
        }
        Outcome::RetryAsked { message, after } => {
            // As with any delay: what is to come later than that is not to come.
            failed(Failure::Retry, message, after.unwrap_or_default().min(DELAY_MAX))
        }
        Outcome::Trapped { message } => fails(Failure::Trap, message),
        Outcome::Exited { code } => fails(Failure::Exit, format!("the function ended itself with exit code {code}")),
        Outcome::TimedOut { limit } => {
            fails(Failure::Timeout, format!("the function took longer than its limit of {} ms", limit.as_millis()))
        }
        Outcome::DeadlinePassed => Disposition::Fail(
            Status::Expired,
            CallError { code: "deadline".into(), message: "the call's deadline passed before it was answered".into() },
        ),
        Outcome::OutOfMemory { bytes_max } => {
            fails(Failure::Memory, format!("the function needed more memory than its limit of {bytes_max} bytes"))
        }
        Outcome::ResultTooLarge { bytes, bytes_max } => {
            fails(Failure::ResultTooLarge, format!("the answer has {bytes} bytes, the limit is {bytes_max}"))
        }
        Outcome::PayloadTooLarge { bytes, bytes_max } => bury(
            "oversize",
            format!("the payload has {bytes} bytes, the limit of this function is {bytes_max}; send a reference"),
        ),
        Outcome::HostsLost { hosts } => {
            bury("poison", format!("{hosts} hosts ended or froze while they ran this call; it may be what ends them"))
        }
        Outcome::HostFault { message } => fails(Failure::HostFault, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Failures, Rejection};

    fn asked(after: Option<u64>) -> Outcome {
        Outcome::RetryAsked { message: "busy".into(), after: after.map(Duration::from_millis) }
    }

    /// The disposition in one word, for the table below.
    fn word(outcome: Outcome, attempt: u32, policy: &RetryPolicy) -> String {
        match decide(outcome, attempt, policy, None, 0.5) {
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
            (asked(Some(u64::MAX)), 2, "retry 31622400000 ms: retry"),
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
            assert_eq!(
                word(outcome.clone(), attempt, &RetryPolicy::default()),
                expected,
                "{outcome:?} at attempt {attempt}"
            );
        }
    }

    #[test]
    fn what_is_tried_again_is_what_the_policy_names() {
        let ended = |failure: Failure| match failure {
            Failure::Retry => asked(None),
            Failure::HostFault => Outcome::HostFault { message: String::new() },
            Failure::Trap => Outcome::Trapped { message: String::new() },
            Failure::Exit => Outcome::Exited { code: 1 },
            Failure::Timeout => Outcome::TimedOut { limit: Duration::from_secs(1) },
            Failure::Memory => Outcome::OutOfMemory { bytes_max: 1 },
            Failure::ResultTooLarge => Outcome::ResultTooLarge { bytes: 2, bytes_max: 1 },
        };
        for named in Failure::ALL {
            let policy = RetryPolicy { on: Failures::default().with(named), ..RetryPolicy::default() };
            for failure in Failure::ALL {
                let name = failure.as_str();
                let (first, last) = if failure == named {
                    (format!("retry 500 ms: {name}"), format!("bury attempts-exhausted: {name}"))
                } else {
                    (format!("bury {name}: {name}"), format!("bury {name}: {name}"))
                };
                assert_eq!(word(ended(failure), 1, &policy), first, "{named:?} is named");
                assert_eq!(word(ended(failure), 3, &policy), last, "{named:?} is named");
            }
        }
        let all = RetryPolicy { on: Failures::from_iter(Failure::ALL), ..RetryPolicy::default() };
        assert_eq!(word(Outcome::HostsLost { hosts: 3 }, 4, &all), "bury poison: poison", "nothing changes that");
        assert_eq!(word(Outcome::DeadlinePassed, 1, &all), "expired: deadline");
    }

    #[test]
    fn no_retry_waits_beyond_the_deadline() {
        let left = Some(Duration::from_millis(80));
        let disposition = decide(asked(Some(7_000)), 1, &RetryPolicy::default(), left, 0.5);
        assert!(matches!(disposition, Disposition::Retry { after, .. } if Some(after) == left), "{disposition:?}");
    }
}
