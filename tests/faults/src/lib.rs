//! The fault suite: real hosts on a real Redis, real callers, and a schedule of faults that a seed decides.
//!
//! What callers, guests and the player of faults saw is written down and handed to a checker (`check.py`), which shares no
//! code with anything here and judges by those histories, by Redis, and by Redis's own append-only file. What is promised,
//! and what each run showed, stands in docs/reliability.md.

mod builds;
mod callers;
mod chance;
mod collector;
mod history;
mod plan;
mod player;
mod run;
mod schedule;
mod slots;
mod workload;
mod world;

pub use plan::{Durability, Plan};
pub use run::{Verdict, run};
pub use schedule::{Event, Fault, faults};
