//! Durable executions: functions that live for days, and go on where they were whatever becomes of hosts.
//!
//! ```
//! use baton_sdk::prelude::*;
//! use baton_sdk::durable::Execution;
//! use core::time::Duration;
//!
//! #[derive(Deserialize)]
//! struct Order {
//!     item: String,
//! }
//!
//! #[baton_sdk::durable]
//! fn order(execution: &Execution, order: Order) -> Result<String> {
//!     let reservation: String = execution.call("reserve", &order.item)?;
//!     match execution.wait_event_for("payment", Duration::from_secs(3600)) {
//!         Some(_) => Ok(reservation),
//!         None => {
//!             execution.call::<()>("release", &reservation)?;
//!             Err(Failure::reject("not-paid", "no payment came within an hour"))
//!         }
//!     }
//! }
//! ```
//!
//! It is ordinary code, run from its start again whenever something comes that it waited for, and answered from the
//! execution's log what it was answered before. So whatever it does beside its steps is done again each time, and has to do the
//! same: it has no files, no network and no settings, and its clocks (`std::time` too) and random numbers come from the log. A
//! wait by the standard clock (`std::thread::sleep`) is a trap; [`Execution::sleep`] is the one to use.
//!
//! Each time it is run it is answered its whole log, so a step costs its host more the more steps went before it: a
//! millisecond or two for each hundred calls. A function that takes thousands of steps [begins anew](Execution::restart) now and then.
//!
//! What breaks a rule is a trap, whose message names the rule, and after the function's attempts the execution is stuck: a name of
//! a function or an event that is none, a function that its manifest does not grant, more than 1,000 calls or some 4 MiB in one step, a
//! media type that is none.
//!
//! In tests the answers come from a [`Script`].

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Bytes, Failure, FromPayload, Reply, Result};

pub use host::Execution;
#[cfg(not(all(target_os = "wasi", target_env = "p2")))]
pub use host::Script;

/// A call that a step makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    function: String,
    payload: Reply,
}

impl Call {
    /// A call of a function of the same tenant, by its name alone, with a value as JSON.
    ///
    /// # Errors
    /// A rejection with the code `bad-output` if the value cannot be written.
    pub fn to(function: impl Into<String>, input: &impl Serialize) -> Result<Self> {
        let body = serde_json::to_vec(input).map_err(|error| Failure::reject("bad-output", error.to_string()))?;
        Ok(Self::with(function, Reply::new("application/json", body)))
    }

    /// The same, with bytes of any media type.
    pub fn with(function: impl Into<String>, payload: Reply) -> Self {
        Self { function: function.into(), payload }
    }
}

/// A call that ended without an answer. The same call would end so again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallFailed {
    /// The word of the function that refused it, or why it was given up: `trap`, `timeout`, `cancelled` and so on.
    pub code: String,
    /// For people.
    pub message: String,
}

impl fmt::Display for CallFailed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.code, self.message)
    }
}

impl core::error::Error for CallFailed {}

/// An event that somebody sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    id: String,
    payload: Reply,
}

impl Event {
    /// Its sender's id for it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it says, as it was sent.
    #[must_use]
    pub fn payload(&self) -> &Reply {
        &self.payload
    }

    /// What it says, read from JSON.
    ///
    /// # Errors
    /// A rejection with the code `bad-input` if it does not fit.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        self.payload.body.json()
    }
}

impl Execution {
    /// Calls a function of the same tenant with a value as JSON, waits for its end, and reads its answer. It is made once,
    /// however often this function is run again.
    ///
    /// # Errors
    /// A rejection with the code of the failure if the call ended without an answer; one with `bad-input` if the answer does
    /// not fit. [`Execution::call_all`] tells failures apart.
    pub fn call<T: FromPayload>(&self, function: &str, input: &impl Serialize) -> Result<T> {
        let answer = self.call_all([Call::to(function, input)?]).pop();
        match answer {
            Some(Ok(reply)) => T::from_payload(reply.body),
            Some(Err(failed)) => Err(Failure::reject(failed.code, failed.message)),
            None => Err(Failure::reject("internal", "a call has no answer")),
        }
    }

