//! What one attempt may use.

use std::time::Duration;

/// The limits of one attempt. The engine enforces them, but for the payload's, which is known before an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest an attempt may take, waiting included.
    pub time_max: Duration,
    /// The most linear memory that all of an instance's memories may have together.
    pub memory_bytes_max: usize,
    /// The largest payload of a call; the engine never sees a larger one.
    pub payload_bytes_max: usize,
    /// The largest answer.
    pub result_bytes_max: usize,
    /// The most that a call may write to its log, standard output and standard error together; the rest is counted
    /// and dropped.
    pub log_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            time_max: Duration::from_secs(300),
            memory_bytes_max: 128 << 20,
            payload_bytes_max: 1 << 20,
            result_bytes_max: 1 << 20,
            log_bytes_max: 64 << 10,
        }
    }
}
