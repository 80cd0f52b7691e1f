//! Guests that mean ill, against a real host: each meets its outcome, the host lives on, its memory comes back, and the
//! neighbour is answered.

mod calls;
mod canary;
mod cases;
mod files;
mod granted;
mod measures;
mod odd;
mod others;
mod soak;
mod table;
mod waiting;
