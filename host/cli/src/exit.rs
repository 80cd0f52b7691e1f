//! Exit codes, on which scripts rely, and how an error is shown.

use std::process::ExitCode;

use baton_broker::BrokerError;

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is well.
    Ok,
    /// The function failed, or the host did.
    Failed,
    /// The arguments or the settings are wrong.
    Usage,
    /// There is no answer yet.
    NoAnswer,
    /// Redis cannot be reached.
    Unreachable,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Ok => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::NoAnswer => 3,
            Exit::Unreachable => 4,
        })
    }
}

/// An error in what was typed or set, with the mend in its text.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

/// Shows an error and says how the command ends.
pub(crate) fn report(error: &anyhow::Error) -> Exit {
    if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe) {
        // Whoever reads has seen enough, as `head` has.
        return Exit::Ok;
    }
    eprintln!("error: {error:#}");
    if error.downcast_ref::<UsageError>().is_some() {
        return Exit::Usage;
    }
    match error.downcast_ref::<BrokerError>() {
        Some(error) if error.is_forbidden() => {
            eprintln!(
                "a tenant's Redis user may add calls and read their results under --function, and nothing else; everything else is \
                 for HTTP, with a token of the tenant, or for another Redis user"
            );
            Exit::Failed
        }
        Some(BrokerError::BadUrl { .. }) => Exit::Usage,
        Some(BrokerError::Unreachable(_) | BrokerError::Unable(_) | BrokerError::NoScript) => Exit::Unreachable,
        Some(BrokerError::NoGroup(_) | BrokerError::Refused(_)) | None => Exit::Failed,
    }
}
