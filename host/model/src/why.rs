//! Why a call is where it is, and where its time went.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{HostId, HostState, Quota, ResultDocument};

/// What a call waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitsFor {
    /// No host takes calls of its function.
    Host,
    /// Every host that does runs as many attempts as it may, or as its tenant may there.
    Seat,
    /// As many attempts run as the function or its tenant may have at once.
    Concurrency,
    /// As many attempts began as may in this time.
    CallsPerSecond,
    /// As much CPU time was used as may be in this time.
    CpuMsPerSecond,
    /// Its turn: a host has room, and reads those first that came before it or have a higher level.
    Turn,
    /// Its time, which its caller chose.
    Delay,
    /// Its next attempt.
    Retry,
    /// The end of a call before it with its key.
    Key,
    /// It is an execution, which knows itself what its steps wait for.
    Steps,
}

impl From<Option<Quota>> for WaitsFor {
    /// What a call waits for that a host leaves where it is: a quota, or its tenant's share of the seats.
    fn from(quota: Option<Quota>) -> Self {
        match quota {
            None => Self::Seat,
            Some(Quota::Concurrency) => Self::Concurrency,
            Some(Quota::CallsPerSecond) => Self::CallsPerSecond,
            Some(Quota::CpuMsPerSecond) => Self::CpuMsPerSecond,
            // These are asked for at the door, and hold nothing up behind it.
            Some(Quota::QueueCalls | Quota::QueueBytes) => Self::Turn,
        }
    }
}

impl WaitsFor {
    /// For people: what it is that is waited for.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Host => "no host takes calls of this function now",
            Self::Seat => "every host that has the function runs as many calls as it may",
            Self::Concurrency => "as many calls run as the quota `concurrency` allows",
            Self::CallsPerSecond => "the quota `calls_per_second` is used up for now",
            Self::CpuMsPerSecond => "the quota `cpu_ms_per_second` is used up for now",
            Self::Turn => "a host has room, and reads those first that came before it or have a higher level",
            Self::Delay => "it was to be delayed",
            Self::Retry => "it is going to be tried again",
            Self::Key => "a call before it with the same key has not ended",
            Self::Steps => "it is an execution; `baton exec show` says what its steps wait for",
        }
    }
}

/// What a host says of its room for one function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// The host.
    pub host: HostId,
    /// Whether it takes calls.
    pub state: HostState,
    /// Whether it has the function.
    pub has_function: bool,
    /// How many attempts it runs at once, at the most.
    pub seats: u32,
    /// How many calls it has in its hands.
    pub in_flight: u32,
    /// What keeps it from reading calls of the function, if it leaves them where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<WaitsFor>,
    /// For how long at least.
    #[serde(default)]
    pub held_ms: u64,
}

/// What a call waits for that stands in its stream, by what the hosts say.
#[must_use]
pub fn queued_for(rooms: &[Room]) -> WaitsFor {
    let takers = rooms.iter().filter(|room| room.has_function && room.state == HostState::Online);
    // Where it can begin soonest is what holds it up: elsewhere it would only wait for longer.
    let soonest = takers.min_by_key(|room| {
        let is_full = room.in_flight >= room.seats;
        (room.held.is_some() || is_full, room.held.is_none(), room.held_ms)
    });
    match soonest {
        None => WaitsFor::Host,
        Some(Room { held: Some(held), .. }) => *held,
        Some(room) if room.in_flight >= room.seats => WaitsFor::Seat,
        Some(_) => WaitsFor::Turn,
    }
}

/// Where the time of one attempt went, in microseconds. It stands in the results of calls that took 10 ms or more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timings {
    /// From when the call came into its stream to when its host had read it.
    pub queue_us: u64,
    /// From then to the attempt, and later waits for a turn on the processor.
    pub admission_us: u64,
    /// Making the instance.
    pub instantiate_us: u64,
    /// The function's own time.
    pub run_us: u64,
    /// The time in which it waited for what it had asked of the host: calls, requests, keys, or to sleep.
    pub host_us: u64,
}

