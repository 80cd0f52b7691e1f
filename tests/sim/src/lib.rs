//! The protocol core on virtual time: hosts in miniature that keep the rules of `host/broker` and `host/app`, callers, and a
//! model of Redis that runs the shipped scripts. One seed is one world; the same seed is the same world again.
//!
//! What is shipped and runs here: the Lua scripts, `baton_model::decide` and result documents, and `peers.rs`. What is
//! stated anew: the order in which hosts ask Redis (`host/`), and Redis (`redis/`), which is held against a real one.

mod caller;
mod history;
mod host;
pub mod hunt;
pub mod mutants;
mod net;
/// The shipped file: what follows from a look at the other hosts.
#[path = "../../../host/app/src/peers.rs"]
#[allow(dead_code, unreachable_pub, reason = "what it offers to the metrics and the log of a host is not used here")]
mod peers;
mod plan;
pub mod redis;
pub mod rng;
mod time;
mod world;

pub use host::Rules;
pub use plan::Plan;
pub use redis::{Patch, Scripts};
pub use world::{Ended, run};
