//! How hosts and Redis start, stop and die, and that no call is lost by it.

mod crash;
mod embedded;
mod idle;
mod open_files;
mod redis_faults;
mod stop;
mod trouble;
