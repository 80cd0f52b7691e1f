//! Why there is no answer, and what is to be done about it.

use alloc::string::{String, ToString};
use core::error::Error;
use core::fmt::{self, Write};
use core::time::Duration;

/// What a function gives: an answer or a failure.
pub type Result<T, E = Failure> = core::result::Result<T, E>;

/// The longest code of a rejection, in bytes.
const CODE_BYTES_MAX: usize = 63;

/// Why there is no answer, and what is to be done about it.
///
/// Every error becomes one by `?`, as a [`Retry`](Self::Retry): an error that nobody thought of may well pass, and if it
/// does not, the call is put aside with the last message, where people find it. Its message is the error and its causes.
///
/// It is no [`Error`] itself, which lets it stand for all of them. An `anyhow::Error` is no [`Error`] either, and is
/// turned into one of these by `.map_err(|error| Failure::retry(format!("{error:#}")))`.
///
/// ```
/// use baton_sdk::prelude::*;
/// use core::time::Duration;
///
/// fn price(text: &str) -> Result<u32> {
///     if text.is_empty() {
///         return Err(Failure::reject("no-price", "the price is empty"));
///     }
///     if text == "?" {
///         return Err(Failure::retry("the price is not known yet").after(Duration::from_secs(60)));
///     }
///     Ok(text.parse()?)
/// }
///
/// assert_eq!(price("x"), Err(Failure::retry("invalid digit found in string")));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The same call may succeed later, so the host tries it again, as often as its policy allows.
    Retry {
        /// What went wrong, for people.
        message: String,
        /// The shortest time to wait before the next attempt, in whole milliseconds. Without it the host's policy decides.
        after: Option<Duration>,
    },
    /// The call will never succeed: the input is wrong, or the function refuses it. It is not tried again.
    Reject {
        /// A short machine-readable word, such as `bad-input`: `[a-z][a-z0-9-]{0,62}`.
        code: String,
        /// What went wrong, for people.
        message: String,
    },
}

impl Failure {
    /// A failure that may pass: the host tries the call again.
    #[must_use]
    pub fn retry(message: impl Into<String>) -> Self {
        Self::Retry { message: message.into(), after: None }
    }

    /// A failure for good: the host does not try the call again.
    ///
    /// The code is `[a-z][a-z0-9-]{0,62}`. One that is not is made so, because a failure while telling of a failure helps
    /// nobody: letters become lower case, other characters `-`, and what does not fit is cut off.
    #[must_use]
    pub fn reject(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Reject { code: valid_code(code.into()), message: message.into() }
    }

    /// The shortest time to wait before the next attempt, in whole milliseconds. A rejection stays as it is.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        match self {
            Self::Retry { message, after: _ } => Self::Retry { message, after: Some(delay) },
            Self::Reject { .. } => self,
        }
    }

    /// What went wrong, for people.
    #[must_use]
    pub fn message(&self) -> &str {
        match self {
            Self::Retry { message, .. } | Self::Reject { message, .. } => message,
        }
    }

    /// The payload is not what the function takes.
    pub(crate) fn bad_input(message: impl Into<String>) -> Self {
        Self::Reject { code: "bad-input".to_string(), message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry { message, .. } => formatter.write_str(message),
            Self::Reject { code, message } => write!(formatter, "{code}: {message}"),
        }
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            // Writing to a string cannot fail.
            let _ = write!(message, ": {error}");
            cause = error.source();
        }
        Self::retry(message)
    }
}

fn valid_code(code: String) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let valid: String = code.chars().map(letter).skip_while(|c| !c.is_ascii_lowercase()).take(CODE_BYTES_MAX).collect();
    if valid.is_empty() { "rejected".to_string() } else { valid }
}

/// What may stand as the error of a function's `Result`. A trait of its own only to name the mend.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the error of a Baton function",
    label = "neither `Failure` nor a `core::error::Error`",
    note = "write `baton_sdk::Result<T>`, whose error is `Failure`: every `core::error::Error` becomes one by `?`",
    note = "for `anyhow::Error` and the like, use `.map_err(|error| Failure::retry(format!(\"{{error:#}}\")))`"
)]
pub trait IntoFailure {
    /// The failure this error is.
    fn into_failure(self) -> Failure;
}

impl<E: Into<Failure>> IntoFailure for E {
    fn into_failure(self) -> Failure {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer(core::num::ParseIntError);

    impl fmt::Display for Outer {
        fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("cannot read the page")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn an_error_is_a_retry_that_names_its_causes() {
        let failure = Failure::from(Outer("x".parse::<u8>().unwrap_err()));
        assert_eq!(failure, Failure::retry("cannot read the page: invalid digit found in string"));
    }

    #[test]
    fn a_delay_is_kept_by_a_retry_and_ignored_by_a_rejection() {
        let delay = Duration::from_secs(2);
        let retry = Failure::retry("busy").after(delay);
        assert_eq!(retry, Failure::Retry { message: "busy".into(), after: Some(delay) });
        assert_eq!(Failure::reject("no", "no").after(delay), Failure::reject("no", "no"));
    }

    #[test]
    fn a_code_that_breaks_the_rule_is_mended() {
        for (given, valid) in [
            ("bad-input", "bad-input"),
            ("Not Found", "not-found"),
            ("404", "rejected"),
            ("", "rejected"),
            ("2fast", "fast"),
        ] {
            assert_eq!(valid_code(given.into()), valid);
        }
        assert_eq!(valid_code("x".repeat(100)).len(), CODE_BYTES_MAX);
    }
}
