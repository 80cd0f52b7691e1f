//! What an attempt leaves behind for people: the account of all attempts, and what a dead letter tells beside the call.

use std::time::{Duration, Instant};

use baton_engine::Timings;
use baton_model::{
    Call, CallError, Digest, HostId, Lease, Limits, PastAttempt, ResultDocument, TIMED_FROM, history as all_attempts,
};

use crate::clock::now_ms;
use crate::guest_log::GuestLog;

/// What is known of one attempt at its end.
pub(crate) struct Run {
    /// How many attempts the call has had.
    pub(crate) attempts: u32,
    /// When it started, in Unix milliseconds; none if it was not made.
    pub(crate) started_ms: Option<u64>,
    /// What it ran.
    pub(crate) digest: Option<Digest>,
    /// How the call came to it, and how long that took; none if it was not made.
    pub(crate) timings: Option<(Came, Timings)>,
}

/// What an attempt leaves beside its outcome.
pub(crate) struct Traces<'a> {
    /// What it wrote.
    pub(crate) log: &'a GuestLog,
    /// Where in its code it was ended.
    pub(crate) backtrace: Option<String>,
}

/// What is known of the attempts of a call of which `run` was the last and failed, as JSON. `after` is how long the call
/// waits for the next; none if there is none.
pub(crate) fn history(host: &HostId, call: &Call, run: &Run, error: &CallError, after: Option<Duration>) -> String {
    // Without a start no attempt was made: there is nothing to add but those that were lost with their hosts.
    let last = run.started_ms.map(|started_ms| PastAttempt {
        error: error.message.clone(),
        host: Some(host.clone()),
        digest: run.digest,
        started_ms: Some(started_ms),
        ended_ms: Some(now_ms()),
        then_waited_ms: after.map(ms),
        ..PastAttempt::ended(run.attempts, error.code.clone())
    });
    as_json(call, run.attempts, last)
}

/// The same for a call whose attempt was stopped, for its host ends.
pub(crate) fn handed_over(host: &HostId, call: &Call) -> String {
    let last = PastAttempt {
        host: Some(host.clone()),
        ended_ms: Some(now_ms()),
        ..PastAttempt::ended(call.attempt, "handed-over")
    };
    as_json(call, call.attempt, Some(last))
}

fn as_json(call: &Call, made: u32, last: Option<PastAttempt>) -> String {
    let all = all_attempts(&call.history, call.spent, made, last);
    serde_json::to_string(&all).expect("an account of attempts has only fields that JSON can hold")
}

impl Traces<'_> {
    /// What a dead letter tells beside the call and why it died: all that is needed to understand it.
    pub(crate) fn notes(
        &self,
        host: &HostId,
        call: &Call,
        run: &Run,
        error: &CallError,
        limits: &Limits,
    ) -> Vec<(&'static str, String)> {
        let limits = serde_json::json!({
            "time_ms": ms(limits.time_max), "memory_bytes": limits.memory_bytes_max,
            "payload_bytes": limits.payload_bytes_max, "result_bytes": limits.result_bytes_max,
            "log_bytes": limits.log_bytes_max,
        });
        let mut notes = vec![
            ("host", host.to_string()),
            ("limits", limits.to_string()),
            ("history", history(host, call, run, error, None)),
        ];
        notes.extend(self.backtrace.as_ref().map(|frames| ("backtrace", frames.clone())));
        let log = self.log.last_lines();
        if !log.is_empty() {
            notes.push(("log", log));
        }
        notes
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How a call came to its attempt.
#[derive(Clone, Copy)]
pub(crate) struct Came {
    /// When it was read, if this was its first delivery.
    pub(crate) read: Option<Instant>,
    pub(crate) begun: Instant,
}

/// Where the time of a call went, if it took so long that it is worth telling.
pub(crate) fn split_of(
    document: &ResultDocument,
    lease: Lease,
    came: Came,
    timings: Timings,
) -> Option<baton_model::Timings> {
    let ms = |from: u64, to: u64| Duration::from_millis(to.saturating_sub(from));
    if ms(document.accepted_ms, document.finished_ms) < TIMED_FROM {
        return None;
    }
    let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    // The clock of Redis says when it came into its stream, this host's when it had it.
    // What was taken over from a lost host had its time in the stream before that host's attempt.
    let waited = match lease.claims {
        0 => ms(lease.entry.ms(), document.started_ms.unwrap_or_default()),
        _ => Duration::ZERO,
    };
    let at_host = came.read.map_or(Duration::ZERO, |read| came.begun.saturating_duration_since(read));
    let run = timings.run.unwrap_or_default().saturating_sub(timings.waited);
    Some(baton_model::Timings {
        queue_us: us(waited.saturating_sub(at_host)),
        admission_us: us(at_host + timings.let_in + timings.turned),
        instantiate_us: us(timings.instantiate.unwrap_or_default()),
        run_us: us(run.saturating_sub(timings.turned)),
        host_us: us(timings.waited),
    })
}