    /// Makes calls, all at once, and waits for all of their ends, which come in the order of the calls: 1,000 at the most.
    pub fn call_all(&self, calls: impl IntoIterator<Item = Call>) -> Vec<Result<Reply, CallFailed>> {
        self.calls(calls.into_iter().collect())
    }

    /// Sleeps, for whole milliseconds: what is shorter than one is no sleep. Nobody holds anything in memory meanwhile, and no end
    /// of a host ends it.
    pub fn sleep(&self, time: Duration) {
        self.sleep_ms(millis(time));
    }

    /// Sleeps until a time in Unix milliseconds; not at all if that is past.
    pub fn sleep_until(&self, time_ms: u64) {
        self.sleep_until_ms(time_ms);
    }

    /// Waits for an event of this name: the earliest that came and was not waited for yet, before or from now on.
    #[must_use]
    pub fn wait_event(&self, name: &str) -> Event {
        loop {
            // Without a patience it ends with an event alone.
            if let Some(event) = self.event(name, None) {
                return event;
            }
        }
    }

    /// The same, for so long at the most, in whole milliseconds. None if no event came.
    #[must_use]
    pub fn wait_event_for(&self, name: &str, patience: Duration) -> Option<Event> {
        self.event(name, Some(millis(patience)))
    }

    /// Writes an event into the log, for whoever reads along.
    ///
    /// # Errors
    /// A rejection with the code `bad-output` if the value cannot be written.
    pub fn emit(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let body = serde_json::to_vec(value).map_err(|error| Failure::reject("bad-output", error.to_string()))?;
        self.emit_reply(name, Reply::new("application/json", body));
        Ok(())
    }

    /// Ends this run and begins the function anew with another input and an empty log, under the same id. What goes on for ever
    /// does this now and then, so that its log stays short. Events that came and were not waited for are not lost; with more than
    /// 1,000 of them the execution is stuck. What this run did and emitted is not kept. Returns only with an error.
    ///
    /// # Errors
    /// A rejection with the code `bad-output` if the input cannot be written.
    pub fn restart(&self, input: &impl Serialize) -> Result<core::convert::Infallible> {
        let body = serde_json::to_vec(input).map_err(|error| Failure::reject("bad-output", error.to_string()))?;
        self.restart_reply(Reply::new("application/json", body))
    }
}

