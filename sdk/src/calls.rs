//! Calling other functions of the same tenant, as the manifest grants it under `[grants.calls]`.
//!
//! A call goes through the queue, so that any host may run it. Whoever waits for it gives its place at the host to others
//! meanwhile; it has to be over in time for the call that waits.
//!
//! ```no_run
//! use baton_sdk::calls::Call;
//! use baton_sdk::prelude::*;
//!
//! #[baton_sdk::function]
//! fn thumbnail(picture: Bytes) -> Result<Reply> {
//!     Ok(Call::to("resize").media_type("image/png").payload(picture).wait()?)
//! }
//! ```

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use serde::Serialize;

use crate::{Bytes, Reply};

/// A call that is being put together.
#[derive(Debug, Clone)]
#[must_use = "nothing is called before `wait` or `send`"]
pub struct Call {
    function: String,
    payload: Bytes,
    media_type: String,
    id: Option<String>,
    timeout: Option<Duration>,
    headers: Vec<(String, String)>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The manifest does not grant this function.
    Denied(String),
    /// A name, an id, a header or the payload breaks a rule, or the call has made too many.
    Invalid(String),
    /// The calls that wait for each other are too many.
    TooDeep(String),
    /// The call ended without an answer; the same call would end so again.
    Failed {
        /// The word of the function that refused it, or the reason for which it was given up.
        code: String,
        /// For people.
        message: String,
    },
    /// There was no answer in time; the call may still be run.
    TimedOut(String),
    /// The host cannot do it now.
    Unavailable(String),
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(text)
            | Self::Invalid(text)
            | Self::TooDeep(text)
            | Self::TimedOut(text)
            | Self::Unavailable(text) => formatter.write_str(text),
            Self::Failed { code, message } => write!(formatter, "{code}: {message}"),
        }
    }
}

impl core::error::Error for Error {}

impl Call {
    /// A call of a function of the same tenant, by its name alone. Its payload is empty JSON until something is said.
    pub fn to(function: impl Into<String>) -> Self {
        Self {
            function: function.into(),
            payload: Bytes::default(),
            media_type: "application/json".to_string(),
            id: None,
            timeout: None,
            headers: Vec::new(),
        }
    }

    /// Sets the payload, byte for byte.
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }

    /// Sets the payload to a value's JSON.
    ///
    /// # Errors
    /// serde_json's, if the value cannot be written.
    pub fn json(mut self, input: &impl Serialize) -> Result<Self, serde_json::Error> {
        self.payload = Bytes::from(serde_json::to_vec(input)?);
        Ok(self)
    }

    /// Sets the media type of the payload.
    pub fn media_type(mut self, media_type: impl Into<String>) -> Self {
        self.media_type = media_type.into();
        self
    }

    /// Sets an id of one's own: the same id again is the same call, and its result the same answer. Without one an attempt
    /// that is repeated calls anew.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Sets the longest time that the answer is of use.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Adds a header; its name starts with `x-`, and not with `x-baton-`.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Calls and waits for the answer.
    ///
    /// # Errors
    /// [`Error`] says why there is none. By `?` it becomes a failure that may pass.
    pub fn wait(self) -> Result<Reply, Error> {
        host::wait(self)
    }

    /// Calls and does not wait. Gives the call's id.
    ///
    /// # Errors
    /// [`Error`] says why it was not sent.
    pub fn send(self) -> Result<String, Error> {
        host::send(self)
    }
}

#[cfg(all(target_os = "wasi", target_env = "p2"))]
mod host {
    use super::{Call, Error, Reply, String, Vec};
    use crate::bindings::baton::calls::calls;

    impl From<calls::Error> for Error {
        fn from(error: calls::Error) -> Self {
            match error {
                calls::Error::Denied(text) => Self::Denied(text),
                calls::Error::Invalid(text) => Self::Invalid(text),
                calls::Error::TooDeep(text) => Self::TooDeep(text),
                calls::Error::Failed(calls::Failure { code, message }) => Self::Failed { code, message },
                calls::Error::TimedOut(text) => Self::TimedOut(text),
                calls::Error::Unavailable(text) => Self::Unavailable(text),
            }
        }
    }

    fn said(call: Call) -> (String, Vec<u8>, calls::Options) {
        let Call { function, payload, media_type, id, timeout, headers } = call;
        let timeout_ms = timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        (function, payload.into(), calls::Options { media_type, id, timeout_ms, headers })
    }

    pub(super) fn wait(call: Call) -> Result<Reply, Error> {
        let (function, payload, options) = said(call);
        let calls::Answer { media_type, body } = calls::call(&function, &payload, &options)?;
        Ok(Reply::new(media_type, body))
    }

    pub(super) fn send(call: Call) -> Result<String, Error> {
        let (function, payload, options) = said(call);
        Ok(calls::send(&function, &payload, &options)?)
    }
}

#[cfg(not(all(target_os = "wasi", target_env = "p2")))]
mod host {
    use alloc::format;

    use super::{Call, Error, Reply, String};

    pub(super) fn wait(call: Call) -> Result<Reply, Error> {
        Err(Error::Unavailable(format!("there is no host here that has {}", call.function)))
    }

    pub(super) fn send(call: Call) -> Result<String, Error> {
        wait(call).map(|_| String::new())
    }
}
