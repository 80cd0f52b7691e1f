//! Delivery beyond the plain call: calls that are tried again, that are given up and sent again, that wait for their time, that
//! are taken back, that are sent twice, that have a deadline, that run one after another, and what can be known of a call.

mod cancel;
mod dead;
mod deadlines;
mod delays;
mod found;
mod many;
mod order;
mod priorities;
mod refused;
mod retry;
mod schedules;
mod twice;
mod why;
