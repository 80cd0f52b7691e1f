//! Delivery beyond the plain call: calls that were given up and are sent again, calls that wait for their time, calls that are
//! taken back, ids that are sent twice, deadlines, calls that run one after another, and what can be known of a call.

mod cancel;
mod dead;
mod deadlines;
mod delays;
mod order;
mod schedules;
mod twice;
mod why;
