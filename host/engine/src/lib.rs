//! The room that runs functions, and the only one that names wasmtime: engine, cache, checks of a component, attempts.
//!
//! Nothing here knows Redis, folders, tenants' policies or what is done about an outcome. A component comes in as
//! bytes, a call as a [`baton_model::Call`], and what happened leaves as a [`baton_model::Outcome`].

mod artifact;
mod attempt;
mod bindings;
mod cache;
mod calls;
mod check;
mod compiler;
mod component;
mod config;
mod durable;
mod egress;
mod end;
mod engine;
mod keyvalue;
mod limiter;
mod loaded;
mod log;
mod offer;
mod order;
mod outcome;
mod pauses;
mod precheck;
#[cfg(any(test, feature = "fuzz"))]
pub mod rubbish;
mod scratch;
mod services;
mod settings;
mod state;
mod stdio;
mod ticker;
mod turns;
mod worker;

pub use attempt::{Executed, Invocation, Timings};
pub use check::{COMPONENT_BYTES_MAX, LoadError};
pub use compiler::{CompileError, Compiler};
pub use component::Component;
pub use config::{CompileSpeed, EngineConfig, Tuning, WASMTIME_VERSION};
pub use durable::{DurableRun, Ran, StepWatch, Stop};
pub use engine::{Engine, EngineError};
pub use log::{LogLevel, LogSink, LogStream};
pub use offer::Ungranted;
pub use precheck::Costly;
pub use services::{Asked, Calls, CallsError, KeyValue, KeyValueError, Request, Services};
pub use worker::{WorkerError, compile_worker};
