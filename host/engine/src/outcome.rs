//! What the end of an attempt means: wasmtime's results and errors become outcomes. Nothing runs here.

use std::time::Duration;

use baton_model::{Limits, Name, Outcome, Rejection, Reply};
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::bindings::exports::baton::function::handler::{Failure, Reply as GuestReply};
use crate::end::End;
use crate::log::harmless;
use crate::state::State;

/// What a guest answers.
pub(crate) type Answer = Result<GuestReply, Failure>;

/// The longest message that leaves the engine.
const MESSAGE_BYTES_MAX: usize = 4 << 10;
/// The longest backtrace.
const BACKTRACE_BYTES_MAX: usize = 8 << 10;

/// Room for an answer's media type and messages beside its body.
const ANSWER_MARGIN_BYTES: usize = 64 << 10;

/// How far an attempt came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Instantiating,
    Calling,
}

/// How many bytes a guest may hand over in one go: an answer must fit.
pub(crate) fn hostcall_bytes_max(limits: &Limits, at_least: usize) -> usize {
    limits.result_bytes_max.saturating_add(ANSWER_MARGIN_BYTES).max(at_least)
}

/// The outcome of an attempt that ended by itself or was interrupted.
pub(crate) fn of(answer: wasmtime::Result<Answer>, state: &State, stage: Stage, limits: &Limits, end: End) -> Outcome {
    match answer {
        Ok(Ok(reply)) => {
            let (bytes, bytes_max) = (reply.body.len(), limits.result_bytes_max);
            if bytes > bytes_max {
                return Outcome::ResultTooLarge { bytes, bytes_max };
            }
            Outcome::Replied(Reply { media_type: reply.media_type, body: reply.body.into() })
        }
        Ok(Err(Failure::Reject(refusal))) => {
            Outcome::Rejected(Rejection { code: code(refusal.code), message: message(&refusal.message) })
        }
        Ok(Err(Failure::Retry(retry))) => {
            Outcome::RetryAsked { message: message(&retry.message), after: retry.after_ms.map(Duration::from_millis) }
        }
        Err(error) => of_error(&error, state, stage, limits, end),
    }
}

/// Where in its code a guest was when its attempt ended, the innermost frame first; none if it ended by itself, or where no
/// guest was running.
pub(crate) fn backtrace(answer: &wasmtime::Result<Answer>) -> Option<String> {
    let frames = answer.as_ref().err()?.downcast_ref::<WasmBacktrace>()?;
    if frames.frames().is_empty() {
        return None;
    }
    let text = frames.to_string();
    // The first line is a heading.
    let lines = text.lines().skip(1).map(|line| harmless(line.trim()));
    let mut out = String::new();
    for line in lines.take_while(|line| !line.is_empty()) {
        if out.len() + line.len() > BACKTRACE_BYTES_MAX {
            out.push_str("...");
            break;
        }
        out.push_str(&line);
        out.push('\n');
    }
    Some(out)
}

/// The outcome of an attempt that did not end in time.
pub(crate) fn too_late(limits: &Limits, end: End) -> Outcome {
    if end.is_deadline { Outcome::DeadlinePassed } else { Outcome::TimedOut { limit: limits.time_max } }
}

fn of_error(error: &wasmtime::Error, state: &State, stage: Stage, limits: &Limits, end: End) -> Outcome {
    if state.is_interrupted {
        return too_late(limits, end);
    }
    if state.limiter.is_memory_refused {
        return Outcome::OutOfMemory { bytes_max: state.limiter.memory_bytes_max() };
    }
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return Outcome::Exited { code: exit.0 };
    }
    if error.is::<PoolConcurrencyLimitError>() {
        return Outcome::HostFault { message: format!("no room for another instance: {error:#}") };
    }
    let frames = error.downcast_ref::<WasmBacktrace>().filter(|frames| !frames.frames().is_empty());
    match (stage, frames) {
        // No guest was running: the host failed to make the instance.
        (Stage::Instantiating, None) if !error.is::<Trap>() => {
            Outcome::HostFault { message: message(&format!("cannot make an instance: {error:#}")) }
        }
        // No guest was running either, and the crate has no other word for it: the answer was not taken because it
        // is larger than all that may be handed over. How large it is, nobody has counted.
        (Stage::Calling, None) if is_too_much_data(error) => Outcome::ResultTooLarge {
            bytes: hostcall_bytes_max(limits, limits.result_bytes_max).saturating_add(1),
            bytes_max: limits.result_bytes_max,
        },
        (_, frames) => Outcome::Trapped { message: trap(error, frames) },
    }
}

/// Whether the guest handed over more than the store allows. The crate's error type for it is private, so its words
/// have to do; a test holds them.
fn is_too_much_data(error: &wasmtime::Error) -> bool {
    error.root_cause().to_string().contains("fuel allocated for hostcalls has been exhausted")
}

/// The trap, then the wasm frames with their names.
fn trap(error: &wasmtime::Error, frames: Option<&WasmBacktrace>) -> String {
    let cause = error.root_cause();
    match frames {
        Some(frames) => message(&format!("{cause}\n{frames}")),
        None => message(&format!("{error:#}")),
    }
}

/// A guest's message: harmless line by line, and not endless.
fn message(text: &str) -> String {
    let mut cut = text.len().min(MESSAGE_BYTES_MAX);
    while !text.is_char_boundary(cut) {
        cut -= 1;
    }
    let mut out = text[..cut].trim_end().split('\n').map(harmless).collect::<Vec<_>>().join("\n");
    if cut < text.len() {
        out.push_str(" ...");
    }
    out
}

/// A rejection's code: a name by the house's rule, or just `rejected`.
fn code(code: String) -> String {
    if Name::parse(&code).is_ok() { code } else { "rejected".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_that_breaks_the_rule_becomes_rejected() {
        assert_eq!(code("bad-input".into()), "bad-input");
        for bad in ["", "Bad", "a b", "a\n", "9", &"a".repeat(64)] {
            assert_eq!(code(bad.into()), "rejected");
        }
    }

    #[test]
    fn a_message_is_cut_at_a_character_and_keeps_only_its_line_feeds() {
        assert_eq!(message("a\nb\u{1b}[31m\r"), "a\nb\\u{1b}[31m");
        let long = message(&"é".repeat(MESSAGE_BYTES_MAX));
        assert_eq!(long.len(), MESSAGE_BYTES_MAX + " ...".len());
    }
}
