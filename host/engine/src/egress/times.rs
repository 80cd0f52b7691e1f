//! How long each part of an exchange may take. The attempt's own end comes on top: with it everything stops.

use std::time::Duration;

use wasmtime_wasi_http::RequestOptions;

/// What a guest may ask for at most: longer than any attempt that makes sense, and far from where clocks end.
const MAX: Duration = Duration::from_secs(3_600);

/// The limits of one exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    /// Room for it, look-up, connection and TLS together.
    pub(super) connect: Duration,
    /// From the request's start to the answer's head.
    pub(super) first_byte: Duration,
    /// Between two pieces of the answer's body, while the guest waits for one.
    pub(super) between_bytes: Duration,
}

impl Times {
    /// What the guest asked for, or what suits most. None at all is what it says: it is over at once.
    pub(super) fn of(options: Option<RequestOptions>) -> Self {
        let options = options.unwrap_or_default();
        let or = |asked: Option<Duration>, usual| asked.unwrap_or(usual).min(MAX);
        Self {
            connect: or(options.connect_timeout, Duration::from_secs(10)),
            first_byte: or(options.first_byte_timeout, Duration::from_secs(60)),
            between_bytes: or(options.between_bytes_timeout, Duration::from_secs(60)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_may_ask_for_no_time_and_not_for_ever() {
        let asked = |time| RequestOptions { connect_timeout: Some(time), ..RequestOptions::default() };
        assert_eq!(Times::of(Some(asked(Duration::ZERO))).connect, Duration::ZERO);
        assert_eq!(Times::of(Some(asked(Duration::MAX))).connect, MAX);
        assert_eq!(Times::of(None).connect, Duration::from_secs(10));
    }
}
