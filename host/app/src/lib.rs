//! The composition root of a host: its parts, how they run together, and how they end.
//!
//! Each long-running part is a struct made from its configuration with a `run` that ends when it is told to. What is
//! decided about an outcome is in the model, what is said to Redis in the broker, how code runs in the engine.

mod announcer;
mod backoff;
mod build;
mod builder;
mod canceller;
mod catalog;
mod clock;
mod consumer;
mod corridor;
mod drain;
pub mod embedded;
mod examination;
mod executions;
mod flights;
mod folder;
mod front;
mod guest_log;
mod health;
mod host;
mod intake;
mod keeper;
mod ledger;
mod levels;
mod loading;
mod metrics;
mod nested;
mod open_files;
mod peers;
mod policy;
mod promoter;
mod quickness;
mod reading;
mod reloader;
mod renewer;
#[cfg(any(test, feature = "fuzz"))]
pub mod rubbish;
mod runner;
mod scheduler;
mod seats;
mod services;
mod signals;
mod sweeper;
mod tenants;
mod traces;
mod watch;
mod watcher;

pub use builder::Builder;
pub use examination::{Examined, Examiner};
pub use host::{Ended, HostConfig, run};
pub use metrics::Metrics;
pub use policy::{CapsTable, SecurityTable, Terms, Variable};
pub use signals::Signals;
