//! Try a function in ordinary tests, without a host.
//!
//! ```
//! use baton_sdk::prelude::*;
//! use baton_sdk::testing;
//!
//! #[baton_sdk::function]
//! fn attempt(context: &Context) -> u32 {
//!     context.attempt()
//! }
//!
//! // The function itself, as ever:
//! assert_eq!(attempt(&Context::default()), 1);
//! // All of it, as the host calls it, from bytes to bytes:
//! let reply = testing::call::<attempt>(testing::context().attempt(2).build(), "").unwrap();
//! assert_eq!((reply.media_type(), reply.body()), ("application/json", &b"2"[..]));
//! ```

use alloc::string::{String, ToString};

use crate::{Bytes, Context, Function, Reply, Result};

/// Calls a function as the host does: reads the payload, runs the function, writes the reply.
///
/// # Errors
/// The failure the host would be given.
pub fn call<F: Function>(context: Context, payload: impl Into<Bytes>) -> Result<Reply> {
    F::handle(context, payload.into())
}

/// Says what [`config::get`](crate::config::get) gives, in the test that this thread runs.
#[cfg(not(all(target_os = "wasi", target_env = "p2")))]
pub fn setting(name: &str, value: &str) {
    crate::config::host::SETTINGS.with_borrow_mut(|settings| settings.insert(name.to_string(), value.to_string()));
}

/// A context with plausible values: call `test-call`, function `test/function`, first attempt, JSON.
#[must_use]
pub fn context() -> ContextBuilder {
    ContextBuilder(Context {
        call_id: "test-call".to_string(),
        tenant: "test".to_string(),
        function: "function".to_string(),
        media_type: "application/json".to_string(),
        ..Context::default()
    })
}

/// Builds a [`Context`]; see [`context()`].
#[derive(Debug, Clone)]
pub struct ContextBuilder(Context);

impl ContextBuilder {
    /// Sets the call's id.
    #[must_use]
    pub fn call_id(mut self, call_id: impl Into<String>) -> Self {
        self.0.call_id = call_id.into();
        self
    }

    /// Sets the owner of the function.
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.0.tenant = tenant.into();
        self
    }

    /// Sets the function's name.
    #[must_use]
    pub fn function(mut self, function: impl Into<String>) -> Self {
        self.0.function = function.into();
        self
    }

    /// Sets which try of the call this is; the first one is 1.
    #[must_use]
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.0.attempt = attempt;
        self
    }

    /// Sets when the answer stops being of use, in Unix milliseconds.
    #[must_use]
    pub fn deadline_ms(mut self, deadline_ms: u64) -> Self {
        self.0.deadline_ms = Some(deadline_ms);
        self
    }

    /// Sets the media type of the payload.
    #[must_use]
    pub fn media_type(mut self, media_type: impl Into<String>) -> Self {
        self.0.media_type = media_type.into();
        self
    }

    /// Sets the caller's trace, and its state.
    #[must_use]
    pub fn trace(mut self, traceparent: impl Into<String>, tracestate: Option<&str>) -> Self {
        self.0.traceparent = Some(traceparent.into());
        self.0.tracestate = tracestate.map(ToString::to_string);
        self
    }

    /// Adds a header; its name is made lower case, as the host does.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.0.headers.push((name.to_ascii_lowercase(), value.into()));
        self
    }

    /// The context.
    #[must_use]
    pub fn build(self) -> Context {
        self.0
    }
}