/// A call that took less has no time that is worth splitting, and its result is not made longer by it.
pub const TIMED_FROM: Duration = Duration::from_millis(10);

/// Where all the time of a call went that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Split {
    /// From its acceptance to its end.
    pub total_us: u64,
    /// Attempts before the last one, and the waits between them.
    pub earlier_us: u64,
    /// The last attempt.
    #[serde(flatten)]
    pub last: Timings,
    /// From the end of the attempt to when Redis had the result, in whole milliseconds; none if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settle_ms: Option<u64>,
}

/// Splits the time of a call. None if its result says nothing of it.
#[must_use]
pub fn split(result: &ResultDocument, settled_after: Option<Duration>) -> Option<Split> {
    let last = result.timings?;
    let total_us = result.finished_ms.saturating_sub(result.accepted_ms).saturating_mul(1_000);
    let parts = [last.queue_us, last.admission_us, last.instantiate_us, last.run_us, last.host_us];
    let of_last = parts.into_iter().fold(0, u64::saturating_add);
    let earlier_us = if result.attempts > 1 { total_us.saturating_sub(of_last) } else { 0 };
    let settle_ms = settled_after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
    Some(Split { total_us, earlier_us, last, settle_ms })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{CallId, Status};

    fn room(in_flight: u32, held: Option<(WaitsFor, u64)>) -> Room {
        Room {
            host: HostId::parse("h").unwrap(),
            state: HostState::Online,
            has_function: true,
            seats: 2,
            in_flight,
            held: held.map(|(held, _)| held),
            held_ms: held.map_or(0, |(_, ms)| ms),
        }
    }

    #[test]
    fn a_queued_call_waits_for_what_is_over_soonest() {
        let rate = |ms| Some((WaitsFor::CallsPerSecond, ms));
        let cpu = |ms| Some((WaitsFor::CpuMsPerSecond, ms));
        let without = Room { has_function: false, ..room(0, None) };
        let draining = Room { state: HostState::Draining, ..room(0, None) };
        let table: &[(&[Room], WaitsFor)] = &[
            (&[], WaitsFor::Host),
            (&[without.clone(), draining], WaitsFor::Host),
            (&[room(1, None)], WaitsFor::Turn),
            (&[room(2, None)], WaitsFor::Seat),
            (&[room(2, None), room(0, None)], WaitsFor::Turn),
            (&[room(0, rate(40))], WaitsFor::CallsPerSecond),
            (&[room(0, rate(40)), room(0, cpu(7))], WaitsFor::CpuMsPerSecond),
            (&[room(0, rate(40)), room(1, None)], WaitsFor::Turn),
            (&[room(2, None), without, room(0, Some((WaitsFor::Seat, 0)))], WaitsFor::Seat),
        ];
        for (rooms, expected) in table {
            assert_eq!(queued_for(rooms), *expected, "{rooms:?}");
        }
    }

    #[test]
    fn what_the_last_attempt_did_not_take_was_before_it() {
        let id = CallId::parse("1-0").unwrap();
        let mut result = ResultDocument::new(Status::Ok, id, "a/b".to_owned(), Bytes::new());
        (result.accepted_ms, result.finished_ms, result.attempts) = (1_000, 1_050, 2);
        assert_eq!(split(&result, None), None, "its result says nothing of it");
        let last = Timings { queue_us: 1_000, admission_us: 10, instantiate_us: 90, run_us: 3_900, host_us: 15_000 };
        result.timings = Some(last);
        let settled = split(&result, Some(Duration::from_millis(2)));
        assert_eq!(settled, Some(Split { total_us: 50_000, earlier_us: 30_000, last, settle_ms: Some(2) }));
        result.attempts = 1;
        assert_eq!(split(&result, None).unwrap().earlier_us, 0, "clocks differ, and there was nothing before");
    }
}
