//! Durable executions, seen from outside: begun, sent events, taken back; and what becomes of them when hosts do not last.

mod edges;
mod frozen;
mod hosts;
mod judge;
mod limits;
mod orders;
mod plans;
mod proof;
mod reload;
mod sandbox;
mod shop;
mod streams;
mod tampered;
mod workflow;
