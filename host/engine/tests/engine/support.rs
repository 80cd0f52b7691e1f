//! What the tests share: an engine, a call, and a sink that remembers.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use baton_engine::{Component, Engine, EngineConfig, Invocation, LogSink, LogStream};
use baton_model::{Call, CallId, Grants, Limits, Outcome};
use bytes::Bytes;

/// A small pool: tests of one process share the machine.
pub(crate) fn config() -> EngineConfig {
    EngineConfig { instances_max: 16, ..EngineConfig::default() }
}

pub(crate) fn engine() -> Engine {
    Engine::new(config()).expect("an engine")
}

pub(crate) fn load(bytes: &[u8]) -> Component {
    engine().load(bytes, &Grants::default()).unwrap_or_else(|e| panic!("{e}"))
}

pub(crate) fn call(payload: impl Into<Bytes>) -> Call {
    let plain = Call::plain("acme/resize".parse().expect("a name"), CallId::parse("1-0").expect("an id"), payload);
    let headers = vec![("x-a".into(), "1".into()), ("x-b".into(), "2".into())];
    Call { media_type: "application/octet-stream".into(), headers, ..plain }
}

/// The time limit is short enough for a test and long enough for a busy machine.
pub(crate) fn limits() -> Limits {
    Limits { time_max: Duration::from_secs(20), ..Limits::default() }
}

pub(crate) fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    u64::try_from(now.as_millis()).expect("before the year 500 million")
}

/// Remembers what a guest said.
#[derive(Default)]
pub(crate) struct Sink {
    pub(crate) lines: Mutex<Vec<String>>,
    pub(crate) dropped: Mutex<Vec<u64>>,
}

impl LogSink for Sink {
    fn line(&self, stream: LogStream<'_>, text: &str) {
        self.lines.lock().expect("not poisoned").push(format!("{stream:?} {text}"));
    }

    fn truncated(&self, dropped_bytes: u64) {
        self.dropped.lock().expect("not poisoned").push(dropped_bytes);
    }
}

pub(crate) async fn execute(component: &Component, call: Call, limits: Limits) -> (Outcome, Arc<Sink>) {
    let sink = Arc::new(Sink::default());
    let invocation = Invocation {
        call: Arc::new(call),
        limits,
        log: Arc::clone(&sink) as Arc<dyn LogSink>,
        waits: false,
        weight: 1,
        services: None,
        durable: None,
    };
    (component.execute(invocation).await, sink)
}

/// What becomes of a call with a payload of three bytes.
pub(crate) async fn outcome(guest: &[u8], limits: Limits) -> Outcome {
    execute(&load(guest), call("abc"), limits).await.0
}
