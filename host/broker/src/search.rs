//! How a call is found by its id: where its mark says that it stands, or among the first that wait.
//!
//! Every script that moves a call moves its mark with it, so one that came through a door of ours, or was put back, is found
//! at once. A raw entry with an id of its caller's choice has no mark; it is searched for, payloads and all, so the search
//! ends early in a long queue, and says so.

use baton_model::{CallId, EntryId, FunctionId};
use redis::{Value, cmd};

use crate::BrokerError;
use crate::keys::Keys;
use crate::link::Link;

/// The most that one script run looks at, payloads and all: of the largest, Redis is held for a tenth of a second.
pub(crate) const STEP: usize = 16;
/// The most entries of a stream, and members of a delayed set, among which a call is searched for.
const CALLS_MAX: usize = 1_000;
/// After how many bytes of them no further step is made.
const BYTES_MAX: usize = 8 << 20;

/// No call of an id was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Absent {
    /// Whether there is none for sure. If not, it may be an entry that was added without a door of ours under an id of its
    /// caller's choice, behind the first 1,000 calls that wait or 8 MiB of them.
    pub is_sure: bool,
}

/// Where a call stands, as its mark says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// As this entry of the stream.
    Entry(EntryId),
    /// In the delayed set, from here on, as `waiting.lua` has it: a rank, or a place in the line.
    Delayed(String),
    /// It is an execution, and stands in its log.
    Execution,
}

/// Where the call stands, as its mark says; none if it has no mark.
pub(crate) async fn place(
    link: &Link,
    keys: &Keys,
    function: &FunctionId,
    id: &CallId,
) -> Result<Option<Place>, BrokerError> {
    let Value::BulkString(mark) = link.run(cmd("GET").arg(keys.mark(function, id))).await? else { return Ok(None) };
    let Some(due) = read(&mark) else { return Ok(None) };
    let due_ms = match due {
        Mark::Entry(entry) => return Ok(Some(Place::Entry(entry))),
        Mark::Execution => return Ok(Some(Place::Execution)),
        Mark::Turn(start) => return Ok(Some(Place::Delayed(start))),
        Mark::Due(due_ms) => due_ms,
    };
    let mut count = cmd("ZCOUNT");
    count.arg(keys.delayed(function)).arg("-inf").arg(format!("({due_ms}"));
    match link.run(&count).await? {
        Value::Int(earlier) => Ok(Some(Place::Delayed(earlier.to_string()))),
        other => Err(BrokerError::shape("ZCOUNT", &other)),
    }
}

/// What a mark says.
#[derive(Debug, PartialEq, Eq)]
enum Mark {
    Entry(EntryId),
    Due(u64),
    Execution,
    /// It waits for its turn: how its member of the line begins.
    Turn(String),
}

fn read(mark: &[u8]) -> Option<Mark> {
    let text = std::str::from_utf8(mark).ok()?;
    if let Some((place, key)) = text.strip_prefix("turn ").and_then(|rest| rest.split_once(' ')) {
        return Some(Mark::Turn(format!("[{key}\0{place}\0")));
    }
    match text.strip_prefix("delayed ") {
        Some(due_ms) => due_ms.parse().ok().map(Mark::Due),
        None if text == "execution" => Some(Mark::Execution),
        None => EntryId::parse(text).map(Mark::Entry),
    }
}

/// What one search may still look at.
#[derive(Debug)]
pub(crate) struct Budget {
    calls: usize,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new() -> Self {
        Self { calls: CALLS_MAX, bytes: BYTES_MAX }
    }

    /// Whether another step may be made.
    pub(crate) fn has_room(&self) -> bool {
        self.calls > 0 && self.bytes > 0
    }

    /// One step was made, which looked at so many bytes.
    pub(crate) fn spend(&mut self, bytes: usize) {
        self.calls = self.calls.saturating_sub(STEP);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_names_an_entry_a_time_a_place_in_the_line_or_an_execution() {
        let entry = EntryId::parse("1795220024366-7").unwrap();
        assert_eq!(read(b"1795220024366-7"), Some(Mark::Entry(entry)));
        assert_eq!(read(b"delayed 1795220024366"), Some(Mark::Due(1_795_220_024_366)));
        assert_eq!(read(b"turn 017-02 order/7"), Some(Mark::Turn("[order/7\x00017-02\0".to_owned())));
        assert_eq!(read(b"execution"), Some(Mark::Execution));
        for other in [&b"turn 017-02"[..], b"delayed", b"delayed x", b"", b"\xff"] {
            assert_eq!(read(other), None);
        }
    }

    #[test]
    fn a_search_ends_after_many_calls_or_large_ones() {
        let steps = |bytes: usize| {
            let mut budget = Budget::new();
            let mut steps = 0;
            while budget.has_room() {
                budget.spend(bytes);
                steps += 1;
            }
            steps
        };
        assert_eq!((steps(16 * 100), steps(16 << 20), steps(1 << 20)), (63, 1, 8));
    }
}
