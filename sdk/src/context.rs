//! What a function is told about the call it answers.

use alloc::string::String;
use alloc::vec::Vec;

/// What the host tells a function about the call it is answering.
///
/// The default one is empty, and is the first attempt; tests build others with [`testing::context`](crate::testing::context).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    pub(crate) call_id: String,
    pub(crate) tenant: String,
    pub(crate) function: String,
    pub(crate) attempt: u32,
    pub(crate) deadline_ms: Option<u64>,
    pub(crate) media_type: String,
    pub(crate) traceparent: Option<String>,
    pub(crate) tracestate: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
}

impl Context {
    /// The call's id: the caller's own, or the id of its stream entry. It is the same in every attempt, so it serves to
    /// make the effects of a call happen once.
    #[must_use]
    pub fn call_id(&self) -> &str {
        &self.call_id
    }

    /// The owner of the function.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// The function's name, without its tenant.
    #[must_use]
    pub fn function(&self) -> &str {
        &self.function
    }

    /// Which try of this call runs now; the first one is 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// When the answer stops being of use, in Unix milliseconds. The host ends the attempt at this time.
    #[must_use]
    pub fn deadline_ms(&self) -> Option<u64> {
        self.deadline_ms
    }

    /// Media type of the payload, such as `application/json`.
    #[must_use]
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// W3C Trace Context of the caller.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }

    /// W3C trace state of the caller; present only beside a [`traceparent`](Self::traceparent).
    #[must_use]
    pub fn tracestate(&self) -> Option<&str> {
        self.tracestate.as_deref()
    }

    /// The caller's `x-…` headers and, of a CloudEvent, its attributes as `ce-…`: names in lower case, in the order in which
    /// they were sent.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The first header with this name, in whatever case, or `None`.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl Default for Context {
    fn default() -> Self {
        Self {
            call_id: String::new(),
            tenant: String::new(),
            function: String::new(),
            attempt: 1,
            deadline_ms: None,
            media_type: String::new(),
            traceparent: None,
            tracestate: None,
            headers: Vec::new(),
        }
    }
}
