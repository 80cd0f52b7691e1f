//! The words of the trade and the decisions that need nothing but them.
//!
//! Everything here is a plain value or a pure function: no I/O, no clock, no randomness, no async runtime, no
//! redis and no wasmtime. Time and chance come in as arguments, so that every rule is tested in microseconds.

mod call;
mod cancel;
mod decide;
mod delay;
pub mod execution;
mod fanout;
mod grants;
mod history;
mod host;
mod http_target;
mod id;
mod letter;
mod limits;
pub mod mutants;
mod name;
mod outcome;
mod priority;
mod quotas;
mod result;
mod retry;
#[cfg(any(test, feature = "fuzz"))]
pub mod rubbish;
mod running;
mod schedule;
mod share;
mod tenant;
mod why;

pub use call::{Call, Lease, WAITS_FOR_TURN_MS};
pub use cancel::{Cancelling, Seen as CancelSeen, Step as CancelStep};
pub use decide::{Disposition, decide};
pub use delay::{DELAY_MAX, Turn, delay_of, look_again};
pub use fanout::fanout_tenant;
pub use grants::{
    Bucket, BucketScope, CallsGrant, Grants, HttpGrant, KeyValueGrant, PAIR_BYTES, ScratchGrant, Setting,
};
pub use history::{PastAttempt, history};
pub use host::{HostRecord, HostState, LoadedFunction, MachineSummary, OfflineReason, machines};
pub use http_target::{HttpTarget, HttpTargetError};
pub use id::{CallId, Digest, EntryId, HostId, OrderKey, ReplyTo};
pub use letter::{DeadLetter, LetterFilter, LetterSummary, Redrivable};
pub use limits::Limits;
pub use name::{FunctionId, Name, NameError};
pub use outcome::{Outcome, Rejection, Reply};
pub use priority::{PRIORITY_RULE, Pace, Priority};
pub use quotas::{Over, Quota, Quotas};
pub use result::{CallError, DocumentError, ResultDocument, Status};
pub use retry::{ATTEMPTS_MAX, BACKOFF_MAX, Failure, Failures, RetryPolicy, RetryWish};
pub use running::{RunningCall, RunningState};
pub use schedule::{
    AHEAD_MAX, AboutSchedule, LATE_MAX, Missed, Next, SCHEDULE_HEADERS, Schedule, ScheduleView, Timetable,
    TimetableError, chosen_id, next_tick, schedule_views,
};
pub use share::{Party, Shares};
pub use tenant::{TenantPolicy, Tenants, Token, is_own_reply};
pub use why::{Room, Split, TIMED_FROM, Timings, WaitsFor, queued_for, split};
