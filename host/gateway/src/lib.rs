//! HTTP in front of the broker: call, send and look, probes and metrics.
//!
//! It knows how calls are sent and where results lie, and nothing of how functions run: no engine, no wasmtime, no
//! redis crate. It therefore serves a fleet as well as the host in whose process it stands. What callers may rely on
//! is in docs/protocol.md and in `openapi.json` beside this file.

mod auth;
mod batch;
mod calls;
mod config;
mod dead;
mod directory;
mod door;
mod durable;
mod event;
mod exec;
mod fanout;
mod gate;
mod host;
mod listings;
mod probes;
mod problem;
mod quota;
mod request;
mod router;
#[cfg(any(test, feature = "fuzz"))]
pub mod rubbish;
mod server;
mod tls;

pub use auth::Auth;
pub use config::GatewayConfig;
pub use directory::{Directory, Snapshot, Standing};
pub use gate::{Ask, Executions, HostStatus, HttpMeter, Parts, PayloadLimit};
pub use quota::{Allowance, Allowances};
pub use server::{Bound, Gateway, GatewayError};
pub use tls::TlsFiles;
