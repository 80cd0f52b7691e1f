//! What can go wrong between Baton and Redis, sorted by what a caller does about it.

use redis::{ErrorKind, RedisError};

/// How Redis says that a user may not do something.
const FORBIDDEN: &str = "NOPERM";

/// Why something could not be said to Redis.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The URL is none that Redis clients understand.
    #[error(
        "{url:?} is no Redis URL: use redis://HOST:PORT, redis://USER:PASSWORD@HOST:PORT/DB, rediss:// for TLS, or unix:///PATH \
         ({reason})"
    )]
    BadUrl {
        /// What was given, without its password.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No connection, or it broke, or no answer came in time. Trying again may help.
    #[error("cannot reach Redis: {0}")]
    Unreachable(String),
    /// A stream has no consumer group, or is gone: it was flushed, deleted or failed over. The group has to be made anew.
    #[error("a consumer group is missing: {0}")]
    NoGroup(String),
    /// Redis does not know a script, as after a restart. Nothing was carried out.
    #[error("redis does not know the script")]
    NoScript,
    /// Redis cannot do it now: it loads its data, is read-only, is out of memory, fails over, or does not let this
    /// client in. Trying again may help.
    #[error("redis is not able to do this now: {0}")]
    Unable(String),
    /// Redis refuses for good, or answers with what no Redis should.
    #[error("redis refused: {0}")]
    Refused(String),
}

impl BrokerError {
    /// Whether the connection has to be made anew.
    #[must_use]
    pub fn is_connection(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::BadUrl { .. } | Self::NoGroup(_) | Self::NoScript | Self::Unable(_) | Self::Refused(_) => false,
        }
    }

    /// Whether Redis knows this client and does not let it do that.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Unable(reason) if reason.starts_with(FORBIDDEN))
    }

    /// An answer that does not have the shape that its command promises.
    pub(crate) fn shape(command: &str, answer: &impl std::fmt::Debug) -> Self {
        Self::Refused(format!("{command} answered {answer:?}, which is no answer to it"))
    }
}

impl From<RedisError> for BrokerError {
    fn from(error: RedisError) -> Self {
        let text = error.to_string();
        if error.is_io_error() || error.is_connection_dropped() || error.is_timeout() {
            return Self::Unreachable(text);
        }
        match error.kind() {
            // A protocol error leaves the connection in an unknown state.
            ErrorKind::Parse => return Self::Unreachable(text),
            ErrorKind::Client | ErrorKind::UnexpectedReturnType | ErrorKind::InvalidClientConfig => {
                return Self::Refused(text);
            }
            _ => {}
        }
        match error.code() {
            Some("NOGROUP" | "UNBLOCKED") => Self::NoGroup(text),
            Some("NOSCRIPT") => Self::NoScript,
            // What stands under a key is not ours, or the command is wrong: the same again would be answered the same.
            Some("WRONGTYPE" | "ERR" | "CROSSSLOT") => Self::Refused(text),
            Some(FORBIDDEN) => Self::Unable(format!("{FORBIDDEN}: {text}")),
            // Everything else passes: NOAUTH, OOM, LOADING, READONLY, MISCONF, MOVED, and what is yet to come.
            _ => Self::Unable(text),
        }
    }
}
