//! When, how often and after which failures a call is tried again: what hosts, functions and callers say about it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The most attempts that a function or a caller may ask for.
pub const ATTEMPTS_MAX: u32 = 1_000;
/// The longest back-off that a caller may ask for.
pub const BACKOFF_MAX: Duration = Duration::from_secs(24 * 3600);

/// How an attempt can fail that was made. Refusals and deadlines are not among them: nothing would change them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The function asked for another attempt.
    Retry,
    /// The host could not run the call; it is no fault of the function.
    HostFault,
    /// The instance trapped.
    Trap,
    /// The instance ended itself.
    Exit,
    /// The attempt took longer than its limit.
    Timeout,
    /// The instance needed more memory than its limit.
    Memory,
    /// The answer was larger than its limit.
    ResultTooLarge,
}

impl Failure {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Retry, Self::HostFault, Self::Trap, Self::Exit, Self::Timeout, Self::Memory, Self::ResultTooLarge];

    /// The word for it, in dead letters and where policies name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::HostFault => "host-fault",
            Self::Trap => "trap",
            Self::Exit => "exit",
            Self::Timeout => "timeout",
            Self::Memory => "memory",
            Self::ResultTooLarge => "result-too-large",
        }
    }
}

/// Some of the failures.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Failures(u8);

impl Failures {
    /// Whether it is among them.
    #[must_use]
    pub const fn has(self, failure: Failure) -> bool {
        self.0 & (1 << failure as u8) != 0
    }

    /// With this one too.
    #[must_use]
    pub const fn with(self, failure: Failure) -> Self {
        Self(self.0 | 1 << failure as u8)
    }
}

impl FromIterator<Failure> for Failures {
    fn from_iter<T: IntoIterator<Item = Failure>>(failures: T) -> Self {
        failures.into_iter().fold(Self::default(), Self::with)
    }
}

impl FromStr for Failures {
    type Err = String;

    /// Reads words with commas between them; none of them are none.
    fn from_str(text: &str) -> Result<Self, String> {
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        let read = words.map(|word| {
            let word = || Failure::ALL.into_iter().find(|failure| failure.as_str() == word);
            word().ok_or_else(|| format!("some of {}, with commas between them", Self::from_iter(Failure::ALL)))
        });
        read.collect()
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = Failure::ALL.into_iter().filter(|one| self.has(*one)).map(Failure::as_str).collect();
        f.write_str(&words.join(","))
    }
}

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// When and how often a failed call is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The most attempts that a call gets, the first included; at least 1.
    pub attempts_max: u32,
    /// The longest wait before the second attempt; it doubles with each further one.
    pub backoff_base: Duration,
    /// The longest wait before any attempt.
    pub backoff_max: Duration,
    /// After which failures.
    pub on: Failures,
    /// How many hosts a call may lose, one after the other; with the next it is held to be what ends them.
    pub hosts_lost_max: u32,
}

/// What a caller asks for. What it leaves out is as the function's policy says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetryWish {
    /// The most attempts, the first included; at least 1.
    pub attempts_max: Option<u32>,
    /// The longest wait before the second attempt.
    pub backoff_base: Option<Duration>,
    /// The longest wait before any attempt.
    pub backoff_max: Option<Duration>,
    /// After which failures.
    pub on: Option<Failures>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: 3,
            backoff_base: Duration::from_secs(1),
            backoff_max: Duration::from_secs(300),
            on: Failures::default().with(Failure::Retry).with(Failure::HostFault),
            hosts_lost_max: 2,
        }
    }
}

impl RetryPolicy {
    /// The policy for one call. How many hosts it may lose is not for its caller to say.
    #[must_use]
    pub fn wished(&self, wish: &RetryWish) -> Self {
        Self {
            attempts_max: wish.attempts_max.unwrap_or(self.attempts_max),
            backoff_base: wish.backoff_base.unwrap_or(self.backoff_base),
            backoff_max: wish.backoff_max.unwrap_or(self.backoff_max),
            on: wish.on.unwrap_or(self.on),
            hosts_lost_max: self.hosts_lost_max,
        }
    }

    /// The wait after failed attempt number `attempt`: exponential with full jitter, as in "Exponential Backoff And
    /// Jitter" of the AWS Architecture Blog. `chance` is a random number in `0.0..1.0`.
    #[must_use]
    pub fn backoff(&self, attempt: u32, chance: f64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        let ceiling = self.backoff_base.saturating_mul(1 << doublings).min(self.backoff_max);
        ceiling.mul_f64(chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backoff_doubles_up_to_its_cap() {
        let policy = RetryPolicy { backoff_max: Duration::from_secs(10), ..RetryPolicy::default() };
        let waits: Vec<u64> = (1..=6).map(|attempt| policy.backoff(attempt, 1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
        assert_eq!(policy.backoff(u32::MAX, 0.0), Duration::ZERO);
    }

    #[test]
    fn failures_are_read_by_their_words() {
        let table = [
            ("", Some("")),
            ("trap", Some("trap")),
            ("timeout, retry,trap", Some("retry,trap,timeout")),
            (
                "retry,host-fault,trap,exit,timeout,memory,result-too-large",
                Some("retry,host-fault,trap,exit,timeout,memory,result-too-large"),
            ),
            ("Trap", None),
            ("poison", None),
        ];
        for (text, expected) in table {
            let read = text.parse::<Failures>().ok().map(|failures| failures.to_string());
            assert_eq!(read.as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_caller_changes_what_it_names_and_nothing_else() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.wished(&RetryWish::default()), policy);
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        let on = Failures::default().with(Failure::Trap);
        let wish =
            RetryWish { attempts_max: Some(9), backoff_base: Some(second), backoff_max: Some(minute), on: Some(on) };
        let hosts_lost_max = policy.hosts_lost_max;
        let all = RetryPolicy { attempts_max: 9, backoff_base: second, backoff_max: minute, on, hosts_lost_max };
        assert_eq!(policy.wished(&wish), all);
    }
}
