//! One file for each command.

pub(crate) mod call;
pub(crate) mod cancel;
pub(crate) mod check;
pub(crate) mod compile_worker;
pub(crate) mod dead;
pub(crate) mod dev;
pub(crate) mod doctor;
pub(crate) mod exec;
pub(crate) mod get;
pub(crate) mod ps;
pub(crate) mod send;
pub(crate) mod serve;
pub(crate) mod tenant;
pub(crate) mod why;
