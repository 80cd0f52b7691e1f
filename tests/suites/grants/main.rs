//! What functions reach when it was granted them, and what is said when it was not.

mod calls;
mod foreign;
mod neighbours;
mod nested;
