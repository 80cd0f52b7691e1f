//! What becomes of a call: its result, its notice, its retries, its dead letter, and who may settle it.

mod answers;
mod failures;
mod fence;
mod ids;
mod malformed;
mod samples;
