//! The harness of the suites: everything a test needs to treat Baton as a stranger would.
//!
//! A test has its own redis-server on a private socket, its own plugins folder and its own host processes, all stopped by
//! their process ids when it ends. Nothing here knows how the host is built: what is read and written is what
//! docs/protocol.md promises, and the only crate of the project used is `baton-model`, for the words of that contract.
//!
//! What a host printed, and where the whole of it lies, is printed when the host is dropped; the test runner shows it for
//! failed tests alone.

mod batch;
mod bombs;
mod caller;
mod commands;
mod component;
mod events;
mod fleet;
mod folder;
mod host;
mod http;
mod lines;
mod listing;
mod load;
mod process;
mod proxy;
mod readme;
mod redis_server;
mod report;
mod servers;
pub mod settings;
mod shell;
mod stage;
mod stats;
mod wait;

pub use batch::Batch;
pub use bombs::{memory_bomb, plain_bombs, time_bomb};
pub use caller::{Caller, DeadLetter};
pub use commands::{Commands, Finished};
pub use component::{
    CORE_MODULE, clerk_guest, foreign_guest, http_guest, ill_guest, nested_guest, patched, saga_guest, sample,
    scratch_guest, section_boundaries, steps_guest, truncations, variant, wrong_world,
};
pub use events::{Event, Events};
pub use fleet::Fleet;
pub use folder::Folder;
pub use host::{Host, HostPlan};
pub use http::{Http, HttpAnswer};
pub use lines::Lines;
pub use listing::Listing;
pub use load::{Load, RunningLoad};
pub use process::Process;
pub use proxy::{Link, Proxy};
pub use readme::{Step, matches, steps};
pub use redis_server::{Address, CLIENT_NAME, Redis, Subscription};
pub use report::{LoadReport, LoadedCall};
pub use rustix::process::Signal;
pub use servers::{Manner, serve};
pub use shell::Shell;
pub use stage::Stage;
pub use stats::{CommandStats, children_of, cpu_time, is_alive, resident_bytes};
pub use wait::{now_ms, until};
