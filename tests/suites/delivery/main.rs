//! Delivery beyond the plain call: calls that were given up and are sent again, and calls that wait for their time.

mod dead;
mod delays;
mod schedules;
