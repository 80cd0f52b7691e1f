//! The command line: what scripts may rely on, and what the README promises.

mod calls;
mod looks;
mod readme;
