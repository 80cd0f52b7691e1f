//! Everything that Baton says to Redis: keys, scripts, reading, leases, settling, presence, and the caller's side.
//!
//! The only room that names the redis crate. It knows nothing of functions but their names, and nothing of wasm:
//! it moves calls and keeps the promise that each gets exactly one terminal result.

mod acl;
mod admin;
mod ask;
mod caller;
mod cancel;
mod dead;
mod doctor;
mod entry;
mod error;
mod execution;
mod inspect;
mod keys;
mod keyvalue;
mod lease;
mod levels;
mod link;
mod meter;
mod presence;
mod queue;
mod reader;
#[cfg(any(test, feature = "fuzz"))]
pub mod rubbish;
mod script;
mod seal;
mod search;
mod settle;
mod standing;
mod tls;
mod turns;
mod why;

pub use acl::tenant_acl;
pub use admin::{Admin, QueueDepth, QueueLook, QueueSize};
pub use caller::{Accepted, Caller, FannedOut, SendOptions};
pub use cancel::{Cancel, Cancelled};
pub use dead::{DeadLetters, Letters, Order, Reach, RedriveTally, Redriven};
pub use doctor::ServerFacts;
pub use entry::{Malformed, MalformedReason};
pub use error::BrokerError;
pub use execution::{
    Adopted, Advance, Asked, Beginning, Begun, Course, ExecutionDetails, ExecutionView, Executions, Loaded, NEWEST,
    OpenStep, STATES as EXECUTION_STATES, Taken, Withdrawn,
};
pub use inspect::{CallFacts, CallState, Inspect};
pub use keys::{Keys, Notice};
pub use keyvalue::{Incremented, KeyValue, Page, Stored, Swapped, TooMuch};
pub use lease::{LeaseKeeper, Renewal};
pub use levels::{Levels, LevelsWatch};
pub use link::BrokerConfig;
pub use meter::{Meter, Role, RoleCounts};
pub use presence::{Cut, Presence, Seen, UPTIME_MIN};
pub use queue::{Backlog, Ensured, Promoted, Queue, SweepPlan, Swept, Ticked};
pub use reader::{Delivery, Incoming, Portion, ReadEnd, ReadTime, Reader, ReaderWaker};
pub use seal::Seal;
pub use search::Absent;
pub use settle::{Next, Settled, Settlement, Settler, Verdict};
pub use standing::{Standing, Word};
pub use tls::RedisTls;
pub use turns::Turn;
pub use why::{Why, state_of};