/// An error of a durable function is for good: run again over the same log, it would end so again.
#[doc(hidden)]
#[must_use]
pub fn for_good(failure: Failure) -> Failure {
    match failure {
        Failure::Retry { message, after: _ } => Failure::reject("failed", message),
        reject @ Failure::Reject { .. } => reject,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(all(target_os = "wasi", target_env = "p2"))]
mod host {
    use super::{Bytes, Call, CallFailed, Event, Reply, Vec};
    use crate::bindings::baton::durable::steps;

    /// The execution that a durable function runs in, and the steps that it may take.
    #[derive(Debug)]
    #[non_exhaustive]
    pub struct Execution;

    impl From<Reply> for steps::Content {
        fn from(reply: Reply) -> Self {
            Self { media_type: reply.media_type, body: reply.body.into() }
        }
    }

    impl From<steps::Content> for Reply {
        fn from(content: steps::Content) -> Self {
            Self { media_type: content.media_type, body: Bytes::from(content.body) }
        }
    }

    impl Execution {
        /// For the code that the macro writes.
        #[doc(hidden)]
        #[must_use]
        pub fn begin() -> Self {
            // Whatever the function does, its component is known as durable by this import.
            _ = steps::now();
            Self
        }

        pub(super) fn calls(&self, calls: Vec<Call>) -> Vec<Result<Reply, CallFailed>> {
            let calls: Vec<steps::Invocation> = calls
                .into_iter()
                .map(|Call { function, payload }| steps::Invocation { function, payload: payload.into() })
                .collect();
            let end = |end: Result<steps::Content, steps::Failure>| match end {
                Ok(content) => Ok(content.into()),
                Err(steps::Failure { code, message }) => Err(CallFailed { code, message }),
            };
            steps::call(&calls).into_iter().map(end).collect()
        }

        pub(super) fn sleep_ms(&self, ms: u64) {
            steps::sleep(ms);
        }

        pub(super) fn sleep_until_ms(&self, time_ms: u64) {
            steps::sleep_until(time_ms);
        }

        pub(super) fn event(&self, name: &str, patience_ms: Option<u64>) -> Option<Event> {
            steps::wait_event(name, patience_ms).map(|event| Event { id: event.id, payload: event.payload.into() })
        }

        pub(super) fn emit_reply(&self, name: &str, payload: Reply) {
            steps::emit(name, &payload.into());
        }

        /// The time, in Unix milliseconds: when that was written which the function learned last.
        #[must_use]
        pub fn now_ms(&self) -> u64 {
            steps::now()
        }

        /// A random number, the same in every run.
        #[must_use]
        pub fn random(&self) -> u64 {
            steps::random()
        }

        pub(super) fn restart_reply(&self, input: Reply) -> ! {
            steps::restart(&input.into());
            unreachable!("the host has ended this run")
        }
    }
}

#[cfg(not(all(target_os = "wasi", target_env = "p2")))]
mod host {
    use alloc::collections::VecDeque;
    use alloc::format;
    use std::cell::RefCell;

    use super::{Bytes, Call, CallFailed, Event, Reply, Result, String, ToString, Vec};
    use crate::{Context, Function};

    std::thread_local! {
        /// What the execution of the test that this thread runs is answered.
        static SCRIPT: RefCell<Script> = RefCell::default();
    }

    /// What a durable function is answered in a test, step by step. Its time begins at 0 and passes with its sleeps; its random
    /// numbers are the same in each test. A [restart](super::Execution::restart) ends the test with a panic.
    ///
    /// ```
    /// # use baton_sdk::prelude::*;
    /// use baton_sdk::durable::{Execution, Script};
    ///
    /// #[baton_sdk::durable]
    /// fn greet(execution: &Execution, name: String) -> Result<String> {
    ///     let greeting: String = execution.call("hello", &name)?;
    ///     execution.sleep(core::time::Duration::from_secs(5));
    ///     Ok(greeting)
    /// }
    ///
    /// let script = Script::default().call_answers("hello", r#""Hello, Ada""#);
    /// let (answer, steps) = script.run::<greet>(r#""Ada""#);
    /// assert_eq!(answer.unwrap().text(), r#""Hello, Ada""#);
    /// assert_eq!(steps, [r#"call hello "Ada""#, "sleep 5000"]);
    /// ```
    #[derive(Debug, Default)]
    pub struct Script {
        expected: VecDeque<Expected>,
        now_ms: u64,
        random: u64,
        taken: Vec<String>,
    }

    #[derive(Debug)]
    enum Expected {
        Call(String, Result<Reply, CallFailed>),
        Event(String, Option<Event>),
    }

    impl Script {
        /// The next call is of this function, and its answer is this JSON.
        #[must_use]
        pub fn call_answers(mut self, function: &str, json: &str) -> Self {
            let answer = Ok(Reply::new("application/json", json.as_bytes().to_vec()));
            self.expected.push_back(Expected::Call(function.to_string(), answer));
            self
        }

        /// The next call is of this function, and ends without an answer.
        #[must_use]
        pub fn call_fails(mut self, function: &str, code: &str, message: &str) -> Self {
            let failed = CallFailed { code: code.to_string(), message: message.to_string() };
            self.expected.push_back(Expected::Call(function.to_string(), Err(failed)));
            self
        }

        /// The next wait is for this event, and it comes with this JSON.
        #[must_use]
        pub fn event_comes(mut self, name: &str, json: &str) -> Self {
            let payload = Reply::new("application/json", json.as_bytes().to_vec());
            let event = Event { id: format!("event-{}", self.expected.len()), payload };
            self.expected.push_back(Expected::Event(name.to_string(), Some(event)));
            self
        }

        /// The next wait is for this event, and it does not come in time.
        #[must_use]
        pub fn no_event(mut self, name: &str) -> Self {
            self.expected.push_back(Expected::Event(name.to_string(), None));
            self
        }

        /// Runs the function with this input. Gives what it answers, and the steps that it took.
        ///
        /// # Panics
        /// If the function asks for another step than the script has, or for fewer.
        pub fn run<F: Function>(self, payload: impl Into<Bytes>) -> (Result<Reply>, Vec<String>) {
            SCRIPT.set(self);
            let context = Context { media_type: "application/json".to_string(), ..Context::default() };
            let answer = F::handle(context, payload.into());
            let Self { expected, taken, .. } = SCRIPT.take();
            assert!(expected.is_empty(), "the function has ended, and was to ask for {expected:?}");
            (answer, taken)
        }

        fn take(&mut self, taken: String) -> Option<Expected> {
            self.taken.push(taken);
            self.expected.pop_front()
        }
    }

    /// The execution that a durable function runs in, and the steps that it may take.
    #[derive(Debug)]
    #[non_exhaustive]
    pub struct Execution;

    impl Execution {
        /// For the code that the macro writes.
        #[doc(hidden)]
        #[must_use]
        pub fn begin() -> Self {
            Self
        }

        pub(super) fn calls(&self, calls: Vec<Call>) -> Vec<Result<Reply, CallFailed>> {
            let answer = |Call { function, payload }: Call| {
                let said = format!("call {function} {}", payload.text());
                match SCRIPT.with_borrow_mut(|script| script.take(said.clone())) {
                    Some(Expected::Call(expected, end)) if expected == function => end,
                    other => panic!("the function asks for `{said}`, the script has {other:?}"),
                }
            };
            calls.into_iter().map(answer).collect()
        }

        pub(super) fn sleep_ms(&self, ms: u64) {
            SCRIPT.with_borrow_mut(|script| {
                script.taken.push(format!("sleep {ms}"));
                script.now_ms += ms;
            });
        }

        pub(super) fn sleep_until_ms(&self, time_ms: u64) {
            SCRIPT.with_borrow_mut(|script| {
                script.taken.push(format!("sleep until {time_ms}"));
                script.now_ms = script.now_ms.max(time_ms);
            });
        }

        pub(super) fn event(&self, name: &str, patience_ms: Option<u64>) -> Option<Event> {
            let said = match patience_ms {
                Some(ms) => format!("wait {name} {ms}"),
                None => format!("wait {name}"),
            };
            match SCRIPT.with_borrow_mut(|script| script.take(said.clone())) {
                Some(Expected::Event(expected, event))
                    if expected == name && (event.is_some() || patience_ms.is_some()) =>
                {
                    event
                }
                other => panic!("the function asks for `{said}`, the script has {other:?}"),
            }
        }

        pub(super) fn emit_reply(&self, name: &str, payload: Reply) {
            SCRIPT.with_borrow_mut(|script| script.taken.push(format!("emit {name} {}", payload.text())));
        }

        /// The time, in Unix milliseconds: when that was written which the function learned last.
        #[must_use]
        pub fn now_ms(&self) -> u64 {
            SCRIPT.with_borrow(|script| script.now_ms)
        }

        /// A random number, the same in every run.
        #[must_use]
        pub fn random(&self) -> u64 {
            SCRIPT.with_borrow_mut(|script| {
                script.random =
                    script.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                script.random
            })
        }

        pub(super) fn restart_reply(&self, input: Reply) -> ! {
            panic!("the function restarts with {}", input.text())
        }
    }
}
