//! The command line and HTTP: what scripts may rely on, and what the README promises.

mod calls;
mod exec;
mod http;
mod looks;
mod readme;
mod tenants;
mod tls;
