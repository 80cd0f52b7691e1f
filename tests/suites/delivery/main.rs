//! Delivery beyond the plain call: calls that were given up and are sent again, calls that wait for their time, calls that are
//! taken back, calls that run one after another.

mod cancel;
mod dead;
mod delays;
mod order;
mod schedules;
